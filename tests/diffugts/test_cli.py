"""Volumes and pictures from the command lines."""

import json

import evaluate
import evaluate_inpainting
import nibabel as nib
import numpy as np
import pytest
import segment
import torch
import typer
from make_files import ct_values, write_nifti
from monai.data import MetaTensor
from PIL import Image
from typer.testing import CliRunner

from zerotumor.diffugts import DiffuGTS
from zerotumor.report import overlay
from zerotumor.segmenter import build, save, sha256
from zerotumor.text import load_text_encoder

ZEPT = {"channels": [4, 4, 8, 8, 8], "mask_channels": 4, "width": 8, "heads": 2, "patch": 32}
apps = {name: typer.Typer() for name in ("segment", "evaluate", "evaluate_inpainting")}
for name, module in (("segment", segment), ("evaluate", evaluate), ("evaluate_inpainting", evaluate_inpainting)):
    apps[name].command()(module.main)


def run(name, *arguments, code=0):
    result = CliRunner().invoke(apps[name], [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def zept(tmp_path_factory):
    path = tmp_path_factory.mktemp("zept") / "zept.pt"
    model, encoder = build("zept", ZEPT), load_text_encoder()
    model.bank.fill(encoder)
    save(model, "zept", path, config=ZEPT, encoder=encoder)
    return path


def test_pseudo_healthy_residual_and_attention_become_files(tmp_path, weights):
    scan, out = write_nifti(tmp_path / "a.nii.gz", ct_values()), tmp_path / "out"
    common = (scan, "--prompt", "tumor", "--method", "diffugts", "--weights", weights, "--out", out)
    wanted = ("--save", "pseudo-healthy,residual,attention", "--quality", "fast")
    run("segment", *common, *wanted)
    original = nib.load(scan)
    for name in ("pseudo-healthy", "residual", "attention"):
        volume = nib.load(out / f"a_{name}.nii.gz")
        assert volume.shape == original.shape and np.allclose(volume.affine, original.affine)
        assert volume.get_data_dtype() == np.float32
    residual, healthy = (nib.load(out / f"a_{n}.nii.gz").get_fdata() for n in ("residual", "pseudo-healthy"))
    same = healthy == original.get_fdata()
    assert same.any() and residual.min() >= 0
    report = json.loads((out / "a.json").read_text())
    assert report["request"]["save"] == ["pseudo_healthy", "residual", "attention"]
    with Image.open(out / "a.png") as picture:
        assert picture.height > 600  # the second row
    stamp = (out / "a_residual.nii.gz").stat().st_mtime_ns
    run("segment", *common, *wanted)
    assert (out / "a_residual.nii.gz").stat().st_mtime_ns == stamp
    (out / "a_residual.nii.gz").unlink()
    run("segment", *common, *wanted)
    assert (out / "a_residual.nii.gz").is_file()


def test_zept_has_its_anomaly(tmp_path, zept):
    scan, out = write_nifti(tmp_path / "a.nii.gz", ct_values()), tmp_path / "out"
    run("segment", scan, "--prompt", "tumor", "--method", "zept", "--weights", zept, "--out", out, "--save", "anomaly")
    assert nib.load(out / "a_anomaly.nii.gz").get_fdata().max() <= 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--save", "residual"], "zept has no map 'residual' (it has anomaly, uncertainty)"),
        (["--quality", "best"], "ZePT has no quality 'best': leave it out"),
        (["--compile"], "ZePT has nothing that is worth compiling: leave that out"),
    ],
)
def test_what_a_method_does_not_have_gets_a_sentence(tmp_path, zept, arguments, words):
    scan = write_nifti(tmp_path / "a.nii.gz", ct_values())
    given = (scan, "--prompt", "tumor", "--method", "zept", "--weights", zept, "--out", tmp_path / "out")
    assert words in run("segment", *given, *arguments, code=2) and not (tmp_path / "out").exists()


def test_qualities_have_names_and_compiling_is_for_gpus(tmp_path, weights):
    scan = write_nifti(tmp_path / "a.nii.gz", ct_values())
    given = (scan, "--prompt", "tumor", "--method", "diffugts", "--weights", weights, "--out", tmp_path / "out")
    assert "choose one of fast, standard, best" in run("segment", *given, "--quality", "superb", code=2)
    assert "compiling gains nothing on a CPU" in run("segment", *given, "--compile", code=2)


def test_the_row_is_drawn_only_with_its_maps(tmp_path):
    scan = MetaTensor(torch.from_numpy(ct_values()[None].astype(np.float32)), affine=np.diag([3.0, 3, 3, 1]))
    masks, report = torch.zeros(1, *scan.shape[1:]), {"modality": "CT", "prompts": []}
    masks[:, 5:9, 5:9, 5:9] = 1
    maps = {n: torch.rand(scan.shape) for n in ("attention", "pseudo_healthy", "residual")}
    heights = []
    for given in (None, {"anomaly": torch.rand(scan.shape)}, maps):
        overlay(scan, masks, report, tmp_path / "p.png", maps=given)
        with Image.open(tmp_path / "p.png") as picture:
            heights.append(picture.height)
    assert heights[0] < heights[2] < heights[1]  # one map in three views; three maps in one row of small pictures


def test_the_ablation_is_evaluated_by_names(tmp_path, weights, monkeypatch):
    monkeypatch.setattr("zerotumor.cohorts.PHANTOM_SHAPE", (28, 28, 24))
    names = "diffugts:attention,diffugts:pixel,diffugts:feature,diffugts:fusion"
    out, drawn, own = tmp_path / "e.json", [], DiffuGTS.heal
    monkeypatch.setattr(DiffuGTS, "heal", lambda *a: drawn.append(a[2].sum().item()) or own(*a))
    run("evaluate", "--method", names, "--set", "phantom", "--limit", "1", "--weights", weights, "--out", out)
    assert {r["method"] for r in json.loads(out.read_text())["records"]} == set(names.split(","))
    assert len(drawn) == 1  # once for three rows that need it
    assert "has no answer 'half'" in run(
        "evaluate", "--method", "diffugts:half", "--weights", weights, "--out", out, code=2
    )


def test_inpainting_is_measured_against_simple_fills(tmp_path, weights):
    out = tmp_path / "i.json"
    run("evaluate_inpainting", "--weights", weights, "--count", "2", "--quality", "fast", "--out", out)
    records = json.loads(out.read_text())["records"]
    drawn = "diffusion from neighbors, fast"
    assert {r["fill"] for r in records} == {"organ mean", "neighbors", "autoencoder", drawn, "lesion left"}
    assert all(r["mae"] <= r["rmse"] + 1e-9 and -1 <= r["ssim"] <= 1 for r in records)
    assert "no quality 'x'" in run("evaluate_inpainting", "--quality", "x", "--out", out, code=2)
    assert "no beginning 'x'" in run("evaluate_inpainting", "--begin", "x", "--out", out, code=2)


def test_a_prior_is_measured_without_diffugts_and_put_into_a_page(tmp_path, weights):
    out, page, prior = tmp_path / "i.json", tmp_path / "page.md", weights.parent / "diffusion.pt"
    page.write_text("a\n<!-- inpainting:begin -->\nold\n<!-- inpainting:end -->\nb\n")
    arguments = ("--count", "1", "--quality", "fast", "--begin", "neighbors,noise", "--out", out, "--page", page)
    run("evaluate_inpainting", "--prior", prior, *arguments, "--picture", tmp_path / "fills.png")
    with Image.open(tmp_path / "fills.png") as picture:
        assert picture.width > 4 * picture.height > 0  # one row of six
    saved, text = json.loads(out.read_text()), page.read_text()
    fills = {r["fill"]: r["mae"] for r in saved["records"]}
    assert fills["diffusion from neighbors, fast"] != fills["diffusion from noise, fast"]
    assert saved["prior_sha256"] == sha256(prior) and saved["prior_sha256"] in text
    assert text.startswith("a\n") and text.endswith("b\n") and "old" not in text
    assert f"| neighbors | 1 | {fills['neighbors']:.1f} " in text
    missing = run("evaluate_inpainting", "--prior", tmp_path / "none.pt", *arguments, code=2)
    assert "none.pt" in missing
