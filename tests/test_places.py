"""Places: by the organs around a voxel, does a lesion lie where a prompt asks for one?"""

import pytest
import torch

from zerotumor import places as places_module
from zerotumor.datasets import covering
from zerotumor.inferer import encode_volume
from zerotumor.kept import VolumeFeatures
from zerotumor.places import Places, place_match
from zerotumor.prompts import parse
from zerotumor.segmenter import Segmenter


class Halves(Segmenter):
    """What is brighter than one half is muscle, and the rest bone."""

    organ_names = ("bone", "muscle")

    def __init__(self):
        super().__init__()
        self.spacing, self.patch = 4.0, 32
        self.scale = torch.nn.Parameter(torch.ones(()))  # inference asks the first parameter for its device

    def encode_image(self, image):
        return {"image": image}

    def organ_maps(self, features):
        bright = (features["image"][:, :1] > 0.5).float()
        return torch.cat([torch.zeros_like(bright), 0.9 - 0.8 * bright, 0.1 + 0.8 * bright], 1)


def test_a_place_is_compared_with_the_most_probable_organ_around():
    organs = torch.full((1, 3, 12, 12, 12), 0.001)
    organs[:, 0, :6], organs[:, 1, 6:] = 0.9, 0.3  # the second is seen faintly, and nothing is seen better there
    hosts = torch.tensor([[True, False, False], [False, True, False], [True, True, False], [False, False, False]])
    first, second, either, anywhere = place_match(organs, hosts)[0]
    assert first[:3].min() == 1 and first[10:].max() < 0.05 and second[10:].min() == 1 and second[:3].max() < 0.05
    assert (either == 1).all() and (anywhere == 1).all()
    assert 0.05 < second[5].max() < 1  # both are around


@pytest.mark.parametrize("thickness", [1, 4, 5])
def test_a_slab_thinner_than_what_is_around(thickness):
    """Every voxel's organs are those that lie around it, however few these are."""
    organs = torch.rand((1, 3, 9, thickness, 7))
    hosts = torch.eye(3, dtype=torch.bool)
    around = organs[0, :, :5, :3, 1:6].mean((1, 2, 3))  # the voxel (2, 0, 3)
    assert torch.allclose(place_match(organs, hosts)[0, :, 2, 0, 3], (around / around.max() / 0.4).clamp(max=1))


def test_organs_that_cover_what_is_wanted():
    names = ("liver", "duodenum", "small bowel", "left femur")
    assert covering(names, ("small bowel", "liver")) == (0, 1, 2)  # a part lies in the whole
    assert covering(names, ("bone",)) == (3,) and covering(names, ()) == () and covering((), ("bone",)) == ()


@pytest.mark.parametrize("size", [(40, 36, 32), (41, 35, 9)])  # larger and smaller than a window, even and odd
def test_a_scan_is_told_apart_by_its_organs(size):
    image = torch.full((2, *size), 0.2)
    image[:, :20] = 0.8
    model = Halves()
    places = Places(model, image)
    muscle, bone = (places.fits(parse(text)[0]) for text in ("muscle tumor", "bone tumor"))
    assert muscle.shape == bone.shape == size
    assert (muscle[:16] == 1).all() and muscle[26:].max() < 0.35
    assert (bone[26:] == 1).all() and bone[:14].max() < 0.35
    assert float(muscle.amin()) >= 0 and float(muscle.amax()) <= 1
    kept = encode_volume(model, image)
    model.encode_image = None  # what is kept is not looked at again
    assert torch.equal(Places(model, image, kept).fits(parse("muscle tumor")[0]), muscle)


def test_no_place_is_known_where_the_prompt_or_the_method_names_none():
    model, image = Halves(), torch.rand(2, 32, 32, 32)
    assert Places(model, image).fits(parse("tumor")[0]) is None
    assert Places(model, image).fits(parse("liver tumor")[0]) is None  # this method has no liver
    model.organ_names = ()
    assert Places(model, image).fits(parse("bone tumor")[0]) is None


def test_a_scan_is_looked_at_once_and_only_when_a_place_is_asked_for(monkeypatch):
    looks = []
    monkeypatch.setattr(
        places_module, "organ_volume", lambda model, image, features: looks.append(1) or torch.rand(3, 32, 32, 32)
    )
    places = Places(Halves(), torch.rand(2, 32, 32, 32))
    assert places.fits(parse("tumor")[0]) is None and not looks
    for text in ("bone tumor", "muscle tumor", "bone tumor"):
        assert places.fits(parse(text)[0]).shape == (32, 32, 32)
    assert len(looks) == 1
    kept = VolumeFeatures([])
    first, again = (Places(Halves(), places.image, kept).fits(parse("bone tumor")[0]) for _ in range(2))
    assert len(looks) == 2 and torch.equal(first, again)  # what is kept of a scan outlives who asked
