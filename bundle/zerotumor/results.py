"""Results in a folder: what a scan's files are called, what of an earlier run still holds, what is never overwritten.

A report (NAME.json) names its scan, what was asked of it, and all files that belong to it. A file that no report names is
somebody else's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from .dicom import looks_like_dicom
from .errors import ScanError
from .volumes import stem_of, suffix_of, write_json

SUMMARY = "summary.csv"
FORM = ("format", "save")
"""What of a request says how an answer is written and not which it is."""


def digest(value: object) -> str:
    """Hash of anything JSON-able."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def place_of(scan: Path) -> str:
    """Where a scan lies, absolute. Links are not followed: what they are called is what a user knows."""
    return os.path.abspath(scan)


def read_report(path: Path) -> dict | None:
    """A report with its "files", names in its folder; None for what is not there or is somebody else's file."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(report, dict) or not {"scan", "request", "picture"} <= report.keys():
        return None
    if not isinstance(report["request"], dict | None):
        return None
    # Reports have not always named their files; and what lies in another folder belongs to none.
    names = report.get("files", [report.get("mask"), report["picture"]])
    names = [n for n in names if isinstance(n, str) and Path(n).name == n] if isinstance(names, list) else []
    return report | {"scan": str(report["scan"]), "files": names}


def results_in(folder: Path) -> set[str]:
    """Names of the files in a folder that reports name, and of the reports."""
    reports = {file.name: read_report(file) for file in folder.glob("*.json")}
    return {name for file, report in reports.items() if report for name in (file, *report["files"])}


def without_results(scans: Iterable[Path]) -> list[Path]:
    """Scans, less the files that reports beside them name and folders that hold no DICOM files but such."""
    names_in = cache(results_in)

    def is_result(path: Path) -> bool:
        names = names_in(path if path.is_dir() else path.parent)
        if not path.is_dir() or not names:
            return path.name in names
        others = (f for f in path.iterdir() if f.is_file() and f.name not in names)
        return not any(looks_like_dicom(f) for f in others)

    return [scan for scan in scans if not is_result(scan)]


def state_of(scan: Path) -> str | None:
    """Digest of names, sizes and times of change of a scan's files; None if they cannot be looked at.

    Those of a DICOM folder, or of an NRRD header whose voxels lie beside it, are all in the folder that are no results.
    """
    try:
        files = [scan]
        if scan.is_dir() or suffix_of(scan) == ".nhdr":
            folder = scan if scan.is_dir() else scan.parent
            results = results_in(folder) | {SUMMARY}
            files = sorted(f for f in folder.iterdir() if f.is_file() and f.name not in results)
        states = [(os.path.realpath(file), file.stat()) for file in files]
    except OSError:
        return None
    return digest([(name, state.st_size, state.st_mtime_ns) for name, state in states])


class Results:
    """The results in one folder, and whose they are.

    Args:
        folder: need not be there. endings: kind of file -> what follows a scan's name; "report" is ".json".
    """

    def __init__(self, folder: Path, endings: Mapping[str, str]) -> None:
        self.folder, self.endings = folder, dict(endings)
        reports = {file.stem: read_report(file) for file in sorted(folder.glob("*.json"))}
        self._owners = {name: place_of(report["scan"]) for name, report in reports.items() if report}

    def files_of(self, scan: Path) -> dict[str, Path]:
        """Kind of file -> path, the same in every run.

        A scan keeps the name that it has in a report. A new one is called as its file is, with a mark that tells it apart
        if another scan has that name.
        """
        place = place_of(scan)
        name = next((name for name, owner in self._owners.items() if owner == place), None)
        if name is None:
            name = stem_of(scan)
            if name in self._owners:
                name += "-" + hashlib.sha256(place.encode()).hexdigest()[:8]
            self._owners[name] = place
        return {kind: self.folder / f"{name}{ending}" for kind, ending in self.endings.items()}


def kept(files: Mapping[str, Path], request: dict, state: str | None) -> dict | None:
    """The report of an earlier run that asked the same of the same scan, if all of its files are there.

    Args:
        files: of `Results.files_of`. request: JSON-able. state: of `state_of`.
    """
    report = read_report(files["report"])
    if report is None or state is None or (report["request"], report.get("scan_state")) != (request, state):
        return None
    return report if all((files["report"].parent / name).is_file() for name in report["files"]) else None


def refuse_to_overwrite(files: Mapping[str, Path]) -> None:
    """Leave other people's files alone.

    Raises:
        ScanError: a file is there that the report, if there is one, does not name.
    """
    report = read_report(files["report"])
    own = {files["report"].name, *report["files"]} if report else set()
    for file in files.values():
        if file.exists() and file.name not in own:
            raise ScanError(
                f"{file} is no result of an earlier run, and would be overwritten: move it, or choose another --out"
            )


@contextmanager
def replacing(files: Mapping[str, Path], report: dict) -> Iterator[None]:
    """Within it, a scan's files are written; then its report is, which names them.

    Meanwhile a report says that they are unfinished, so that a run that stops here leaves nothing that looks done. Files of
    an earlier run go, unless they are other forms of the same answer.

    Raises:
        ScanError: see `volumes.write_atomically`.
    """
    path = files["report"]
    names = [file.name for kind, file in files.items() if kind != "report"]
    earlier = read_report(path) or {"files": []}
    left = [name for name in earlier["files"] if name not in names]
    unfinished = "a run stopped before all files were written: run it again"
    write_json(
        {"scan": report["scan"], "request": None, "picture": None, "files": names + left, "unfinished": unfinished},
        path, indent=2,
    )  # fmt: skip
    same = _answer(earlier) == _answer(report)
    for name in names if same else names + left:
        (path.parent / name).unlink(missing_ok=True)
    yield
    report["files"] = [name for name in names + left if (path.parent / name).is_file()]
    write_json(report, path, indent=2)


def _answer(report: dict) -> tuple:
    """What two reports of the same answer have in common."""
    request = report.get("request") or {}
    return report.get("scan_state"), {key: value for key, value in request.items() if key not in FORM}
