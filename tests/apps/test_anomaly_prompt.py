"""The anomaly map through the task that the server runs, with tiny seeded weights of both methods."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from fastapi import HTTPException
from lib.engine import Engine
from lib.history import Histories
from lib.labels import ANOMALY, LABELS, offered
from lib.tumor import Tumor

from zerotumor.pipeline import segment_scan
from zerotumor.segmenter import METHODS, load, save
from zerotumor.volumes import read_scan


@pytest.fixture(scope="module")
def task(folder):
    """The task over both methods. Half of the scan is anomalous."""
    scan = read_scan(folder / "scan.nii.gz")
    model = load("zept", folder)
    with torch.no_grad():  # the same offset for all: the anomaly's sign is then that of its distance from the median
        model.offsets.anomaly.zero_()
        image = segment_scan(model, scan, "anomaly", modality="CT", keep_probabilities=True).ungated
        model.offsets.anomaly.fill_(float(torch.logit(image.median())))
    file = folder / METHODS["zept"].weights
    config = json.loads(file.with_suffix(".json").read_text())["config"]
    save(model, "zept", file, config=config, encoder=model.encoder)
    engine = Engine(folder, 0.3, lambda: [folder])
    return Tumor(engine, Histories(folder / "clicks")), folder


def ask(task, **options):
    tumor, folder = task
    file, reply = tumor({"image": str(folder / "scan.nii.gz"), "modality": "CT", **options})
    return np.asarray(nib.load(file).dataobj), reply


@pytest.mark.parametrize("prompt", ["anomaly", "Where is anything unusual?"])
def test_the_anomaly_is_a_label_of_its_own(task, prompt):
    mask, reply = ask(task, method="zept", prompt=prompt)
    number = LABELS[ANOMALY]
    assert set(np.unique(mask)) == {0, number} and reply["label_names"] == {prompt: number}
    own = segment_scan(load("zept", task[1]), read_scan(task[1] / "scan.nii.gz"), prompt, modality="CT")
    assert np.array_equal(mask > 0, own.masks[0].numpy() > 0)
    assert 0.1 < (mask > 0).mean() < 0.9


def test_the_reply_sums_the_map_up(task):
    for prompt in ("anomaly", "liver tumor"):
        _, reply = ask(task, method="zept", prompt=prompt)
        found = reply["maps"]["anomaly"]
        assert set(found) == {"peak", "peak_mm", "threshold", "above_ml"}
        assert 0.5 < found["peak"] <= 1 and 0 < found["above_ml"] < 32**3 * 0.064
    _, reply = ask(task, method="malenia", prompt="liver tumor")
    assert reply["maps"] == {}


def test_a_method_without_the_map_says_so(task):
    with pytest.raises(HTTPException, match="malenia has no map of anomalies") as refused:
        ask(task, method="malenia", prompt="anomaly")
    assert refused.value.status_code == 400


def test_viewers_are_offered_the_label_where_a_method_draws_it(task):
    assert ANOMALY in offered(["malenia", "zept"]) and ANOMALY not in offered(["malenia"])
    assert offered(["malenia"]) == {k: v for k, v in LABELS.items() if k != ANOMALY}
    assert task[0].labels == LABELS
