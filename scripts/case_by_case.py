"""How the scripts that measure go through their cases: records are kept as they come, and one bad scan ends nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import typer
from rich.console import Console
from rich.progress import Progress

from zerotumor.errors import ScanError
from zerotumor.volumes import write_json


class Named(Protocol):
    """A case of whatever kind."""

    name: str


C = TypeVar("C", bound=Named)


def measure(
    cases: Sequence[C], records_of: Callable[[C], list[dict]], saved: dict, out: Path, console: Console
) -> None:
    """Measure all cases, and write the records to `out`; a case that cannot be read is left out.

    Until the end they are in a file of its own, NAME.partial.json, which a run that is interrupted leaves: an earlier run's
    records stay whole until this one's are.

    Args:
        saved: what is written, with `records` and `left_out` (case -> why) to be filled.

    Raises:
        typer.Exit: interrupted (130), or nothing can be written (1); it has been said why.
    """
    part = out.with_name(f"{out.stem}.partial{out.suffix}")
    try:
        with Progress(console=console) as progress:
            for case in progress.track(cases, description="cases"):
                try:
                    saved["records"] += records_of(case)
                except ScanError as error:
                    console.print(f"[yellow]{case.name} is left out: {error}")
                    saved["left_out"][case.name] = str(error)
                write_json(saved, part)
        write_json(saved, out)
    except KeyboardInterrupt:
        console.print(f"[yellow]interrupted: {len(saved['records'])} records in {part}")
        raise typer.Exit(130) from None
    except ScanError as error:
        console.print(f"[red]{error}")
        raise typer.Exit(1) from None
    part.unlink(missing_ok=True)
