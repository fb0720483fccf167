"""Write a phantom as a DICOM series, to try a viewer or an archive without a patient's scan.

python scripts/phantom_dicom.py --out series --category "liver tumor"
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

import numpy as np
import pydicom
import typer
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from rich.console import Console

from zerotumor.phantom import Phantom, generate

console = Console()


def write_series(phantom: Phantom, folder: Path) -> Path:
    """Axial slices of a phantom (1, X, Y, Z), the patient's feet first; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    ct = phantom.modality == "CT"
    # RAS voxels (x to the right, y to the front) to DICOM's rows and columns (to the left, to the back).
    values = np.asarray(phantom.image[0])[::-1, ::-1]
    scale = 1.0 if ct else 4000 / max(float(values.max()), 1e-6)
    dx, dy, dz = phantom.spacing
    for k in range(values.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage if ct else MRImageStorage
        meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = generate_uid(), ExplicitVRLittleEndian
        data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.PatientName, data.PatientID, data.PatientSex, data.PatientBirthDate = "Phantom^Zero", "PHANTOM", "O", ""
        data.StudyID, data.AccessionNumber, data.ReferringPhysicianName = "1", "", ""
        data.StudyDate, data.StudyTime, data.SeriesNumber = "20000101", "000000", 1
        data.StudyDescription, data.SeriesDescription = "Phantom", f"{phantom.region} {phantom.contrast}"
        data.Manufacturer, data.Modality, data.InstanceNumber = "ZeroTumor", phantom.modality, k + 1
        data.ImageType, data.PatientPosition = ["DERIVED", "PRIMARY", "AXIAL"], "HFS"
        data.PositionReferenceIndicator = ""
        data.ImagePositionPatient = [0.0, 0.0, k * dz]
        data.ImageOrientationPatient, data.PixelSpacing = [1, 0, 0, 0, 1, 0], [dy, dx]
        data.SliceThickness, data.Rows, data.Columns = dz, values.shape[1], values.shape[0]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.WindowCenter, data.WindowWidth = (50, 400) if ct else (1500, 3000)
        data.Laterality, data.AcquisitionNumber = "", 1
        if not ct:
            data.ScanningSequence, data.SequenceVariant, data.ScanOptions = "RM", "NONE", ""
            data.MRAcquisitionType, data.EchoTime, data.RepetitionTime, data.EchoTrainLength = "3D", None, None, None
        if ct:
            data.KVP = None
            data.RescaleIntercept, data.RescaleSlope, data.RescaleType = 0, 1, "HU"
        data.PixelData = (values[:, :, k].T * scale).round().astype(np.int16).tobytes()
        data.is_little_endian, data.is_implicit_VR = True, False
        pydicom.dcmwrite(folder / f"{k:04d}.dcm", data, write_like_original=False)
    return folder


def main(
    out: Annotated[Path, typer.Option(help="folder for the series")],
    category: Annotated[str, typer.Option(help="a lesion of the vocabulary, or healthy")] = "liver tumor",
    modality: Annotated[str, typer.Option(help="CT or MR")] = "CT",
    seed: Annotated[int, typer.Option(help="another seed, another patient")] = 6_000_001,
    size: Annotated[int, typer.Option(help="voxels across; two thirds as many slices")] = 144,
    spacing: Annotated[float, typer.Option(help="mm between voxels; slices are half again as far apart")] = 2.2,
) -> None:
    """Write a phantom as a DICOM series."""
    phantom = generate(
        seed,
        category=category,
        modality=modality,
        shape=(size, size, size * 2 // 3),
        spacing=(spacing, spacing, 1.5 * spacing),
        difficulty=0.0,
    )
    write_series(phantom, out)
    console.print(f"{size * 2 // 3} slices of a {modality} with a {category} in {out}")


if __name__ == "__main__":
    typer.run(main)
