"""The two stages of training, by the real configs, and resuming."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import run as run_bundle

from zerotumor.diffugts.criterion import DiffuGTSLoss
from zerotumor.diffugts.samples import MakeResidual, RandFlipAll, cache_folder, prepare_residual
from zerotumor.phantom import generate
from zerotumor.segmenter import load

ROOT = Path(__file__).resolve().parents[2]
SHORT = {"train_count": 4, "val_count": 2, "epoch_length": 2, "val_interval": 1, "batch_size": 2, "workers": 0}


def test_a_few_steps_of_the_attention_stage_lower_the_loss(make, batch):
    model, loss = make().train(), DiffuGTSLoss()
    optimizer = torch.optim.AdamW(model.begin("attention").trained(), 5e-3)
    image, truth, _, keywords = batch
    course = []
    for _ in range(10):
        value = loss(model(image, **keywords), truth)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        course.append(float(value))
    assert course[-1] < 0.9 * course[0]


@pytest.fixture
def residuals(make, sample):
    """A model and one inpainted patch as a batch."""
    model = make(theta=0.0)
    return model, {k: v[None] for k, v in MakeResidual(model)(sample).items()}


def test_a_few_steps_of_the_residual_stage_lower_the_loss_and_leave_the_attention_alone(residuals):
    model, batch = residuals
    before = {k: v.clone() for k, v in model.attention.state_dict().items()}
    optimizer = torch.optim.AdamW(model.begin("residual").trained(), 1e-2)
    image, cached, _, keywords = prepare_residual(batch, "cpu")
    loss, course = DiffuGTSLoss(), []
    for _ in range(10):
        value = loss(model(image, **keywords), cached)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        course.append(float(value))
    assert course[-1] < 0.95 * course[0]
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None} == {"fusion", "feature"}
    assert all(torch.equal(v, before[k]) for k, v in model.attention.state_dict().items())


def test_an_inpainted_patch_is_made_alike_again_and_flips_as_one(make, sample):
    model = make(theta=0.0)
    one, again = MakeResidual(model)(sample), MakeResidual(model)(sample)
    assert all(torch.equal(one[k], again[k]) for k in one)
    flip = RandFlipAll()
    drawn = [flip.set_random_state(s)(one) for s in range(6)]
    flipped = next(d for d in drawn if not torch.equal(d["image"], one["image"]))
    assert torch.equal(flipped["texts"], one["texts"])
    assert all(torch.equal(flipped[k].flip(-3), one[k]) for k in one if k != "texts")


def test_holes_are_the_attentions_the_truths_and_blobs(make, sample):
    model = make(theta=0.0)
    transform = MakeResidual(model)
    masks = torch.zeros(1, 1, 16, 16, 16, dtype=torch.bool)
    masks[..., 4:7, 4:7, 4:7] = True
    logits = torch.full((1, 1, 16, 16, 16), -4.0)
    logits[..., 10:13, 10:13, 10:13] = 4.0
    seen = {"attention": 0, "truth": 0, "blob": 0}
    for seed in range(30):
        hole = transform.holes(logits, masks, np.random.RandomState(seed))
        grown = (3 + 2 * model.steps) ** 3
        kind = "blob"
        if hole.sum() == grown and hole[0, 0, 5, 5, 5] != hole[0, 0, 11, 11, 11]:
            kind = "truth" if hole[0, 0, 5, 5, 5] else "attention"
        seen[kind] += 1
    assert min(seen.values()) > 3


def test_inpainted_patches_of_other_weights_are_not_taken(tmp_path):
    for name, content in (("a", b"1"), ("b", b"2")):
        (tmp_path / name).write_bytes(content)
    a, b = (cache_folder(str(tmp_path), ["holes", "fast"], [str(tmp_path / n), None]) for n in ("a", "b"))
    assert a != b and a.startswith(str(tmp_path)) and a.endswith("fresh")


def train(stages, tiny, **arguments):
    """`monai.bundle run` on the configs of a stage."""
    bundle = ROOT / "bundle"
    names = ("train", "diffugts", *(f"diffugts_{stage}" for stage in stages.split()))
    files = [str(bundle / "configs" / f"{n}.yaml") for n in names]
    small = {f"network_config::{k}": v for k, v in tiny.items()}
    run_bundle(config_file=files, bundle_root=str(bundle), logging_file=False, **{**SHORT, **small, **arguments})


def test_both_stages_by_configs_and_resuming(tmp_path, config, prior_file, monkeypatch):
    first, second = tmp_path / "one", tmp_path / "two"
    monkeypatch.chdir(tmp_path)
    prior = {"prior_weights": str(prior_file)}
    train("attention", config, output_dir=str(first), max_epochs=1, **prior)
    made = sorted(os.listdir(first))
    train("attention", config, output_dir=str(first), max_epochs=2, **prior)
    state = torch.load(first / "checkpoint_epoch=2.pt", weights_only=True)
    assert state["trainer"]["iteration"] == 4 and "checkpoint_epoch=1.pt" in made
    assert not [k for k in state["model"] if "prior" in k]

    pretrained = {"pretrained": str(first / "best.pt"), "quality": "fast", **prior}
    train("residual", config, output_dir=str(second), max_epochs=1, **pretrained)
    train("residual", config, output_dir=str(second), max_epochs=2, **pretrained)
    later = torch.load(second / "checkpoint_epoch=2.pt", weights_only=True)
    assert later["trainer"]["iteration"] == 4
    kept = torch.load(first / "best.pt", weights_only=True)
    assert all(torch.equal(later["model"][k], kept[k]) for k in kept if k.startswith("attention."))
    assert not torch.equal(later["model"]["fusion.net.4.bias"], kept["fusion.net.4.bias"])

    model = load("diffugts", second / "model.pt")
    assert model.prior_sha256 != "untrained" and (second / "diffusion.pt").is_file()
    assert torch.isfinite(model(torch.rand(1, 2, 16, 16, 16))).all()


def test_the_first_stage_on_kept_features(tmp_path, config, prior_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"output_dir": str(tmp_path / "run"), "prior_weights": str(prior_file), "looks": 2}
    train("attention taps", config | {"taps": "both"}, max_epochs=1, **given)
    (kept,) = (tmp_path / "run").glob("taps_*")
    made = {file.name: file.stat().st_mtime_ns for file in kept.iterdir()}
    assert 0 < len(made) <= 2 * SHORT["train_count"]
    train("attention taps", config | {"taps": "both"}, max_epochs=8, **given)
    later = {file.name: file.stat().st_mtime_ns for file in kept.iterdir()}
    assert len(later) > len(made) and all(later[name] == made[name] for name in made)
    assert torch.load(tmp_path / "run/checkpoint_epoch=8.pt", weights_only=True)["trainer"]["iteration"] == 16


def test_the_first_stage_on_scans(tmp_path, config, prior_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = []
    for k in range(2):
        phantom = generate(k, category="kidney tumor", modality="CT", difficulty=0.0, shape=(24,) * 3, spacing=4.0)
        labels = torch.isin(phantom.organs, torch.tensor([2, 3], dtype=torch.uint8)).to(torch.uint8)
        labels[phantom.lesions > 0] = 2
        for name, values in (("image", phantom.image), ("label", labels)):
            nib.save(nib.Nifti1Image(values[0].numpy(), np.diag([4.0, 4.0, 4.0, 1.0])), tmp_path / f"{name}{k}.nii.gz")
        names = {"1": "kidney", "2": "kidney tumor"}
        records.append({"image": f"image{k}.nii.gz", "label": f"label{k}.nii.gz", "labels": names, "modality": "CT"})
    (tmp_path / "dataset.json").write_text(json.dumps({"training": records, "validation": records}))
    train("attention scans", config, output_dir=str(tmp_path / "run"), scans_dir=str(tmp_path), max_epochs=1,
          prior_weights=str(prior_file), batch_size=1)  # fmt: skip
    assert torch.load(tmp_path / "run/checkpoint_epoch=1.pt", weights_only=True)["trainer"]["iteration"] == 2
