"""What training patches are asked."""

import numpy as np
import torch

from zerotumor.diffugts.samples import (
    GENERIC,
    KINDS,
    Phantoms,
    RandQuestions,
    blob,
    collate,
    names_of,
    organ_under,
    prepare_batch,
    questions,
)
from zerotumor.phantom import generate
from zerotumor.training import GeneratePhantom
from zerotumor.transforms import normalize, shows_ct
from zerotumor.vocabulary import LESIONS, ORGANS

CYST = "kidney cyst"


def sample(kind=CYST, organ="left kidney"):
    organs, lesions = (torch.zeros(1, 16, 16, 16, dtype=torch.uint8) for _ in range(2))
    organs[:, :8], organs[:, 8:] = ORGANS[organ].index, ORGANS["spleen"].index
    lesions[:, 2:5, 2:5, 2:5] = 1
    return {"image": torch.rand(2, 16, 16, 16), "organs": organs, "lesions": lesions,
            "kinds": torch.tensor([KINDS.index(kind)]), "values": torch.zeros(1, 8), "ct": torch.tensor(True)}  # fmt: skip


def test_the_right_text_any_lesion_and_another_organ():
    one = sample()
    for seed in range(20):
        texts, masks = questions(one, np.random.RandomState(seed), 3)
        assert texts[0] in names_of(CYST, "left kidney") and texts[1] in GENERIC
        assert torch.equal(masks[0], one["lesions"][0] > 0) and torch.equal(masks[1], masks[0])
        assert not masks[2].any() and "left kidney" not in texts[2] and texts[2] not in names_of(CYST, None)


def test_healthy_patches_have_nothing():
    one = sample() | {"lesions": torch.zeros(1, 16, 16, 16, dtype=torch.uint8), "kinds": torch.zeros(0)}
    texts, masks = questions(one, np.random.RandomState(0), 6)
    assert len(texts) == 6 and not masks.any()


def test_all_lesions_that_a_text_fits_are_its_mask():
    one = sample()
    one["lesions"][:, 5:7, 8:10, 8:10], one["kinds"] = 2, torch.tensor([KINDS.index(CYST)] * 2)
    assert all(torch.equal(questions(one, np.random.RandomState(s), 1)[1][0], one["lesions"][0] > 0) for s in range(5))


def test_names_of_unseen_kinds_are_never_asked():
    unseen = {n for k in LESIONS.values() if not k.seen for n in (k.name, *k.synonyms)}
    unseen -= {n for k in LESIONS.values() if k.seen for n in (k.name, *k.synonyms)}
    asked = {t for seed in range(300) for t in questions(sample(), np.random.RandomState(seed), 6)[0]}
    abstract = sample("abstract lesion", "pancreas")
    asked |= {t for seed in range(100) for t in questions(abstract, np.random.RandomState(seed), 6)[0]}
    assert not asked & unseen and "lesion in the pancreas" in asked and len(asked) > 20


def test_the_organ_under_a_lesion():
    one = sample()
    assert organ_under(one["organs"][0].long(), one["lesions"][0] > 0) == "left kidney"
    one["organs"][:] = ORGANS["abstract"].index
    assert organ_under(one["organs"][0].long(), one["lesions"][0] > 0) is None


def test_batches():
    batch = collate([RandQuestions(3).set_random_state(k)(sample()) for k in range(2)])
    image, truth, _, keywords = prepare_batch(batch, "cpu")
    assert image.shape == (2, 2, 16, 16, 16) and truth.masks.shape == (2, 3, 16, 16, 16)
    assert [[p.text for p in row] for row in truth.prompts] == batch["label"]["texts"]
    assert keywords["targets"] is truth and truth.ct.tolist() == [True, True]


def test_questions_differ_from_draw_to_draw_and_repeat_with_their_seed():
    transform = RandQuestions(6)
    drawn = [transform.set_random_state(s)(sample())["texts"] for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_cached_phantoms_know_kind_and_modality(tmp_path):
    records = [{"seed": k, "difficulty": 0.0, "category": CYST} for k in range(3)]
    data = Phantoms(records, GeneratePhantom((24,) * 3, 8.0), cache_dir=tmp_path)
    for record in records:
        phantom = generate(record["seed"], shape=(24,) * 3, spacing=8.0, difficulty=0.0, category=CYST)
        one = data[record["seed"]]
        assert bool(one["ct"]) is (phantom.modality == "CT")
        assert [KINDS[k] for k in one["kinds"]] == [CYST] * len(one["values"])


def test_ct_is_told_from_mr_by_its_two_windows():
    for seed in range(4):
        for modality in ("CT", "MR"):
            phantom = generate(seed, modality=modality, category="healthy", shape=(24,) * 3, spacing=8.0)
            assert shows_ct(normalize(phantom.image, modality)) is (modality == "CT")
            assert shows_ct(normalize(phantom.image, modality).half()) is (modality == "CT")


def test_blobs_lie_inside():
    random = np.random.RandomState(0)
    sizes = [int(blob((24, 24, 24), random).sum()) for _ in range(20)]
    assert min(sizes) > 10 and max(sizes) < 24**3 / 8
