"""Where the paper can be improved on: named options, ours first, the paper's behavior as the other value."""

from __future__ import annotations

from dataclasses import dataclass

from ..choices import check_choices

CHOICES: dict[str, tuple[str, str]] = {
    "similarity": ("cosine", "raw"),
    "targets": ("cloned", "aliased"),
    "anomaly_gate": ("host", "all"),
    "anomaly_range": ("scan", "window"),
    "background": ("learned", "none"),
    "offset": ("learned", "none"),
    "organ_correction": ("none", "hosts"),
    "selection": ("knowledge", "slot"),
}


@dataclass(frozen=True)
class Options:
    """The eight choices.

    similarity: of queries and texts; "raw" is the paper's dot product over a free temperature, whose loss starts in the
    thousands. targets: of the two alignments; "aliased" is one matrix for both. anomaly_gate: what a tumor's logit gets of
    the anomaly map; "all" is everything everywhere. anomaly_range: where the map's minimum and maximum are taken from;
    "window" lets the same voxel be an anomaly in one window and none in the next. background: a query for what is no organ;
    with "none" all that is unlabeled is anomalous. offset: of each class's logits, learned, so that rare classes start rare;
    with "none" they start everywhere. organ_correction: "hosts" subtracts the anomaly from the organs that host
    tumors (2.2.6). selection: how a prompt finds its query; "slot" knows the names of training alone.

    Raises:
        ValueError: an option has a value that is not among its choices.
    """

    similarity: str = "cosine"
    targets: str = "cloned"
    anomaly_gate: str = "host"
    anomaly_range: str = "scan"
    background: str = "learned"
    offset: str = "learned"
    organ_correction: str = "none"
    selection: str = "knowledge"

    def __post_init__(self) -> None:
        check_choices(self, CHOICES)


PAPER = {name: paper for name, (_, paper) in CHOICES.items()}
"""All options at the paper's values."""
