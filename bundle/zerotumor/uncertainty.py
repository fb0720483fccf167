"""How unsure an answer to a prompt is, voxel by voxel and as one number, and why.

Four sources, each for one scan and one prompt:

* entropy of the mean probability over several looks at the scan: a little brighter or darker, with noise, and mirrored if
  the weights know mirrored bodies (Wang et al., Neurocomputing 2019);
* mutual information between the answer and the look: entropy of the mean less the mean of the entropies (BALD, Houlsby et
  al., arXiv:1112.5745; Gal and Ghahramani, ICML 2016), here over looks and not over weights;
* disagreement with other methods, in ml and as share of votes (query by committee);
* novelty: how far the words are from all kinds of lesion that training has shown.

MONAI's `TestTimeAugmentation` would need every change of the scan to be invertible, which noise is not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from monai.data import MetaTensor
from torch import Tensor

from .calibration import Calibration, read
from .inferer import OVERLAP, VolumeResult, segment_volume
from .phrases import normalize
from .pipeline import EncodedScan, encode_scan, to_grid
from .prompts import Prompt, parse
from .segmenter import Segmenter
from .text import TextEncoder
from .vocabulary import lesions

PASSES = 4
FLOOR = 0.05
"""Probability from which a voxel may be lesion."""
SCALE, SHIFT, NOISE = 0.05, 0.02, 0.01
"""Half ranges of the factor and the offset on intensities in 0..1, and the noise's standard deviation."""
NOVEL, CHANGED, SPLIT_ML = 0.4, 0.15, 1.0
"""What is worth a word in the reason: novelty, mutual information in bits, ml of disagreement."""

SIDE = re.compile(r"\b(left|right)\b")


@dataclass
class Uncertainty:
    """Of one answer."""

    map: Tensor  # (1, X, Y, Z) on the scan's grid, 0..1: how probably the answer is wrong there
    value: float  # 0..1 of the scan: what is expected of 1 - Dice
    entropy: float  # bits, mean over voxels that may be lesion: all there is to doubt
    perturbation: float  # bits: the part of it that comes from looking again
    undecided_ml: float  # where the answer is as probable as its opposite, up to a quarter
    disagreement_ml: float | None  # where methods do not agree; None: there is one alone
    novelty: float | None  # 0 for words of a seen kind, up to 2; None: there is no text encoder
    reason: str  # one sentence
    calibrated: bool  # on phantoms, with these weights; else the map trusts the probabilities, the value is `entropy`
    probability: Tensor  # (x, y, z) on the prepared grid: mean over looks, before any decision of presence

    def parts(self) -> dict[str, object]:
        """All but the maps, JSON-able."""
        names = ("value", "entropy", "perturbation", "undecided_ml", "disagreement_ml", "novelty")
        rounded = {n: None if (v := getattr(self, n)) is None else round(v, 4) for n in names}
        return {**rounded, "reason": self.reason, "calibrated": self.calibrated}


def binary_entropy(probabilities: Tensor) -> Tensor:
    """Entropy of a yes-or-no answer in bits, 0 (sure) to 1 (a coin's toss), elementwise."""
    p = probabilities.float().clamp(1e-6, 1 - 1e-6)
    return -(p * p.log() + (1 - p) * (1 - p).log()) / math.log(2)


def case_uncertainty(probabilities: Tensor, score: float, floor: float = FLOOR) -> float:
    """One number for a scan and a prompt, 0 to 1.

    The mean entropy over the voxels (X, Y, Z) that may be lesion (more probable than `floor`), or, where there is none,
    the entropy of the score: "nothing found" with a score near one half is unsure, too.
    """
    doubtful = probabilities[probabilities > floor]
    values = doubtful if doubtful.numel() else torch.tensor([score])
    return round(float(binary_entropy(values).mean()), 4)


def assess(
    model: Segmenter,
    scan: MetaTensor | EncodedScan,
    prompts: str | Sequence[Prompt],
    *,
    others: Sequence[Tensor] = (),
    passes: int = PASSES,
    seed: int = 0,
    calibration: Calibration | None = None,
    overlap: float = OVERLAP,
    plain: VolumeResult | None = None,
) -> list[Uncertainty]:
    """How unsure a method is of each of P prompts.

    Args:
        scan: (1, X, Y, Z) as read, or encoded. others: masks (P, X, Y, Z) of other methods on the scan's grid. passes: looks
        besides the plain one; each takes as long as segmenting the scan. calibration: by default that of the weights.
        plain: the answer in question (`pipeline.ScanResult.answer`), if it is there already.

    Raises:
        PromptError, ModalityError: see `pipeline.segment_scan`.
    """
    encoded = scan if isinstance(scan, EncodedScan) else encode_scan(model, scan)
    if isinstance(prompts, str) or not all(isinstance(p, Prompt) for p in prompts):
        prompts = parse(prompts, modality=encoded.modality, encoder=model.encoder)
    calibration = read(model) if calibration is None else calibration
    image = torch.as_tensor(encoded.prepared).as_subclass(Tensor)
    plain = plain or segment_volume(model, image, prompts, overlap=overlap, features=encoded.features)
    mean = plain.extras["ungated"].clone()
    aleatoric = binary_entropy(mean)
    axes = mirror_axes(prompts) if model.mirrored else ()
    for look, axis in looks(image, axes, passes, seed):
        seen = segment_volume(model, look, prompts, overlap=overlap).extras["ungated"]
        seen = seen if axis is None else seen.flip(1 + axis)
        mean += seen
        aleatoric += binary_entropy(seen)
    mean, aleatoric = mean / (passes + 1), aleatoric / (passes + 1)
    affine = encoded.prepared.affine
    lesion = calibration.voxel(mean)
    wrong = torch.where(plain.probabilities >= 0.5, 1 - lesion, lesion)
    maps = to_grid(wrong, affine, encoded.scan).clamp(0, 1)
    own = to_grid(plain.probabilities, affine, encoded.scan) >= 0.5
    voxel_ml = abs(float(torch.linalg.det(torch.as_tensor(encoded.scan.affine)[:3, :3].double()))) / 1000
    out = []
    for p, prompt in enumerate(prompts):
        votes = torch.stack([own[p], *(torch.as_tensor(o[p]) > 0 for o in others)])
        entropy = case_uncertainty(mean[p], plain.scores[p])
        value, map_, split_ml = float(calibration.case(torch.tensor(entropy))), maps[p : p + 1], None
        if others:
            split = committee(votes)
            # Who votes against the answer says that it is wrong there: as probable as their share.
            map_ = torch.maximum(map_, (votes[1:] != votes[0]).float().mean(0)[None])
            split_ml = float((split > 0).sum()) * voxel_ml
            value = max(value, float((split > 0).sum()) / max(1.0, float(votes.any(0).sum())))
        doubtful = mean[p] > FLOOR
        changed = (binary_entropy(mean[p]) - aleatoric[p])[doubtful] if doubtful.any() else torch.zeros(1)
        undecided = float(((mean[p] - 0.5).abs() < 0.25).sum()) * model.spacing**3 / 1000
        new = novelty(prompt, model.encoder)
        result = Uncertainty(
            map_, value, entropy, max(0.0, float(changed.mean())), undecided, split_ml, new, "",
            calibration.measured is not None, mean[p],
        )  # fmt: skip
        result.reason = reason(result, len(others) + 1)
        out.append(result)
    return out


def attach(entries: Sequence[dict], unsure: Sequence[Uncertainty]) -> Tensor:
    """Put assessments into a report's entries, one a prompt; returns the largest of their maps, (1, X, Y, Z)."""
    for entry, one in zip(entries, unsure, strict=True):
        entry |= {"uncertainty": round(one.value, 4), "doubts": one.parts()}
    return torch.stack([one.map for one in unsure]).amax(0)


def looks(image: Tensor, axes: Sequence[int], passes: int, seed: int) -> Iterator[tuple[Tensor, int | None]]:
    """Changed images (2, x, y, z), and the axis that each is mirrored along, if any; the first is not mirrored."""
    generator = torch.Generator().manual_seed(seed)
    turns = (None, *axes)
    for k in range(passes):
        axis = turns[k % len(turns)]
        scale, shift = (2 * torch.rand(2, generator=generator) - 1) * torch.tensor([SCALE, SHIFT])
        noise = NOISE * torch.randn(image.shape, generator=generator)
        # Where both windows are empty is no body: what lies outside the scan stays empty.
        changed = torch.where(image.amax(0) > 0, image * (1 + scale) + shift + noise, image).clamp(0, 1.2)
        yield (changed if axis is None else changed.flip(1 + axis)), axis


def mirror_axes(prompts: Sequence[Prompt]) -> tuple[int, ...]:
    """Axes of RAS along which a body may be mirrored without a change of what is asked for.

    Left and right are left alone if any prompt means one side.
    """

    def other(name: str) -> str:
        return SIDE.sub(lambda side: "right" if side[0] == "left" else "left", name)

    sided = any({other(o) for o in p.organs} != set(p.organs) or SIDE.search(normalize(p.text)) for p in prompts)
    return (1, 2) if sided else (0, 1, 2)


def committee(votes: Tensor) -> Tensor:
    """Vote entropy (Engelson and Dagan, ACL 1996) of K masks (K, X, Y, Z) in bits, (X, Y, Z); 0 where all agree."""
    share = votes.float().mean(0)
    return torch.where((share == 0) | (share == 1), torch.zeros_like(share), binary_entropy(share))


def novelty(prompt: Prompt, encoder: TextEncoder | None) -> float | None:
    """1 less the largest cosine similarity of a prompt's text to a name or synonym of a kind that training has shown.

    0 for a prompt that was recognized as such a kind; None without an encoder.
    """
    seen = lesions(seen=True)
    if prompt.lesion in {lesion.name for lesion in seen}:
        return 0.0
    if encoder is None:
        return None
    names = [text for lesion in seen for text in (lesion.name, *lesion.synonyms)]
    rows = encoder.encode([prompt.text, *names])
    return max(0.0, 1 - float((rows[1:] @ rows[0]).amax()))


def reason(result: Uncertainty, methods: int) -> str:
    """What there is to say of an uncertainty, in one sentence, the strongest doubts first."""
    said = []
    if (result.disagreement_ml or 0) >= SPLIT_ML:
        said.append(f"the {methods} methods disagree on {result.disagreement_ml:.0f} ml")
    if result.undecided_ml >= SPLIT_ML:
        said.append(f"{result.undecided_ml:.0f} ml are undecided")
    if result.perturbation >= CHANGED:
        said.append("a little changed, the scan is answered differently")
    if (result.novelty or 0) >= NOVEL:
        said.append("the words are far from all kinds that training has shown")
    return "; ".join(said) or "nothing speaks against the answer"
