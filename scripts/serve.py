"""Start the MONAI Label server with OHIF, and an archive with a scan in it; stop both with Ctrl-C.

python scripts/serve.py                    Orthanc with a scan, OHIF in the browser
python scripts/serve.py --studies FOLDER   NIfTI scans in a folder, for 3D Slicer and REST

Everything listens on this machine alone. Orthanc comes from Debian: apt-get install orthanc orthanc-dicomweb.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
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
console = Console()


class ServeError(RuntimeError):
    """The servers cannot be started; the message says what to do."""


def wait_for(url: str, process: subprocess.Popen, name: str, log: Path, seconds: int = 120) -> None:
    """Until a server answers.

    Raises:
        ServeError: it ended, or took too long.
    """
    for _ in range(seconds * 2):
        if process.poll() is not None:
            break
        try:
            if requests.get(url, timeout=2).ok:
                return
        except requests.RequestException:
            time.sleep(0.5)
    tail = log.read_text(errors="replace")[-1500:] if log.is_file() else ""
    raise ServeError(f"{name} did not start: is its port in use? Its log ends with:\n{tail}")


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


@contextmanager
def orthanc(folder: Path, port: int) -> Iterator[str]:
    """An empty Orthanc on loopback; yields its address.

    Raises:
        ServeError: it is not installed, or did not start.
    """
    program = next((found for name in ORTHANC if (found := shutil.which(name))), None)
    if program is None or not DICOMWEB.is_file():
        raise ServeError("Orthanc with DICOMweb is not installed: apt-get install orthanc orthanc-dicomweb")
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


def store(archive: str, series: Path) -> str:
    """Send a DICOM folder to Orthanc; returns its StudyInstanceUID.

    Raises:
        ServeError: there is no DICOM file, or Orthanc refuses one.
    """
    study = None
    for file in sorted(f for f in series.rglob("*") if f.is_file()):
        try:
            study = pydicom.dcmread(file, stop_before_pixels=True).StudyInstanceUID
        except (pydicom.errors.InvalidDicomError, AttributeError):
            continue
        answer = requests.post(f"{archive}/instances", data=file.read_bytes(), timeout=60)
        if not answer.ok:
            raise ServeError(f"Orthanc refused {file}: {answer.text[:200]}")
    if study is None:
        raise ServeError(f"{series} holds no DICOM file: give a folder with a series")
    return str(study)


def scan_to_show(folder: Path) -> Path:
    """A real scan of the data folder if it is there, else a phantom."""
    data = data_folder()
    real = data / "dicom" / "crlm_ct" if data else None
    if real is not None and real.is_dir():
        return real
    phantom = generate(6_000_001, category="liver tumor", modality="CT", shape=(144, 144, 96),
                       spacing=(2.2, 2.2, 3.3), difficulty=0.0)  # fmt: skip
    return write_series(phantom, folder / "phantom")


def main(
    studies: Annotated[Path | None, typer.Option(help="folder of NIfTI scans; without it, Orthanc is started")] = None,
    scan: Annotated[Path | None, typer.Option(help="DICOM folder to put into Orthanc")] = None,
    port: Annotated[int, typer.Option(help="of the server")] = 8000,
    dicom_port: Annotated[int, typer.Option(help="of Orthanc")] = 8042,
    models: Annotated[Path | None, typer.Option(help="folder with weights of your own")] = None,
) -> None:
    """Serve until Ctrl-C."""
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="zerotumor-")))
        conf = {"state": str(folder / "state")} | ({"models": str(models.resolve())} if models else {})
        try:
            if studies is None:
                archive = running.enter_context(orthanc(folder / "orthanc", dicom_port))
                study = store(archive, scan or scan_to_show(folder))
                server = running.enter_context(monai_label(folder / "server", f"{archive}/dicom-web", port, conf))
                console.print(f"Orthanc   {archive}\nOHIF      {server}/ohif/monai-label?StudyInstanceUIDs={study}")
            else:
                server = running.enter_context(monai_label(folder / "server", str(studies.resolve()), port, conf))
                console.print("3D Slicer: module MONAI Label, and this address as its server")
            console.print(f"server    {server}\nlog       {folder}/server/server.log\nCtrl-C stops it")
            while True:
                time.sleep(1)
        except ServeError as error:
            console.print(f"[red]{error}")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            console.print("stopped")


if __name__ == "__main__":
    typer.run(main)
