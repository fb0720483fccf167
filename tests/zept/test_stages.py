"""Two stages on tiny phantoms: the loss falls, a stopped run goes on, the second stage starts from the first."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import processes
import pytest
import torch

from zerotumor.phantom.datalist import phantom_datalist
from zerotumor.phantom.world import category_of, generate
from zerotumor.segmenter import build, load
from zerotumor.training import GeneratePhantom, RandMirror, warm_start
from zerotumor.zept.classes import ENTRIES
from zerotumor.zept.criterion import ZeptLoss
from zerotumor.zept.samples import COMPLETE, KINDS, LoadPartial, Phantoms, ValidationMask, collate, prepare_batch

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--network_config::channels", "[4,4,8,8,8]", "--network_config::mask_channels", "4", "--network_config::width", "8",
        "--network_config::heads", "2", "--network_config::patch", "32"]  # fmt: skip
SHORT = ["--train_count", "4", "--val_count", "2", "--epoch_length", "2", "--val_interval", "1", "--batch_size", "2",
         "--workers", "0"]  # fmt: skip


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    records = [{"seed": k, "difficulty": 0.0, "category": c} for k, c in enumerate(("kidney cyst", "liver tumor"))]
    return Phantoms(records, GeneratePhantom((32,) * 3, 6.0), cache_dir=tmp_path_factory.mktemp("phantoms"))


def test_phantoms_know_their_kinds(phantoms, tmp_path):
    for record, sample in zip(phantoms.data, phantoms, strict=True):
        assert {KINDS[k] for k in sample["kinds"]} == {record["category"]} and torch.equal(
            sample["annotated"], COMPLETE
        )
        assert len(sample["kinds"]) == len(sample["values"])


def test_the_kind_of_a_training_phantom_follows_from_its_seed(tmp_path):
    """Liver lesions lie in the liver, abstract ones in imaginary organs, and healthy phantoms have none."""
    for record in phantom_datalist(4):
        phantom = generate(record["seed"], shape=(24,) * 3, spacing=8.0, difficulty=record["difficulty"])
        assert {r.category for r in phantom.records} <= {category_of(record["seed"])}


@pytest.mark.parametrize("stage", [1, 2])
def test_a_few_steps_lower_the_loss(make, phantoms, stage):
    model = make().train()
    model.begin(stage)
    batch, loss = collate(list(phantoms)), ZeptLoss()
    optimizer = torch.optim.AdamW(model.groups(5e-3))
    image, truth, _, keywords = prepare_batch(batch, "cpu", stage=stage)
    course = []
    for _ in range(8):
        value = loss(model(image, **keywords), truth)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        course.append(float(value))
    assert course[-1] < 0.9 * course[0]
    assert set(loss.last) == {"organ", "deep", "grouping", "choice"} | ({"tumor", "align"} if stage == 2 else set())


def test_the_first_stage_leaves_the_tumor_queries_alone(make, phantoms):
    model = make().train()
    image, truth, _, keywords = prepare_batch(collate(list(phantoms)), "cpu", stage=1)
    ZeptLoss()(model(image, **keywords), truth).backward()
    idle = (*model.refine.parameters(), *model.anomaly_head.parameters(), model.offsets.anomaly, model.offsets.tumor)
    assert all(p.grad is None for p in idle)
    assert model.fundamental.queries.grad.abs().sum() > 0


def test_the_second_stage_starts_from_what_organs_leave_over(make):
    model = make()
    model.begin(1)
    assert not torch.equal(model.anomaly_head.weight, model.organ_head.weight)
    model.begin(2)
    assert torch.equal(model.anomaly_head.weight, model.organ_head.weight)
    with torch.no_grad():
        model.anomaly_head.weight.add_(1)
    model.begin(2)  # going on is not starting again
    assert not torch.equal(model.anomaly_head.weight, model.organ_head.weight)
    with pytest.raises(ValueError, match="stages 1"):
        model.begin(3)


def test_the_second_stage_spares_the_backbone(make):
    model = make()
    backbone, rest, vectors = model.groups(1e-3, backbone=0.1)
    assert backbone["lr"] == pytest.approx(1e-4) and rest["lr"] == 1e-3 < vectors["lr"]
    assert len(backbone["params"]) + len(rest["params"]) + 1 == len(list(model.parameters()))
    assert vectors["params"][0] is model.offsets.vectors and len(make(offset="none").groups(1e-3)) == 2
    names = {id(p): n for n, p in model.named_parameters()}
    for group in (backbone, rest):  # a resumed run finds its optimizer's state by these places
        order = [names[id(p)] for p in group["params"]]
        assert order == [n for n in names.values() if n in set(order)]


def test_validation_masks(phantoms):
    sample = phantoms[1]
    organs, lesions = ValidationMask(stage=1)(sample)["label"], ValidationMask(stage=2)(sample)["label"]
    assert organs.shape == (32, 32, 32, 32) and organs.sum(0).max() == 1 and organs[0].sum() > 0
    assert torch.equal(lesions > 0, sample["lesions"] > 0)


def run(configs: str, *arguments: str) -> str:
    """`monai.bundle run` with configs by name, in a process of its own."""
    bundle = ROOT / "bundle"
    files = [str(bundle / "configs" / f"{name}.yaml") for name in configs.split()]
    arguments = ("run", "--config_file", str(files), "--bundle_root", str(bundle), *TINY, *arguments)
    done = processes.run("monai.bundle", arguments, ROOT, os.environ)
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def test_two_stages_and_inference_by_configs(tmp_path):
    first, second, train = tmp_path / "one", tmp_path / "two", "train zept zept_train"
    run(train, *SHORT, "--output_dir", str(first), "--max_epochs", "1")
    log = run(train, *SHORT, "--output_dir", str(first), "--max_epochs", "2")
    assert "Epoch: 2/2, Iter: 2/2" in log and "Epoch: 1/2, Iter: 1/2" not in log
    state = torch.load(first / "checkpoint_epoch=2.pt", weights_only=True)
    assert state["trainer"]["iteration"] == 4 and int(state["model"]["stage"]) == 1
    log = run(train, *SHORT, "--stage", "2", "--pretrained", str(first / "best.pt"), "--output_dir", str(second),
              "--max_epochs", "1", "--dataset_dir", str(first / "phantoms_32_4mm"))  # fmt: skip
    assert "fresh: none" in log and "align" in log
    model = load("zept", second / "model.pt")
    assert int(model.stage) == 2 and torch.isfinite(model(torch.rand(1, 2, 32, 32, 32))).all()

    phantom = generate(0, category="liver tumor", modality="CT", shape=(24,) * 3, spacing=6.0)
    (tmp_path / "scans").mkdir()
    nib.save(nib.Nifti1Image(phantom.image[0].numpy(), np.diag([-6.0, -6.0, 6.0, 1.0])), tmp_path / "scans/scan.nii.gz")
    run("inference zept", "--weights", str(second / "model.pt"), "--dataset_dir", str(tmp_path / "scans"),
        "--output_dir", str(tmp_path / "out"), "--displayable_configs::prompt", "splenic lesion; anomaly")  # fmt: skip
    mask = nib.load(tmp_path / "out/scan/scan_mask.nii.gz").get_fdata()
    assert mask.shape == (24, 24, 24) and set(np.unique(mask)) <= {0, 1, 2}


def test_scans_bring_what_their_set_annotates(tmp_path):
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[2:8, 2:8, 2:8], labels[4:6, 4:6, 4:6] = 1, 2
    image = np.random.default_rng(0).normal(0, 100, labels.shape).astype(np.float32) - 200
    image[[0, -1]] = -1000  # air on both sides: the middle of the body is known
    for name, values in (("image", image), ("label", labels)):
        nib.save(nib.Nifti1Image(values, np.diag([-4.0, -4.0, 4.0, 1.0])), tmp_path / f"{name}.nii.gz")
    record = {"image": str(tmp_path / "image.nii.gz"), "label": str(tmp_path / "label.nii.gz"), "modality": "CT"}
    sample = LoadPartial(4.0)({**record, "labels": {"1": "kidney", "2": "kidney tumor"}})
    assert [KINDS[k] for k in sample["kinds"]] == ["kidney tumor"]
    assert {e for e, there in zip(ENTRIES, sample["annotated"], strict=True) if there} == {
        "left kidney", "right kidney", "kidney tumor"
    }  # fmt: skip
    assert len(set(sample["organs"].unique().tolist()) & {2, 3}) == 1  # under the tumor too there is kidney
    assert "annotated" in RandMirror(prob=(1, 0, 0))(sample)


def test_a_backbone_starts_from_another_method(make, tmp_path):
    """Malenia's weights fit ZePT's backbone by name and shape, but for the last map, which is wider here."""
    config = {"channels": [4, 4, 8, 8, 8], "mask_channels": 2, "dim": 8, "tokens": 2, "heads": 2}
    other = build("malenia", config)
    torch.save(other.state_dict(), tmp_path / "model.pt")
    model = make()
    fresh = warm_start(model, tmp_path / "model.pt")
    assert [name for name in fresh if name.startswith("backbone.")] == [
        "backbone.sharpen.1.bias",
        "backbone.sharpen.1.weight",
    ]
    assert torch.equal(
        model.backbone.encoder[2].conv.unit0.conv.weight, other.backbone.encoder[2].conv.unit0.conv.weight
    )
