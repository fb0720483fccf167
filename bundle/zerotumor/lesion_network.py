"""A network that marks any lesion: what sees lesions in a method, without what reads words. Learning starts here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .backbone import ResidualBackbone
from .blending import Canvases
from .inferer import OVERLAP, windows_of
from .segmenter import Segmenter


class LesionNetwork(Segmenter):
    """The shared backbone, and a lesion map read from each of its maps.

    Args:
        backbone, heads: f1 to f4 and, in their order, a convolution to one channel for each; neither is copied.
        like: the method whose grids and windows it uses.
    """

    def __init__(self, backbone: ResidualBackbone, heads: Sequence[nn.Module], like: Segmenter) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, nn.ModuleList(heads)
        self.look_like(like)

    def look_like(self, method: Segmenter) -> None:
        """Look at scans on the grids and in the windows of a method."""
        self.spacing, self.patch = method.spacing, method.patch
        self.look_on(method.zooms, method.tight_zooms)

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """(B, 2, X, Y, Z), edges multiples of 16 -> lesion (B, 1, X, Y, Z): the logit of any lesion."""
        return {"lesion": self(image)[-1]}

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 2, X, Y, Z) -> logits (B, 1, x, y, z) at stride 8, 4, 2 and 1."""
        return [head(one) for head, one in zip(self.heads, self.backbone(image).values(), strict=True)]

    @torch.inference_mode()
    def probability(self, image: Tensor) -> Tensor:
        """Of any lesion in a prepared scan (2, X, Y, Z): the mean over windows and grids, (X, Y, Z)."""
        canvases = Canvases(self, {"lesion": 1}, image.shape[1:])
        for window in windows_of(self, image.float(), OVERLAP):
            canvases.add(window, {"lesion": window.features["lesion"][0].sigmoid()})
        return canvases.mean("lesion")[0]
