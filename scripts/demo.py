"""The first minute: a scan segmented by text with the starter weights. Without a scan, a phantom of an unseen category."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

import nibabel as nib
import numpy as np
import typer
from rich.console import Console

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
    scan: Annotated[Path | None, typer.Option(help="a scan of your own")] = None,
    prompt: Annotated[str | None, typer.Option(help="what to look for")] = None,
    modality: Annotated[str | None, typer.Option(help="CT or MR, where the file does not tell")] = None,
) -> None:
    """Segment one scan and say where the picture is."""
    from segment import main as segment

    if scan is None:
        scan, modality = make_phantom(out), PHANTOM["modality"]
        prompt = prompt or PHANTOM["category"]
        console.print(f"No scan given: made a phantom {modality} of a limb with a {PHANTOM['category']}, a category")
        console.print("that the starter weights have never seen a lesion of.")
    segment([scan], [prompt or "tumor"], out, modality=modality, force=True)
    from zerotumor.volumes import stem_of

    report = json.loads((out / f"{stem_of(scan)}.json").read_text())
    console.print(f"Mask:    {out / report['mask']}\nReport:  {out / (stem_of(scan) + '.json')}")
    console.print(f"Picture: [bold]{out / report['picture']}")


if __name__ == "__main__":
    typer.run(main)
