"""Where descriptions of the method leave a choice, or where it can be improved on: named options, ours first."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..choices import check_choices

CHOICES: dict[str, tuple[str, ...]] = {
    "taps": ("encoder", "unet", "both"),
    "adapter": ("context", "pointwise"),
    "aggregate": ("logit", "mean"),
    "score": ("pooled", "peak"),
    "reference": ("reconstruction", "scan"),
    "begin": ("neighbors", "noise"),
    "answer": ("fusion", "attention", "pixel", "feature"),
}


@dataclass(frozen=True)
class Options:
    """The seven choices of words, and the numbers, in the paper's notation where it has one.

    taps: where the frozen features F_l come from. adapter: "pointwise" is the residual MLP at each voxel alone; "context"
    sees a voxel's neighbors and the coarser levels too. aggregate: of levels; "mean" of probabilities, "logit" sums logits.
    score: of "is there anything"; "pooled" is the learned head on class embeddings, "peak" the map's highest voxels.
    reference: what the pseudo-healthy volume is compared with; "scan" counts what the autoencoder cannot draw too. begin:
    where the inpainting starts: from noise, or from the smoothest continuation of what is around the hole, with some noise.
    answer: the ablation: "attention" alone, "pixel" residual by Otsu, with the "feature" residual, learned "fusion".

    alpha: share of the adapter. tap_noise: noise level of U-Net taps, 0..1 of the schedule. threshold: probability from
    which attention opens a hole. dilate_mm: how far it grows. context_mm: what the inpainting sees around a hole.
    beta1, beta2: weights of the pixel and the feature residual without learned fusion. wordings: paraphrases a text, 1 in
    the reference configuration. begin_noise: with which "neighbors" begins, 0..1 of the schedule. wide_mm: beginning from
    noise, a hole wider than this starts from `wide_start` of it and so keeps a trace of what was there: nothing in its
    middle has context. prior_top_hu: the HU that are 1 to the prior (0 is -1000): 400 as in `transforms.normalize`, 1000 for
    published MAISI models, which here see no denser bone than 400 HU.

    Raises:
        ValueError: an option has a value that is not among its choices, or out of range.
    """

    taps: str = "encoder"
    adapter: str = "context"
    aggregate: str = "logit"
    score: str = "pooled"
    reference: str = "reconstruction"
    begin: str = "neighbors"
    answer: str = "fusion"
    alpha: float = 0.1
    tap_noise: float = 0.05
    threshold: float = 0.5
    dilate_mm: float = 8.0
    context_mm: float = 32.0
    beta1: float = 0.5
    beta2: float = 0.5
    wordings: int = 3
    begin_noise: float = 0.3
    wide_mm: float = 60.0
    wide_start: float = 0.6
    prior_top_hu: float = 400.0

    def __post_init__(self) -> None:
        check_choices(self, CHOICES)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in CHOICES and (isinstance(value, str) or value < 0):
                raise ValueError(f"{field.name} must be a number that is not negative, not {value!r}")
        for name in ("alpha", "tap_noise", "threshold", "begin_noise", "wide_start"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} must lie in 0..1, not {getattr(self, name)}")


PAPER = {"adapter": "pointwise", "aggregate": "mean", "score": "pooled", "reference": "scan", "begin": "noise",
         "answer": "feature", "wordings": 1}  # fmt: skip
"""The closest to what is known of the paper; "answer" by Otsu, as the learned head's form is not known."""
