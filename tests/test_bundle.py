"""The bundle as MONAI's tools and MONAI Label's stock app see it: offline, copied alone, from any folder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import processes
import pytest
import requests
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, verify_metadata, verify_net_in_out
from servers import serving

import zerotumor
from zerotumor.in_turn import IN_TURN
from zerotumor.malenia.dense import DenseMalenia
from zerotumor.phantom import generate
from zerotumor.pipeline import segment_scan
from zerotumor.segmenter import load
from zerotumor.training import warm_start
from zerotumor.volumes import read_scan

ROOT = Path(__file__).resolve().parents[1]
RESOURCES = Path(__file__).parent / "resources"
TINY = ["--network_config::channels", "[4,4,4,4,4]", "--network_config::mask_channels", "2",
        "--network_config::dim", "8", "--network_config::tokens", "3", "--network_config::patch", "32"]  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """The bundle folder, copied alone to a place where nothing else of the repository is."""
    target = tmp_path_factory.mktemp("elsewhere") / "zerotumor_bundle"
    shutil.copytree(ROOT / "bundle", target, ignore=shutil.ignore_patterns("runs", "__pycache__"))
    return target


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """A folder with one phantom CT."""
    folder = tmp_path_factory.mktemp("scans")
    phantom = generate(
        9_200_000, category="kidney cyst", modality="CT", difficulty=0.0, shape=(40, 40, 32), spacing=4.0
    )
    nib.save(nib.Nifti1Image(phantom.image[0].numpy(), np.diag([-4.0, -4.0, 4.0, 1.0])), folder / "scan.nii.gz")
    return folder


def run(
    bundle: Path, configs: list[str], *arguments: str, launcher: tuple[str, ...] = (), fails: bool = False
) -> str:  # fmt: skip
    """`monai.bundle run` in a process of its own, from a folder that is not the bundle's; what it says.

    With a `launcher` (what stands before `monai.bundle`) it is a command as users give it, without one a fork.
    """
    files = [str(bundle / "configs" / name) for name in configs]
    arguments = ("run", "--config_file", str(files), "--bundle_root", str(bundle), *arguments)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if launcher:
        done = subprocess.run(
            [sys.executable, *launcher, "monai.bundle", *arguments], cwd=bundle.parent, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    else:
        done = processes.run("monai.bundle", arguments, bundle.parent, environment)
    assert (done.returncode != 0) == fails, done.stdout[-6000:]
    return done.stdout


def test_metadata_keeps_the_schema(bundle, tmp_path):
    schema = shutil.copy(RESOURCES / "meta_schema_20240725.json", tmp_path / "schema.json")
    verify_metadata(meta_file=str(bundle / "configs/metadata.json"), filepath=str(schema))
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"] and metadata["version"] == zerotumor.__version__


@pytest.mark.parametrize("config, kind", [("inference.yaml", "infer"), ("train.yaml", "train")])
def test_all_properties_are_there(bundle, tmp_path, config, kind):
    workflow = ConfigWorkflow(
        str(bundle / "configs" / config), meta_file=str(bundle / "configs/metadata.json"), logging_file=False,
        workflow_type=kind, bundle_root=str(bundle), output_dir=str(tmp_path),
    )  # fmt: skip
    workflow.initialize()
    assert workflow.check_properties() == []


def test_network_takes_and_gives_what_metadata_says(bundle):
    verify_net_in_out(
        "network_def", config_file=str(bundle / "configs/inference.yaml"),
        meta_file=str(bundle / "configs/metadata.json"), bundle_root=str(bundle),
    )  # fmt: skip


def test_shipped_configuration_is_that_of_the_weights(bundle):
    record = json.loads((bundle / "models/model.json").read_text())
    workflow = ConfigWorkflow(
        str(bundle / "configs/inference.yaml"), meta_file=str(bundle / "configs/metadata.json"), logging_file=False,
        workflow_type="infer", bundle_root=str(bundle),
    )  # fmt: skip
    assert workflow.parser.get("network_config") == record["config"]
    shape = workflow.parser.get("network_config")["patch"]
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [shape] * 3
    assert (bundle / "models/model.pt").stat().st_size < 20e6


def test_trains_resumes_and_exports(bundle, tmp_path):
    sizes = ["--epoch_length", "2", "--val_interval", "1", "--train_count", "8", "--val_count", "2", "--workers", "0",
             "--batch_size", "2", "--output_dir", str(tmp_path / "run")]  # fmt: skip
    run(bundle, ["train.yaml"], *TINY, *sizes, "--max_epochs", "1")
    first = torch.load(tmp_path / "run/checkpoint_epoch=1.pt", weights_only=True)
    log = run(bundle, ["train.yaml"], *TINY, *sizes, "--max_epochs", "2")
    assert "Epoch: 2/2, Iter: 2/2" in log and "Epoch: 1/2, Iter: 1/2" not in log
    second = torch.load(tmp_path / "run/checkpoint_epoch=2.pt", weights_only=True)
    assert second["trainer"]["iteration"] == 4 and first["trainer"]["iteration"] == 2
    model = load("malenia", tmp_path / "run")
    assert torch.isfinite(model(torch.rand(1, 2, 32, 32, 32))).all()
    assert not model.mirrored  # as nothing was in training
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


def test_all_methods_go_on_from_the_first_stage(bundle, tmp_path):
    """Its weights are Malenia's; its checkpoint has the organs that ZePT begins with."""
    sizes = ["--epoch_length", "2", "--val_interval", "1", "--train_count", "4", "--val_count", "2", "--workers", "0",
             "--batch_size", "2", "--dataset_dir", str(tmp_path / "phantoms"), "--network_config::fine_channels", "4",
             "--max_epochs", "1"]  # fmt: skip
    dense, zept = tmp_path / "dense", tmp_path / "zept"
    run(bundle, ["train.yaml", "dense_train.yaml"], *TINY, *sizes, "--part", "16", "--output_dir", str(dense))
    again = DenseMalenia(load("malenia", dense))
    fresh = warm_start(again, dense / "model.pt", {"": "method."})
    assert set(fresh) == {f"organs.{name}.{kind}" for name in ("f1", "f2", "f4") for kind in ("weight", "bias")}
    assert warm_start(again, dense / "best.pt") == []
    run(bundle, ["train.yaml", "zept.yaml", "zept_train.yaml"], *sizes, *TINY[:4], "--network_config::patch", "32",
        "--network_config::width", "8", "--network_config::heads", "2", "--output_dir", str(zept), "--learning_rate", "0.0",
        "--pretrained", str(dense / "best.pt"), "--renamed", "{'method.': ''}",
        "--organ_layer", str(dense / "best.pt"))  # fmt: skip
    begun = torch.load(zept / "checkpoint_epoch=1.pt", weights_only=True)["model"]
    assert torch.equal(again.method.backbone.fine.conv.weight, begun["backbone.fine.conv.weight"])
    assert torch.equal(again.organs["f4"].bias[1:], begun["offsets.organ"][:-1])


@pytest.mark.parametrize("config", ["train", "train_refine", "diffusion_autoencoder", "diffusion_unet"])
def test_a_run_that_goes_on_draws_other_samples_than_it_began_with(config, tmp_path):
    def seed_of_run() -> int:
        parser = ConfigParser(ConfigParser.load_config_file(ROOT / "bundle" / "configs" / f"{config}.yaml"))
        parser.update({"output_dir": str(tmp_path), "seed": 5})
        return parser.get_parsed_content("run_seed")

    assert seed_of_run() == 5000  # a run of seed 6 must not come upon it ten epochs earlier
    for epoch in (9, 10):
        torch.save({}, tmp_path / f"checkpoint_epoch={epoch}.pt")
    assert seed_of_run() == 5010


def test_trains_on_scans_and_leaves_unseen_categories_out(bundle, tmp_path):
    folder, records = tmp_path / "scans", []
    folder.mkdir()
    for k in range(3):
        phantom = generate(k, category="kidney tumor", modality="CT", difficulty=0.0, shape=(36, 36, 36), spacing=4.0)
        labels = torch.isin(phantom.organs, torch.tensor([2, 3], dtype=torch.uint8)).to(torch.uint8)
        labels[phantom.lesions > 0] = 2
        for name, values in (("image", phantom.image), ("label", labels)):
            nib.save(nib.Nifti1Image(values[0].numpy(), np.diag([4.0, 4.0, 4.0, 1.0])), folder / f"{name}{k}.nii.gz")
        records.append(
            {"image": f"image{k}.nii.gz", "label": f"label{k}.nii.gz", "labels": {"1": "kidney", "2": "kidney tumor"}}
        )
    unseen = records[2] | {"image": "gone.nii.gz", "labels": {"2": "pancreatic tumor"}}
    (folder / "dataset.json").write_text(json.dumps({"training": [*records, unseen], "validation": records[:1]}))
    run(bundle, ["train.yaml", "train_scans.yaml"], *TINY, "--epoch_length", "1", "--val_interval", "1",
        "--max_epochs", "1", "--workers", "0", "--batch_size", "2", "--scans_dir", str(folder),
        "--output_dir", str(tmp_path / "run"))  # fmt: skip
    assert (tmp_path / "run/model.pt").is_file() and (tmp_path / "run/best.pt").is_file()
    trained = json.loads((tmp_path / "run/model.json").read_text())["trained"]
    assert trained["scans"] == ["image0", "image1", "image2"] and trained["phantoms"] is False


def test_trains_on_two_processes(bundle, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")
    run(bundle, ["train.yaml", "multi_gpu_train.yaml"], *TINY, "--epoch_length", "1", "--val_interval", "1",
        "--max_epochs", "1", "--train_count", "4", "--val_count", "2", "--workers", "0", "--batch_size", "1",
        "--output_dir", str(tmp_path / "run"), launcher=launcher)  # fmt: skip
    assert (tmp_path / "run/model.pt").is_file()


def test_evaluates_the_shipped_weights(bundle, tmp_path):
    log = run(bundle, ["train.yaml", "evaluate.yaml"], "--val_count", "4", "--output_dir", str(tmp_path / "run"),
              launcher=("-m",))  # fmt: skip
    assert "val_mean_dice" in log and (tmp_path / "run/val_mean_dice_raw.csv").is_file()


def test_inference_keeps_scans_of_one_name_apart_and_the_whole_prompt(bundle, scans, tmp_path):
    folder = shutil.copytree(scans, tmp_path / "scans")
    image = nib.load(folder / "scan.nii.gz")
    header = {"space": "RAS", "space directions": image.affine[:3, :3].T, "space origin": image.affine[:3, 3]}
    nrrd.write(str(folder / "scan.nrrd"), np.asarray(image.dataobj), header)
    run(bundle, ["inference.yaml"], "--dataset_dir", str(folder), "--output_dir", str(tmp_path / "out"),
        "--displayable_configs::prompt", "cyst,kidney")  # fmt: skip
    masks = [nib.load(tmp_path / f"out/{name}/{name}_mask.nii.gz") for name in ("scan", "scan-nrrd")]
    result = segment_scan(load("malenia", bundle / "models"), read_scan(folder / "scan.nii.gz"), "cyst, kidney")
    own = result.masks[0].numpy() > 0
    assert own.any(), "a large clear cyst should be found"
    for mask in masks:
        found = mask.get_fdata() > 0
        assert np.allclose(mask.affine, image.affine) and 2 * (found & own).sum() > 0.9 * (found.sum() + own.sum())


def test_two_methods_in_turn_answer_as_they_do_in_the_command_line(bundle, scans, tmp_path):
    scan = next(scans.glob("*.nii.gz"))
    prompts = "kidney cyst; soft tissue sarcoma"  # the second method is asked for the latter
    run(bundle, ["inference.yaml", "in_turn.yaml"], "--dataset_dir", str(scans), "--output_dir", str(tmp_path / "out"),
        "--displayable_configs::prompt", prompts)  # fmt: skip
    stem = scan.name.removesuffix(".nii.gz")
    labels = nib.load(tmp_path / f"out/{stem}/{stem}_mask.nii.gz").get_fdata()
    result = segment_scan(load(IN_TURN, bundle / "models"), read_scan(scan), prompts)
    found, own = labels > 0, result.masks.numpy().any(0)
    assert own.any() and 2 * (found & own).sum() > 0.9 * (found.sum() + own.sum())


def test_inference_ends_with_a_sentence(bundle, scans, tmp_path):
    image = nib.load(scans / "scan.nii.gz")
    image = nib.Nifti1Image(np.asarray(image.dataobj), None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    for name, words in (("empty", "holds no scan"), ("bad", "has no affine")):
        folder = tmp_path / name
        folder.mkdir()
        if name == "bad":
            nib.save(image, folder / "scan.nii.gz")
        log = run(
            bundle, ["inference.yaml"], "--dataset_dir", str(folder), "--output_dir", str(tmp_path / "out"), fails=True
        )
        last = log.strip().splitlines()[-1]
        assert last.startswith("Error: ") and words in last
    assert not list((tmp_path / "out").rglob("*mask*"))


def test_a_bad_scan_does_not_stop_the_others(bundle, scans, tmp_path):
    folder = shutil.copytree(scans, tmp_path / "scans")
    (folder / "a.nii.gz").write_bytes(b"")
    log = run(
        bundle, ["inference.yaml"], "--dataset_dir", str(folder), "--output_dir", str(tmp_path / "out"), fails=True
    )
    assert (tmp_path / "out/scan/scan_mask.nii.gz").is_file()
    last = log.strip().splitlines()[-1]
    assert last.startswith("Error: 1 of 2 scans were left out: ") and "a.nii.gz is empty" in last


@pytest.fixture
def stock_server(bundle, scans, tmp_path):
    """MONAI Label's own monaibundle app with this bundle in it."""
    stock = RESOURCES / "serve_stock.py"
    done = processes.run(
        str(stock), ["apps", "--download", "--name", "monaibundle", "--output", str(tmp_path)], tmp_path, os.environ
    )
    assert done.returncode == 0, done.stdout[-4000:]
    app = tmp_path / "monaibundle"
    shutil.copytree(bundle, app / "model" / "zerotumor_segmentation")
    studies = shutil.copytree(scans, tmp_path / "studies")
    with serving(
        tmp_path, app, studies, str(stock), models="zerotumor_segmentation", zoo_source="local", sam2="false"
    ) as url:
        yield url


def test_stock_monai_label_gives_the_command_lines_mask(bundle, scans, stock_server, tmp_path):
    model = requests.get(f"{stock_server}/info/").json()["models"]["zerotumor_segmentation"]
    assert model["config"]["prompt"] == "tumor"
    sizes = []
    for prompt in ("renal cyst", "tumor"):
        answer = requests.post(
            f"{stock_server}/infer/zerotumor_segmentation?image=scan&output=image",
            data={"params": json.dumps({"prompt": prompt, "modality": "CT", "result_extension": ".nii.gz"})},
        )
        assert answer.ok, (tmp_path / "server.log").read_text()[-4000:]
        (tmp_path / "served.nii.gz").write_bytes(answer.content)
        run(bundle, ["inference.yaml"], "--dataset_dir", str(scans), "--output_dir", str(tmp_path / "out"),
            "--displayable_configs::prompt", prompt, "--displayable_configs::modality", "CT")  # fmt: skip
        served, own = nib.load(tmp_path / "served.nii.gz"), nib.load(tmp_path / "out/scan/scan_mask.nii.gz")
        assert np.allclose(served.affine, own.affine, atol=1e-3)
        assert np.array_equal(served.get_fdata(), own.get_fdata())
        sizes.append(int((own.get_fdata() > 0).sum()))
    assert max(sizes) > 0, "a large clear cyst should be found by its name or as any tumor"
