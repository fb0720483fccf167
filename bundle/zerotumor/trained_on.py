"""Which real scans weights have learned from, for their record: nobody is to take these for unseen ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from .volumes import stem_of

KINDS = ("healthy_scans", "scans")
"""Keys of a record's `trained`: bodies that lesions were drawn in, and scans that were learned from as they are."""


def real_scans(records: Sequence[Mapping[str, object]]) -> dict[str, set[str]]:
    """Names of the real scans among training records, under those of KINDS that there are.

    A scan's name is its record's, else its file's; with the folder's where several files have one name, as in KiTS23. No
    more of a path is kept: it says nothing elsewhere, and may name people and machines.

    Args:
        records: of any training; phantoms have no `image`, and healthy bodies for phantoms a `seed` besides.
    """
    images = {str(r["image"]): stem_of(Path(str(r["image"]))) for r in records if "image" in r and "name" not in r}
    shared = Counter(images.values())
    found: dict[str, set[str]] = {}
    for record in records:
        if "image" in record:
            image = str(record["image"])
            stem = images.get(image, "")
            name = record.get("name") or (f"{Path(image).parent.name}/{stem}" if shared[stem] > 1 else stem)
            found.setdefault("healthy_scans" if "seed" in record else "scans", set()).add(str(name))
    return found


def together(parts: Sequence[Mapping[str, object]]) -> dict[str, list[str]]:
    """The names under KINDS of several records of training, as lists to be kept; those that there are."""
    names = {kind: sorted({str(name) for part in parts for name in part.get(kind, ())}) for kind in KINDS}
    return {kind: some for kind, some in names.items() if some}
