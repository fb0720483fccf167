"""Weights of the diffusion prior: one file and its record, as the other methods have; and the published MAISI checkpoints.

A published model comes in two files of its makers. It is read from these once and written as one file in this project's
form, on the user's own machine; from then on it loads like the starter.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from torch import nn

from ..segmenter import WeightsError, load_state, read_record, save_state
from . import networks
from .prior import DiffusionPrior

METHOD, AUTOENCODER = "diffusion", "diffusion autoencoder"  # of records
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@dataclass(frozen=True)
class File:
    """One file of a Hugging Face repository."""

    repo: str
    name: str


@dataclass(frozen=True)
class Published:
    """A published model. Nobody but its makers may hand it out, so it is fetched on request."""

    config: str  # in bundle/configs
    autoencoder: File
    unet: File
    license: str  # as far as is known here; the model card decides
    note: str = ""

    @property
    def repos(self) -> list[str]:
        """Repositories whose licenses apply."""
        return list(dict.fromkeys((self.unet.repo, self.autoencoder.repo)))


CT, MR, BRAIN = (f"nvidia/NV-Generate-{kind}" for kind in ("CT", "MR", "MR-Brain"))
OPEN = "NVIDIA Open Model License"
V1 = File(CT, "models/autoencoder_v1.pt")
PUBLISHED: dict[str, Published] = {
    "ddpm-ct": Published("maisi_ct_ddpm.json", V1, File(CT, "models/diff_unet_3d_ddpm-ct.pt"), OPEN),
    "rflow-ct": Published("maisi_ct_rflow.json", V1, File(CT, "models/diff_unet_3d_rflow-ct.pt"), OPEN),
    "rflow-mr": Published(
        "maisi_mr_rflow.json",
        File(MR, "models/autoencoder_v2.pt"),
        File(MR, "models/diff_unet_3d_rflow-mr.pt"),
        "NVIDIA license for non-commercial use",
        "its makers do not support scans with contrast agent",
    ),
    "rflow-mr-brain": Published(
        "maisi_mr_brain_rflow.json", V1, File(BRAIN, "models/diff_unet_3d_rflow-mr-brain_v1.pt"), OPEN
    ),
}


def published(name: str) -> Published:
    """A published model by its name.

    Raises:
        WeightsError: there is no such model.
    """
    if name not in PUBLISHED:
        raise WeightsError(f"there is no published model {name!r}: choose one of {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


def read_config(name: str) -> dict:
    """Arguments of DiffusionPrior for a published model."""
    config = json.loads((CONFIGS / published(name).config).read_text())
    return {key: value for key, value in config.items() if key != "about"}


def load_published(name: str, autoencoder: Path, unet: Path, prior: DiffusionPrior | None = None) -> DiffusionPrior:
    """A frozen prior from the two checkpoints of a published model.

    Args:
        autoencoder: its weights, or a dictionary that has them as "unet_state_dict". unet: a dictionary with
        "unet_state_dict" and "scale_factor". prior: to load into; by default the published configuration is built.

    Raises:
        WeightsError: a file is missing, holds more than weights, or does not fit.
    """
    prior = prior or DiffusionPrior(**read_config(name))
    content = _read(autoencoder)
    _fill(prior.autoencoder, content.get("unet_state_dict", content), autoencoder)
    content = _read(unet)
    if not {"unet_state_dict", "scale_factor"} <= set(content):
        raise WeightsError(f"{unet} has no unet_state_dict and scale_factor: it is no published U-Net, fetch it again")
    _fill(prior.unet, content["unet_state_dict"], unet)
    prior.scale_factor.copy_(torch.as_tensor(content["scale_factor"]).float().reshape(()))
    return prior.freeze()


def save_prior(prior: DiffusionPrior, path: str | Path, config: Mapping[str, object], **facts: object) -> Path:
    """Write a prior (half precision) and its record; `config` are the arguments it was built with. Returns the path."""
    save_state(prior, Path(path), {"method": METHOD, "config": dict(config), **facts})
    return Path(path)


def load_prior(path: str | Path) -> DiffusionPrior:
    """A frozen prior from a file of `save_prior`, built as its record says.

    Raises:
        WeightsError: the file is missing, altered, or not a prior's.
    """
    path = Path(path)
    record = read_record(path, METHOD)
    return load_state(DiffusionPrior(**record["config"]), path).freeze()


def save_autoencoder(
    network: AutoencoderKlMaisi, path: str | Path, config: Mapping[str, object], **facts: object
) -> Path:
    """The same for an autoencoder alone: what the U-Net's training starts from."""
    save_state(network, Path(path), {"method": AUTOENCODER, "config": dict(config), **facts})
    return Path(path)


def load_autoencoder(path: str | Path) -> tuple[AutoencoderKlMaisi, dict]:
    """An autoencoder from a file of `save_autoencoder`, in evaluation mode and without gradients, and its record.

    Raises:
        WeightsError: the file is missing, altered, or not an autoencoder's.
    """
    path = Path(path)
    record = read_record(path, AUTOENCODER)
    return load_state(networks.autoencoder(record["config"]), path).requires_grad_(False).eval(), record


def _read(file: Path) -> dict:
    if not Path(file).is_file():
        raise WeightsError(f"{file} is missing: fetch it with scripts/fetch_weights.py")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{file} is damaged, or holds more than weights: fetch it again ({error})") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{file} holds no weights: fetch it again")
    return content


def _fill(network: nn.Module, state: Mapping[str, object], file: Path) -> None:
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise WeightsError(f"{file} does not fit its network: check that it is the right file ({error})") from error
