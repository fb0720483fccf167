"""Codes of organs and findings are those of the standard."""

import pytest
from pydicom.sr._concepts_dict import concepts

from zerotumor import codes
from zerotumor.vocabulary import LESIONS, ORGANS, lesions


def test_every_lesion_has_codes_that_the_standard_knows():
    known = {value: meaning for group in concepts["SCT"].values() for value, (meaning, _) in group.items()}
    assert set(codes.ANATOMY) == set(ORGANS) - {"abstract"}
    for lesion in lesions():
        region, finding = codes.region_of(lesion.hosts), codes.finding_of(lesion.name)
        assert region is not None and finding is not codes.LESION, lesion.name
    named = [*codes.ANATOMY.values(), codes.LEFT, codes.RIGHT, codes.ABNORMAL, codes.LESION, codes.CYST, codes.NODULE]
    for concept in [*named, codes.MASS, codes.NEOPLASM, codes.SECONDARY]:
        meanings = {m for group in concepts["SCT"].values() for v, (m, _) in group.items() if v == concept.value}
        assert concept.meaning in meanings and concept.value in known, concept


@pytest.mark.parametrize(
    "organs, meaning, side",
    [
        (["left kidney"], "Kidney", "Left"),
        (["left kidney", "right kidney"], "Kidney", None),
        (["right lung"], "Lung", "Right"),
        (["fat", "muscle"], "Soft tissue", None),
        (["liver", "hepatic vessels"], "Liver", None),
        (["liver", "pancreas"], None, None),
        ([], None, None),
        (["abstract"], None, None),
    ],
)
def test_a_region_is_named_only_where_one_code_is_true(organs, meaning, side):
    region = codes.region_of(organs)
    assert (region and region[0].meaning) == meaning and ((region and region[1]) and region[1].meaning) == side


def test_kinds_of_finding():
    kinds = {name: codes.finding_of(name).meaning for name in (*LESIONS, "strange words")}
    assert kinds["kidney cyst"] == "Cyst" and kinds["liver metastasis"] == "Neoplasm, Secondary"
    assert kinds["lung nodule"] == "Nodule" and kinds["meningioma"] == "Neoplasm" and kinds["strange words"] == "Lesion"
