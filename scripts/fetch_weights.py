"""Fetch a published diffusion model for DiffuGTS.

python scripts/fetch_weights.py rflow-ct
python scripts/fetch_weights.py rflow-ct --source FOLDER      # the files are here already

Shows the license and asks first; nothing is downloaded before you agree (--accept-license does so beforehand). A download
that was interrupted goes on where it stopped. The files are checked and written once more as FOLDER/NAME.pt with its record
NAME.json, which is what `load_prior` reads. Models: ddpm-ct, rflow-ct, rflow-mr, rflow-mr-brain.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

import typer
from rich.console import Console
from rich.markup import escape

from zerotumor.diffusion.fetch import fetch, licenses
from zerotumor.diffusion.weights import PUBLISHED
from zerotumor.errors import ScanError
from zerotumor.segmenter import WeightsError

DEFAULT = Path(__file__).resolve().parents[1] / "bundle" / "runs" / "weights"
console = Console()


def main(
    model: Annotated[str, typer.Argument(help=", ".join(PUBLISHED))],
    folder: Annotated[Path, typer.Option(help="where the files go")] = DEFAULT,
    source: Annotated[Path | None, typer.Option(help="a folder that holds the files already")] = None,
    revision: Annotated[str, typer.Option(help="branch, tag or commit of the hub's repositories")] = "main",
    accept_license: Annotated[bool, typer.Option("--accept-license", help="do not ask")] = False,
) -> None:
    """Fetch one model."""
    try:
        console.print(escape(licenses(model, source, revision)))
        if not accept_license and not typer.confirm("Do you accept the license?"):
            console.print("Nothing was fetched.")
            raise typer.Exit(1)
        path = fetch(model, folder, source, revision)
    except (WeightsError, ScanError) as error:
        console.print(f"[red]{escape(str(error))}")
        raise typer.Exit(1) from None
    console.print(f"{escape(str(path))} is ready.")


if __name__ == "__main__":
    typer.run(main)
