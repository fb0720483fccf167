"""Python programs in processes of their own that need not import torch and MONAI again.

Importing these takes as long as most of what tests have such programs do. So a server process imports them once, without
anything of the project, and each program is a fork of it: with its own folder, environment and `sys.path`, as
`python -m` would give it.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["monai.bundle"])


def start(
    program: str, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], log: Path
) -> BaseProcess:  # fmt: skip
    """What `python -m program arguments` does in a folder (a path of a script: without -m); `log` gets what it says."""
    process = FORKS.Process(target=_become, args=(program, list(arguments), str(cwd), dict(environment), str(log)))
    process.start()
    return process


def run(
    program: str, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """As `start`, to its end: its exit status, and its output with errors among it."""
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        process = start(program, arguments, cwd, environment, log)
        process.join()
        return subprocess.CompletedProcess([program, *arguments], process.exitcode, log.read_text(errors="replace"))


def _become(program: str, arguments: list[str], cwd: str, environment: dict[str, str], log: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    _as_if_fresh(cwd, environment)
    sys.argv = [program, *arguments]
    try:
        if program.endswith(".py"):
            sys.path[0] = str(Path(program).parent)
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit:
        raise
    except BaseException:
        sys.excepthook(*sys.exc_info())  # programs may have set their own
        sys.exit(1)


def _as_if_fresh(cwd: str, environment: dict[str, str]) -> None:
    """No module of the project is there, and none is found but from the folder and PYTHONPATH."""
    assert not any(name.split(".")[0] == "zerotumor" for name in sys.modules), "the server imported the project"
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    given = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    own = {str(ROOT / part) for part in ("", "bundle", "scripts", "tests")}
    sys.path[:] = [cwd, *given, *(place for place in sys.path if place and place not in own)]
