"""What clicks start from, through the task that the server runs, with tiny seeded weights."""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from fastapi import HTTPException
from lib.engine import Engine
from lib.history import Histories
from lib.provenance import Ledger
from lib.refine import TumorRefine

AFFINE = np.diag([-4.0, -4.0, 4.0, 1.0])


class Honest:
    """In the place of the click network: paints the voxels that were clicked."""

    weights_sha256 = "c" * 64

    def update(self, scan, modality, mask, clicks, roi):
        out = mask.clone()
        for click in clicks:
            out[click.index] = click.inside
        return out


@pytest.fixture
def task(folder, tmp_path):
    engine = Engine(folder, 0.3, lambda: [folder, tmp_path])
    made = TumorRefine(engine, Histories(tmp_path / "clicks"), ledger=Ledger(tmp_path / "proposals"))
    made._refiner = Honest()
    return made


@pytest.fixture
def ask(task, folder):
    """A request to the task -> the mask and the reply."""

    def asked(**options):
        file, reply = task({"image": str(folder / "scan.nii.gz"), "modality": "CT", **options})
        return np.asarray(nib.load(file).dataobj) > 0, reply

    return asked


def cube(low, high):
    mask = np.zeros((32, 32, 32), bool)
    mask[low:high, 4:12, 6:9] = True
    return mask


def upload(path, mask, affine=AFFINE):
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), path)
    return str(path)


def test_a_mask_is_taken_by_its_place_whatever_the_order_of_its_axes(ask, tmp_path):
    mask = cube(20, 28)
    turn = np.array([[2, 1], [0, -1], [1, 1]])
    turned = nib.apply_orientation(mask, turn)
    affine = AFFINE @ nib.orientations.inv_ornt_aff(turn, mask.shape)
    for label in (upload(tmp_path / "plain.nii.gz", mask), upload(tmp_path / "turned.nii.gz", turned, affine)):
        found, reply = ask(label=label)
        assert np.array_equal(found, mask) and reply["prompts"][0]["found"]
        assert reply["centroid_mm"] == pytest.approx([-94.0, -30.0, 28.0], abs=0.1)


@pytest.mark.parametrize("moved", [[8.0, 0, 0], [0, 0, -3.0]])
def test_a_mask_on_another_grid_is_refused(ask, tmp_path, moved):
    affine = AFFINE.copy()
    affine[:3, 3] = moved
    with pytest.raises(HTTPException) as refused:
        ask(label=upload(tmp_path / "moved.nii.gz", cube(20, 28), affine))
    assert refused.value.status_code == 422 and "beside the scan's" in refused.value.detail
    with pytest.raises(HTTPException) as refused:
        ask(label=upload(tmp_path / "smaller.nii.gz", cube(20, 28)[:30]))
    assert refused.value.status_code == 422 and "voxels" in refused.value.detail


@pytest.fixture
def propose(task, folder):
    """What `tumor` does with what it finds."""

    def proposed(mask, client=""):
        task.histories.propose(task.engine.digest(folder / "scan.nii.gz"), client, torch.from_numpy(mask))

    return proposed


def test_a_lesion_without_a_text_starts_from_what_was_found_last(ask, propose):
    propose(cube(10, 14))
    assert np.array_equal(ask(label="Segment_1")[0], cube(10, 14))
    propose(cube(0, 0))
    assert not ask(label="Segment_1")[0].any(), "nothing was found last"
    propose(cube(20, 24))
    first, reply = ask(label="Segment_1", foreground=[[30, 1, 1]])
    assert first[30, 1, 1] and first.sum() == cube(20, 24).sum() + 1 and reply["steps"] == 1


def test_clicks_on_a_lesion_go_on_whatever_was_found_since(ask, propose):
    propose(cube(10, 14))
    ask(label="Segment_1", foreground=[[30, 1, 1]])
    propose(cube(20, 24))
    second, reply = ask(label="Segment_1", foreground=[[30, 1, 1], [30, 2, 2]])
    assert second.sum() == cube(10, 14).sum() + 2 and reply["steps"] == 2
    undone, _ = ask(label="Segment_1", foreground=[[30, 1, 1], [30, 2, 2]], undo=True)
    assert undone.sum() == cube(10, 14).sum() + 1


def test_an_uploaded_mask_is_gone_on_from(ask, propose, tmp_path):
    propose(cube(10, 14))
    ask(label=upload(tmp_path / "mine.nii.gz", cube(20, 24)))
    assert ask(label="Segment_1", foreground=[[30, 1, 1]])[0].sum() == cube(20, 24).sum() + 1
    propose(cube(10, 15))
    assert np.array_equal(ask(label="Segment_1")[0], cube(10, 15))


def test_a_restart_goes_on_from_the_lesion_as_it_was(ask, propose, task):
    propose(cube(10, 14))
    ask(label="Segment_1", foreground=[[30, 1, 1]])
    task.histories = Histories(task.histories.folder)
    assert ask(label="Segment_1", foreground=[[30, 2, 2]])[0].sum() == cube(10, 14).sum() + 1
    propose(cube(20, 24))
    assert np.array_equal(ask(label="Segment_1")[0], cube(20, 24))


def test_a_text_starts_from_what_the_method_and_its_weights_find_now(ask, task, folder, monkeypatch):
    found = {"malenia": cube(10, 14), "zept": cube(20, 24)}
    of_weights = {task.engine.model(m).weights_sha256: mask for m, mask in found.items()}

    def segment(model, encoded, prompts):
        return SimpleNamespace(masks=torch.from_numpy(of_weights[model.weights_sha256])[None])

    monkeypatch.setattr("lib.refine.segment_scan", segment)
    for method in ("malenia", "zept", "malenia"):
        assert np.array_equal(ask(label="liver tumor", method=method)[0], found[method])
    learned = SimpleNamespace(weights_sha256="d" * 64, encoder=task.engine.model("malenia").encoder)
    of_weights["d" * 64] = cube(16, 17)
    ask(label="liver tumor", foreground=[[30, 1, 1]])
    task.histories = Histories(task.histories.folder)  # a restart, with what was learned before it
    monkeypatch.setattr(task.engine, "model", lambda *_: learned)
    assert ask(label="liver tumor", foreground=[[30, 1, 1], [30, 2, 2]])[0].sum() == cube(10, 14).sum() + 2
    assert np.array_equal(ask(label="liver tumor")[0], cube(16, 17))


@pytest.mark.parametrize(
    ("asked", "name", "found"),
    [
        ({"prompt": "tumor"}, "tumor", cube(20, 24)),
        ({"prompt": " lesion \n", "label": "Segment_1"}, "lesion", cube(20, 24)),
        ({"prompt": "", "label": "tumor"}, "lesion", cube(10, 14)),
        ({"label": "Tumor_2"}, "lesion", cube(10, 14)),
    ],
)
def test_a_prompt_is_meant_and_a_name_that_viewers_give_is_not(ask, propose, monkeypatch, asked, name, found):
    masks = SimpleNamespace(masks=torch.from_numpy(cube(20, 24))[None])
    monkeypatch.setattr("lib.refine.segment_scan", lambda *_: masks)
    propose(cube(10, 14))
    mask, reply = ask(**asked)
    assert np.array_equal(mask, found) and reply["prompt"] == name


def test_a_long_name_that_begins_like_a_path_is_a_name(ask):
    with pytest.raises(HTTPException) as refused:
        ask(label="/" + "a" * 3000)
    assert refused.value.status_code == 400 and "3001 characters" in refused.value.detail
