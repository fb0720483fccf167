"""What a method learns from a few corrected scans: a network for one text in one modality, beside the method's own weights.

For each text that was learned, a copy of what marks any lesion at all has been trained further on the corrected scans
(`learning`), and answers in the method's place. Methods learn from phantoms, and a few scans of the clinic that asks show
its scanners, its protocols and its kind of lesion. Other prompts, and the same one in the other modality, are answered as
before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kept import Kept, VolumeFeatures
from .lesion_network import LesionNetwork
from .places import Places
from .prompts import Prompt
from .segmenter import Segmentation, Segmenter
from .transforms import shows_ct
from .wrapped import Wrapped

TOGETHER, EMPTY = "together", "empty"
"""In which scans a specialist speaks: in all, and in those where the method itself finds something, both count (the mean of
their logits); or only in those where it finds nothing."""
THETA = 0.3
"""Probability from which a learned network paints: half of the Dice that it can hope for (Lipton et al., ECML PKDD 2014)."""
BOUND = 6.0
"""Largest logit of what the method or a network says: beyond, it says no more."""
NEAR, SAME = 0.80, 0.95
"""Cosine similarity of texts up to which what was learned of another one does not speak, and from which it does in full."""


@dataclass(frozen=True)
class Learned:
    """What a specialist is for."""

    prompt: str  # as it was asked
    lesion: str | None  # the concept of the vocabulary, if it is one
    modality: str  # CT or MR
    where: str = TOGETHER  # or EMPTY: in which scans it speaks


class Specialist(nn.Module):
    """A network that was trained for one text in one modality.

    Args:
        learned: what it is for. network: marks the lesions. embedding: of the text, (D,).
    """

    def __init__(self, learned: Learned, network: LesionNetwork, embedding: Tensor) -> None:
        super().__init__()
        self.learned, self.network = learned, network
        self.register_buffer("embedding", embedding.float().clone())

    def answer(self, image: Tensor, place: Tensor | None = None) -> Tensor:
        """A prepared scan (2, X, Y, Z), and how well each voxel's place fits -> logits (X, Y, Z), see `counted`."""
        return counted(self.network.probability(image), place)

    def share(self, prompt: Prompt, modality: str, embedding: Tensor | None) -> float:
        """How much it has to say about a prompt, 0 to 1.

        All for its own text or concept; nothing for another concept or the other modality; in between for words that the
        vocabulary does not know and the text encoder finds alike.
        """
        if modality != self.learned.modality:
            return 0.0
        if prompt.text == self.learned.prompt or (prompt.lesion and prompt.lesion == self.learned.lesion):
            return 1.0
        if (prompt.lesion and self.learned.lesion) or embedding is None:
            return 0.0
        near = float(F.cosine_similarity(embedding.float(), self.embedding.cpu(), dim=0))
        return min(1.0, max(0.0, (near - NEAR) / (SAME - NEAR)))


def counted(probability: Tensor, place: Tensor | None = None) -> Tensor:
    """Probabilities -> logits that are positive from THETA, within BOUND.

    Args:
        place: how well each voxel's place fits the prompt, 0..1, of `Places.fits`: a network knows lesions and no organs.
    """
    probability = probability if place is None else probability * place
    return (torch.logit(probability.float(), eps=1e-4) - torch.logit(torch.tensor(THETA))).clamp(-BOUND, BOUND)


def finds(model: Segmenter, logits: Tensor) -> bool:
    """Whether a method finds something in a scan, of its logits counted from theta, of any shape."""
    theta, peak = torch.logit(torch.tensor([model.theta, max(model.theta, model.theta_peak)]), eps=1e-6)
    return bool(logits.amax() >= peak - theta)


def chosen(model: Segmenter, own: Tensor, new: Tensor, where: str = TOGETHER) -> Tensor:
    """What is answered of a method's logits and a specialist's, both of any one shape.

    A method that finds something in a scan is mostly right, and those that are corrected are mostly others.
    """
    if not finds(model, own):
        return new
    return own if where == EMPTY else (own.clamp(-BOUND, BOUND) + new) / 2


class Adapted(Wrapped):
    """A method with specialists: answers as the method does, but for what was learned. Features of images are the method's.

    Args:
        base: the method, frozen. specialists: of this method. version: its name, and the hash of the specialists' file.
    """

    def __init__(
        self, base: Segmenter, specialists: Sequence[Specialist], version: str = "", weights_sha256: str = "untrained"
    ) -> None:
        super().__init__(base)
        self.specialists, self.version, self.weights_sha256 = nn.ModuleList(specialists), version, weights_sha256
        self.eval()

    def complete(
        self, image: Tensor, answer: Segmentation, prompts: Sequence[Prompt], kept: VolumeFeatures | None = None
    ) -> Segmentation:
        """The method's answer for scans (B, 2, X, Y, Z), and the specialist's where a prompt was learned."""
        answer = super().complete(image, answer, prompts, kept)
        logits, scores = answer.logits.clone(), answer.scores.clone()
        ungated = answer.extras["ungated"].clone()
        threshold = torch.logit(torch.tensor(self.theta))
        for b in range(len(image)):
            modality = "CT" if shows_ct(image[b]) else "MR"
            found = Kept() if kept is None else kept.further  # several prompts may mean the same
            places = Places(self.base, image[b], kept)
            for p, prompt in enumerate(prompts):
                k, share = self.best(prompt, modality)
                if k is None:
                    continue
                own, where = logits[b, p], self.specialists[k].learned.where
                if where == EMPTY and finds(self, own):
                    continue
                look = partial(self.specialists[k].network.probability, image[b])
                new = counted(found.once((self.weights_sha256, k), look), places.fits(prompt)).to(logits.device)
                mixed = share * chosen(self, own, new, where) + (1 - share) * own.clamp(-BOUND, BOUND)
                logits[b, p], ungated[b, p] = mixed, mixed.sigmoid()
                scores[b, p] = (mixed.amax() + threshold).sigmoid()  # a score counts from theta, a logit from zero
        return Segmentation(logits, scores, answer.attributes, {**answer.extras, "ungated": ungated})

    def best(self, prompt: Prompt, modality: str) -> tuple[int | None, float]:
        """The place of the specialist that has most to say about a prompt, and how much; (None, 0) if there is none."""
        if not self.specialists:
            return None, 0.0
        embedding = None
        if self.encoder is not None and not prompt.lesion:
            embedding = self.encoder.encode([prompt.text])[0]
        shares = [s.share(prompt, modality, embedding) for s in self.specialists]
        if max(shares) <= 0:
            return None, 0.0
        return shares.index(max(shares)), max(shares)

    def describe(self) -> list[dict]:
        """What was learned, JSON-able."""
        return [asdict(s.learned) for s in self.specialists]
