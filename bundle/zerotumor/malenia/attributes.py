"""The bank of attribute texts (Malenia 3.7, step II) and retrieval from it.

Every value of the eight attributes is one text; its frozen embedding is stored with the weights, so a scan can be
segmented without the text encoder. A learned linear layer brings the texts into the space of the mask tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..text import TextEncoder
from ..textbank import TextBank
from ..vocabulary import ATTRIBUTES, attribute_text

NAMES = tuple(ATTRIBUTES)
VALUES = tuple((name, value) for name in NAMES for value in ATTRIBUTES[name])
OFFSETS = {name: next(i for i, (n, _) in enumerate(VALUES) if n == name) for name in NAMES}
SLICES = {name: slice(OFFSETS[name], OFFSETS[name] + len(ATTRIBUTES[name])) for name in NAMES}


def value_index(attribute: str, value: str) -> int:
    """Place of one attribute's value in the bank, 0 <= i < V."""
    return OFFSETS[attribute] + ATTRIBUTES[attribute].index(value)


class AttributeBank(TextBank):
    """V frozen text embeddings of width `text_dim`, projected to `dim`.

    Args:
        text_dim: width of the text encoder's embeddings.
        dim: C, width of the mask tokens.
    """

    def __init__(self, text_dim: int = 384, dim: int = 64) -> None:
        super().__init__(len(VALUES), text_dim, dim)

    def fill(self, encoder: TextEncoder) -> None:
        """Encode all values. CT and MR wording of one value are averaged: the value is the same thing in both."""
        self.store(encoder, *([attribute_text(a, v, m) for a, v in VALUES] for m in ("CT", "MR")))

    def forward(self, texts: Tensor | None = None) -> Tensor:
        """Projected embeddings of the bank (V, C), or of other text embeddings (n, text_dim) -> (n, C)."""
        return self.project(self.texts if texts is None else texts)

    def retrieve(self, aligned: Tensor, temperature: Tensor) -> Tensor:
        """Probability of every value for tokens aligned (..., C): softmax within each attribute -> (..., V)."""
        similarity = F.normalize(aligned, dim=-1) @ F.normalize(self(), dim=-1).T / temperature
        return torch.cat([similarity[..., SLICES[name]].softmax(-1) for name in NAMES], -1)
