"""A folder of scans as the bundle's inference sees it: which they are, how they are read, and what a person is told."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from types import TracebackType

from monai.transforms import MapTransform

from .errors import ScanError
from .prompts import PromptError
from .segmenter import WeightsError
from .transforms import ModalityError
from .volumes import NIFTI, NRRD, read_scan, stem_of, suffix_of

SENTENCES = (ScanError, ModalityError, PromptError, WeightsError)
"""Errors that say in one sentence what is wrong and what to do."""


def records(folder: str | Path) -> list[dict[str, str]]:
    """The NIfTI and NRRD files that lie in a folder: {"image": path, "name": what results are called after}, by name.

    Names differ even if files do in their suffix alone: beside x.nii.gz, x.nrrd is called x-nrrd, and x-nrrd-nrrd where that
    is the name of another. Without a folder there are none, since a bundle is looked at where it has no data;
    `check_records` is for its runs.
    """
    folder, out = Path(folder), {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.is_file() and not file.name.startswith(".") and suffix_of(file) in NIFTI + NRRD:
            name = stem_of(file)
            while name in out:
                name += suffix_of(file).replace(".", "-")
            out[name] = str(file)
    # MONAI takes what follows the last dot for a suffix, so there has to be one.
    return [{"image": file, "name": f"{name}.nii.gz"} for name, file in out.items()]


class Readable(list):
    """Those of some records whose scans can be used; a bad scan does not stop a run over the others.

    `left_out` has the sentence about each of the rest. Every scan is read for it, a second or so each, so that a run of
    hours says at its beginning what it will not do.

    Args:
        records: of `records`. steps: transforms that refuse a bad scan.
    """

    def __init__(
        self, records: Sequence[Mapping[str, str]], steps: Sequence[Callable[[Mapping[str, object]], Mapping]]
    ) -> None:
        super().__init__()
        self.left_out: list[str] = []
        for record in records:
            try:
                reduce(lambda data, step: step(data), steps, record)
            except SENTENCES as error:
                self.left_out.append(str(error))
                print(f"left out: {error}", file=sys.stderr)
            else:
                self.append(record)


def check_records(data: Sequence[object], folder: str | Path) -> None:
    """Refuse to run on nothing.

    Raises:
        ScanError: there are no records of scans in the folder, or none of a scan that can be used.
    """
    if not data and getattr(data, "left_out", ()):
        raise ScanError("; ".join(data.left_out))
    if not data:
        raise ScanError(
            f"{folder} holds no scan: give a folder of NIfTI (.nii, .nii.gz) or NRRD (.nrrd) files as --dataset_dir"
        )


def tell_left_out(data: Readable) -> None:
    """End a run whose other scans are done.

    Raises:
        ScanError: scans were left out.
    """
    if data.left_out:
        count = len(data) + len(data.left_out)
        raise ScanError(f"{len(data.left_out)} of {count} scans were left out: {'; '.join(data.left_out)}")


class ReadScand(MapTransform):
    """`volumes.read_scan` as a MONAI dictionary transform, with the metadata that MONAI's and MONAI Label's expect.

    Args:
        keys: of the scans' paths.
    """

    def __call__(self, data: Mapping[Hashable, object]) -> dict[Hashable, object]:
        """Paths -> scans (1, X, Y, Z) with `.affine`, saved under data["name"] if there is one.

        Raises:
            ScanError: see `volumes.read_scan`.
        """
        data = dict(data)
        for key in self.key_iterator(data):
            scan = read_scan(str(data[key]))
            scan.meta |= {"original_affine": scan.affine.clone(), "spatial_shape": list(scan.shape[1:])}
            scan.meta["filename_or_obj"] = str(data.get("name", data[key]))
            data[key] = scan
        return data


def say_plainly() -> None:
    """From now on, a program that ends with one of `SENTENCES` says it alone, without the calls that led there.

    MONAI wraps every error of a config into others, which hide what a person can do about it.
    """
    usual = sys.excepthook
    if getattr(usual, "plain", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sentence = next((e for e in causes(error) if isinstance(e, SENTENCES)), None)
        if sentence is None:
            return usual(kind, error, trace)
        print(f"Error: {sentence}", file=sys.stderr)

    hook.plain = True
    sys.excepthook = hook


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
