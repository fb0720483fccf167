"""Fetching from a local folder; the hub is never asked."""

import json

import httpx
import pytest
import torch
from fetch_weights import main
from huggingface_hub.errors import OfflineModeIsEnabled
from typer import Typer
from typer.testing import CliRunner

from zerotumor.diffusion import fetch as fetching
from zerotumor.diffusion import weights
from zerotumor.diffusion.fetch import RECORD, fetch, licenses
from zerotumor.diffusion.prior import DiffusionPrior
from zerotumor.diffusion.weights import load_prior, published
from zerotumor.errors import ScanError
from zerotumor.segmenter import WeightsError, sha256

TINY = {
    "autoencoder": {"num_channels": [4, 4, 8], "norm_num_groups": 4},
    "unet": {"num_channels": [4, 8], "num_res_blocks": 1, "attention_levels": [False, True], "num_head_channels": [0, 4],
             "norm_num_groups": 4},
}  # fmt: skip
app = Typer()
app.command()(main)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A folder with the files of a published model, in small, and the hub's paths."""
    for module in (weights, fetching):
        monkeypatch.setattr(module, "read_config", lambda name: TINY)
    folder, model, prior = tmp_path / "source", published("rflow-ct"), DiffusionPrior(**TINY)
    (folder / "models").mkdir(parents=True)
    (folder / "LICENSE.weights").write_text("You may [not] do as you like.")
    torch.save(prior.autoencoder.state_dict(), folder / model.autoencoder.name)
    content = {"unet_state_dict": prior.unet.state_dict(), "scale_factor": torch.tensor(1.2)}
    torch.save(content, folder / model.unet.name)
    return folder


def call(*arguments, answer=None):
    return CliRunner().invoke(app, [str(a) for a in arguments], input=answer)


def test_the_license_comes_first_and_can_be_refused(source, tmp_path):
    target = tmp_path / "target"
    done = call("rflow-ct", "--source", source, "--folder", target, answer="n\n")
    assert done.exit_code == 1 and "Nothing was fetched" in done.output and not target.exists()
    assert "You may [not] do as you like." in done.output and "huggingface.co/nvidia/NV-Generate-CT" in done.output


@pytest.mark.parametrize("how", ["asked", "beforehand"])
def test_a_local_folder_is_copied_checked_and_recorded(source, tmp_path, how):
    target, model = tmp_path / "target", published("rflow-ct")
    more, answer = ([], "y\n") if how == "asked" else (["--accept-license"], None)
    done = call("rflow-ct", "--source", source, "--folder", target, *more, answer=answer)
    assert done.exit_code == 0, done.output
    prior = load_prior(target / "rflow-ct.pt")
    assert float(prior.scale_factor) == pytest.approx(1.2, abs=1e-3)
    record, known = (json.loads((target / n).read_text()) for n in ("rflow-ct.json", RECORD))
    for part, file in (("autoencoder", model.autoencoder), ("unet", model.unet)):
        digest = sha256(source / file.name)
        assert record["sources"][part] == {"revision": "local", "sha256": digest} == known[f"{file.repo}/{file.name}"]
        assert sha256(target / file.name) == digest
    assert record["license"] == model.license
    assert call("rflow-ct", "--source", source, "--folder", target, "--accept-license").exit_code == 0


def test_a_flat_folder_does_too(source, tmp_path):
    for file in list((source / "models").iterdir()):
        file.rename(source / file.name)
    assert load_prior(fetch("rflow-ct", tmp_path / "target", source)).frozen


def test_a_file_that_differs_from_the_first_is_refused(source, tmp_path):
    target, file = tmp_path / "target", source / published("rflow-ct").unet.name
    fetch("rflow-ct", target, source)
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    content = torch.load(file, weights_only=True)
    torch.save({**content, "scale_factor": torch.tensor(2.0)}, file)
    done = call("rflow-ct", "--source", source, "--folder", target, "--accept-license")
    assert done.exit_code == 1 and "not the file that was fetched first" in " ".join(done.output.split())
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before


def test_what_was_fetched_stays_when_it_cannot_be_written_again(source, tmp_path, monkeypatch):
    path = fetch("rflow-ct", tmp_path / "target", source)

    def full(state, file):
        file.write_bytes(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ScanError, match=r"rflow-ct.pt could not be written .*free some space"):
        fetch("rflow-ct", tmp_path / "target", source)
    assert load_prior(path).frozen and not list(path.parent.glob(".writing*"))


def test_a_missing_file_and_an_unknown_model_are_named(source, tmp_path):
    (source / published("rflow-ct").unet.name).unlink()
    with pytest.raises(WeightsError, match="diff_unet_3d_rflow-ct.pt"):
        fetch("rflow-ct", tmp_path / "target", source)
    done = call("maisi", "--source", source, "--folder", tmp_path / "target")
    assert done.exit_code == 1 and "rflow-mr-brain" in " ".join(done.output.split())


def test_a_full_disk_is_said_before_anything_is_written(source, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(WeightsError, match="free some space"):
        fetch("rflow-ct", tmp_path / "target", source)
    assert not list((tmp_path / "target").rglob("*.pt"))


@pytest.mark.parametrize("error, said", [
    (OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE"),
    (httpx.ConnectError("no route"), "cannot be reached"),
    (OSError(28, "No space left on device"), "disk is full"),
])  # fmt: skip
def test_what_the_hub_runs_into_is_one_sentence(error, said, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(fetching.HfApi, "model_info", fail)
    monkeypatch.setattr(fetching.HfApi, "list_repo_files", fail)
    with pytest.raises(WeightsError, match=said):
        fetch("rflow-ct", tmp_path)
    with pytest.raises(WeightsError, match=said):
        licenses("rflow-ct")


class About:
    """What the hub says of a file."""

    def __init__(self, digest=None):
        self.size, self.lfs = 10, type("Lfs", (), {"sha256": digest}) if digest else None


@pytest.fixture
def hub(source, monkeypatch):
    """A hub that hands out the files of the source: what it says of them by name, and which were downloaded."""
    said, downloaded = {}, []

    def download(repo, name, revision, local_dir):
        downloaded.append(name)
        path = local_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((source / name).read_bytes())
        return str(path)

    monkeypatch.setattr(fetching.HfApi, "model_info", lambda *_, **__: type("Info", (), {"sha": "abc"}))
    monkeypatch.setattr(fetching.HfApi, "get_paths_info", lambda _, __, names, **___: [said.get(names[0], About())])
    monkeypatch.setattr(fetching, "hf_hub_download", download)
    return said, downloaded


def test_a_download_with_another_hash_than_the_hubs_is_deleted(hub, tmp_path):
    said, _ = hub
    said[published("rflow-ct").autoencoder.name] = About("0" * 64)
    target = tmp_path / "target"
    with pytest.raises(WeightsError, match="hash differs"):
        fetch("rflow-ct", target)
    assert not list(target.rglob("*.pt"))
    said.clear()
    assert (
        json.loads(fetch("rflow-ct", target).with_suffix(".json").read_text())["sources"]["unet"]["revision"] == "abc"
    )


def test_another_file_than_the_first_is_not_even_downloaded(hub, source, tmp_path):
    said, downloaded = hub
    target, files = (
        tmp_path / "target",
        [f.name for f in (published("rflow-ct").autoencoder, published("rflow-ct").unet)],
    )
    said.update({name: About(sha256(source / name)) for name in files})
    fetch("rflow-ct", target)
    assert downloaded == files
    fetch("rflow-ct", target)  # they are there
    assert downloaded == files
    said[files[1]] = About("0" * 64)
    with pytest.raises(WeightsError, match="not the file that was fetched first"):
        fetch("rflow-ct", target)
    assert downloaded == files and load_prior(target / "rflow-ct.pt").frozen
