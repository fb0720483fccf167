"""Pairs of texts, normal and abnormal (DiffuGTS 1.3): what a prompt is compared with at every voxel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..phrases import normalize
from ..prompts import Prompt
from ..textbank import TextBank
from ..transforms import MODALITIES
from ..vocabulary import LESIONS, ORGANS

if TYPE_CHECKING:
    from ..text import TextEncoder

ANYWHERE = "body"
ANYTHING = "tumor"
# The first of each is the paper's template; the others are averaged in, as is usual for text-prompted anomaly maps.
NORMAL = ("A normal {0} of the {1}.", "{0}: healthy {1} of even texture.", "{0} that shows a {1} without any lesion.")
ABNORMAL = ("An abnormal {0} of {1}.", "{0}: {1}.", "{0} that shows {1}, a lesion.")
_PLACES = (ANYWHERE, *ORGANS)
_DISEASES = (ANYTHING, *LESIONS, *(f"lesion in the {organ}" for organ in ORGANS))
ROWS = tuple(
    (kind, m, n) for m in MODALITIES for kind, ns in (("normal", _PLACES), ("abnormal", _DISEASES)) for n in ns
)
"""What the bank holds: (normal or abnormal, modality, organ or disease)."""
_INDEX = {row: k for k, row in enumerate(ROWS)}


def sentences(kind: str, modality: str, name: str, wordings: int = 3) -> list[str]:
    """The texts of one row, at most `wordings` of them."""
    templates = NORMAL if kind == "normal" else ABNORMAL
    return [t.format(modality, name) for t in templates[: max(1, wordings)]]


class PairBank(TextBank):
    """Frozen embeddings of normal and abnormal texts for all organs and lesions, CT and MR: known words need no encoder.

    Args:
        text_dim: D, width of the text encoder's embeddings. wordings: paraphrases to average; 1 is the template alone.
    """

    def __init__(self, text_dim: int, wordings: int = 3) -> None:
        super().__init__(len(ROWS), text_dim)
        self.wordings = min(wordings, len(NORMAL))

    def fill(self, encoder: TextEncoder) -> None:
        """Encode all rows."""
        columns = zip(*(sentences(*row, self.wordings) for row in ROWS), strict=True)
        self.store(encoder, *(list(column) for column in columns))

    def row(self, kind: str, modality: str, name: str) -> Tensor:
        """One text (D,), unit length."""
        return self.texts[_INDEX[kind, modality, name]]

    def pairs(self, prompts: Sequence[Prompt], modalities: Sequence[str], encoder: TextEncoder | None = None) -> Tensor:
        """t_n (B, P, 2, D): the normal and the abnormal text of each prompt, in the words of each sample's modality."""
        return torch.stack([torch.stack([self.pair(p, m, encoder) for p in prompts]) for m in modalities])

    def pair(self, prompt: Prompt, modality: str, encoder: TextEncoder | None = None) -> Tensor:
        """Normal text of the prompt's organs, abnormal text of what it asks for: (2, D), unit length.

        The abnormal one is the mean direction of all that is known: the lesion's name, its places, the prompt's own words.
        """
        normal = torch.stack([self.row("normal", modality, o) for o in prompt.organs or (ANYWHERE,)])
        abnormal = []
        if prompt.organs:
            places = torch.stack([self.row("abnormal", modality, f"lesion in the {o}") for o in prompt.organs])
            abnormal.append(F.normalize(places.mean(0), dim=0))
        if prompt.lesion is not None or prompt.nearest is not None:
            abnormal.append(self.row("abnormal", modality, prompt.lesion or prompt.nearest))
        if encoder is not None and not _is_known(prompt):
            words = encoder.encode(sentences("abnormal", modality, prompt.text, self.wordings)).to(self.texts)
            abnormal.append(F.normalize(words.mean(0), dim=0))
        abnormal = abnormal or [self.row("abnormal", modality, ANYTHING)]
        return F.normalize(torch.stack([normal.mean(0), torch.stack(abnormal).mean(0)]), dim=1)


def _is_known(prompt: Prompt) -> bool:
    """Whether the bank holds all that the prompt says: it is the plain name of a lesion, or "tumor" alone."""
    words = normalize(prompt.text)
    return words == ANYTHING or (prompt.lesion is not None and words == normalize(prompt.lesion))
