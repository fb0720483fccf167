"""Write dataset.json for training on public sets: MSD tasks and KiTS23, with the papers' seen and unseen split.

python scripts/make_datalist.py FOLDER [--validation 0.2]

FOLDER is as downloaded: an MSD task (imagesTr, labelsTr, dataset.json becomes dataset.msd.json) or KiTS23's dataset folder
(case_00000/imaging.nii.gz and segmentation.nii.gz).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

import typer
from rich.console import Console

from zerotumor.errors import ScanError
from zerotumor.volumes import write_json

MSD = {  # task -> label value -> name
    "Task03_Liver": {"1": "liver", "2": "liver tumor"},
    "Task06_Lung": {"1": "lung tumor"},
    "Task07_Pancreas": {"1": "pancreas", "2": "pancreatic tumor"},
    "Task08_HepaticVessel": {"1": "hepatic vessels", "2": "hepatic vessel tumor"},
    "Task09_Spleen": {"1": "spleen"},
    "Task10_Colon": {"1": "colon tumor"},
}
KITS = {"1": "kidney", "2": "kidney tumor", "3": "kidney cyst"}
console = Console()


def find_records(folder: Path) -> list[dict]:
    """Records of an MSD task or KiTS23 folder.

    Raises:
        ScanError: the folder is neither.
    """
    labels = MSD.get(folder.name)
    if (folder / "imagesTr").is_dir():
        if labels is None:
            raise ScanError(
                f"{folder.name} is no MSD task with tumors or organs: rename it as downloaded, {', '.join(MSD)}"
            )
        images = sorted(f for f in (folder / "imagesTr").glob("*.nii.gz") if not f.name.startswith("."))
        pairs = [(f, folder / "labelsTr" / f.name) for f in images]
    else:
        labels = KITS
        images = sorted(folder.glob("case_*/imaging.nii.gz"))
        pairs = [(f, f.with_name("segmentation.nii.gz")) for f in images]
    pairs = [(image, label) for image, label in pairs if label.is_file()]
    if not pairs:
        raise ScanError(f"{folder} holds neither imagesTr/labelsTr (MSD) nor case_*/imaging.nii.gz (KiTS23)")
    return [
        {"image": str(i.relative_to(folder)), "label": str(m.relative_to(folder)), "labels": labels, "modality": "CT"}
        for i, m in pairs
    ]


def main(
    folder: Annotated[Path, typer.Argument(help="an MSD task or KiTS23 folder")],
    validation: Annotated[float, typer.Option(help="share of the cases, every n-th")] = 0.2,
) -> None:
    """Write FOLDER/dataset.json."""
    try:
        records = find_records(folder)
    except ScanError as error:
        console.print(f"[red]{error}")
        raise typer.Exit(1) from None
    step = max(2, round(1 / max(validation, 1e-3)))
    split = {
        "training": [r for k, r in enumerate(records) if k % step],
        "validation": [r for k, r in enumerate(records) if k % step == 0],
    }
    target = folder / "dataset.json"
    if target.is_file() and not (folder / "dataset.msd.json").exists():
        target.rename(folder / "dataset.msd.json")
    write_json(split, target)
    console.print(f"{len(split['training'])} for training and {len(split['validation'])} for validation in {target}")


if __name__ == "__main__":
    typer.run(main)
