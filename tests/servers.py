"""Real MONAI Label servers on loopback for tests."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import processes
import requests


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(url: str, process: BaseProcess, log: Path) -> None:
    """Until the server answers; one that died is told with the end of its log."""
    for _ in range(240):
        assert process.is_alive(), log.read_text()[-4000:]
        try:
            if requests.get(url, timeout=2).ok:
                return
        except requests.RequestException:
            time.sleep(0.5)
    raise AssertionError(f"the server did not start: {log.read_text()[-4000:]}")


@contextmanager
def serving(
    folder: Path, app: Path, studies: Path | str, program: str = "monailabel.main", **conf: str
) -> Iterator[str]:
    """MONAI Label's server, or a script that starts it, with an app over studies; yields its address. Its log is
    `folder`/server.log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "MONAI_LABEL_TRACKING_ENABLED": "false",
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
        "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "dicom"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    port, log = free_port(), folder / "server.log"
    options = [part for name, value in conf.items() for part in ("--conf", name, value)]
    arguments = ["start_server", "--app", str(app), "--studies", str(studies), "--host", "127.0.0.1",
                 "--port", str(port), *options]  # fmt: skip
    process = processes.start(program, arguments, folder, environment, log)
    try:
        wait_for(f"http://127.0.0.1:{port}/info/", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.join(60)
        assert not process.is_alive(), "the server did not end"
