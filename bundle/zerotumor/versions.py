"""Versions: what a method has learned from corrected scans, beside its weights, which stay as they are."""

from __future__ import annotations

import json
import logging
from dataclasses import fields
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import torch

from .adaptation import EMPTY, EVERYWHERE, Adapted, Adapter, Learned
from .segmenter import Segmenter, WeightsError, load_state, read_record, save_state

logger = logging.getLogger(__name__)
FILE = "adapters.pt"
LEARNED = tuple(f.name for f in fields(Learned))
SPEAKS = {EVERYWHERE: "all scans", EMPTY: "scans where the method finds nothing"}


def save_version(model: Adapted, folder: Path, *, method: str, **facts: object) -> Path:
    """Write the adapters of a version and its card; the method's own weights stay where they are, untouched.

    Raises:
        FileExistsError: there is a version of this name.
    """
    folder = Path(folder)
    if (folder / FILE).exists():
        raise FileExistsError(f"there is a version {folder.name} already: give the new one another name")
    about = [{**a, "features": x.head[0].in_features, "embedding": len(x.embedding)}
             for a, x in zip(model.describe(), model.adapters, strict=True)]  # fmt: skip
    record = {
        "method": "adapters",
        "base": {"method": method, "sha256": model.base.weights_sha256},
        "adapters": about,
        "created": datetime.now(UTC).isoformat(sep=" ", timespec="milliseconds"),
        **facts,
    }
    save_state(model.adapters, folder / FILE, record)
    (folder / "card.md").write_text(card(json.loads((folder / FILE).with_suffix(".json").read_text()), folder.name))
    return folder


def versions_of(folder: Path, method: str, weights_sha256: str | None = None) -> list[str]:
    """Names of a method's versions in a folder, oldest first; only those learned on certain weights, if these are given.

    A folder without a readable record is no version.
    """
    found = []
    for path in Path(folder).glob(f"*/{Path(FILE).stem}.json"):
        try:
            state = path.stat()
            base_method, base_sha256, created = _read_base(path, state.st_mtime_ns, state.st_size)
        except (OSError, ValueError, KeyError) as error:
            logger.warning(f"{path} is damaged and is ignored ({error})")
            continue
        if base_method == method and weights_sha256 in (None, base_sha256):
            found.append((created, path.parent.name))
    return [name for _, name in sorted(found)]


@lru_cache(1024)
def _read_base(path: Path, modified: int, size: int) -> tuple[str, str, str]:
    """Method, hash of its weights, and time of a version; a server asks at every request, so files are read once."""
    record = json.loads(path.read_text())
    return record["base"]["method"], record["base"]["sha256"], record["created"]


def load_version(base: Segmenter, folder: Path) -> Adapted:
    """A method with the adapters of a version.

    Raises:
        WeightsError: the version is damaged, or was learned on other weights of the method.
    """
    path = Path(folder) / FILE
    record = read_record(path, "adapters")
    if record["base"]["sha256"] != base.weights_sha256:
        raise WeightsError(
            f"version {Path(folder).name} was learned on other weights of {record['base']['method']}: learn again"
        )
    adapters = torch.nn.ModuleList(
        Adapter(Learned(**{k: a[k] for k in LEARNED if k in a}), a["features"], torch.zeros(a["embedding"]))
        for a in record["adapters"]
    )
    load_state(adapters, path)
    return Adapted(base, list(adapters), Path(folder).name, record["sha256"])


def card(record: dict, version: str) -> str:
    """What a version is, as Markdown."""
    lines = [
        f"# Version {version}",
        "",
        f"Adapters of the method {record['base']['method']} (weights sha256 `{record['base']['sha256']}`), made on "
        f"{record['created']}. File sha256 `{record['sha256']}`. Other prompts are answered as without it.",
        "",
        "| prompt | modality | answers | scans learned from | overlap with each of them when it is left out |",
        "| --- | --- | --- | --- | --- |",
    ]
    learned, held_out = record.get("learned_from", {}), record.get("held_out", {})
    for a in record["adapters"]:
        name = f"{a['prompt']} {a['modality']}"
        names, held = learned.get(name, []), held_out.get(name)
        overlap, speaks = "not measured", SPEAKS[a.get("where", EVERYWHERE)]
        if held:
            before, after = (sum(h[k] for h in held) / len(held) for k in ("before", a.get("where", EVERYWHERE)))
            overlap = f"{after:.2f} on average; {before:.2f} without the adapter"
        cells = (a["prompt"], a["modality"], speaks, ", ".join(names) or "an earlier version", overlap)
        lines.append(f"| {' | '.join(cells)} |")
    refused = record.get("refused", {})
    if refused:
        lines += ["", "Not learned from:", "", *(f"- {name}: {why}" for name, why in refused.items())]
    lines += ["", "Not a medical device. Nobody has measured this version on scans of other patients.", ""]
    return "\n".join(lines)
