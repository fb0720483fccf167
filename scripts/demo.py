"""The first minute: a scan segmented by text with the starter weights. Without a scan, a phantom of an unseen category."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

import nibabel as nib
import numpy as np
import typer
from rich.console import Console
from rich.markup import escape

from zerotumor.phantom import generate
from zerotumor.volumes import write_atomically, write_mask

console = Console()
PHANTOM = {"seed": 9_100_004, "category": "soft tissue sarcoma", "modality": "MR"}


def make_phantom(folder: Path) -> Path:
    """Write a phantom scan and its truth as NIfTI; returns the scan's path."""
    phantom = generate(PHANTOM["seed"], category=PHANTOM["category"], modality=PHANTOM["modality"], shape=(80, 80, 64))
    affine = np.diag([*phantom.spacing, 1.0])
    path = folder / "phantom.nii.gz"
    image = nib.Nifti1Image(phantom.image[0].numpy(), affine)
    write_atomically(path, lambda temporary: nib.save(image, temporary))
    write_mask(phantom.lesions[0], affine, folder / "truth" / "phantom_truth.nii.gz")
    return path


def main(
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("out/demo"),
    scan: Annotated[Path | None, typer.Option(help="a scan of your own, or a folder of scans")] = None,
    prompt: Annotated[str | None, typer.Option(help="what to look for")] = None,
    modality: Annotated[str | None, typer.Option(help="CT or MR, where the file does not tell")] = None,
) -> None:
    """Segment a scan, or all in a folder, and say where the pictures are."""
    from segment import main as segment

    if scan is None:
        scan, modality = make_phantom(out), PHANTOM["modality"]
        prompt = prompt or PHANTOM["category"]
        console.print(f"No scan given: made a phantom {modality} of a limb with a {PHANTOM['category']}, a category")
        console.print("that the starter weights have never seen a lesion of.")
    for report in segment([scan], [prompt or "tumor"], out, modality=modality, force=True):
        picture = out / report["picture"]
        console.print(escape(f"Mask:    {out / report['mask']}\nReport:  {picture.with_suffix('.json')}"))
        console.print(f"Picture: [bold]{escape(str(picture))}")


if __name__ == "__main__":
    typer.run(main)
