"""DiffuGTS: zero-shot tumor segmentation with a frozen diffusion model (Jiang et al., CVPR 2025).

image -> frozen features -> text against every voxel: an anomaly map -> a hole, drawn anew by the diffusion model -> what has
changed, in voxels and in latents scored by text -> the mask.

The first half is done window by window and blended, as in every method; the second then looks at the whole scan once
(`second_look`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..diffusion.prior import DiffusionPrior
from ..diffusion.schedules import normal
from ..precision import mixed
from ..prompts import DEFAULT_PROMPT, Prompt, parse
from ..segmenter import Segmentation
from ..transforms import shows_ct
from .attention import Attention, peak_logit
from .inpainting import QUALITIES
from .options import CHOICES, Options
from .residual import FeatureResidual, Fusion
from .samples import Cached, Truth
from .second_look import CLOSED, SecondLook
from .texts import PairBank

STAGES = ("attention", "residual")


class DiffuGTS(SecondLook):
    """The method, whole; see `bundle/docs/diffugts.md` for the equation behind each part.

    Args:
        prior: see `PriorSegmenter`.
        text_dim: D, width of the text encoder. phi_hidden: see `FeatureResidual`. fusion_hidden: see `Fusion`. spacing: mm
        of the grid. patch: edge of training patch, window and smallest box, voxels. theta: probability from which a voxel
        of the answer is painted (Otsu's answers have their own). theta_peak, edge_weight: see `Segmenter`. seed: of the
        inpainting. options: see `options.Options`.

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
        theta_peak: float = 0.0,
        edge_weight: float = 0.0,
        seed: int = 0,
        **options: object,
    ) -> None:
        super().__init__(prior)
        self.spacing, self.patch, self.seed = float(spacing), int(patch), int(seed)
        self.paint(theta, theta_peak, edge_weight)
        self.options = o = Options(**options)
        taps = {"encoder": list(self.prior.encoder_tap_channels), "unet": list(self.prior.unet_tap_channels)}
        channels = taps["encoder"] + taps["unet"] if o.taps == "both" else taps[o.taps]
        self.attention = Attention(channels, text_dim, o.alpha, o.adapter == "context", o.aggregate, o.score)
        self.feature = FeatureResidual(self.prior.latent_channels, text_dim, phi_hidden)
        self.fusion = Fusion(fusion_hidden)
        self.bank = PairBank(text_dim, o.wordings)
        self.steps = max(1, round(o.dilate_mm / self.spacing))

    @property
    def decides(self) -> bool:
        """Otsu has found its own threshold."""
        return self.options.answer in ("pixel", "feature")

    # ---- what does not depend on the prompt -------------------------------------------------------------------------

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

    def attend(self, features: dict[str, Tensor], prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """`Attention.forward` for prompts, and texts (B, P, 2, D)."""
        texts = self.texts(prompts, features["ct"])
        size = features["image"].shape[2:] if "image" in features else (self.patch,) * 3
        return {**self.attention(features, texts, size), "texts": texts}

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
