"""Which real scans a record of weights names."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from monai.bundle import ConfigParser

from zerotumor.trained_on import real_scans, together
from zerotumor.training import about_training

CONFIGS = Path(__file__).resolve().parents[1] / "bundle" / "configs"
BODY = {
    "seed": 3,
    "name": "example_ct",
    "image": "/data/healthy/example_ct.nii.gz",
    "label": "/data/healthy/map.nii.gz",
}
RUN = SimpleNamespace(state=SimpleNamespace(epoch=2, iteration=50))


def kits(folder, count):
    """Files of so many cases of KiTS23, as records."""
    files = [folder / f"case_0000{k}" / "imaging.nii.gz" for k in range(count)]
    for file in files:
        file.parent.mkdir(parents=True)
        file.touch()
    return [{"image": str(file), "label": {"1": "kidney"}} for file in files]


def test_names_come_from_records_or_from_files_and_never_say_where_these_lie(tmp_path):
    (tmp_path / "liver_1.nii.gz").touch()
    (tmp_path / "1.2.840.113").mkdir()
    alone = [{"image": str(tmp_path / name), "crop": k} for name in ("liver_1.nii.gz", "1.2.840.113") for k in range(2)]
    assert real_scans([{"seed": 5}, BODY, *alone]) == {
        "healthy_scans": {"example_ct"},
        "scans": {"liver_1", "1.2.840.113"},
    }
    assert real_scans(kits(tmp_path, 2)) == {"scans": {"case_00000/imaging", "case_00001/imaging"}}
    assert real_scans([{"seed": 5}]) == {} == together([{}])


def test_a_run_on_scans_alone_says_so(tmp_path):
    records = kits(tmp_path, 2)
    alone = about_training(RUN, None, records)
    assert alone["phantoms"] is False and alone["scans"] == ["case_00000/imaging", "case_00001/imaging"]
    assert "phantoms" not in about_training(RUN, None, [{"seed": 1}, *records]) and "phantoms" not in about_training(
        RUN
    )
    (tmp_path / "model.json").write_text(json.dumps({"trained": {"steps": 7, "healthy_scans": ["a"]}}))
    further = about_training(RUN, tmp_path / "best.pt", records)
    assert "phantoms" not in further and further["healthy_scans"] == ["a"]


def test_scans_of_a_frozen_part_count_as_its_networks(tmp_path):
    (tmp_path / "diffusion.json").write_text(json.dumps({"trained": {"steps": 7, "scans": ["b"]}}))
    trained = about_training(RUN, None, [{"seed": 1}], [tmp_path / "diffusion.pt", tmp_path / "elsewhere" / "none.pt"])
    assert trained["scans"] == ["b"] and "earlier_steps" not in trained


@pytest.mark.parametrize(
    "files",
    [
        ("train",), ("train", "dense_train"), ("train", "train_scans"), ("train", "multi_gpu_train"),
        ("train", "closed_set_train"),
        ("train", "zept", "zept_train"), ("train", "zept", "zept_train", "zept_scans"),
        ("train", "diffugts", "diffugts_attention"), ("train", "diffugts", "diffugts_attention", "diffugts_scans"),
        ("train", "diffugts", "diffugts_attention", "diffugts_taps"),
        ("train", "diffugts", "diffugts_residual"), ("diffusion_autoencoder",), ("diffusion_unet",),
    ],
)  # fmt: skip
def test_every_recipe_records_what_its_dataset_holds(files):
    """Whatever an overlay puts in the place of the phantoms."""
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / f"{name}.yaml") for name in files]))
    (export,) = (step for step in parser.get("finalize") if isinstance(step, dict))
    assert export["scans"] == ("@train_data" if "diffugts_taps" in files else "$@train#dataset.data")
    frozen = {"prior_weights", "autoencoder_weights"} & set(parser.config)
    assert all(f"@{name}" in (*export.get("frozen", ()), export.get(name)) for name in frozen)
