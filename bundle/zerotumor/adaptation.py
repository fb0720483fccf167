"""What a method learns from a few corrected scans: a small correction of its own answer, for one text in one modality.

The method stays frozen. For each text that was learned, an adapter looks at how bright, how rough and how suspicious a place
is, next to the rest of the same scan, and moves the logit of the method's answer up or down. It begins as nothing, and
sees only what is standardized within the scan, so that five scans do not teach it more than five scans can (tuning of small
parts on frozen features, as in Houlsby et al., ICML 2019). Other prompts, and the same in the other modality, are answered
as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .prompts import Prompt
from .segmenter import Segmentation, Segmenter
from .transforms import shows_ct

STRIDE = 2
"""Voxels of the method's grid to one of the adapter's: a lesion's place is coarse, its edge is the method's."""
WINDOWS_MM = (24.0, 56.0, 120.0)
"""Edges of the neighborhoods that a place is seen in, besides itself."""
ROUGH_MM = 40.0
"""Edge of the neighborhood whose standard deviation is the roughness."""
BOUND = 6.0
"""Largest logit of what the method said: beyond, it says no more."""
ANSWER = "answer"
"""Name in `extras` of the method's own answer, as probability."""
EVERYWHERE, EMPTY = "everywhere", "empty"
LEFT = 0.25
"""Share of what the method found that an adapter must leave; else it is not believed."""
NEAR, SAME = 0.80, 0.95
"""Cosine similarity of texts up to which an adapter of another text does not speak, and from which it speaks in full."""


def feature_count(maps: int) -> int:
    """Channels of `voxel_features` for so many of the method's maps."""
    return (4 + maps) * (1 + len(WINDOWS_MM))


def box_mean(values: Tensor, voxels: int) -> Tensor:
    """Mean over a cube of an odd number of voxels around each, (C, x, y, z); only what is inside counts.

    An axis that is shorter than the cube is averaged over as far as it goes.
    """
    width = [2 * (max(1, min(voxels, n)) // 2) + 1 for n in values.shape[1:]]
    width = [w if w <= n else w - 2 for w, n in zip(width, values.shape[1:], strict=True)]
    return F.avg_pool3d(values[None], width, stride=1, padding=[w // 2 for w in width], count_include_pad=False)[0]


def voxel_features(image: Tensor, logits: Tensor, spacing: float) -> tuple[Tensor, Tensor]:
    """What an adapter sees of a scan, on the coarse grid.

    Args:
        image: (2, X, Y, Z) as prepared. logits: (M, X, Y, Z) of the method, the answer to the prompt first. spacing: mm.

    Returns:
        features (F, x, y, z): brightness in two windows, roughness in both, the method's maps; each by itself and as mean of
        its neighborhoods; zero mean and unit deviation over the body. body (x, y, z): where there is one.
    """
    size = [-(-n // STRIDE) for n in image.shape[1:]]
    coarse = F.adaptive_avg_pool3d(image.float(), size)
    said = F.adaptive_avg_pool3d(logits.float().clamp(-BOUND, BOUND), size)
    step = spacing * STRIDE
    rough = round(ROUGH_MM / step)
    spread = (box_mean(coarse.square(), rough) - box_mean(coarse, rough).square()).clamp_min(0).sqrt()
    own = torch.cat([coarse, spread, said])
    seen = torch.cat([own, *(box_mean(own, round(mm / step)) for mm in WINDOWS_MM)])
    body = coarse.amax(0) > 0.02
    body = body if body.any() else torch.ones_like(body)
    inside = seen[:, body]
    mean, deviation = inside.mean(1), inside.std(1, unbiased=False).clamp_min(1e-2)
    scaled = (seen - mean[:, None, None, None]) / deviation[:, None, None, None]
    return scaled.clamp(-5, 5), body


def believed(own: Tensor, new: Tensor, where: str = EVERYWHERE) -> bool:
    """Whether an adapter's logits are to replace the method's own for a scan; both of any one shape.

    A few corrected scans are mostly ones on which the method fails. What they teach can wipe out what it gets right; that
    an adapter leaves next to nothing of what the method found is a sign of this.
    """
    found = own > 0
    if not found.any():
        return True
    return where == EVERYWHERE and float((found & (new > 0)).sum()) >= LEFT * float(found.sum())


@dataclass(frozen=True)
class Learned:
    """What an adapter is for."""

    prompt: str  # as it was asked
    lesion: str | None  # the concept of the vocabulary, if it is one
    modality: str  # CT or MR
    where: str = EVERYWHERE  # in which scans it speaks; EMPTY: in those where the method itself finds nothing


class Adapter(nn.Module):
    """A correction (..., 1) of logits from features (..., F); nothing before it is trained.

    Args:
        learned: what it is for. features: F. embedding: of the text, (D,). hidden: width.
    """

    def __init__(self, learned: Learned, features: int, embedding: Tensor, hidden: int = 8) -> None:
        super().__init__()
        self.learned = learned
        self.head = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, 1))
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)
        self.trust = nn.Parameter(torch.ones(()))  # factor on what the method said
        self.register_buffer("embedding", embedding.float().clone())

    def forward(self, features: Tensor, said: Tensor) -> Tensor:
        """Features (B, N, F) and the method's logits (B, N) of N places -> new logits (B, N)."""
        return self.trust * said.clamp(-BOUND, BOUND) + self.head(features)[..., 0]

    def correct(self, image: Tensor, logits: Tensor, spacing: float) -> Tensor:
        """As `voxel_features`; the answer's new logits (X, Y, Z). Outside the body they stay as they were."""
        features, body = voxel_features(image, logits, spacing)
        change = self.head(features.flatten(1).T)[:, 0].reshape(features.shape[1:])
        change = torch.where(body, change, change.new_zeros(()))
        fine = F.interpolate(change[None, None], logits.shape[1:], mode="trilinear")[0, 0]
        return self.trust * logits[0].float().clamp(-BOUND, BOUND) + fine

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


class Adapted(Segmenter):
    """A method with adapters: answers as the method does, but for what was learned. Features of images are the method's.

    Args:
        base: the method, frozen. adapters: of this method. version: its name, and the hash of the adapters' file.
    """

    second_look = True

    def __init__(
        self, base: Segmenter, adapters: Sequence[Adapter], version: str = "", weights_sha256: str = "untrained"
    ) -> None:
        super().__init__()
        self.base, self.adapters, self.version = base, nn.ModuleList(adapters), version
        self.spacing, self.patch = base.spacing, base.patch
        self.paint(base.theta, base.theta_peak, base.edge_weight)
        self.look_on(base.zooms, base.tight_zooms)
        self.encoder, self.weights_sha256 = base.encoder, weights_sha256
        self.maps, self.images, self.organ_names = base.maps, base.images, base.organ_names
        self.whole_scan, self.qualities, self.has_ungated = base.whole_scan, base.qualities, base.has_ungated
        self.eval()

    @property
    def blended(self) -> tuple[str, ...]:
        """Maps of windows that `complete` needs."""
        return tuple(dict.fromkeys((*self.base.blended, *self.base.evidence)))

    def at(self, quality: str) -> Self:
        twin = super().at(quality)
        twin.base = self.base.at(quality)
        return twin

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        return self.base.encode_image(image)

    def segment(self, features: dict[str, Tensor], prompts: Sequence[Prompt]) -> Segmentation:
        return self.base.segment(features, prompts)

    def segment_window(self, features: dict[str, Tensor], prompts: Sequence[Prompt]) -> Segmentation:
        return self.base.segment_window(features, prompts)

    def shared(self, windows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return self.base.shared(windows)

    def compact(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.base.compact(features)

    def place_features(self, image: Tensor) -> Tensor:
        return self.base.place_features(image)

    def organ_maps(self, features: dict[str, Tensor]) -> Tensor:
        return self.base.organ_maps(features)

    def complete(self, image: Tensor, answer: Segmentation, prompts: Sequence[Prompt]) -> Segmentation:
        """The method's answer for scans (B, 2, X, Y, Z), corrected where a prompt was learned."""
        evidence = dict(answer.extras)
        if self.base.second_look:
            answer = self.base.complete(image, answer, prompts)
        evidence[ANSWER] = answer.logits.sigmoid()
        logits, scores = answer.logits.clone(), answer.scores.clone()
        ungated = answer.extras["ungated"].clone()
        threshold = torch.logit(torch.tensor(self.theta))
        for b in range(len(image)):
            modality = "CT" if shows_ct(image[b]) else "MR"
            for p, prompt in enumerate(prompts):
                adapter, share = self.best(prompt, modality)
                if adapter is None:
                    continue
                maps = method_logits(evidence[ANSWER][b, p], [evidence[name][b, 0] for name in self.base.evidence])
                new = adapter.correct(image[b], maps, self.spacing)
                if not believed(logits[b, p], new, adapter.learned.where):
                    continue
                mixed = share * new + (1 - share) * logits[b, p].clamp(-BOUND, BOUND)
                logits[b, p], ungated[b, p] = mixed, mixed.sigmoid()
                scores[b, p] = (mixed.amax() + threshold).sigmoid()  # a score counts from theta, a logit from zero
        return Segmentation(logits, scores, answer.attributes, {**evidence, **answer.extras, "ungated": ungated})

    def best(self, prompt: Prompt, modality: str) -> tuple[Adapter | None, float]:
        """The adapter that has most to say about a prompt, and how much; (None, 0) if there is none."""
        if not self.adapters:
            return None, 0.0
        embedding = None
        if self.encoder is not None and not prompt.lesion:
            embedding = self.encoder.encode([prompt.text])[0]
        shares = [a.share(prompt, modality, embedding) for a in self.adapters]
        if max(shares) <= 0:
            return None, 0.0
        k = shares.index(max(shares))
        return self.adapters[k], shares[k]

    def describe(self) -> list[dict]:
        """What was learned, JSON-able."""
        return [asdict(a.learned) for a in self.adapters]


def method_logits(answer: Tensor, evidence: Sequence[Tensor]) -> Tensor:
    """Probabilities (X, Y, Z) of the answer and of M - 1 maps that the method saw besides -> logits (M, X, Y, Z)."""
    return torch.logit(torch.stack([answer, *evidence]).float(), eps=1e-3)
