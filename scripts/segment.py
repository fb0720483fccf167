"""Segment scans by text.

python scripts/segment.py scan.nii.gz --prompt "liver tumor" --prompt "renal cyst" --out results

Takes NIfTI and NRRD files, DICOM folders, and folders of these. For every scan it writes a label map (NAME_mask.nii.gz:
1 is the first prompt), a report (NAME.json) and a picture (NAME.png); for all of them, summary.csv. What is done already
is skipped, as long as the scan, the question and the weights are the same, and a bad scan does not stop the rest. Files that
no earlier run wrote are not overwritten.

Where what several prompts find overlaps, the label map has the most probable of them, and each of these prompts' whole masks
lies beside it (NAME_mask_2.nii.gz is the second prompt's); the report says which overlap. DICOM keeps overlaps as they are.

--format nrrd writes NAME_mask.nrrd instead; for DICOM scans, --format dicom-seg writes NAME_seg.dcm and --format rtstruct
NAME_rtstruct.dcm, which refer to the scan, and --push stores these on a DICOMweb server. DICOM knows no empty result: if
nothing is found, no such file is written, and the summary says so.

--save writes a method's own maps, too, on the scan's own grid (NAME_anomaly.nii.gz; several names separated by commas); the
report and the picture then show them. ZePT has anomaly; DiffuGTS has pseudo-healthy (the scan with what it holds to be tumor
drawn anew, in the scan's units), residual, attention and hole. Every method has uncertainty: how probably the answer is
wrong, voxel by voxel, from several looks at the scan and from the other methods that have weights; the report says why.
--quality fast, standard or best trades time for quality where a method knows how.

By default two methods are asked in turn, malenia+zept: the first, at places that the second sees and with some say of it,
and the second for what the first has not found; the report says which one found it. --method malenia asks one alone.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

import pydicom
import typer
from monai.data import MetaTensor
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from zerotumor.calibration import read as read_calibration
from zerotumor.calibration import record_of
from zerotumor.derived import source_headers
from zerotumor.devices import AUTO, DEVICE_HELP
from zerotumor.errors import DeviceError, ScanError, ServerError
from zerotumor.export import DICOM_FORMATS, FORMATS, save_mask, whole_mask
from zerotumor.in_turn import IN_TURN, usual
from zerotumor.maps import UNCERTAINTY, summaries, wanted_maps, write_map
from zerotumor.pipeline import ScanResult, encode_scan, segment_scan, to_grid
from zerotumor.prompts import PromptError, parse
from zerotumor.report import overlaps, overlay, table
from zerotumor.results import (
    SUMMARY,
    Results,
    digest,
    kept,
    place_of,
    refuse_to_overwrite,
    replacing,
    state_of,
    without_results,
)
from zerotumor.segmenter import METHODS, Segmenter, WeightsError, asked_in_turn, available, load
from zerotumor.stow import push as store
from zerotumor.stow import split_url
from zerotumor.text import TextEncoderError
from zerotumor.transforms import ModalityError
from zerotumor.uncertainty import assess, attach
from zerotumor.volumes import find_scans, read_scan, write_atomically, write_json

COLUMNS = (
    "scan", "status", "prompt", "found", "score", "volume_ml", "largest_diameter_mm", "centroid_mm", "mask", "error",
)  # fmt: skip
NOTHING = "none: nothing found"
console = Console()


def endings(format: str, prompts: int = 1, maps: tuple[str, ...] = ()) -> dict[str, str]:
    """What follows a scan's name in the names of its files, by kind of file."""
    own = {"mask": FORMATS[format], "report": ".json", "picture": ".png"}
    if format not in DICOM_FORMATS and prompts > 1:
        own |= {f"mask {p + 1}": whole_mask(Path(FORMATS[format]), p).name for p in range(prompts)}
    return own | {f"map {m}": f"_{m.replace('_', '-')}.nii.gz" for m in maps}


def scans_in(inputs: list[Path]) -> tuple[list[Path], list[dict]]:
    """All scans, less earlier results that lie among them; lines of summary.csv for inputs that cannot be searched."""
    found, failed = [], []
    for item in inputs:
        try:
            inside = find_scans([item])
            found += inside if inside == [item] else without_results(inside)
        except OSError as problem:
            error = f"{problem.filename or item} cannot be opened ({problem.strerror}): check its permissions"
            failed += rows_of(item, None, "failed", error)
    return list(dict.fromkeys(found)), failed


def write_results(model: Segmenter, scan: MetaTensor, result: ScanResult, files: dict[str, Path], source) -> None:
    """Mask, maps, picture, and last the report: a report on disk says that the rest is there."""
    report = result.report
    request = report["request"]
    maps = {name: result.extras[name] for name in request["save"]}
    probabilities = None
    if request["format"] not in DICOM_FORMATS and overlaps(result.masks):
        # Who wins. Nobody has kept them until now, since they take four times the memory of the masks.
        probabilities = to_grid(result.answer.probabilities, result.affine, scan)
    with replacing(files, report):
        written = save_mask(
            result.masks, scan.affine, report["prompts"], files["mask"], format=request["format"], source=source,
            method=request["method"], weights=request["weights"] or "", probabilities=probabilities,
        )  # fmt: skip
        report["mask"] = files["mask"].name if written else None
        if scored := [name for name in maps if name not in model.images]:  # these are no scores
            report["maps"] = summaries(maps, scan.affine, scored)
        for name, volume in maps.items():
            write_map(volume, scan.affine, files[f"map {name}"])
        write_atomically(files["picture"], lambda path: overlay(scan, result.masks, report, path, maps=result.extras))


def committee(method: str, device: str) -> list[Segmenter]:
    """The other methods that have starter weights: whether they agree is part of how unsure an answer is.

    Who is asked second has a vote, too: its say in the answer is small.
    """
    return [load(name, device=device).as_voter() for name in available() if name != asked_in_turn(method)[0]]


def segment_one(
    model: Segmenter, path: Path, prompts: list[str], files: dict[str, Path], request: dict, modality: str | None,
    series: str | None, tick, members: tuple[Segmenter, ...] = (),
) -> dict:  # fmt: skip
    """One scan from file to files; returns its report."""
    # Before the work, not after it: what cannot be written is refused at once.
    refuse_to_overwrite(files)
    state = state_of(path)  # as it was when it was read: what changes meanwhile is another scan
    source = source_headers(path, series) if request["format"] in DICOM_FORMATS else None
    scan = read_scan(path, series=series)
    # The picture shows a pseudo-healthy volume wherever there is one.
    own = [m for m in request["save"] if m != UNCERTAINTY]
    kept = [*own, *(m for m in model.maps if model.images and m not in own)]
    unsure = UNCERTAINTY in request["save"]
    asked = encode_scan(model, scan, modality=modality, progress=tick) if unsure else scan
    result = segment_scan(model, asked, prompts, modality=modality, keep=kept, progress=tick)
    if unsure:
        parsed = parse(prompts, modality=asked.modality, encoder=model.encoder)
        others = [segment_scan(member, scan, parsed, modality=asked.modality).masks for member in members]
        doubts = assess(model, asked, parsed, others=others, plain=result.answer)
        result.extras[UNCERTAINTY] = attach(result.report["prompts"], doubts)
    result.report |= {
        "scan": place_of(path), "scan_state": state, "request": request, "picture": files["picture"].name,
    }  # fmt: skip
    write_results(model, scan, result, files, source)
    return result.report


def store_one(report: dict, files: dict[str, Path], url: str) -> None:
    """Push one scan's DICOM result once; the report says where it was stored."""
    shown, _ = split_url(url)
    if report["mask"] is not None and shown not in report.get("stored", []):
        store(url, [pydicom.dcmread(files["mask"])])
        report["stored"] = [*report.get("stored", []), shown]
        write_json(report, files["report"], indent=2)


def attempt(work, earlier: dict | None, files: dict[str, Path], push: str | None) -> tuple[dict | None, str, str]:
    """Do one scan's `work` unless an earlier run did, and store the result; its report, status, and what went wrong."""
    report, status = earlier, "skipped" if earlier else "done"
    try:
        if report is None:
            report = work()
        if push is not None:
            store_one(report, files, push)
    except (ScanError, ModalityError, ServerError, DeviceError) as problem:
        return report, "failed", str(problem)
    except Exception as problem:  # whatever is wrong with one scan, the others are still to be done
        return report, "failed", f"{type(problem).__name__}: {problem}"
    return report, status, ""


def rows_of(path: Path, report: dict | None, status: str, error: str = "") -> list[dict]:
    """Lines of summary.csv for one scan."""
    if report is None:
        return [{"scan": str(path), "status": status, "error": error}]
    keys = ("prompt", "found", "score", "volume_ml", "largest_diameter_mm", "centroid_mm")
    shared = {"scan": str(path), "status": status, "error": error}
    masks = [e.get("mask", report["mask"]) or NOTHING for e in report["prompts"]]
    return [{**shared, "mask": m, **{k: e[k] for k in keys}} for m, e in zip(masks, report["prompts"], strict=True)]


def write_summary(rows: list[dict], path: Path) -> None:
    """summary.csv, one line a scan and prompt."""

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)


def check_output(format: str, push: str | None, summary: Path) -> None:
    """Refuse a format that does not exist, a server that could get nothing, and another's summary, before any work.

    Raises:
        ValueError, ServerError: with what to write instead.
    """
    if format not in FORMATS:
        raise ValueError(f"there is no format {format!r}: use one of {', '.join(FORMATS)}")
    if push is not None:
        if format not in DICOM_FORMATS:
            raise ValueError(f"--push stores DICOM: add --format {' or --format '.join(DICOM_FORMATS)}")
        split_url(push)
    if summary.exists():
        with open(summary, "rb") as file:
            header = file.readline().decode(errors="replace").strip()
        if header != ",".join(COLUMNS):
            raise ValueError(f"{summary} is no summary of an earlier run: move it, or choose another --out")


def settings_of(model: Segmenter, members: tuple[Segmenter, ...], unsure: bool) -> str:
    """Digest of all that answers are made with: records of all weights, and how doubts are calibrated."""
    records = [one.records for one in (model, *members)]
    return digest([records, record_of(read_calibration(model), model.weights_sha256) if unsure else None])


def segment_all(scans: list[Path], results: Results, one) -> tuple[list[dict], list[dict]]:
    """Every scan by `one`, with a bar for all and one for each; reports of what did not fail, and all summary lines."""
    reports, rows = [], []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        whole = progress.add_task("scans", total=len(scans))
        for path in scans:
            window = progress.add_task(f"  {path.name}", total=None)
            tick = lambda k, n, task=window: progress.update(task, completed=k, total=n)  # noqa: E731
            report, status, error = one(path, results.files_of(path), tick)
            # What was segmented but not stored keeps its lines: the files are there, and the next run stores them.
            rows += rows_of(path, report, status, error)
            if status == "failed":
                progress.console.print(f"[red]{escape(f'{path.name}: {error}')}")
            else:
                reports.append(report)
            progress.remove_task(window)
            progress.advance(whole)
    return reports, rows


def main(
    inputs: Annotated[list[Path], typer.Argument(help="NIfTI or NRRD files, DICOM folders, or folders of these")],
    prompt: Annotated[list[str], typer.Option(help="what to look for; may be given several times")],
    out: Annotated[Path, typer.Option(help="folder for the results")],
    method: Annotated[
        str | None, typer.Option(help=f"one of: {', '.join(METHODS)}; by default {IN_TURN}, one after the other")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="weights of your own; default: the starter weights")] = None,
    modality: Annotated[str | None, typer.Option(help="CT or MR, where the files do not tell")] = None,
    series: Annotated[str | None, typer.Option(help="SeriesInstanceUID, where a DICOM folder mixes series")] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = AUTO,
    force: Annotated[bool, typer.Option(help="segment again what is done")] = False,
    format: Annotated[str, typer.Option(help=f"of the masks, one of: {', '.join(FORMATS)}")] = "nifti",
    push: Annotated[str | None, typer.Option(help="DICOMweb server to store DICOM results on, http://...")] = None,
    save: Annotated[str | None, typer.Option(help="maps: uncertainty, anomaly, pseudo-healthy,residual")] = None,
    quality: Annotated[str | None, typer.Option(help="fast, standard or best, for methods that know these")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="DiffuGTS's U-Net; for a GPU, and many scans")] = False,
) -> list[dict]:
    """Segment scans by text."""
    try:
        check_output(format, push, out / SUMMARY)
        method = method or usual(weights)
        model = load(method, weights, device=device)
        model = model if quality is None else model.at(quality)
        model = model.compiled() if compile else model
        # Words are checked before any scan is read; they are parsed again for each, as CT and MR differ.
        prompts = [p.text for p in parse(prompt, encoder=model.encoder)]
        maps = wanted_maps(save, model, method)
        members = tuple(committee(method, device)) if UNCERTAINTY in maps else ()
        settings = settings_of(model, members, UNCERTAINTY in maps)
    except (WeightsError, TextEncoderError, PromptError, ServerError, ValueError) as error:
        console.print(f"[red]{escape(str(error))}")
        raise typer.Exit(2) from None
    request = {
        "method": method, "weights": model.weights_sha256, "settings": settings, "prompts": prompts,
        "modality": modality, "series": series, "format": format, "save": list(maps),
        **({} if quality is None else {"quality": quality}),
    }  # fmt: skip
    scans, rows = scans_in(inputs)
    for row in rows:
        console.print(f"[red]{escape(row['error'])}")

    def one(path: Path, files: dict[str, Path], tick) -> tuple[dict | None, str, str]:
        earlier = None if force else kept(files, request, state_of(path))
        work = lambda: segment_one(model, path, prompts, files, request, modality, series, tick, members)  # noqa: E731
        return attempt(work, earlier, files, push)

    reports, lines = segment_all(scans, Results(out, endings(format, len(prompts), maps)), one)
    failed, rows = len(rows) + len(scans) - len(reports), rows + lines
    if reports:
        console.print(table(reports))
    try:
        write_summary(rows, out / SUMMARY)
    except ScanError as error:
        console.print(f"[red]{escape(str(error))}")
        raise typer.Exit(1) from None
    console.print(f"{len(reports)} of {len(reports) + failed} scans; results in {out}")
    if failed or not scans:
        raise typer.Exit(1)
    return reports


if __name__ == "__main__":
    typer.run(main)
