"""The second look (DiffuGTS 1.5 to 1.7): from the attention's maps of a whole scan to holes, pseudo-healthy volumes,
residuals and masks.

The windows' maps are blended before. So there is one hole a lesion, however many windows saw it; the box that is drawn
anew is laid around the hole and not where a window happens to end; and what is drawn is drawn once and not blended from
windows that disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..diffusion.prior import Condition
from ..kept import VolumeFeatures
from ..prompts import Prompt
from ..segmenter import Segmentation
from ..transforms import WIDE_HU, shows_ct
from .attention import peak_logit, resize
from .fills import neighbors
from .frozen import PriorSegmenter
from .holes import boxes, hole_of, width_mm
from .inpainting import QUALITIES, Healed, heal
from .options import Options
from .residual import BOUND, FeatureResidual, Fusion, combine, difference, otsu_probability, pixel_residual
from .samples import Cached
from .texts import PairBank

CLOSED = -0.05
"""Highest logit of a voxel outside its prompt's hole: it is not tumor, however near it came."""


class SecondLook(PriorSegmenter):
    """What `model.DiffuGTS` does after the attention. It has the attributes that are named here."""

    options: Options
    spacing: float
    patch: int
    theta: float
    seed: int
    steps: int  # voxels that a hole is grown by
    feature: FeatureResidual
    fusion: Fusion
    bank: PairBank
    quality: str

    def condition(self, ct: bool) -> Condition:
        """What the prior is told of a scan."""
        return Condition("CT" if ct else "MR", self.spacing)

    def gain(self, ct: Tensor) -> Tensor:
        """What the image's first channel is multiplied with for the prior, (B, 1, 1, 1, 1): its CT window may be wider."""
        ours, priors = WIDE_HU[1] - WIDE_HU[0], self.options.prior_top_hu - WIDE_HU[0]
        return torch.where(ct, ours / priors, 1.0)[:, None, None, None, None]

    def seen(self, image: Tensor, ct: Tensor) -> Tensor:
        """What the prior sees of images (B, 2, X, Y, Z): their first channel, in 0..1."""
        return image[:, :1].clamp(0, 1) * self.gain(ct).to(image)

    def texts(self, prompts: Sequence[Prompt], ct: Tensor) -> Tensor:
        """t (B, P, 2, D) in the words of each sample's modality."""
        return self.bank.pairs(prompts, ["CT" if one else "MR" for one in ct.tolist()], self.encoder)

    @property
    def bar(self) -> float:
        """Theta as a logit, from which the answer's are counted."""
        return float(torch.logit(torch.tensor(self.theta), eps=1e-4))

    def holes(self, probability: Tensor) -> Tensor:
        """What each prompt's map (B, P, X, Y, Z) wants drawn anew, boolean."""
        return hole_of(probability, self.options.threshold, self.steps)

    @torch.no_grad()
    def complete(
        self, image: Tensor, answer: Segmentation, prompts: Sequence[Prompt], kept: VolumeFeatures | None = None
    ) -> Segmentation:
        """From the attention's maps of scans (B, 2, X, Y, Z) to masks: hole, inpainting, residuals, fusion.

        The holes of all prompts that may have found something are drawn anew together; each is then answered in its own.
        Nothing is kept: all of it follows from the holes.

        Returns:
            logits (B, P, X, Y, Z), counted from theta; extras, (B, 1, X, Y, Z) each: attention (highest of the prompts) in
            0..1; pseudo_healthy: the image's first channel, bit for bit, outside the hole; residual: P; hole: 0 or 1.
            "ungated" as always.
        """
        size = image.shape[2:]
        image, attention = self.pad(image), self.pad(answer.logits, -BOUND)
        open_ = (answer.scores >= self.options.threshold)[:, :, None, None, None]
        hole = self.holes(attention.sigmoid()) & open_ & (self.options.answer != "attention")
        anywhere = hole.any(1, keepdim=True)
        raw = attention
        if self.options.answer != "attention":  # prompts that found nothing keep their maps, for ranking voxels
            raw = torch.where(open_, attention.clamp_max(CLOSED), attention)
        extras = {
            "attention": attention.sigmoid().amax(1, keepdim=True),
            "pseudo_healthy": image[:, :1].clone(),
            "residual": torch.zeros_like(image[:, :1]),
            "hole": anywhere.to(image),
        }
        ct = torch.tensor([shows_ct(one) for one in image])
        texts, context = self.texts(prompts, ct), round(self.options.context_mm / self.spacing)
        for b in range(len(image)):
            for box in boxes(anywhere[b, 0], context, self.prior.multiple, self.patch):
                part = (slice(b, b + 1), slice(None), *box)
                healed, own = self.heal(image[part], anywhere[part], ct[b : b + 1]), hole[part]
                raw[part] = torch.where(own, self.fuse(healed, own, attention[part], texts[b : b + 1]), raw[part])
                extras["pseudo_healthy"][part] = torch.where(
                    anywhere[part], healed.healthy.clamp(0, 1), extras["pseudo_healthy"][part]
                )
                extras["residual"][part] = pixel_residual(self.reference(healed), healed.healthy, anywhere[part])
        logits, scores = self.decided(raw, hole, answer.scores)
        logits, raw = crop(logits, size), crop(raw, size)
        extras = {name: crop(value, size) for name, value in extras.items()}
        return Segmentation(logits, scores, answer.attributes, {**extras, "ungated": raw.sigmoid()})

    def decided(self, raw: Tensor, hole: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, P, X, Y, Z) above 0 where there is tumor, and scores (B, P), from what a part of the method answers.

        Args:
            raw: its logits, of which those outside a prompt's hole are the attention's. scores: of the attention.
        """
        if self.options.answer == "attention":
            return raw - self.bar, scores
        if self.options.answer != "fusion":  # Otsu has counted already
            return torch.where(hole, raw, raw.clamp_max(CLOSED)), scores
        drawn = peak_logit(torch.where(hole, raw, -BOUND)).sigmoid()
        logits = torch.where(hole, raw - self.bar, raw.clamp_max(CLOSED))
        return logits, torch.where(hole.flatten(2).any(2), drawn, scores.clamp_max(self.options.threshold))

    def pad(self, volume: Tensor, value: float = 0.0) -> Tensor:
        """Far ends grown to edges that the prior can take, at least a patch; the image gets air."""
        m = self.prior.multiple
        missing = [-(-max(n, self.patch) // m) * m - n for n in volume.shape[2:]]
        return F.pad(volume, (0, missing[2], 0, missing[1], 0, missing[0]), value=value)

    def heal(self, image: Tensor, hole: Tensor, ct: Tensor | None = None, quality: str | None = None) -> Healed:
        """Draw holes (B, 1, X, Y, Z) of images (B, 2, X, Y, Z) anew, each scan by itself and from the same seed.

        Args:
            ct: (B,) whether each is a CT; by default what the image itself shows. quality: by default the model's.

        Returns:
            volumes on the scale of the image's first channel, latents as the prior has them.
        """
        ct = torch.tensor([shows_ct(one) for one in image]) if ct is None else ct
        parts = []
        for one, where, is_ct in zip(self.seen(image, ct).split(1), hole.split(1), ct.tolist(), strict=True):
            start, guess = self.beginning(one, where)
            parts.append(
                heal(
                    self.prior, one, where, self.condition(is_ct), QUALITIES[quality or self.quality],
                    start=start, guess=guess, generator=torch.Generator().manual_seed(self.seed),
                )
            )  # fmt: skip
        whole = Healed(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Healed)})
        gain = self.gain(ct).to(whole.image)
        volumes = {name: getattr(whole, name) / gain for name in ("image", "healthy", "reconstruction")}
        return replace(whole, **volumes)

    def beginning(self, image: Tensor, hole: Tensor) -> tuple[float, Tensor | None]:
        """Noise level that the inpainting of a hole starts from; the image (1, 1, X, Y, Z) that is noised, if another."""
        o = self.options
        if o.begin == "noise":
            return (o.wide_start if width_mm(hole, self.spacing) > o.wide_mm else 1.0), None
        smooth = neighbors(image[0, 0].cpu(), hole[0, 0].cpu()).clamp(0, 1)
        return o.begin_noise, smooth[None, None].to(image)

    def reference(self, healed: Healed) -> Tensor:
        """What H is compared with."""
        return healed.reconstruction if self.options.reference == "reconstruction" else healed.image

    def fuse(self, healed: Healed | Cached, hole: Tensor, attention: Tensor, texts: Tensor) -> Tensor:
        """Logits of the mask inside the holes (B, P, X, Y, Z), from what was drawn; outside they mean nothing.

        Args:
            attention: logits (B, P, X, Y, Z).
        """
        size, answer, o = hole.shape[2:], self.options.answer, self.options
        signed = self.reference(healed) - healed.healthy
        pixel = signed.abs() * hole.any(1, keepdim=True)
        feature = None
        if answer != "pixel":
            feature = difference(self.feature(healed.latent, healed.latent_healthy, texts, size))
        if answer != "fusion":
            residual = combine(pixel, feature, hole, o.beta1, o.beta2)
            return torch.logit(otsu_probability(residual, hole), eps=1e-4)
        change = resize((healed.latent - healed.latent_healthy).norm(dim=1, keepdim=True), size)
        return self.fusion(signed, change, feature, attention, hole)


def crop(volume: Tensor, size: Sequence[int]) -> Tensor:
    """The near corner of a padded volume (B, C, X, Y, Z)."""
    return volume[(..., *(slice(0, n) for n in size))]
