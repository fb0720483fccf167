"""Prompted sliding-window inference of whole scans.

Image features are computed once a window, whatever the number of prompts, and may be kept for the next prompt. Tokens
of neighbouring windows have nothing to do with one another, so windows are blended on the maps of each prompt
(Malenia 3.7, item 5), with the Gaussian weights of MONAI's sliding-window inference.

A method may look at a scan on several grids (`Segmenter.grids`): a window on a coarse one sees a whole large mass, one on
a fine one what a small mass is made of. The answers of all grids are averaged on the scan's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from monai.data.utils import dense_patch_slices
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type
from skimage.filters import apply_hysteresis_threshold
from torch import Tensor

from .blending import Canvases, padded_shape, resized, zoomed_shape
from .devices import enough_memory
from .edges import along_edges
from .kept import MemoryPlan, VolumeFeatures, Window
from .prompts import Prompt, parse
from .segmenter import Segmentation, Segmenter

Progress = Callable[[int, int], None]
OVERLAP = 0.25
"""Of neighbouring windows, as a share of their edge; at one half a scan takes three times as long."""
MINIMUM_ML = 0.1
"""Of a mask; what is smaller is no find."""
UNPAINTED = 0.499
"""What the probability of a part that is dropped is cut to: what ranks voxels or learns from them still sees it."""


@dataclass
class VolumeResult:
    """Answer for P prompts on the prepared grid (X, Y, Z)."""

    probabilities: Tensor  # (P, X, Y, Z); zero everywhere for a prompt that found nothing
    scores: list[float]
    found: list[bool]
    attributes: list[dict]
    # "ungated" (P, X, Y, Z): for ranking, never zeroed; the method's own maps (1, X, Y, Z) by name
    extras: dict[str, object] = field(default_factory=dict)


def window_slices(shape: Sequence[int], patch: int, overlap: float) -> list[tuple[slice, slice, slice]]:
    """Windows that cover a volume of at least `patch` voxels an edge."""
    step = max(1, int(patch * (1 - overlap)))
    return dense_patch_slices(shape, (patch,) * 3, (step,) * 3)


def pad(image: Tensor, patch: int) -> Tensor:
    """Pad (C, X, Y, Z) at the far ends to at least one window an edge; what is added is air."""
    missing = [want - n for want, n in zip(padded_shape(image.shape[1:], patch), image.shape[1:], strict=True)]
    return F.pad(image, (0, missing[2], 0, missing[1], 0, missing[0]))


def windows_of(model: Segmenter, image: Tensor, overlap: float, progress: Progress | None = None) -> Iterator[Window]:
    """Encode an image (C, X, Y, Z) window by window, on each of its grids (`Segmenter.grids`).

    Windows that hold nothing but air are skipped: there is no lesion outside the body.
    """
    device = next(model.parameters()).device
    parts = [
        (zoom, padded, part)
        for zoom in model.grids(image.shape[1:])
        for padded in (pad(resized(image, zoomed_shape(image.shape[1:], zoom)), model.patch),)
        for part in window_slices(padded.shape[1:], model.patch, overlap)
    ]
    for k, (zoom, padded, part) in enumerate(parts):
        window = padded[(slice(None), *part)]
        if window.amax() - window.amin() > 1e-3:
            features = model.encode_image(window[None].to(device))
            yield Window(part, model.compact(features), zoom)
        if progress is not None:
            progress(k + 1, len(parts))


@torch.inference_mode()
@enough_memory()
def encode_volume(
    model: Segmenter,
    image: Tensor,
    *,
    overlap: float = OVERLAP,
    progress: Progress | None = None,
    plan: MemoryPlan | None = None,
) -> VolumeFeatures | None:
    """Features of a prepared scan (C, X, Y, Z), or None when they would not fit in memory.

    They are kept in main memory, whatever device the model is on: a GPU has less of it, and has to have room for more than
    what is kept of all scans that a server remembers.
    """
    image = torch.as_tensor(image)
    full = image.shape[1:]
    shapes = [padded_shape(zoomed_shape(full, zoom), model.patch) for zoom in model.grids(full)]
    count = sum(len(window_slices(shape, model.patch, overlap)) for shape in shapes)
    plan, windows = plan or MemoryPlan(), []
    for window in windows_of(model, image, overlap, progress):
        windows.append(replace(window, features={name: f.cpu() for name, f in window.features.items()}))
        size = sum(f.numel() * f.element_size() for f in window.features.values())
        if len(windows) == 1 and not plan.keeps(count, size):
            return None
    return VolumeFeatures(windows)


def _beside(model: Segmenter, features: dict[str, Tensor]) -> dict[str, Tensor]:
    """Kept features, on the device that the model is on."""
    device = next(model.parameters()).device
    return {name: one.to(device) for name, one in features.items()}


def _common(model: Segmenter, image: Tensor, overlap: float, features: VolumeFeatures | None) -> dict[str, Tensor]:
    """What windows share, see `Segmenter.shared`. Without kept features the scan is looked at twice."""
    if not model.whole_scan:
        return {}
    windows = features.windows if features is not None else windows_of(model, image, overlap)
    return model.shared([{name: w.features[name] for name in model.whole_scan} for w in windows])


def peaked(probabilities: Tensor, low: float, high: float) -> Tensor:
    """Masks (P, X, Y, Z) of what is `low` or more, in connected parts that somewhere are `high` (Canny, PAMI 1986)."""
    low, high = low - 1e-6, max(low, high) - 1e-6  # the library's are strictly above
    return torch.stack([torch.from_numpy(apply_hysteresis_threshold(p.numpy(), low, high)) for p in probabilities])


def settled(model: Segmenter, probabilities: Tensor) -> Tensor:
    """Probabilities (P, X, Y, Z), counted from theta; parts that nowhere reach `theta_peak` fall below one half."""
    if model.theta_peak <= model.theta or model.decides:
        return probabilities
    theta, peak = torch.logit(torch.tensor([model.theta, model.theta_peak]))
    certain = peaked(probabilities, 0.5, float((peak - theta).sigmoid()))
    return torch.where(certain, probabilities, probabilities.clamp(max=UNPAINTED))


def found_in(
    model: Segmenter, probabilities: Tensor, scores: Sequence[float], minimum_ml: float = MINIMUM_ML
) -> list[bool]:
    """Whether each of P prompts has found something: it scores theta, and its mask has so many ml.

    Args:
        probabilities: (P, X, Y, Z), counted from theta, on the method's grid.
    """
    voxel_ml = model.spacing**3 / 1000
    sizes = [float((p >= 0.5).sum()) * voxel_ml for p in probabilities]
    return [score >= model.theta and size >= minimum_ml for score, size in zip(scores, sizes, strict=True)]


@torch.inference_mode()
@enough_memory()
def undecided(
    model: Segmenter,
    prepared: Tensor,
    prompts: Sequence[Prompt],
    *,
    overlap: float = OVERLAP,
    features: VolumeFeatures | None = None,
    progress: Progress | None = None,
) -> VolumeResult:
    """What the windows of a prepared scan (C, X, Y, Z) say together, and a second look if the method takes any, before
    anything is decided.

    `found` is empty; arguments as of `segment_volume`.
    """
    image = torch.as_tensor(prepared)
    if features is None and model.whole_scan:
        features = encode_volume(model, prepared, overlap=overlap, progress=progress)
    common = _common(model, image, overlap, features)
    ranking = ("ungated",) if model.has_ungated else ()
    channels = dict.fromkeys(("gated", *ranking), len(prompts)) | dict.fromkeys(model.blended, 1)
    canvases = Canvases(model, channels, image.shape[1:])
    best = {zoom: torch.zeros(len(prompts)) for zoom in canvases.each}
    attributes: list[dict] = [{} for _ in prompts]
    windows = features.windows if features is not None else windows_of(model, image, overlap, progress)
    for window in windows:
        answer = model.segment_window(_beside(model, {**window.features, **common}), prompts)
        maps = {"gated": answer.logits.sigmoid()}
        maps |= {name: answer.extras[name] for name in (*ranking, *model.blended)}
        canvases.add(window, {name: values[0] for name, values in maps.items()})
        for p, score in enumerate(answer.scores[0].tolist()):
            if score > max(float(scores[p]) for scores in best.values()):
                attributes[p] = answer.attributes[p] if answer.attributes else {}
            best[window.zoom][p] = max(score, float(best[window.zoom][p]))
    probabilities = canvases.answer("gated")
    ungated = canvases.answer("ungated") if ranking else probabilities.clone()
    extras = {"ungated": ungated, **{name: canvases.mean(name) for name in model.blended}}
    answer = VolumeResult(probabilities, torch.stack(list(best.values())).mean(0).tolist(), [], attributes, extras)
    if model.second_look:
        _complete(model, prepared, answer, prompts, features)
    return answer


@torch.inference_mode()
def segment_volume(
    model: Segmenter,
    prepared: Tensor,
    prompts: Sequence[Prompt],
    *,
    overlap: float = OVERLAP,
    minimum_ml: float = MINIMUM_ML,
    features: VolumeFeatures | None = None,
    progress: Progress | None = None,
) -> VolumeResult:
    """Segment a prepared scan (C, X, Y, Z) for P prompts at once.

    Args:
        features: of `encode_volume`, to answer without looking at the image again.
        minimum_ml: a prompt whose whole mask is smaller has found nothing.

    Raises:
        ValueError: no prompt was given. DeviceError: the GPU has no room for the scan.
    """
    if not prompts:
        raise ValueError('no prompt was given: write what to look for, such as "liver tumor"')
    answer = undecided(model, prepared, prompts, overlap=overlap, features=features, progress=progress)
    probabilities = settled(model, answer.probabilities)
    probabilities = along_edges(torch.as_tensor(prepared), probabilities, model.edge_weight)
    found = found_in(model, probabilities, answer.scores, minimum_ml)
    for p, present in enumerate(found):
        if not present:
            probabilities[p] = 0
    return replace(answer, probabilities=probabilities, found=found)


def _complete(
    model: Segmenter, prepared: Tensor, looked: VolumeResult, prompts: Sequence[Prompt], kept: VolumeFeatures | None
) -> None:
    """The second look of a method at the whole scan, whose windows were blended: it sees each lesion once, and whole."""
    device = next(model.parameters()).device
    seen = {name: value[None].to(device) for name, value in looked.extras.items()}
    logits = torch.logit(looked.probabilities, eps=1e-6)[None].to(device)
    first = Segmentation(logits, torch.tensor(looked.scores)[None].to(device), looked.attributes, seen)
    answer = model.complete(torch.as_tensor(prepared)[None].to(device), first, prompts, kept)
    looked.extras = {name: answer.extras[name][0].float().cpu() for name in ("ungated", *model.maps)}
    looked.probabilities = answer.logits[0].sigmoid().float().cpu()
    looked.scores = answer.scores[0].float().cpu().tolist()
    looked.attributes = answer.attributes or looked.attributes


@torch.inference_mode()
def organ_volume(
    model: Segmenter, prepared: Tensor, *, overlap: float = OVERLAP, features: VolumeFeatures | None = None
) -> Tensor:
    """Organs of a prepared scan (C, X, Y, Z) -> (1 + N, X, Y, Z): `Segmenter.organ_maps`, blended over windows.

    Args:
        features: of `encode_volume`, to answer without looking at the image again.
    """
    image = torch.as_tensor(prepared)
    canvases = Canvases(model, {"organs": 1 + len(model.organ_names)}, image.shape[1:])
    for window in features.windows if features is not None else windows_of(model, image, overlap):
        canvases.add(window, {"organs": model.organ_maps(_beside(model, window.features))[0]})
    maps = canvases.mean("organs")
    maps[0][canvases.unseen] = 1  # air
    return maps


class PromptedSlidingWindowInferer(Inferer):
    """`segment_volume` as a MONAI inferer, for bundles: everything but the image comes from the config.

    Args:
        prompt: what to look for, several separated by ';'. overlap: of neighbouring windows.
    """

    def __init__(self, prompt: str = "tumor", overlap: float = OVERLAP, minimum_ml: float = MINIMUM_ML) -> None:
        super().__init__()
        # An untouched drop-down of a viewer sends the list of all its choices; the first is the default. A command line
        # makes a tuple of words with commas between them.
        prompt = prompt[0] if isinstance(prompt, list) else prompt
        self.prompt = ", ".join(map(str, prompt)) if isinstance(prompt, tuple) else str(prompt)
        self.overlap, self.minimum_ml = overlap, minimum_ml

    def __call__(self, inputs: Tensor, network: Segmenter, *args, **kwargs) -> Tensor:
        """(B, 2, X, Y, Z) -> label map (B, 1, X, Y, Z): p + 1 where prompt p is present and most probable, else 0."""
        prompts = parse(self.prompt, encoder=network.encoder)
        plain = torch.as_tensor(inputs).as_subclass(Tensor)
        labels = []
        for image in plain:
            result = segment_volume(network, image, prompts, overlap=self.overlap, minimum_ml=self.minimum_ml)
            best, which = result.probabilities.max(0, keepdim=True)
            labels.append(torch.where(best >= 0.5, which + 1, 0))
        # A MetaTensor like the input: Invertd finds the way back to the scan's grid in its history.
        return convert_to_dst_type(torch.stack(labels), inputs, dtype=torch.float32)[0]
