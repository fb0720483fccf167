"""Versions: what a method has learned from corrected scans, beside its weights, which stay as they are."""

from __future__ import annotations

import json
import logging
from dataclasses import fields
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from .adaptation import EMPTY, TOGETHER, Adapted, Learned, Specialist
from .segmenter import Segmenter, WeightsError, load_state, read_record, save_state

logger = logging.getLogger(__name__)
FILE = "specialists.pt"
RECORD = str(Path(FILE).with_suffix(".json"))
METHOD = "specialists"
LEARNED = tuple(f.name for f in fields(Learned))
SPEAKS = {
    TOGETHER: "all scans, together with the method where it finds something",
    EMPTY: "scans where the method finds nothing",
}


def save_version(model: Adapted, folder: Path, *, method: str, **facts: object) -> Path:
    """Write the specialists of a version and its card; the method's own weights stay where they are, untouched.

    Raises:
        FileExistsError: there is a version of this name.
    """
    folder = Path(folder)
    if (folder / FILE).exists():
        raise FileExistsError(f"there is a version {folder.name} already: give the new one another name")
    about = [{**a, "embedding": len(s.embedding)} for a, s in zip(model.describe(), model.specialists, strict=True)]
    record = {
        "method": METHOD,
        "base": {"method": method, "sha256": model.base.weights_sha256},
        "specialists": about,
        "created": datetime.now(UTC).isoformat(sep=" ", timespec="milliseconds"),
        **facts,
    }
    save_state(model.specialists, folder / FILE, record)
    (folder / "card.md").write_text(card(json.loads((folder / RECORD).read_text()), folder.name))
    return folder


def versions_of(folder: Path, method: str, weights_sha256: str | None = None) -> list[str]:
    """Names of a method's versions in a folder, oldest first; only those learned on certain weights, if these are given.

    A folder without a readable record is no version.
    """
    found = []
    for path in Path(folder).glob(f"*/{RECORD}"):
        try:
            about = read_about(path.parent)
        except (OSError, ValueError) as error:
            logger.warning(f"{path} is damaged and is ignored ({error})")
            continue
        if about.method == method and weights_sha256 in (None, about.base_sha256):
            found.append((about.created, path.parent.name))
    return [name for _, name in sorted(found)]


class About(NamedTuple):
    """What tells a version from others."""

    method: str
    base_sha256: str  # of the method's weights
    created: str
    sha256: str  # of the specialists' file


def read_about(folder: Path) -> About:
    """What the record of a version says; a server asks at every request, so files are read once.

    Raises:
        OSError, ValueError: there is no record, or it is none of a version.
    """
    path = Path(folder) / RECORD
    state = path.stat()
    return _read_about(path, state.st_mtime_ns, state.st_size)


@lru_cache(1024)
def _read_about(path: Path, modified: int, size: int) -> About:
    record = json.loads(path.read_text())
    try:
        about = About(record["base"]["method"], record["base"]["sha256"], record["created"], record["sha256"])
        whole = isinstance(record["specialists"], list) and all(isinstance(said, str) for said in about)
    except (KeyError, TypeError) as error:
        raise ValueError(f"it lacks {error}") from None
    if not whole:
        raise ValueError("it is no record of a version")
    return about


def load_version(base: Segmenter, folder: Path) -> Adapted:
    """A method with the specialists of a version.

    Raises:
        WeightsError: the version is damaged, or was learned on other weights of the method.
    """
    path, name = Path(folder) / FILE, Path(folder).name
    try:
        about = read_about(folder)
        if about.base_sha256 != base.weights_sha256:
            raise WeightsError(f"version {name} was learned on other weights of {about.method}: learn again")
        specialists = torch.nn.ModuleList(
            Specialist(
                Learned(**{k: a[k] for k in LEARNED if k in a}), base.lesion_network(), torch.zeros(a["embedding"])
            )
            for a in read_record(path, METHOD)["specialists"]
        )
    except WeightsError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(
            f"the record of version {name} is damaged ({error}): restore it, or remove its folder"
        ) from error
    load_state(specialists.to(next(base.parameters()).device), path)
    return Adapted(base, list(specialists), name, about.sha256)


def card(record: dict, version: str) -> str:
    """What a version is, as Markdown."""
    lines = [
        f"# Version {version}",
        "",
        f"Specialists of the method {record['base']['method']} (weights sha256 `{record['base']['sha256']}`), made on "
        f"{record['created']}. File sha256 `{record['sha256']}`. Other prompts are answered as without it.",
        "",
        "| prompt | modality | answers | scans learned from | overlap with each of them when it is left out |",
        "| --- | --- | --- | --- | --- |",
    ]
    learned, held_out = record.get("learned_from", {}), record.get("held_out", {})
    for a in record["specialists"]:
        name = f"{a['prompt']} {a['modality']}"
        names, held = learned.get(name, []), held_out.get(name)
        overlap, speaks = "not measured", SPEAKS[a.get("where", TOGETHER)]
        if held:
            before, after = (sum(h[k] for h in held) / len(held) for k in ("before", a.get("where", TOGETHER)))
            overlap = f"{after:.2f} on average; {before:.2f} without the specialist"
        cells = (a["prompt"], a["modality"], speaks, ", ".join(names) or "an earlier version", overlap)
        lines.append(f"| {' | '.join(cells)} |")
    refused = record.get("refused", {})
    if refused:
        lines += ["", "Not learned from:", "", *(f"- {name}: {why}" for name, why in refused.items())]
    lines += ["", "Not a medical device. Nobody has measured this version on scans of other patients.", ""]
    return "\n".join(lines)
