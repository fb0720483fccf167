"""The tables are complete and consistent: whoever reads a name from them finds all that belongs to it."""

import subprocess
import sys

import pytest
from lesion_attributes import find_spreadsheet, read

from zerotumor.lesion_table import DISTRIBUTIONS
from zerotumor.phrases import normalize
from zerotumor.vocabulary import (
    ATTRIBUTE_WORDS,
    ATTRIBUTES,
    LESIONS,
    ORGANS,
    PAIRS,
    SUBSTANCE_WORDS,
    attribute_text,
    lesions,
)  # fmt: skip

ANNOTATED = {
    "kidney tumor": "renal cancer",
    "kidney cyst": "renal cyst",
    "liver tumor": "liver cancer",
    "pancreatic tumor": "pancreatic cancer",
    "pancreatic cyst": "pancreatic cyst",
    "colon tumor": "colorectal cancer",
    "lung tumor": "lung cancer",
}
REQUIRED = """
    liver tumor, kidney tumor, kidney cyst, pancreatic tumor, pancreatic cyst, lung tumor, colon tumor,
    hepatic vessel tumor, liver cyst, liver hemangioma, liver metastasis, spleen tumor, splenic cyst, adrenal tumor,
    adrenal adenoma, gastric tumor, esophageal tumor, bladder tumor, ovarian tumor, ovarian cyst, bone tumor,
    lymph node metastasis, soft tissue sarcoma, lipoma, brain tumor, meningioma, brain metastasis, breast tumor,
    breast cyst, prostate tumor, uterine fibroid, gallbladder tumor, rectal tumor, angiomyolipoma, thyroid nodule,
    mediastinal mass
"""


def test_organ_labels_are_fixed():
    assert [organ.index for organ in ORGANS.values()] == list(range(1, 33))
    fixed = {"liver": 1, "left kidney": 2, "right kidney": 3, "left lung": 13, "brain": 26, "abstract": 32}
    assert {name: ORGANS[name].index for name in fixed} == fixed


def test_every_required_category_is_there_and_three_are_seen():
    assert {name.strip() for name in REQUIRED.split(",")} <= set(LESIONS)
    assert {lesion.name for lesion in lesions(seen=True)} == {"liver tumor", "kidney tumor", "kidney cyst"}
    assert len(lesions(seen=False)) == len(lesions()) - 3 >= 30
    assert LESIONS["abstract lesion"].seen
    assert LESIONS["abstract lesion"] not in lesions()


@pytest.mark.parametrize("lesion", LESIONS.values(), ids=lambda lesion: lesion.name)
def test_every_lesion_is_complete(lesion):
    assert LESIONS[lesion.name] is lesion
    assert lesion.hosts and set(lesion.hosts) <= set(ORGANS)
    assert lesion.regions
    assert lesion.modalities and set(lesion.modalities) <= {"CT", "MR"}
    assert lesion.synonyms or lesion.name == "abstract lesion"
    assert lesion.source == ("annotations" if lesion.name in ANNOTATED else "radiology knowledge")
    assert lesion.hosts[0] in lesion.description and lesion.description.endswith("on CT.")
    assert set(lesion.attributes) == set(ATTRIBUTES) - {"location"}
    for attribute, shares in lesion.attributes.items():
        assert set(shares) <= set(ATTRIBUTES[attribute])
        assert all(share > 0 for share in shares.values())
        assert sum(shares.values()) == pytest.approx(1, abs=1e-3)


def test_no_name_means_two_lesions():
    meaning = {}
    for lesion in lesions():
        for name in (lesion.name, *lesion.synonyms):
            assert meaning.setdefault(normalize(name), lesion.name) == lesion.name, name


def test_word_tables_name_known_organs_and_values():
    assert {organ for organs in PAIRS.values() for organ in organs} <= set(ORGANS)
    for words in (ATTRIBUTE_WORDS, SUBSTANCE_WORDS):
        for word, values in words.items():
            assert word == normalize(word), f"{word!r} would never be found"
            assert all(value in ATTRIBUTES[attribute] for attribute, value in values.items()), word


def test_distributions_of_annotated_kinds_are_those_of_the_spreadsheet(data_dir):
    kinds = {kind.name: kind for kind in read(find_spreadsheet(data_dir))}
    for name, kind in ANNOTATED.items():
        for attribute in set(ATTRIBUTES) - {"location", "specific"}:
            counts = kinds[kind].counts(attribute)
            expected = {value: n / counts.total() for value, n in counts.items()}
            assert LESIONS[name].attributes[attribute] == pytest.approx(expected, abs=1e-4), (name, attribute)


def test_kinds_of_lesion_look_as_they_should():
    typical = {name: {a: max(d, key=d.get) for a, d in LESIONS[name].attributes.items()} for name in LESIONS}
    assert typical["kidney cyst"]["density"] == typical["liver cyst"]["density"] == "hypodense"
    assert typical["kidney cyst"]["surface"] == "well-defined"
    assert typical["pancreatic tumor"]["surface"] == "ill-defined"
    assert typical["brain tumor"]["specific"] == "necrosis"
    assert max(DISTRIBUTIONS["anything"][0]["shape"].values()) <= 0.6


def test_texts_to_encode_are_all_different_and_speak_of_the_modality():
    for modality in ("CT", "MR"):
        texts = [attribute_text(a, v, modality) for a in ATTRIBUTES for v in ATTRIBUTES[a]]
        assert len(set(texts)) == len(texts)
    assert attribute_text("density", "hypodense") == "Density: hypodense, darker than the surrounding tissue."
    assert "hypointense" in attribute_text("density", "hypodense", "MR")
    assert attribute_text("location", "left kidney") == "Location: left kidney."


def test_no_torch_is_loaded():
    code = "import sys, zerotumor.vocabulary, zerotumor.prompts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
