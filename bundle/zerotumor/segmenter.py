"""The contract that every method keeps, the registry of methods, and the loading of weights.

A new method is a folder and a line in `METHODS`.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .devices import device_of
from .prompts import DEFAULT_PROMPT, Prompt, parse
from .text import TextEncoder, check_fingerprint, load_text_encoder
from .volumes import write_atomically, write_json

if TYPE_CHECKING:
    from .kept import VolumeFeatures


class WeightsError(RuntimeError):
    """Weights are missing, damaged, or made for another model."""


@dataclass
class Segmentation:
    """A method's answer for one batch and P prompts."""

    logits: Tensor  # (B, P, X, Y, Z)
    scores: Tensor  # (B, P) in 0..1: is it there at all
    attributes: list[dict] = field(default_factory=list)  # per prompt: what the method says of the lesion
    extras: dict[str, object] = field(default_factory=dict)  # maps by name; "ungated" (B, P, X, Y, Z) ranks voxels


class Segmenter(nn.Module):
    """Base of all methods. Axes are (B, C, X, Y, Z), RAS, `spacing` mm; inputs come from `transforms.normalize`.

    A method implements `encode_image` (all that does not depend on the prompt, so that a second prompt on the same scan
    costs little) and `segment`.
    """

    spacing: float = 3.0  # mm of the isotropic grid
    patch: int = 64  # edge of the inference window, voxels
    zooms: tuple[float, ...] = (1.0,)  # grids that a scan is looked at on, so many times as fine as `spacing`
    tight_zooms: tuple[float, ...] | None = None  # those of a scan that one window holds, see `grids`; None: the same
    theta: float = 0.5  # probability from which a voxel is painted; a prompt that scores less has found nothing
    theta_peak: float = 0.0  # if above theta: what each connected part of a mask must reach somewhere
    decides: bool = False  # whether one half in its answers is a decision of its own, and not theta
    edge_weight: float = 0.0  # above 0: masks are drawn along the image's edges, see `edges.along_edges`
    encoder: TextEncoder | None = None  # for words outside the vocabulary; set by `load`
    weights_sha256: str = "untrained"
    records: tuple[dict, ...] = ()  # of all weights files that it was loaded from
    maps: tuple[str, ...] = ()  # names in `Segmentation.extras` of maps (B, 1, X, Y, Z) that whole scans get too
    organ_names: tuple[str, ...] = ()  # what `organ_maps` shows
    whole_scan: tuple[str, ...] = ()  # features of which every window must know those of all windows, see `shared`
    images: dict[str, str] = {}  # of `maps`, those in the image's intensities -> the map of where they differ from it
    mirrored: bool = True  # whether bodies in training were mirrored, so that a mirrored scan is nothing new
    has_ungated: bool = False  # whether `segment` says in `extras` how voxels rank; else its answer ranks them
    second_look: bool = False  # whether `complete` does something
    qualities: tuple[str, ...] = ()  # names that `quality` may have, quickest first: how much time an answer may take
    quality: str = ""
    answers: tuple[str, ...] = ()  # names that `ablate` takes

    def paint(self, theta: float, theta_peak: float, edge_weight: float) -> None:
        """Set what turns probabilities into masks."""
        self.theta, self.theta_peak, self.edge_weight = float(theta), float(theta_peak), float(edge_weight)

    def look_on(self, zooms: Sequence[float], tight_zooms: Sequence[float] | None) -> None:
        """Set the grids that scans are looked at on."""
        self.zooms = tuple(map(float, zooms))
        self.tight_zooms = None if tight_zooms is None else tuple(map(float, tight_zooms))

    def grids(self, shape: Sequence[int]) -> tuple[float, ...]:
        """Zooms that a prepared scan of this shape is looked at with.

        A scan that one window holds whole has nothing more to show to a coarser grid, only the same with more air around.
        """
        tight = self.tight_zooms is not None and max(shape) <= self.patch
        return self.tight_zooms if tight else self.zooms

    @property
    def blended(self) -> tuple[str, ...]:
        """Names in `extras` that are blended over windows; maps of a second look are made by it."""
        return () if self.second_look else self.maps

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 2, X, Y, Z) -> features by name."""
        raise TypeError(f"{type(self).__name__} must define encode_image")

    def segment(self, features: dict[str, Tensor], prompts: Sequence[Prompt]) -> Segmentation:
        """Features of `encode_image` and P prompts -> one channel a prompt."""
        raise TypeError(f"{type(self).__name__} must define segment")

    def shared(self, windows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """What all windows of a scan have in common, from the `whole_scan` features of each; replaces theirs."""
        return {}

    def segment_window(self, features: dict[str, Tensor], prompts: Sequence[Prompt]) -> Segmentation:
        """`segment` as one window of a larger scan does it: a method with a second look leaves that to `complete`."""
        return self.segment(features, prompts)

    def complete(
        self, image: Tensor, answer: Segmentation, prompts: Sequence[Prompt], kept: VolumeFeatures | None = None
    ) -> Segmentation:
        """A second look, at a whole scan (B, 2, X, Y, Z), at what its blended windows said: answers like `segment`.

        Args:
            kept: of one scan (B = 1); what later prompts can use is added to its `further`, under keys that name weights.
            None: nothing is kept of this scan.
        """
        return answer

    def ablate(self, answer: str) -> Segmenter:
        """Answer by an earlier part of the method alone, one of `answers`, from now on; returns itself.

        Raises:
            ValueError: the method has no such part.
        """
        has = f"choose one of {', '.join(self.answers)}" if self.answers else "it answers in one way alone"
        raise ValueError(f"{type(self).__name__} has no answer {answer!r}: {has}")

    def at(self, quality: str) -> Self:
        """This method at another quality, one of `qualities`: shares all weights, and leaves this one as it is.

        Raises:
            ValueError: the method has no such quality.
        """
        if quality not in self.qualities:
            has = f"choose one of {', '.join(self.qualities)}" if self.qualities else "leave it out"
            raise ValueError(f"{type(self).__name__} has no quality {quality!r}: {has}")
        twin = copy(self)
        twin._modules = dict(self._modules)  # what is set in the twin is not set here
        twin.quality = quality
        return twin

    def compiled(self, backend: str = "inductor") -> Self:
        """Have what takes the time compiled (`torch.compile`) when it first runs, which takes minutes; returns itself.

        Raises:
            ValueError: nothing in the method takes so long.
        """
        raise ValueError(f"{type(self).__name__} has nothing that is worth compiling: leave that out")

    def as_voter(self) -> Self:
        """This method as one of several that are asked whether they agree: at its quickest."""
        return self.at(self.qualities[0]) if self.qualities else self

    def beside(self, path: Path, record: dict) -> tuple[dict, ...]:
        """Load what a method keeps in further files beside its weights at `path`, as the record describes them.

        Returns:
            The records of these files.
        """
        return ()

    def compact(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features as they are kept between prompts: a method drops what `segment` will not need."""
        return features

    def place_features(self, image: Tensor) -> Tensor:
        """(B, 2, X, Y, Z) -> coarse maps (B, C, x, y, z) that tell how places look; by default, what the image shows.

        Where a prompt's lesion is alike in two scans, so are these; see `selection.descriptor`.
        """
        coarse = F.avg_pool3d(image, 8)
        spread = (F.avg_pool3d(image.square(), 8) - coarse.square()).clamp_min(0).sqrt()
        return torch.cat([coarse, spread], 1)

    def lesion_network(self) -> Segmenter:
        """A new `LesionNetwork`, for what is to be learned from scans; a method that has none takes the default method's."""
        network = load(device=next(self.parameters()).device).lesion_network()
        network.look_like(self)
        return network

    def organ_maps(self, features: dict[str, Tensor]) -> Tensor:
        """Features -> (B, 1 + N, X, Y, Z) in 0..1: no organ, and each of `organ_names`; a voxel is what has the most.

        Raises:
            ValueError: the method knows no organs.
        """
        raise ValueError(f"{type(self).__name__} knows no organs: use a method that has organ_names")

    def forward(self, image: Tensor, prompts: Sequence[Prompt] | None = None) -> Tensor:
        """(B, 2, X, Y, Z) -> logits (B, P, X, Y, Z); without prompts, any lesion at all (P = 1)."""
        return self.segment(self.encode_image(image), prompts or parse(DEFAULT_PROMPT)).logits


@dataclass(frozen=True)
class Method:
    """Where a method lives: `module:Class`, its shipped weights inside `bundle/models`, further files that it needs."""

    target: str
    weights: str
    needs: tuple[str, ...] = ()


METHODS = {
    "malenia": Method("zerotumor.malenia:Malenia", "model.pt"),
    "zept": Method("zerotumor.zept:ZePT", "zept/model.pt"),
    "diffugts": Method("zerotumor.diffugts:DiffuGTS", "diffugts/model.pt", needs=("diffugts/diffusion.pt",)),
}
OPPONENTS = {"closed_set": Method("zerotumor.closed_set:ClosedSet", "closed_set/model.pt")}
"""What methods are measured against and users are not offered: it has weights, and ignores the text."""
AND = "+"
"""Between the names of methods that are asked in turn."""
MODELS = Path(__file__).resolve().parents[1] / "models"


def asked_in_turn(method: str) -> list[str]:
    """Names of the methods that a name stands for, whoever is asked first in front: one, or several with a plus between."""
    return method.split(AND)


def available(models: Path | None = None) -> list[str]:
    """Methods, not opponents, whose weights lie in a folder, by default that of the starter weights."""
    folder = models or MODELS
    return [
        name
        for name, method in METHODS.items()
        if all((folder / file).is_file() for file in (method.weights, *method.needs))
    ]


def class_of(method: str) -> type[Segmenter]:
    """The class of a method.

    Raises:
        ValueError: the method is not registered.
    """
    module, name = entry(method).target.split(":")
    return getattr(import_module(module), name)


def entry(method: str) -> Method:
    """Where a method or an opponent lives.

    Raises:
        ValueError: it is not registered.
    """
    if method not in (known := METHODS | OPPONENTS):
        raise ValueError(f"there is no method {method!r}: choose one of {', '.join(METHODS)}")
    return known[method]


def build(method: str = "malenia", config: dict | None = None) -> Segmenter:
    """A method with fresh weights; `config` holds its class's arguments.

    Raises:
        ValueError: the method is not registered.
    """
    return class_of(method)(**(config or {}))


def sha256(path: Path) -> str:
    """Hash of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def save(model: Segmenter, method: str, path: Path, *, config: dict, encoder: TextEncoder, **facts) -> None:
    """Write a method's weights and, beside them, the JSON record that `load` checks."""
    about = {"name": encoder.name, "fingerprint": encoder.fingerprint}
    save_state(model, path, {"method": method, "config": config, "text_encoder": about, **facts})


def save_state(model: nn.Module, path: Path, record: dict) -> None:
    """Write weights (a plain state dict, half precision) and a JSON record with their hash beside them.

    Each replaces an older one when it is whole; between the two, `load` refuses the new weights with the older record.

    Raises:
        ScanError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    # Half precision halves the file; rounding to 11 bits is far below what training noise leaves of a weight.
    state = {k: v.detach().cpu() for k, v in model.state_dict().items()}
    state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    write_atomically(path, lambda temporary: torch.save(state, temporary))
    write_json({"sha256": sha256(path), **record}, path.with_suffix(".json"), indent=2)


def load(
    method: str = "malenia", weights: str | Path | None = None, *, device: str | torch.device = "cpu"
) -> Segmenter:
    """A method with trained weights, in evaluation mode.

    Args:
        method: its name, or two with a plus between them, see `in_turn.InTurn`. weights: a file of weights, or a folder
        with the method's file in it; by default the starter weights. device: see `devices.device_of`.

    Raises:
        ValueError: the method is not registered, or there is no such device.
        WeightsError: the file is missing, altered, or of another method.
        text.TextEncoderError: the text encoder is not the one that the weights were trained with.
    """
    device = device_of(device)
    if AND in method:
        return import_module("zerotumor.in_turn").InTurn.of(asked_in_turn(method), weights, device)
    registered = entry(method)
    path = Path(weights) if weights is not None else MODELS
    path = path / registered.weights if path.is_dir() else path
    record = read_record(path, method)
    model = build(method, record["config"])
    return load_into(model, method, path).to(device).eval()


def load_into(model: Segmenter, method: str, path: str | Path) -> Segmenter:
    """Load a weights file into a model, checked against its record, and attach the text encoder it was trained with.

    Raises: as `load`.
    """
    path = Path(path)
    record = read_record(path, method)
    encoder = load_text_encoder(record["text_encoder"]["name"])
    check_fingerprint(encoder, record["text_encoder"]["fingerprint"])
    load_state(model, path)
    model.records = (record, *model.beside(path, record))
    model.mirrored = any(record.get("mirror", (1,)))  # older records do not say: then they were
    model.encoder = encoder
    model.weights_sha256 = record["sha256"]
    return model


def load_state(model: nn.Module, path: Path) -> nn.Module:
    """Load a file of `save_state` into a model.

    Raises:
        WeightsError: it holds no weights, or those of another model.
    """
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, KeyError, OSError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path} does not fit the model its record describes: restore both files ({error})"
        ) from error
    return model


def read_record(path: Path, method: str) -> dict:
    """The JSON record beside a weights file, after checking that the two belong together."""
    record_path = path.with_suffix(".json")
    for needed in (path, record_path):
        if not needed.is_file():
            raise WeightsError(f"{needed} is missing: train it (see bundle/docs/README.md) or restore it")
    try:
        record = json.loads(record_path.read_text())
        expected, made_for = record["sha256"], record["method"]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{record_path} is not a weights record: restore it from the repository") from error
    if made_for != method:
        raise WeightsError(f"{path} holds weights of {made_for}, not of {method}: give the file of {method}")
    if sha256(path) != expected:
        raise WeightsError(
            f"{path} is not the file that was trained (its hash differs): restore it from the repository"
        )
    return record
