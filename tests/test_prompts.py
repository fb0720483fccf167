"""What people write, and what is understood."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zerotumor.prompts import DEFAULT_PROMPT, MAX_LENGTH, Prompt, PromptError, parse
from zerotumor.vocabulary import ATTRIBUTES, LESIONS, ORGANS, lesions

KIDNEYS, LUNGS = ("left kidney", "right kidney"), ("left lung", "right lung")


def one(text, **options) -> Prompt:
    (prompt,) = parse(text, **options)
    return prompt


def stated(prompt) -> dict:
    """Attributes as values; only those that the text states."""
    usual = LESIONS[prompt.lesion].attributes if prompt.lesion else {}
    return {k: max(v, key=v.get) for k, v in prompt.attributes.items() if usual.get(k) != v}


class WordCount:
    """An encoder with one dimension for each word of a short list: its cosines can be computed by hand."""

    words = ("brain", "cyst", "pituitary", "mass")

    def __init__(self):
        self.asked = []

    def encode(self, texts):
        self.asked += texts
        rows = torch.tensor([[text.split().count(word) for word in self.words] for text in texts]).float()
        return torch.nn.functional.normalize(rows, dim=1)


@pytest.mark.parametrize("lesion", lesions(), ids=lambda lesion: lesion.name)
def test_every_name_and_synonym_is_understood(lesion):
    plural = re.sub(r"sis$", "ses", lesion.name) if lesion.name.endswith("sis") else lesion.name + "s"
    plural = plural.replace("masss", "masses")
    for text in (lesion.name, *lesion.synonyms, lesion.name.upper(), f"a {lesion.name}, please", plural):
        prompt = one(text)
        assert prompt.lesion == prompt.name == lesion.name, text
        assert prompt.organs == lesion.hosts, text
        assert prompt.nearest is None


@pytest.mark.parametrize(
    ("text", "lesion", "organs"),
    [
        ("Liver Tumour", "liver tumor", ("liver",)),
        ("hepatic masses", "liver tumor", ("liver",)),
        ("HCC", "liver tumor", ("liver",)),
        ("haemangioma of the liver", "liver hemangioma", ("liver",)),
        ("oesophageal carcinoma", "esophageal tumor", ("esophagus",)),
        ("left renal cyst", "kidney cyst", ("left kidney",)),
        ("RCC, right", "kidney tumor", ("right kidney",)),
        ("bilateral renal cysts", "kidney cyst", KIDNEYS),
        ("cyst in the left kidney", "kidney cyst", ("left kidney",)),
        ("cancer of the colon", "colon tumor", ("colon",)),
        ("adenocarcinoma of the prostate", "prostate tumor", ("prostate",)),
        ("hepatic necrotic mass", "liver tumor", ("liver",)),
        ("tumor in the mediastinum", "mediastinal mass", ("mediastinum",)),
        ("tumor in the thigh", "soft tissue sarcoma", ("muscle",)),
        ("soft-tissue sarcoma in the right thigh", "soft tissue sarcoma", ("muscle",)),
        ("sarcoma of the femur", "bone tumor", ("bone",)),
        ("lipoma in the liver", "lipoma", ("liver",)),
        ("liver metastases of colorectal cancer", "liver metastasis", ("liver",)),
        ("colorectal cancer liver metastasis", "liver metastasis", ("liver",)),
        ("metastatic liver lesions", "liver metastasis", ("liver",)),
        ("brain metastasis from lung cancer", "brain metastasis", ("brain",)),
        ("metastasis from lung cancer", None, ()),
        ("breast cancer metastasis in the liver", "liver metastasis", ("liver",)),
        ("breast cancer metastases of the left lobe of the liver", "liver metastasis", ("liver",)),
        ("renal cell carcinoma metastasis in the lung", "lung nodule", LUNGS),
        ("renal cell carcinoma mets in the left lung", "lung nodule", LUNGS[:1]),
        ("lung cancer metastasis to the brain", "brain metastasis", ("brain",)),
        ("lung metastasis to the brain", "brain metastasis", ("brain",)),
        ("metastatic breast cancer in the liver", "liver metastasis", ("liver",)),
        ("metastasis of a known breast cancer in the liver", "liver metastasis", ("liver",)),
        ("metastases from the colon in the liver", "liver metastasis", ("liver",)),
        ("metastasis of the lung in the brain", "brain metastasis", ("brain",)),
        ("metastasis in the lung from colon or breast cancer", "lung nodule", LUNGS),
        ("renal cancer metastasis in the pancreas", None, ("pancreas",)),
        ("metastasis of unknown origin in the liver", "liver metastasis", ("liver",)),
        ("metastatic renal cell carcinoma", "kidney tumor", KIDNEYS),
        ("metastatic renal cell carcinoma in the left kidney", "kidney tumor", ("left kidney",)),
        ("bone metastasis in the femur", "bone tumor", ("bone",)),
        ("lymph node metastasis in the mediastinum", "lymph node metastasis", ("mediastinum",)),
        ("lung mass with lymphadenopathy", "lung tumor", LUNGS),
        ("liver tumor near the right kidney", "liver tumor", ("liver",)),
        ("liver and pancreas tumor", "pancreatic tumor", ("pancreas", "liver")),
        ("spiculated nodule in the right upper lobe of the lung", "lung nodule", ("right lung",)),
        ("lesion in the liver", None, ("liver",)),
        ("left kidney and right lung lesion", None, ("left kidney", "right lung")),
        ("hemangioma in the spleen", None, ("spleen",)),
        ("lymph node", None, ("lymph node",)),
        ("kidny tumor", "kidney tumor", KIDNEYS),
        ("abstract lesion", None, ()),
    ],
)
def test_lesion_and_place(text, lesion, organs):
    prompt = one(text)
    assert (prompt.lesion, prompt.organs) == (lesion, organs)
    assert prompt.name == (lesion or text)


@pytest.mark.parametrize(
    ("text", "lesion", "organ"),
    [
        ("gall bladder cancer", "gallbladder tumor", "gallbladder"),
        ("gall-bladder carcinoma", "gallbladder tumor", "gallbladder"),
        ("urinary bladder cancer", "bladder tumor", "bladder"),
        ("small bowel cancer", "small bowel tumor", "small bowel"),
        ("large bowel cancer", "colon tumor", "colon"),
        ("cancer of the hepatic flexure", "colon tumor", "colon"),
        ("temporal bone tumor", "bone tumor", "bone"),
        ("portal vein tumor in the liver", "hepatic vessel tumor", "liver"),
    ],
)
def test_a_longer_name_of_an_organ_is_read_as_a_whole(text, lesion, organ):
    prompt = one(text)
    assert (prompt.lesion, prompt.organs) == (lesion, (organ,))


@pytest.mark.parametrize(
    ("adjective", "organ"),
    [("hepatic", "liver"), ("pancreatic", "pancreas"), ("colonic", "colon"), ("splenic", "spleen"),
     ("cerebral", "brain"), ("osseous", "bone"), ("gastric", "stomach"), ("uterine", "uterus"),
     ("mediastinal", "mediastinum"), ("rectal", "rectum"), ("duodenal", "small bowel")],
)  # fmt: skip
def test_adjectives_of_organs(adjective, organ):
    assert one(f"{adjective} lesion").organs == (organ,)
    assert one(f"bright {adjective} lesions").organs == (organ,)


def test_paired_organs_and_their_sides():
    for adjective, pair in (("renal", KIDNEYS), ("pulmonary", LUNGS)):
        assert one(f"{adjective} lesion").organs == pair
        assert one(f"left {adjective} lesion").organs == pair[:1]
        assert one(f"{adjective} lesion on the right").organs == pair[1:]
    assert one("lesion in the left lobe of the liver").organs == ("liver",)


@pytest.mark.parametrize(
    ("text", "organs"),
    [
        ("tumors in the left and right kidneys", KIDNEYS),
        ("mass in left and right kidney", KIDNEYS),
        ("left or right kidney", KIDNEYS),
        ("mass of the left/right kidney", KIDNEYS),
        ("lesions of the left and of the right kidney", KIDNEYS),
        ("right and left lung", LUNGS),
        ("nodules in the left upper lobe and the right lower lobe of the lung", LUNGS),
        ("lesion in the left upper and middle lobe of the lung", LUNGS[:1]),
        ("masses in both kidneys, the right larger", KIDNEYS),
        ("bilateral renal masses, larger on the left", KIDNEYS),
        ("lesion in the left kidney and both lungs", ("left kidney", *LUNGS)),
        ("lesion in the left kidney and the right lung", ("left kidney", "right lung")),
        ("left lung and kidney lesion", ("left lung", "left kidney")),
    ],
)
def test_both_sides(text, organs):
    assert set(one(text).organs) == set(organs)


@pytest.mark.parametrize(
    ("text", "attributes"),
    [
        ("hyperdense", {"density": "hyperdense"}),
        ("ill-defined mass", {"surface": "ill-defined"}),
        ("round hypodense lesion in the left kidney", {"shape": "round-like", "density": "hypodense"}),
        ("hypodense lesion in the pancreatic head", {"density": "hypodense"}),
        ("low attenuation lesion", {"density": "hypodense"}),
        ("T2 hyperintense lesion", {"density": "hyperdense"}),
        ("dark, lobulated", {"density": "hypodense", "shape": "irregular"}),
        ("necrotic mass", {"specific": "necrosis"}),
        ("well-circumscribed, calcified mass", {"surface": "well-defined", "specific": "calcification"}),
        ("rim\u2010enhancing lesion in the spleen", {"specific": "rim"}),  # a typographic hyphen
        ("spiculated lesion", {"shape": "irregular", "surface": "ill-defined"}),
        ("poorly circumscribed lesion", {"surface": "ill-defined"}),
        ("not well-defined lesion", {"surface": "ill-defined"}),
        ("lesion without calcification", {}),
        ("lesion abutting the aorta", {"relation": "close"}),
        ("lesion not close to other organs", {"relation": "not-close"}),
        ("non-contrast hyperdense lesion", {"enhancement": "non-contrast", "density": "hyperdense"}),
        ("non-enhancing lesion", {}),
        ("hypervascular lesion", {"density": "hyperdense", "enhancement": "contrast-enhanced"}),
        ("fat-containing lesion in the left kidney", {"density": "hypodense"}),
        ("heterogeneous cystic lesion", {"shape": "round-like", "density": "hypodense", "surface": "well-defined",
                                         "density_variation": "heterogeneous"}),
        ("hyperdense liver tumor", {"density": "hyperdense"}),
        ("tumor", {}),
    ],
)  # fmt: skip
def test_attributes_that_the_text_states(text, attributes):
    assert stated(one(text)) == attributes


def test_stated_attributes_override_the_lesions_own_and_the_rest_stays():
    usual = LESIONS["liver tumor"].attributes
    prompt = one("calcified liver tumor")
    assert prompt.attributes == {**usual, "specific": {"calcification": 1.0}}
    assert one("cyst in the left kidney").attributes == LESIONS["kidney cyst"].attributes


def test_two_values_of_one_attribute_share_it():
    assert one("hypo- to isodense lesion").attributes == {"density": {"hypodense": 0.5, "isodense": 0.5}}


def test_prompts_do_not_share_the_tables_dictionaries():
    one("liver tumor").attributes["shape"]["irregular"] = 99.0
    assert LESIONS["liver tumor"].attributes["shape"]["irregular"] < 1


def test_on_mr_the_ct_density_of_a_lesion_is_not_assumed():
    assert "density" in one("renal cyst").attributes
    prompt = one("renal cyst", modality="MR")
    assert "density" not in prompt.attributes and "surface" in prompt.attributes
    assert "density" not in one("cystic lesion", modality="MR").attributes
    assert one("hyperintense renal cyst", modality="MR").attributes["density"] == {"hyperdense": 1.0}
    with pytest.raises(ValueError, match='"CT" or "MR", not \'PET\''):
        parse("tumor", modality="PET")


def test_several_prompts_in_one_text_or_a_list():
    names = ["liver tumor", "kidney cyst"]
    for text in (
        "liver tumor; renal cyst",
        "liver tumor\nrenal cyst;",
        ["liver tumor", "renal cyst"],
        "liver tumor；renal cyst",
    ):
        assert [p.name for p in parse(text)] == names
    assert [p.text for p in parse("  tumor ;tumor; lesion")] == ["tumor", "lesion"]
    assert len({*parse("tumor"), *parse("tumor")}) == 1


def test_bare_words_ask_for_any_lesion_anywhere():
    for text in (DEFAULT_PROMPT, "tumour", "Lesions", "any large mass", "a 3 cm tumor", "metastases"):
        encoder = WordCount()
        prompt = one(text, encoder=encoder)
        assert (prompt.lesion, prompt.organs, prompt.attributes, prompt.nearest) == (None, (), {}, None)
        assert encoder.asked == []


def test_unknown_text_gets_the_nearest_concept_and_its_cosine():
    prompt = one("pituitary mass", encoder=WordCount())
    assert prompt.lesion is None and prompt.name == "pituitary mass"
    # "mass" alone, of the spelled-out synonyms: "... mass" has cosine 1 / sqrt(2), "brain mass" 1 / 2.
    assert prompt.similarity == pytest.approx(0.5**0.5, abs=1e-4)
    assert prompt.nearest in LESIONS and prompt.nearest != "abstract lesion"
    assert one("pituitary mass").nearest is None


def test_stated_words_of_unknown_text_are_kept():
    prompt = one("round hemangioblastoma of the cerebellum", encoder=WordCount())
    assert prompt.organs == ("brain",)
    assert prompt.attributes == {"shape": {"round-like": 1.0}}


@pytest.mark.parametrize("text", ["肝脏肿瘤", "опухоль печени", "ورم الكبد", "banana"])
def test_other_scripts_and_other_things_are_no_error(text):
    prompt = one(text, encoder=WordCount())
    assert (prompt.text, prompt.name, prompt.lesion, prompt.organs) == (text, text, None, ())
    assert prompt.nearest in LESIONS


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("  \n ", "is empty"),
        (";;", "is empty"),
        ("?!", "is empty"),
        ("\u200b", "is empty"),
        ([], "is empty"),
        (["tumor", " "], "is empty"),
        ("x" * (MAX_LENGTH + 1), "301 characters and may have 300"),
        ("liver\x00tumor", "control characters"),
        ("liver \ud800 tumor", "control characters"),
        ([3], "must be text, not int"),
        ("liver tumor, renal cyst", r'several lesions \(kidney cyst, liver tumor\).*";"'),
        ("cyst in the liver and kidney", r'several lesions \(kidney cyst, liver cyst\).*";"'),
    ],
)
def test_what_cannot_be_a_prompt_is_refused_in_one_sentence(text, reason):
    with pytest.raises(PromptError, match=reason) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_the_longest_prompt_allowed_is_allowed():
    assert one("liver tumor " + "x" * (MAX_LENGTH - 12)).lesion == "liver tumor"


VOCABULARY = sorted(
    {w for lesion in lesions() for w in lesion.name.split()} | set(ORGANS) | {"dark", "no", "near", "with"}
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(VOCABULARY), max_size=8).map(" ".join)))
def test_any_text_gives_sound_prompts_or_a_prompt_error(text):
    try:
        prompts = parse(text)
    except PromptError:
        return
    for prompt in prompts:
        assert prompt.lesion is None or prompt.lesion in LESIONS
        assert set(prompt.organs) <= set(ORGANS) - {"abstract"}
        assert len(set(prompt.organs)) == len(prompt.organs)
        for attribute, values in prompt.attributes.items():
            assert set(values) <= set(ATTRIBUTES[attribute])
            assert sum(values.values()) == pytest.approx(1, abs=1e-3)
