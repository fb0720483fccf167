"""What a prompt rules out is not looked for, and what only sounds negated is."""

import pytest

from zerotumor.prompts import PromptError, parse
from zerotumor.vocabulary import LESIONS

KIDNEYS, LUNGS = ("left kidney", "right kidney"), ("left lung", "right lung")


def read(text) -> tuple:
    """A prompt's lesion, its organs, and the attributes as values that the text itself states."""
    (prompt,) = parse(text)
    usual = LESIONS[prompt.lesion].attributes if prompt.lesion else {}
    return (
        prompt.lesion,
        prompt.organs,
        {k: max(v, key=v.get) for k, v in prompt.attributes.items() if usual.get(k) != v},
    )


@pytest.mark.parametrize(
    ("text", "lesion", "organs"),
    [
        ("liver lesion, not the kidney", None, ("liver",)),
        ("tumor of the kidney without liver metastasis", "kidney tumor", KIDNEYS),
        ("kidney tumor without metastasis in the liver", "kidney tumor", KIDNEYS),
        ("tumor without metastasis in the liver", "liver tumor", ("liver",)),
        ("tumor without metastases to lung or liver", None, ()),
        ("kidney tumor, not a cyst", "kidney tumor", KIDNEYS),
        ("renal mass rather than a cyst", "kidney tumor", KIDNEYS),
        ("liver lesion, neither a cyst nor a hemangioma", None, ("liver",)),
        ("liver mass, no lymph node metastasis, no bone metastasis", "liver tumor", ("liver",)),
        ("no lymphadenopathy, liver mass", "liver tumor", ("liver",)),
        ("lung cancer without brain or liver metastasis", "lung tumor", LUNGS),
        ("liver tumor, no history of breast cancer", "liver tumor", ("liver",)),
        ("lesion of the liver or spleen, not the pancreas or the stomach", None, ("liver", "spleen")),
        ("lesion neither in the liver nor in the spleen, but in the pancreas", None, ("pancreas",)),
        ("liver and kidney lesions except the right kidney", None, ("liver", "left kidney")),
        ("kidney tumor outside the left kidney", "kidney tumor", ("right kidney",)),
        ("renal mass on the right, not on the left", "kidney tumor", ("right kidney",)),
        ("there is no tumor in the right kidney but one in the left kidney", None, ("left kidney",)),
        ("non-metastatic liver lesion", None, ("liver",)),
        ("breast cancer metastasis in the liver, not in the lung", "liver metastasis", ("liver",)),
        ("not in the livr, in the kidney", None, KIDNEYS),
    ],
)
def test_organs_and_lesions_ruled_out_are_not_looked_for(text, lesion, organs):
    assert read(text) == (lesion, organs, {})


@pytest.mark.parametrize(
    "text",
    [
        "lesion without a rim",
        "lesion with no necrosis or calcification",
        "no necrosis, calcification, or rim",
        "lesion without necrosis and calcification",
        "lesion lacking calcification",
        "lesion with a lack of calcification",
        "lesion free of calcification",
        "lesion isn't calcified",
        "lesion isn\u2019t calcified",  # a typographic apostrophe
        "lesion w/o calcification",
        "neither cystic nor necrotic",
        "never calcified or necrotic",
        "noncalcified nodule",
        "lesion without any evidence of calcification",
        "calcification absent",
        "lesion with calcification and necrosis not seen",
        "mass without a calcified rim",
        "mass without fat",
        "any lesion other than a cyst",
    ],
)
def test_looks_ruled_out_are_absent(text):
    assert read(text) == (None, (), {})


@pytest.mark.parametrize(
    ("text", "lesion", "organs", "attributes"),
    [
        ("lesion, no rim, hypodense", None, (), {"density": "hypodense"}),
        ("liver tumor without calcification, round or oval", "liver tumor", ("liver",), {"shape": "round-like"}),
        ("not calcified and round nodule", None, (), {"shape": "round-like"}),
        ("lesion that is not necrotic, calcified", None, (), {"specific": "calcification"}),
        ("lesion without calcification in the liver", None, ("liver",), {}),
        ("neither cystic nor necrotic lesion in the liver", None, ("liver",), {}),
        ("noncalcified nodule in the left lung", "lung nodule", ("left lung",), {}),
        ("not hypodense but hyperdense lesion in the liver", None, ("liver",), {"density": "hyperdense"}),
        ("lesion without sharp margins", None, (), {"surface": "ill-defined"}),
        ("lesion isn't well-defined", None, (), {"surface": "ill-defined"}),
        ("pancreatic mass not invading the duodenum", "pancreatic tumor", ("pancreas",), {"relation": "not-close"}),
    ],
)
def test_a_negation_ends_with_its_clause(text, lesion, organs, attributes):
    assert read(text) == (lesion, organs, attributes)


@pytest.mark.parametrize(
    ("text", "lesion", "organs", "attributes"),
    [
        ("non-small cell lung cancer", "lung tumor", LUNGS, {}),
        ("not only the liver but the spleen lesion", None, ("liver", "spleen"), {}),
        ("tumor not limited to the liver", "liver tumor", ("liver",), {}),
        ("non-mass enhancement in the breast", "breast tumor", ("breast",), {}),
        ("non-specific liver lesion", None, ("liver",), {}),
        ("non-cystic pancreatic lesion", None, ("pancreas",), {}),
        ("rule out liver tumor", "liver tumor", ("liver",), {}),
        ("lymph node", None, ("lymph node",), {}),
        ("no-contrast CT liver tumor", "liver tumor", ("liver",), {"enhancement": "non-contrast"}),
        ("non-contrast enhanced CT, liver lesion", None, ("liver",), {"enhancement": "non-contrast"}),
        ("liver lesion without contrast", None, ("liver",), {"enhancement": "non-contrast"}),
        ("non-muscle-invasive bladder cancer", "bladder tumor", ("bladder",), {"relation": "not-close"}),
        ("kidney lesion with no rim enhancement", None, KIDNEYS, {}),
    ],
)
def test_names_and_phrases_that_only_sound_negated(text, lesion, organs, attributes):
    assert read(text) == (lesion, organs, attributes)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("lesion not in the liver", 'leaves no organ to look in: name the organs .* "lesion in the left kidney"'),
        ("tumor outside the liver", "leaves no organ to look in"),
        ("tumor excluding liver", "leaves no organ to look in"),
        ("lesion neither in the liver nor in the kidney", "leaves no organ to look in"),
        ("lesion not in the livr", "leaves no organ to look in"),
        ("liver tumor outside the liver", "leaves no organ to look in"),
        ("everything except the liver", "leaves no organ to look in"),
        ("no tumor in the liver", 'says only what not to look for: write what to look for, such as "liver tumor"'),
        ("liver without tumor", "says only what not to look for"),
        ("no calcified lesion", "says only what not to look for"),
    ],
)
def test_a_prompt_that_only_rules_out_is_refused_in_one_sentence(text, reason):
    with pytest.raises(PromptError, match=reason) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
