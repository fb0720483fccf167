"""Where a label comes from is kept with it, whatever the client says of it."""

import json
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
import torch
from lib.compat import import_without_torchvision

import_without_torchvision()
from lib.provenance import Ledger
from lib.store import Folder

from zerotumor.clicks import Click
from zerotumor.volumes import read_scan

SHAPE = (12, 12, 12)
AFFINE = np.diag([2.0, 2.0, 2.5, 1.0])
FACTS = {"method": "malenia", "weights_sha256": "abc", "modality": "CT", "proposed_ml": 0.64}


def cube(low, high):
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[low:high, 2:6, 2:6] = True
    return mask


class Clock:
    """The time, which passes when it is told to."""

    def __init__(self):
        self.time = 1000.0

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(tmp_path, clock):
    return Ledger(tmp_path / "proposals", clock)


@pytest.fixture
def label(tmp_path):
    path = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(cube(2, 8).numpy().astype(np.uint8), AFFINE), path)
    return read_scan(path, labels=True)


def test_a_rest_clients_label_carries_all_there_is(ledger, clock, label):
    ledger.propose("scan", "ann", "liver tumor", cube(2, 6), **FACTS)
    clock.time += 30
    clicks = [Click((7, 3, 3), True), Click((8, 3, 3), True), Click((1, 3, 3), False)]
    ledger.clicked("scan", "ann", "", cube(2, 6), clicks, "click-weights")
    clock.time += 12
    said = ledger.describe("scan", label, {"prompt": "liver tumor", "client_id": "ann"})
    assert said["prompt"] == "liver tumor"
    expected = {
        "prompt_from": "client", "client_id": "ann", "clicks_inside": 2, "clicks_outside": 1, "seconds": 42.0,
        "refined_by": "click-weights", "saved_ml": 0.96, "saved_at": 1042.0, **FACTS,
    }  # fmt: skip
    known = said["provenance"]
    assert {k: known[k] for k in expected} == expected
    assert known["dice"] == pytest.approx(2 * 64 / (64 + 96), abs=1e-4)
    json.dumps(said)


@pytest.mark.parametrize(
    ("info", "prompt", "source"),
    [
        ({"client_id": "ann"}, "kidney cyst", "proposal"),
        ({"client_id": "ann", "label_info": [{"name": "liver tumor", "idx": 1}]}, "liver tumor", "proposal"),
        ({"client_id": "ann", "label_info": [{"name": "Segment_1", "idx": 1}]}, "kidney cyst", "proposal"),
        ({"client_id": "bob"}, "lipoma", "proposal"),
        ({}, "lipoma", "proposal"),
        ({"prompt": "  my \n words ", "client_id": "ann"}, "my words", "client"),
        ({"prompt": ["no", "text"], "client_id": "bob"}, "lipoma", "proposal"),
    ],
)
def test_the_prompt_is_the_clients_or_that_of_what_was_proposed_last(ledger, label, info, prompt, source):
    ledger.propose("scan", "ann", "liver tumor", cube(2, 6), **FACTS)
    ledger.propose("scan", "ann", "kidney cyst", cube(0, 1), **FACTS)
    ledger.propose("scan", "bob", "lipoma", cube(0, 1), **FACTS)
    ledger.propose("other scan", "ann", "meningioma", cube(0, 1), **FACTS)
    said = ledger.describe("scan", label, info)
    assert (said["prompt"], said["provenance"]["prompt_from"]) == (prompt, source)


def test_without_a_proposal_slicers_segment_names_are_the_prompt(ledger, label):
    named = ledger.describe("scan", label, {"label_info": [{"name": "renal cyst"}, {"name": "renal cyst"}, {}]})
    assert named["prompt"] == "renal cyst" and named["provenance"]["prompt_from"] == "segment name"
    nothing = ledger.describe("scan", label, {})
    assert "prompt" not in nothing and nothing["provenance"]["prompt_from"] == "none"
    assert "method" not in nothing["provenance"], "nothing is claimed that is not known"


def test_what_the_server_saves_by_itself_is_no_persons_label(ledger, label):
    reply = {"prompt": "tumor", "method": "malenia", "weights_sha256": "abc", "modality": "CT", "volume_ml": 1.5}
    said = ledger.describe("scan", label, {"model": "tumor", "params": reply})
    assert said["prompt"] == "tumor" and said["provenance"]["automatic"] and said["provenance"]["proposed_ml"] == 1.5


def test_clicks_on_nothing_proposed_start_from_what_the_lesion_was(ledger, label):
    ledger.clicked("scan", "ann", "sarcoma", cube(2, 8), [Click((1, 1, 1), True)], "w", **FACTS)
    known = ledger.describe("scan", label, {"client_id": "ann"})
    assert known["prompt"] == "sarcoma" and known["provenance"]["dice"] == 1.0
    assert known["provenance"]["clicks_inside"] == 1 and known["provenance"]["method"] == "malenia"


def test_clicks_go_with_what_they_started_from_and_not_with_what_other_weights_had_proposed(ledger, label):
    ledger.propose("scan", "ann", "sarcoma", cube(0, 1), **FACTS)
    other = {**FACTS, "method": "zept", "weights_sha256": "def"}
    for clicks in ([Click((1, 1, 1), True)], [Click((1, 1, 1), True), Click((2, 2, 2), True)]):
        ledger.clicked("scan", "ann", "sarcoma", cube(2, 8), clicks, "w", **other)
    known = ledger.describe("scan", label, {"client_id": "ann"})["provenance"]
    assert (known["method"], known["dice"], known["clicks_inside"]) == ("zept", 1.0, 2)


def test_a_restart_forgets_nothing_and_a_damaged_file_is_no_end(ledger, label, tmp_path, clock):
    ledger.propose("../../scan", "ann", "liver tumor", cube(2, 6), **FACTS)
    files = list((tmp_path / "proposals").iterdir())
    assert len(files) == 1, "the hash of a scan is a name, and no path"
    again = Ledger(tmp_path / "proposals", clock).describe("../../scan", label, {})
    assert again["prompt"] == "liver tumor" and again["provenance"]["dice"] == 0.8
    files[0].write_text("[{")
    assert (
        Ledger(tmp_path / "proposals", clock).describe("../../scan", label, {})["provenance"]["prompt_from"] == "none"
    )


def test_what_a_batch_proposes_in_a_process_of_its_own_is_known_and_kept(ledger, label, tmp_path, clock):
    batch = Ledger(tmp_path / "proposals", clock)
    ledger.propose("scan", "", "renal cyst", cube(0, 1), **FACTS)
    batch.propose("scan", "", "liver tumor", cube(2, 8), **FACTS)
    said = ledger.describe("scan", label, {})
    assert said["prompt"] == "liver tumor" and said["provenance"]["dice"] == 1.0
    ledger.clicked("scan", "", "renal cyst", cube(0, 1), [Click((1, 1, 1), True)], "w")
    batch.propose("scan", "", "lipoma", cube(3, 4), **FACTS)
    ledger.propose("scan", "ann", "sarcoma", cube(2, 8), **FACTS)
    for known in (ledger, batch, Ledger(tmp_path / "proposals", clock)):
        prompts = [p.prompt for p in known._of("scan")]
        assert prompts == ["liver tumor", "renal cyst", "lipoma", "sarcoma"]


def test_two_processes_at_once_lose_no_proposal(tmp_path):
    ledgers = [Ledger(tmp_path / "proposals") for _ in range(2)]

    def propose(which):
        for k in range(5):
            ledgers[which].propose("scan", f"client {which}", f"text {k}", cube(2, 6))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(propose, range(2)))
    kept = Ledger(tmp_path / "proposals")._of("scan")
    assert {(p.client_id, p.prompt) for p in kept} == {(f"client {w}", f"text {k}") for w in range(2) for k in range(5)}


def test_without_a_disk_proposals_are_kept_in_memory(label, clock, tmp_path):
    (tmp_path / "a file").write_text("")
    for folder in (None, tmp_path / "a file" / "proposals"):
        ledger = Ledger(folder, clock)
        ledger.propose("scan", "", "lipoma", cube(2, 8), **FACTS)
        assert ledger.describe("scan", label, {})["prompt"] == "lipoma"


def test_labels_on_another_grid_and_empty_ones_are_described_too(ledger, tmp_path):
    ledger.propose("scan", "", "tumor", torch.zeros(4, 4, 4))
    path = tmp_path / "empty.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE), path)
    label = read_scan(path, labels=True)
    assert ledger.describe("scan", label, {})["provenance"]["dice"] is None
    ledger.propose("scan", "", "tumor", torch.zeros(SHAPE))
    assert ledger.describe("scan", label, {})["provenance"]["dice"] == 1.0


def test_a_proposal_and_a_label_are_compared_by_place(ledger, tmp_path):
    """What saves a label may turn its axes around."""
    proposed = torch.from_numpy(AFFINE)
    ledger.propose("scan", "", "tumor", cube(2, 6), affine=proposed, **FACTS)
    flipped, beside = AFFINE.copy(), AFFINE.copy()
    flipped[0] = (-2, 0, 0, 2 * (SHAPE[0] - 1))
    beside[0, 3] = 4
    voxels = cube(2, 6).numpy().astype(np.uint8)
    for name, values, affine, expected in (("f", voxels[::-1], flipped, 1.0), ("b", voxels, beside, None)):
        nib.save(nib.Nifti1Image(values, affine), tmp_path / f"{name}.nii.gz")
        label = read_scan(tmp_path / f"{name}.nii.gz", labels=True)
        assert ledger.describe("scan", label, {})["provenance"]["dice"] == expected
    assert Ledger(tmp_path / "proposals").describe("scan", label, {})["provenance"]["dice"] is None, "after a restart"


def test_the_datastore_keeps_it_with_the_label_and_loses_no_label_over_it(tmp_path, tmp_path_factory, ledger, label):
    nib.save(nib.Nifti1Image(np.zeros((12, 12, 12), np.int16), AFFINE), tmp_path / "scan.nii.gz")
    store = Folder(str(tmp_path))
    ledger.propose("digest", "ann", "liver tumor", cube(2, 6), **FACTS)
    store.provenance = lambda image, labels, info: ledger.describe("digest", labels, info)
    store.save_label("scan", str(label.meta["path"]), "final", {"client_id": "ann"})
    kept = Folder(str(tmp_path)).get_label_info("scan", "final")
    assert kept["prompt"] == "liver tumor" and kept["provenance"]["dice"] == 0.8

    def broken(*_):
        raise OSError("no disk")

    store.provenance = broken
    store.save_label("scan", str(label.meta["path"]), "final", {"client_id": "bob"})
    assert store.get_label_info("scan", "final")["client_id"] == "bob"
