"""Where networks compute. No GPU is needed: `far` refuses and casts what one does, in processes of their own."""

import json
import os
from pathlib import Path

import processes
import pytest
import torch

from zerotumor.devices import AUTO, device_of, enough_memory
from zerotumor.errors import DeviceError
from zerotumor.inferer import encode_volume, undecided
from zerotumor.precision import in_hardware
from zerotumor.prompts import parse
from zerotumor.refine import load_refiner

SCRIPT = str(Path(__file__).parent / "resources" / "on_far.py")


def on_far(folder, *commands):
    """What a process found, all of it together."""
    done = processes.run(SCRIPT, commands, folder, {**os.environ, "PYTHONPATH": str(Path(__file__).parent)})
    assert done.returncode == 0, done.stdout[-6000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_far_is_as_strict_as_a_gpu(tmp_path):
    both, numpy, half, kinds = on_far(tmp_path, "mistakes")
    assert "expected all tensors to be on the same device" in both["both"] and "can't convert" in numpy["numpy"]
    assert "unsafe to autocast" in half["half"] and kinds == {"conv": "torch.bfloat16", "softmax": "torch.float32"}


def test_two_methods_in_turn_answer_as_on_the_cpu(tmp_path):
    drawn, there, organs, doubts, here, compared = on_far(tmp_path, "drawn limb", "answers malenia+zept")
    assert drawn == {"device": "far:0", "image": True, "maps": True}
    assert there["weights"] == ["far:0"] and there["kept"] == here["kept"] == here["weights"] == ["cpu"]
    assert there["voxels"] > 0 and compared == {"different": 0}
    assert organs["organs"] == [34] * 3 and 0 <= doubts["value"] <= 1


def test_drawing_anew_in_half_precision_finds_what_full_precision_does(tmp_path):
    there, here, compared = on_far(tmp_path, "answers diffugts")
    assert there["weights"] == ["far:0"] and there["voxels"] > 0 and compared["different"] < 0.2 * here["voxels"]


def test_clicks_and_learning(tmp_path):
    clicks, learned = on_far(tmp_path, "clicked", "learned")
    assert clicks["voxels"] > 0 and clicks["different"] == 0
    assert learned == {"specialist": ["far:0"], "shape": [1, 14, 14, 14]}


def test_every_network_is_trained_in_bfloat16_and_stays_finite(tmp_path):
    found = on_far(tmp_path, f"trained {tmp_path / 'runs'}")
    names = ["malenia", "zept", "refine", "autoencoder", "unet", "attention"]
    assert found == [{"trained": name, "finite": True} for name in names]


def test_a_gpu_is_taken_where_there_is_one(monkeypatch):
    for there, name in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert device_of(AUTO) == torch.device(name)
    assert device_of("cpu") == device_of(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match="there is no device 'nowhere' here: use cpu"):
        load_refiner(device="nowhere")


def test_whether_a_gpu_multiplies_in_bfloat16_is_asked_of_the_gpu(monkeypatch):
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, there=there: there)
        assert in_hardware("cuda") == in_hardware(torch.device("cuda", 1)) == there


def test_a_gpu_without_room_is_a_sentence(tiny_malenia, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    model, image = tiny_malenia(), torch.rand(2, 32, 32, 32)
    features = encode_volume(model, image)
    for name, look in (
        ("encode_image", lambda: encode_volume(model, image)),
        ("segment", lambda: undecided(model, image, parse("tumor"), features=features)),
    ):
        with monkeypatch.context() as patch, pytest.raises(DeviceError, match=r"memory of the GPU .*\(--device cpu"):
            patch.setattr(model, name, full)
            look()
    with pytest.raises(ZeroDivisionError), enough_memory():
        1 / 0  # noqa: B018
