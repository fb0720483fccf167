"""Query-knowledge alignment (ZePT 2.2.7): every query near the paragraph that says what its organ or tumor is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contrast import multi_positive_cross_entropy
from ..knowledge import paragraph
from ..text import TextEncoder
from ..textbank import TextBank
from .classes import ENTRIES, ClassSet


class KnowledgeBank(TextBank):
    """Frozen embeddings of all knowledge paragraphs, so that any known name can be asked for without the text encoder.

    Args:
        classes: whose rows the queries are aligned with. text_dim: width of the text encoder's embeddings.
    """

    def __init__(self, classes: ClassSet, text_dim: int) -> None:
        super().__init__(len(ENTRIES), text_dim)
        self.rows = [ENTRIES.index(name) for name in classes.names]

    def fill(self, encoder: TextEncoder) -> None:
        """Encode all paragraphs."""
        self.store(encoder, [paragraph(name) for name in ENTRIES])

    def forward(self) -> Tensor:
        """K: the paragraphs of the classes, (N + K, text_dim)."""
        return self.texts[self.rows]

    def of(self, name: str) -> Tensor:
        """The paragraph of one organ or lesion (text_dim,)."""
        return self.texts[ENTRIES.index(name)]


def alignment_targets(classes: ClassSet, aliased: bool = False) -> tuple[Tensor, Tensor]:
    """Right answers of the two alignments, both (N + K, N + K).

    Y of queries against knowledge is the identity. Y^q of queries against queries adds all pairs of tumors, and each tumor
    with its organs. `aliased`: the paper's code has one matrix for both, so that Y holds what is meant for Y^q alone.
    """
    to_knowledge = torch.eye(len(classes.names))
    to_queries = to_knowledge if aliased else to_knowledge.clone()
    first = len(classes.organs)
    to_queries[first:, first:] = 1
    for organ, tumor in classes.pairs:
        i, j = classes.names.index(organ), classes.names.index(tumor)
        to_queries[i, j] = to_queries[j, i] = 1
    return to_knowledge, to_queries


def similarity(a: Tensor, b: Tensor, temperature: Tensor, kind: str = "cosine") -> Tensor:
    """a (..., n, D) against b (..., m, D) over a temperature -> (..., n, m); "cosine", or "raw" as in the paper."""
    if kind == "cosine":
        a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    return a @ b.transpose(-1, -2) / temperature


def alignment_loss(
    embedded: Tensor, knowledge: Tensor, targets: tuple[Tensor, Tensor], temperature: Tensor, *,
    kind: str = "cosine", normalize: bool = True,
) -> Tensor:  # fmt: skip
    """L_align: cross-entropy of queries against knowledge, and of queries against queries.

    Args:
        embedded: v (B, N + K, D), the queries in the space of texts. knowledge: (N + K, D).
        targets: of `alignment_targets`. normalize: see `contrast.multi_positive_cross_entropy`.
    """
    to_knowledge, to_queries = (t.to(embedded) for t in targets)
    return multi_positive_cross_entropy(
        similarity(embedded, knowledge, temperature, kind), to_knowledge, normalize
    ) + multi_positive_cross_entropy(similarity(embedded, embedded, temperature, kind), to_queries, normalize)
