"""How fast things are on this machine: phantoms a second and core, a 256 x 256 x 128 CT from scan to mask, the same through
the MONAI Label server.

python scripts/benchmark.py --phantoms --segment --server --method malenia,zept --device cpu --out bundle/docs/speed.md
python scripts/benchmark.py --maisi --device cuda --compile       # DiffuGTS at MAISI's size, with random weights
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
sys.path[:0] = [str(BUNDLE), str(Path(__file__).resolve().parent)]

import nibabel as nib
import numpy as np
import requests
import torch
import typer
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from rich.console import Console
from rich.table import Table
from serve import monai_label

from zerotumor.devices import AUTO, DEVICE_HELP, device_of
from zerotumor.kept import VolumeFeatures
from zerotumor.phantom import BODIES, Phantom, generate
from zerotumor.pipeline import encode_scan, segment_scan
from zerotumor.segmenter import METHODS, Segmentation, Segmenter, asked_in_turn, available, build, load
from zerotumor.text import load_text_encoder
from zerotumor.volumes import write_atomically

SPACING = (1.4, 1.4, 2.5)
LARGE, FINE = (512, 512, 128), (0.7, 0.7, 2.5)
LESION_MM = 50.0
CPU = torch.device("cpu")
Figures = tuple[tuple[str, str], list[tuple[str, str]]]
"""Headings, and rows of a name and a figure."""
console = Console()


def phantom_rates(edge: int, spacing: float, count: int, device: torch.device = CPU) -> Figures:
    """Samples a second by region, medians: of CPU time on one thread, or on a GPU."""
    threads, on_cpu = torch.get_num_threads(), device == CPU
    torch.set_num_threads(1)
    clock = time.process_time if on_cpu else time.perf_counter
    rows, rates = [], []
    for region in BODIES:
        seconds = []
        for seed in range(count + 1):
            started = clock()
            generate(seed, region=region, shape=(edge,) * 3, spacing=spacing, device=device)
            if not on_cpu:
                torch.cuda.synchronize(device)
            seconds.append(clock() - started)
        rates.append(1 / statistics.median(seconds[1:]))
        rows.append((region, f"{rates[-1]:.1f}"))
    rows.append(("mean of regions", f"{statistics.harmonic_mean(rates):.1f}"))
    torch.set_num_threads(threads)
    return ("region", f"phantoms {edge}^3 a second{' and core' if on_cpu else ''}"), rows


def clinical_ct(shape: tuple[int, ...] = (256, 256, 128), spacing: tuple[float, ...] = SPACING) -> Phantom:
    """An abdomen."""
    return generate(1, region="abdomen", modality="CT", category="healthy", shape=shape, spacing=spacing)


def model_of(method: str, device: torch.device = CPU) -> tuple[Segmenter, str]:
    """A method with its starter weights, or, where there are none, with fresh ones of their size; and what to call it.

    Speed does not depend on what the weights are.
    """
    if set(asked_in_turn(method)) <= set(available()):
        return load(method, device=device), method
    return untrained(method, method).to(device), f"{method}, untrained"


def untrained(method: str, *configs: str, **options: object) -> Segmenter:
    """A method with fresh weights as configs of the bundle, later ones on top, and options describe it."""
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / f"{name}.yaml") for name in configs])
    torch.manual_seed(0)
    model = build(method, parser.get_parsed_content("network_config") | options)
    model.encoder = load_text_encoder()
    model.bank.fill(model.encoder)
    return model.eval()


def sees_a_lesion(model: Segmenter) -> None:
    """Whatever the windows of a method with a second look say: there is a ball in the middle of the scan.

    What random weights see is nothing or everything, and neither is a scan's usual hole.
    """
    complete = model.complete

    def with_lesion(
        image: torch.Tensor, answer: Segmentation, prompts: list, kept: VolumeFeatures | None = None
    ) -> Segmentation:
        axes = [torch.arange(n, device=image.device) - n / 2 for n in image.shape[2:]]
        distance = torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0) * model.spacing
        answer.logits[:] = torch.where(distance < LESION_MM / 2, 5.0, -5.0)
        return complete(image, Segmentation(answer.logits, torch.ones_like(answer.scores)), prompts, kept)

    model.complete = with_lesion


def maisi_times(
    device: torch.device,
    compiled: bool,
    shape: tuple[int, ...] = LARGE,
    qualities: tuple[str, ...] = ("fast", "standard"),
    **options,
) -> Figures:
    """Seconds of DiffuGTS on networks of MAISI's size; a first run that is not counted loads and compiles kernels."""
    model = untrained("diffugts", "train", "diffugts", "diffugts_maisi", **{"text_dim": 384, **options}).to(device)
    sees_a_lesion(model)
    model = model.compiled() if compiled else model
    scan = MetaTensor(clinical_ct(shape, FINE).image, affine=np.diag([*FINE, 1.0]), meta={"modality": "CT"})
    rows = []
    for quality in qualities:
        model.quality = quality
        for _ in range(1 if device == CPU else 2):
            started = time.perf_counter()
            encoded = encode_scan(model, scan)
            between = time.perf_counter()
            segment_scan(model, encoded, "liver tumor")
            done = time.perf_counter()
        rows += [
            (f"{quality}: scan to mask", f"{done - started:.1f}"),
            (f"{quality}: another prompt on kept features", f"{done - between:.1f}"),
        ]
    size = " x ".join(map(str, shape))
    heading = f"{size} CT, a lesion of {LESION_MM:g} mm, DiffuGTS of MAISI's size, random weights, on {where(device)}"
    return (heading, "seconds"), rows


def where(device: torch.device) -> str:
    """A device in words."""
    cores = f"{os.cpu_count()} CPU cores"
    return cores if device == CPU else f"{torch.cuda.get_device_name(device)} beside {cores}"


def segment_times(methods: list[str], device: torch.device = CPU) -> Figures:
    """Seconds for a clinical-sized abdomen: first prompt, further prompt on kept features; one method after the other."""
    scan = MetaTensor(clinical_ct().image, affine=np.diag([*SPACING, 1.0]), meta={"modality": "CT"})
    rows, first = [], {}
    for method in methods:
        model, name = model_of(method, device)
        if device != CPU:  # a first run, not counted, loads kernels
            segment_scan(model, scan, "liver tumor")
        for what, prompt in (("one", "liver tumor"), ("four", "liver tumor; kidney tumor; cyst; sarcoma")):
            started = time.perf_counter()
            segment_scan(model, scan, prompt)
            seconds = time.perf_counter() - started
            first.setdefault(name, seconds)
            rows.append((f"{name}: scan to masks, {what} prompt{'s' * (what == 'four')}", f"{seconds:.1f}"))
        encoded = encode_scan(model, scan)
        segment_scan(model, encoded, "liver tumor")
        started = time.perf_counter()
        segment_scan(model, encoded, "renal cyst")
        rows.append((f"{name}: another prompt on kept features", f"{time.perf_counter() - started:.1f}"))
    (reference, unit), *others = first.items()
    rows += [(f"{name} against {reference}, one prompt", f"{s / unit:.2f} times") for name, s in others]
    return ("256 x 256 x 128 CT", "seconds"), rows


def server_times(device: torch.device = CPU, port: int = 8765) -> Figures:
    """Seconds of requests to the app over loopback, the answer's file included."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "scans").mkdir()
        affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
        nib.save(nib.Nifti1Image(np.asarray(clinical_ct().image[0]), affine), folder / "scans" / "ct.nii.gz")
        conf = {"state": str(folder / "state"), "device": str(device)}
        with monai_label(folder / "server", str(folder / "scans"), port, conf) as url:
            for what, model, options in (
                ("first prompt", "tumor", {"prompt": "liver tumor"}),
                ("next prompt", "tumor", {"prompt": "renal cyst"}),
                ("first click", "tumor_refine", {"foreground": [[170, 140, 64]]}),
                ("next click", "tumor_refine", {"foreground": [[170, 140, 64]], "background": [[100, 140, 64]]}),
            ):
                started = time.perf_counter()
                asked = {"params": json.dumps({**options, "result_extension": ".nrrd"})}
                requests.post(f"{url}/infer/{model}?image=ct&output=image", data=asked, timeout=600).raise_for_status()
                rows.append((what, f"{time.perf_counter() - started:.1f}"))
    return ("256 x 256 x 128 CT through the server", "seconds"), rows


def show(figures: Figures) -> str:
    """Print as a table; returns it as Markdown."""
    headings, rows = figures
    table = Table(*headings)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ("---", "---"), *rows)) + "\n"


def main(
    phantoms: Annotated[bool, typer.Option("--phantoms", help="phantoms a second")] = False,
    segment: Annotated[bool, typer.Option("--segment", help="a clinical-sized scan")] = False,
    server: Annotated[bool, typer.Option("--server", help="the same through the MONAI Label server")] = False,
    maisi: Annotated[bool, typer.Option("--maisi", help="DiffuGTS at MAISI's size, with random weights")] = False,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = AUTO,
    compile: Annotated[bool, typer.Option("--compile", help="for --maisi: torch.compile the U-Net")] = False,
    method: Annotated[str, typer.Option(help=f"for --segment: {', '.join(METHODS)}; several with commas")] = "malenia",
    edge: Annotated[int, typer.Option(help="voxels of a phantom's edge")] = 64,
    spacing: Annotated[float, typer.Option(help="mm")] = 3.0,
    count: Annotated[int, typer.Option(help="phantoms a region")] = 8,
    out: Annotated[Path | None, typer.Option(help="Markdown file for the tables")] = None,
) -> None:
    """Measure speed; phantoms, a scan and the server unless parts are chosen."""
    unknown = [name for one in method.split(",") for name in asked_in_turn(one) if name not in METHODS]
    if unknown:
        console.print(f"[red]there is no method {unknown[0]!r}: choose among {', '.join(METHODS)}")
        raise typer.Exit(2)
    try:
        on = device_of(device)
    except ValueError as error:
        console.print(f"[red]{error}")
        raise typer.Exit(2) from None
    if maisi and on == CPU and (compile or device == AUTO):
        console.print("[red]--maisi needs a GPU, or --device cpu, without --compile, and much patience")
        raise typer.Exit(2)
    chosen = {"phantoms": phantoms, "segment": segment, "server": server}
    if not any(chosen.values()) and not maisi:
        chosen = dict.fromkeys(chosen, True)
    pages = []
    if chosen["phantoms"]:
        pages.append(show(phantom_rates(edge, spacing, count, on)))
    if chosen["segment"]:
        pages.append(show(segment_times(method.split(","), on)))
    if chosen["server"]:
        pages.append(show(server_times(on)))
    if maisi:
        pages.append(show(maisi_times(on, compile)))
    if out is not None:
        head = f"# Speed\n\nWritten by `scripts/benchmark.py` on {where(on)} ({platform.machine()}).\n"
        write_atomically(out, lambda path: path.write_text("\n".join([head, *pages])))


if __name__ == "__main__":
    typer.run(main)
