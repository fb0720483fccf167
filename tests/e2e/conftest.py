"""Real servers for the end-to-end tests: Orthanc with two series, the app over it, a browser."""

import os
import sys
from pathlib import Path

import pytest
from servers import free_port

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from phantom_dicom import write_series
from serve import monai_label, orthanc, store

from zerotumor.phantom import generate

CHROMIUM = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Where screenshots go: out/e2e, for people to look at."""
    folder = ROOT / "out" / "e2e"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def series(tmp_path_factory) -> dict[str, Path]:
    """A CT (real, if the data folder is there; else a phantom) and an MR phantom, as DICOM."""
    folder = tmp_path_factory.mktemp("series")
    data = [os.environ.get("ZEROTUMOR_DATA"), ROOT.parent / "shared" / "data"]
    slices = [f for d in data if d for f in sorted((Path(d) / "dicom" / "crlm_ct").rglob("*.dcm"))]
    real = slices[0].parent if slices else None
    if real is None:
        # Its lesion crosses the middle slices, which is what a viewer shows first.
        phantom = generate(6_000_003, category="liver tumor", modality="CT", shape=(96, 96, 64),
                           spacing=(3.3, 3.3, 5.0), difficulty=0.0)  # fmt: skip
        real = write_series(phantom, folder / "ct")
    limb = generate(6_000_103, category="soft tissue sarcoma", modality="MR", shape=(72, 72, 48),
                    spacing=(3.0, 3.0, 4.0), difficulty=0.0)  # fmt: skip
    return {"CT": real, "MR": write_series(limb, folder / "mr")}


@pytest.fixture(scope="session")
def archive(tmp_path_factory, series):
    """Orthanc with both; its address, and StudyInstanceUIDs by modality."""
    with orthanc(tmp_path_factory.mktemp("orthanc"), free_port()) as url:
        yield url, {modality: store(url, folder) for modality, folder in series.items()}


@pytest.fixture(scope="session")
def server(tmp_path_factory, archive):
    """The app over the archive."""
    folder = tmp_path_factory.mktemp("server")
    with monai_label(folder, f"{archive[0]}/dicom-web", free_port(), {"state": str(folder / "state")}) as url:
        yield url


@pytest.fixture(scope="session")
def uid(series) -> dict[str, str]:
    """SeriesInstanceUIDs by modality."""
    import pydicom

    first = {modality: next(f for f in sorted(folder.rglob("*")) if f.is_file()) for modality, folder in series.items()}
    return {m: str(pydicom.dcmread(f, stop_before_pixels=True).SeriesInstanceUID) for m, f in first.items()}


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, painting 3-D without a graphics card."""
    from playwright.sync_api import sync_playwright

    program = next((p for p in CHROMIUM if Path(p).is_file()), None)
    if program is None:
        pytest.fail("Chromium is missing: apt-get install chromium")
    flags = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader",
             "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]  # fmt: skip
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, headless=True, args=flags)
        yield running
        running.close()
