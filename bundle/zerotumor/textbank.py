"""A bank of frozen text embeddings that is stored with a model's weights, so that known words need no text encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .text import TextEncoder


class TextBank(nn.Module):
    """Frozen unit vectors of `rows` texts, and a learned projection of them if a method needs one.

    Args:
        rows: V, number of entries. text_dim: width of the text encoder's embeddings.
        dim: C, width of the projection; None for none.
    """

    def __init__(self, rows: int, text_dim: int, dim: int | None = None) -> None:
        super().__init__()
        self.register_buffer("texts", torch.zeros(rows, text_dim))
        if dim is not None:
            self.project = nn.Linear(text_dim, dim)

    def store(self, encoder: TextEncoder, *wordings: Sequence[str]) -> None:
        """Encode V texts and keep them; of several wordings (V texts each), the mean direction.

        Raises:
            ValueError: the encoder's width is not the bank's.
        """
        encoded = [encoder.encode(list(texts)) for texts in wordings]
        if encoded[0].shape[1] != self.texts.shape[1]:
            raise ValueError(
                f"the text encoder {encoder.name!r} gives {encoded[0].shape[1]} numbers a text, but this model was built "
                f"for {self.texts.shape[1]}: set text_dim in the config, and train, for another encoder"
            )
        self.texts.copy_(F.normalize(sum(encoded), dim=1))
