"""Scribbles in 3D Slicer: MONAI Label's own likelihood and graph cut, for CT and MR.

Wang et al., "Interactive medical image segmentation using deep learning with image-specific fine tuning" (IEEE TMI 2018),
equations 5 and 7, as MONAI Label implements them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from monai.data import MetaTensor
from monai.transforms import Lambdad
from monai.utils import convert_to_dst_type
from monailabel.scribbles.infer import HistogramBasedGraphCut

from zerotumor.errors import ScanError
from zerotumor.grids import on_grid
from zerotumor.transforms import ModalityError, decide_modality, normalize
from zerotumor.volumes import read_scan, write_mask

from .engine import Engine
from .options import Options, checked, refuse

SPACING = (2.5, 2.5, 5.0)
"""Grid of the graph cut, mm: MONAI Label's own, which takes seconds."""


class Scribbles(HistogramBasedGraphCut):
    """Likelihood from histograms of what was scribbled on. MONAI Label's other one, by Gaussian mixtures, needs CUDA."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(description="Scribble inside and outside of the lesion", pix_dim=SPACING)
        self.engine = engine

    def __call__(self, request: dict) -> tuple[str | None, dict]:
        """A request with `label`, the uploaded scribbles (2 background, 3 foreground) -> the mask's file and the reply.

        Raises:
            HTTPException: with one sentence, for whatever cannot be answered.
        """
        options = checked(Options, request)
        image, label = (str(self.engine.image_path(request.get(k))) for k in ("image", "label"))
        try:
            scan, given = read_scan(image), read_scan(label, labels=True)
            modality = decide_modality(scan, user=options.stated_modality)
            scribbles = on_grid(given, scan.affine, scan.shape[1:], "the scribbles")
        except (ScanError, ModalityError) as error:
            raise refuse(str(error), 422) from None
        drawn = set(scribbles.unique().int().tolist())
        if self.scribbles_fg_label not in drawn or not (self.scribbles_bg_label in drawn or request.get("roi")):
            raise refuse("draw at least one scribble inside the lesion, and one outside or a region of interest")
        with tempfile.TemporaryDirectory() as folder:  # MONAI Label reads them from a file, and looks at voxels alone
            label = Path(folder) / "scribbles.nii.gz"
            write_mask(scribbles.as_tensor()[0], scan.affine, label)
            return super().__call__({**request, "image": image, "label": str(label), "modality": modality})

    def pre_transforms(self, data: dict) -> list:
        """As MONAI Label's, with the methods' intensities in place of a window of Hounsfield units."""

        def scaled(image: MetaTensor) -> MetaTensor:
            return convert_to_dst_type(normalize(image, data["modality"])[1:], image)[0]

        return [*super().pre_transforms(data)[:-1], Lambdad("image", func=scaled)]
