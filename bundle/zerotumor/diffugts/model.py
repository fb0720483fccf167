"""DiffuGTS: zero-shot tumor segmentation with a frozen diffusion model (Jiang et al., CVPR 2025).

image -> frozen features -> text against every voxel: an anomaly map -> a hole, drawn anew by the diffusion model -> what has
changed, in voxels and in latents scored by text -> the mask.

The first half is done window by window and blended, as in every method. The second half (`complete`) then looks at the whole
scan once. So there is one hole a lesion, however many windows saw it; the box that is drawn anew is laid around the hole
and not where a window happens to end; and what is drawn is drawn once and not blended from windows that disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diffusion.prior import Condition, DiffusionPrior
from ..diffusion.schedules import normal
from ..precision import mixed
from ..prompts import DEFAULT_PROMPT, Prompt, parse
from ..segmenter import Segmentation
from ..transforms import WIDE_HU, shows_ct
from .attention import Attention, peak_logit, resize
from .fills import neighbors
from .frozen import PriorSegmenter
from .holes import boxes, hole_of, width_mm
from .inpainting import QUALITIES, Healed, heal
from .options import CHOICES, Options
from .residual import BOUND, FeatureResidual, Fusion, combine, difference, otsu_probability, pixel_residual
from .samples import Cached, Truth
from .texts import PairBank

CLOSED = -0.05
"""Highest logit of a voxel outside its prompt's hole: it is not tumor, however near it came."""
STAGES = ("attention", "residual")


class DiffuGTS(PriorSegmenter):
    """The method, whole; see `bundle/docs/diffugts.md` for the equation behind each part.

    Args:
        prior: see `PriorSegmenter`.
        text_dim: D, width of the text encoder. phi_hidden: see `FeatureResidual`. fusion_hidden: see `Fusion`. spacing: mm
        of the grid. patch: edge of training patch, window and smallest box, voxels. theta: probability from which a voxel
        of the answer is painted (Otsu's answers have their own). seed: of the inpainting. options: see `options.Options`.

    Raises:
        ValueError: an option is not among its choices.
    """

    maps = ("attention", "pseudo_healthy", "residual", "hole")
    images = {"pseudo_healthy": "hole"}
    second_look = True
    qualities = tuple(QUALITIES)
    quality = "standard"
    answers = CHOICES["answer"]

    def __init__(
        self,
        prior: DiffusionPrior | Mapping[str, object] | None = None,
        text_dim: int = 384,
        phi_hidden: int = 0,
        fusion_hidden: int = 16,
        spacing: float = 4.0,
        patch: int = 48,
        theta: float = 0.5,
        seed: int = 0,
        **options: object,
    ) -> None:
        super().__init__(prior)
        self.spacing, self.patch, self.theta, self.seed = float(spacing), int(patch), float(theta), int(seed)
        self.options = o = Options(**options)
        taps = {"encoder": list(self.prior.encoder_tap_channels), "unet": list(self.prior.unet_tap_channels)}
        channels = taps["encoder"] + taps["unet"] if o.taps == "both" else taps[o.taps]
        self.attention = Attention(channels, text_dim, o.alpha, o.adapter == "context", o.aggregate, o.score)
        self.feature = FeatureResidual(self.prior.latent_channels, text_dim, phi_hidden)
        self.fusion = Fusion(fusion_hidden)
        self.bank = PairBank(text_dim, o.wordings)
        self.steps = max(1, round(o.dilate_mm / self.spacing))

    # ---- what does not depend on the prompt -------------------------------------------------------------------------

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

    def taps(self, image: Tensor, ct: Tensor) -> list[Tensor]:
        """F_l of images (B, 1, X, Y, Z) in 0..1, fine to coarse. No gradient: the prior is frozen."""
        with torch.no_grad():
            latent, encoders = self.prior.encode_tapped(image)
            levels = encoders if self.options.taps != "unet" else []
            if self.options.taps != "encoder":
                levels = [*levels, *self._unet_taps(latent, ct)]
        return [level.detach() for level in levels]

    def _unet_taps(self, latent: Tensor, ct: Tensor) -> list[Tensor]:
        """Features of the U-Net's decoder where little noise was added, always the same noise."""
        prior = self.prior
        noise = normal(latent[:1], torch.Generator().manual_seed(self.seed))
        t = prior.schedule.timesteps(1, self.options.tap_noise)[0]
        noised = prior.schedule.add_noise(latent, noise.expand_as(latent), t)
        with mixed(noised.device):
            levels = prior.unet_taps(noised, t, [self.condition(one) for one in ct.tolist()])
        return [level.float() for level in levels]

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """All that is known of an image (B, 2, X, Y, Z) before a prompt.

        Returns:
            query0, query1, ... (B, C_l, x, y, z): Q_l, fine to coarse; coarsest: the coarsest adapted map; ct (B,): whether
            it is a CT; image: the input.
        """
        ct = torch.tensor([shows_ct(one) for one in image], device=image.device)
        return {**self.attention.queries(self.taps(self.seen(image, ct), ct)), "ct": ct, "image": image}

    def place_features(self, image: Tensor) -> Tensor:
        """The coarsest adapted map of the prior for images (B, 2, X, Y, Z)."""
        return self.encode_image(image)["coarsest"]

    def compact(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Without the image: `complete` is given the whole scan."""
        return {name: value for name, value in features.items() if name != "image"}

    # ---- what does --------------------------------------------------------------------------------------------------

    def texts(self, prompts: Sequence[Prompt], ct: Tensor) -> Tensor:
        """t (B, P, 2, D) in the words of each sample's modality."""
        return self.bank.pairs(prompts, ["CT" if one else "MR" for one in ct.tolist()], self.encoder)

    def attend(self, features: dict[str, Tensor], prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """`Attention.forward` for prompts, and texts (B, P, 2, D)."""
        texts = self.texts(prompts, features["ct"])
        size = features["image"].shape[2:] if "image" in features else (self.patch,) * 3
        return {**self.attention(features, texts, size), "texts": texts}

    @property
    def bar(self) -> float:
        """Theta as a logit, from which the answer's are counted."""
        return float(torch.logit(torch.tensor(self.theta), eps=1e-4))

    def segment_window(self, features: dict[str, Tensor], prompts: Sequence[Prompt]) -> Segmentation:
        """The attention alone, not counted from theta yet: a hole opens above a threshold of its own.

        A prompt's score is that of the map's highest voxels, and no higher than the learned score if that has a say.
        """
        first = self.attend(features, prompts)
        score = peak_logit(first["logits"])
        if self.options.score == "pooled":
            score = torch.minimum(score, first["score"])
        return Segmentation(first["logits"], score.sigmoid())

    def segment(self, features: dict[str, Tensor], prompts: Sequence[Prompt]) -> Segmentation:
        """One channel a prompt from `encode_image`'s answer; `extras` as of `complete`."""
        return self.complete(features["image"], self.segment_window(features, prompts), prompts)

    def holes(self, probability: Tensor) -> Tensor:
        """What each prompt's map (B, P, X, Y, Z) wants drawn anew, boolean."""
        return hole_of(probability, self.options.threshold, self.steps)

    @torch.no_grad()
    def complete(self, image: Tensor, answer: Segmentation, prompts: Sequence[Prompt]) -> Segmentation:
        """From the attention's maps of scans (B, 2, X, Y, Z) to masks: hole, inpainting, residuals, fusion.

        The holes of all prompts that may have found something are drawn anew together; each is then answered in its own.

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

    def ablate(self, answer: str) -> DiffuGTS:
        """Answer by a part of the method: "attention", "pixel", "feature" or, as usual, "fusion"."""
        if answer not in self.answers:
            return super().ablate(answer)
        self.options = replace(self.options, answer=answer)
        return self

    def compiled(self, backend: str = "inductor") -> DiffuGTS:
        """With a compiled U-Net for the inpainting; worth it on a GPU, for many scans.

        Raises:
            ValueError: the model is on a CPU, where compiling takes minutes and gains nothing.
        """
        if next(self.parameters()).device.type == "cpu":
            raise ValueError("compiling gains nothing on a CPU: leave it out, or choose a GPU with --device cuda")
        self.prior.compile_unet(backend)
        return self

    # ---- training ---------------------------------------------------------------------------------------------------

    def begin(self, stage: str) -> DiffuGTS:
        """Get ready for a stage of training: what does not belong to it is frozen; returns itself.

        Raises:
            ValueError: there is no such stage.
        """
        if stage not in STAGES:
            raise ValueError(f"training has the stages {' and '.join(STAGES)}, not {stage!r}")
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith("attention.") is (stage == "attention"))
        return self

    def trained(self) -> list[nn.Parameter]:
        """Parameters that the present stage trains."""
        return [p for p in self.parameters() if p.requires_grad]

    def training_outputs(self, image: Tensor, targets: Truth | Cached) -> dict[str, Tensor]:
        """Everything the loss of a stage needs; see `criterion.DiffuGTSLoss`.

        The image of the attention stage is (B, 2, X, Y, Z); that of the residual stage lies in what was cached.
        """
        if isinstance(targets, Cached):
            logits = self.fuse(targets, targets.hole, targets.logits, targets.texts)
            return {"logits": logits, "hole": targets.hole}
        ct = targets.ct
        names = ["CT" if one else "MR" for one in ct.tolist()]
        pairs = [self.bank.pairs(p, [m], self.encoder) for p, m in zip(targets.prompts, names, strict=True)]
        texts = torch.cat(pairs).to(image)
        levels = self.taps(self.seen(image, ct), ct) if targets.taps is None else targets.taps
        features = self.attention.queries(levels)
        return {**self.attention(features, texts, image.shape[2:]), "texts": texts}

    def forward(
        self,
        image: Tensor,
        prompts: Sequence[Prompt] | None = None,
        targets: Truth | Cached | None = None,
        cached: Cached | None = None,
        answer: str | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """(B, 2, X, Y, Z) -> logits (B, P, X, Y, Z).

        With `targets`, what the training loss needs; with `cached`, the answer inside its holes; with `answer`
        "attention", the attention's.
        """
        if targets is not None:
            return self.training_outputs(image, targets)
        if cached is not None:
            fused = self.fuse(cached, cached.hole, cached.logits, cached.texts)
            return torch.where(cached.hole, fused, fused.new_tensor(CLOSED))
        prompts = prompts or parse(DEFAULT_PROMPT)
        if answer == "attention":
            return self.segment_window(self.encode_image(image), prompts).logits
        return super().forward(image, prompts)


def crop(volume: Tensor, size: Sequence[int]) -> Tensor:
    """The near corner of a padded volume (B, C, X, Y, Z)."""
    return volume[(..., *(slice(0, n) for n in size))]
