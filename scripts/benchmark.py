"""How fast things are on this machine: phantoms a second and core, and a 256 x 256 x 128 CT from scan to mask.

python scripts/benchmark.py --phantoms --segment
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

import numpy as np
import torch
import typer
from monai.data import MetaTensor
from rich.console import Console
from rich.table import Table

from zerotumor.inferer import encode_volume, segment_volume
from zerotumor.phantom import BODIES, generate
from zerotumor.pipeline import segment_scan
from zerotumor.prompts import parse
from zerotumor.segmenter import load
from zerotumor.transforms import prepare

console = Console()


def phantom_rates(edge: int, spacing: float, count: int) -> Table:
    """Samples a second of CPU time on one thread, by region; medians."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = Table("region", f"phantoms {edge}^3 a second and core")
    rates = []
    for region in BODIES:
        seconds = []
        for seed in range(count + 1):
            started = time.process_time()
            generate(seed, region=region, shape=(edge,) * 3, spacing=spacing)
            seconds.append(time.process_time() - started)
        rates.append(1 / statistics.median(seconds[1:]))
        out.add_row(region, f"{rates[-1]:.1f}")
    out.add_row("mean of regions", f"{statistics.harmonic_mean(rates):.1f}")
    torch.set_num_threads(threads)
    return out


def segment_times() -> Table:
    """Seconds for a clinical-sized abdomen: first prompt, further prompt on kept features."""
    phantom = generate(
        1, region="abdomen", modality="CT", category="healthy", shape=(256, 256, 128), spacing=(1.4, 1.4, 2.5)
    )
    scan = MetaTensor(phantom.image, affine=np.diag([1.4, 1.4, 2.5, 1.0]), meta={"modality": "CT"})
    model = load("malenia")
    out = Table("256 x 256 x 128 CT", "seconds")
    started = time.perf_counter()
    segment_scan(model, scan, "liver tumor")
    out.add_row("scan to mask, one prompt", f"{time.perf_counter() - started:.1f}")
    started = time.perf_counter()
    segment_scan(model, scan, "liver tumor; kidney tumor; renal cyst; spleen tumor")
    out.add_row("scan to masks, four prompts", f"{time.perf_counter() - started:.1f}")
    image = prepare(scan, "CT", model.spacing).as_tensor()
    features = encode_volume(model, image)
    started = time.perf_counter()
    segment_volume(model, image, parse("renal cyst"), features=features)
    out.add_row("another prompt on kept features", f"{time.perf_counter() - started:.1f}")
    return out


def main(
    phantoms: Annotated[bool, typer.Option("--phantoms", help="phantoms a second")] = False,
    segment: Annotated[bool, typer.Option("--segment", help="a clinical-sized scan")] = False,
    edge: Annotated[int, typer.Option(help="voxels of a phantom's edge")] = 64,
    spacing: Annotated[float, typer.Option(help="mm")] = 3.0,
    count: Annotated[int, typer.Option(help="phantoms a region")] = 8,
) -> None:
    """Measure speed; both parts unless one is chosen."""
    if phantoms or not segment:
        console.print(phantom_rates(edge, spacing, count))
    if segment or not phantoms:
        console.print(segment_times())


if __name__ == "__main__":
    typer.run(main)
