"""Start the MONAI Label server with OHIF, and an archive with a scan in it; stop both with Ctrl-C.

python scripts/serve.py                    Orthanc with a scan, OHIF in the browser
python scripts/serve.py --studies FOLDER   NIfTI or NRRD scans in a folder, for 3D Slicer and REST

Everything listens on this machine alone. Orthanc comes from Debian: apt-get install orthanc orthanc-dicomweb.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bundle"), str(ROOT / "scripts")]

import pydicom
import requests
import typer
from phantom_dicom import write_series
from rich.console import Console

from zerotumor.cohorts import data_folder
from zerotumor.phantom import generate

ORTHANC = ("Orthanc", "/usr/sbin/Orthanc")
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
console = Console()


class ServeError(RuntimeError):
    """The servers cannot be started; the message says what to do."""


def check_free(port: int, option: str) -> None:
    """A server that has the port already would be taken for the new one, and get its scans.

    Raises:
        ServeError: something listens there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise ServeError(f"port {port} cannot be used ({error}): choose another with {option}") from None


def wait_for(url: str, process: subprocess.Popen, name: str, log: Path, seconds: int = 600) -> None:
    """Until a server answers; long, because a busy machine takes minutes to import all that there is.

    Raises:
        ServeError: it ended, or took too long.
    """
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        try:
            if requests.get(url, timeout=10).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.25)
    tail = log.read_text(errors="replace")[-1500:] if log.is_file() else ""
    raise ServeError(f"{name} did not start. Its log ends with:\n{tail}")


@contextmanager
def stopped_at_the_end(command: list[str], log: Path, **options) -> Iterator[subprocess.Popen]:
    """A process that runs while the block runs, its output in a log."""
    with open(log, "a") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def orthanc(folder: Path, port: int) -> Iterator[str]:
    """An empty Orthanc on loopback; yields its address.

    Raises:
        ServeError: it is not installed, or did not start.
    """
    program = next((found for name in ORTHANC if (found := shutil.which(name))), None)
    if program is None or not DICOMWEB.is_file():
        raise ServeError("Orthanc with DICOMweb is not installed: apt-get install orthanc orthanc-dicomweb")
    check_free(port, "--dicom-port")
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "Name": "ZeroTumor", "StorageDirectory": str(folder), "IndexDirectory": str(folder), "HttpPort": port,
        "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "DicomServerEnabled": False,
        "Plugins": [str(DICOMWEB)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True, "WadoRoot": "/wado"},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    log = folder / "orthanc.log"
    with stopped_at_the_end([program, str(folder / "orthanc.json")], log) as process:
        wait_for(f"http://127.0.0.1:{port}/system", process, "Orthanc", log)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def monai_label(folder: Path, studies: str, port: int, conf: dict[str, str]) -> Iterator[str]:
    """The app in MONAI Label's server on loopback; yields its address.

    Raises:
        ServeError: it did not start.
    """
    check_free(port, "--port")
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "MONAI_LABEL_TRACKING_ENABLED": "false",
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "dicom"),
        "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    environment.pop("PYTHONPATH", None)
    options = [part for name, value in conf.items() for part in ("--conf", name, value)]
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(ROOT / "apps" / "zerotumor"),
               "--studies", studies, "--host", "127.0.0.1", "--port", str(port), *options]  # fmt: skip
    log = folder / "server.log"
    with stopped_at_the_end(command, log, env=environment, cwd=folder) as process:
        wait_for(f"http://127.0.0.1:{port}/info/", process, "MONAI Label", log)
        yield f"http://127.0.0.1:{port}"


def store(archive: str, scans: Path) -> str:
    """Send a folder with DICOM files to Orthanc; returns the StudyInstanceUID of its largest series of CT or MR.

    Raises:
        ServeError: there is no such series, or Orthanc refuses a file.
    """
    slices: Counter[tuple[str, str]] = Counter()
    for file in sorted(f for f in scans.rglob("*") if f.is_file()):
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
            series = (str(header.StudyInstanceUID), str(header.SeriesInstanceUID))
        except (pydicom.errors.InvalidDicomError, AttributeError):
            continue
        answer = requests.post(f"{archive}/instances", data=file.read_bytes(), timeout=600)
        if not answer.ok:
            raise ServeError(f"Orthanc refused {file}: {answer.text[:200]}")
        if header.get("Modality") in ("CT", "MR"):
            slices[series] += 1
    if not slices:
        raise ServeError(f"{scans} holds no CT or MR in DICOM: give a folder with a series")
    return slices.most_common(1)[0][0][0]


def scan_to_show(folder: Path) -> Path:
    """A real scan of the data folder if it is there, else a phantom."""
    data = data_folder()
    real = data / "dicom" / "crlm_ct" if data else None
    if real is not None and real.is_dir():
        return real
    phantom = generate(6_000_001, category="liver tumor", modality="CT", shape=(144, 144, 96),
                       spacing=(2.2, 2.2, 3.3), difficulty=0.0)  # fmt: skip
    return write_series(phantom, folder / "phantom")


def say(text: str, **style: str) -> None:
    """To the terminal as it is: an address must stay on one line, and brackets in a log are no markup."""
    console.print(text, soft_wrap=True, markup=False, highlight=False, **style)


def stop(signum: int, frame: object) -> None:
    """Ctrl-C, `kill` and a closed terminal all end the servers, once; a shell's background job would ignore Ctrl-C."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(
    studies: Annotated[Path | None, typer.Option(help="folder of NIfTI scans; without it, Orthanc is started")] = None,
    scan: Annotated[Path | None, typer.Option(help="DICOM folder to put into Orthanc")] = None,
    port: Annotated[int, typer.Option(help="of the server")] = 8000,
    dicom_port: Annotated[int, typer.Option(help="of Orthanc")] = 8042,
    models: Annotated[Path | None, typer.Option(help="folder with weights of your own")] = None,
    state: Annotated[Path, typer.Option(help="for the history of clicks and training runs")] = ROOT / "out" / "serve",
) -> None:
    """Serve until Ctrl-C."""
    for number in SIGNALS:
        signal.signal(number, stop)
    with ExitStack() as running:
        try:
            folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="zerotumor-")))
            conf = {"state": str(state.resolve())} | ({"models": str(models.resolve())} if models else {})
            if studies is None:
                archive = running.enter_context(orthanc(folder / "orthanc", dicom_port))
                study = store(archive, scan or scan_to_show(folder))
                server = running.enter_context(monai_label(folder / "server", f"{archive}/dicom-web", port, conf))
                say(f"Orthanc   {archive}\nOHIF      {server}/ohif/monai-label?StudyInstanceUIDs={study}")
            else:
                if not studies.is_dir():
                    raise ServeError(f"{studies} is no folder: give one with NIfTI scans")
                server = running.enter_context(monai_label(folder / "server", str(studies.resolve()), port, conf))
                say("3D Slicer: module MONAI Label, and this address as its server")
            say(f"server    {server}\nlog       {folder}/server/server.log\nCtrl-C stops it")
            while True:
                time.sleep(1)
        except ServeError as error:
            say(str(error), style="red")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            say("stopped")


if __name__ == "__main__":
    typer.run(main)
