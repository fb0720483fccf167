"""Requests are checked before anything in them is used."""

import pytest
from fastapi import HTTPException
from lib.labels import FREE, LABELS, numbers_of, prompts_of
from lib.options import RefineOptions, TumorOptions, checked

from zerotumor.prompts import parse
from zerotumor.vocabulary import LESIONS


def test_an_untouched_drop_down_sends_all_choices_and_means_the_first():
    options = checked(
        TumorOptions, {"method": ["malenia", "other"], "modality": ["auto", "CT", "MR"], "prompt": "tumor"}
    )
    assert options.method == "malenia" and options.stated_modality is None


@pytest.mark.parametrize(
    "request_",
    [
        {"method": "../../etc"}, {"modality": "PET"}, {"overlap": 3}, {"prompt": 5}, {"prompt": "x" * 10_000},
        {"label_prompt": ["a"]}, {"result_extension": "/../../x.nrrd"}, {"result_dtype": "O"}, {"overlap": "__import__"},
        {"label_prompt": list(range(1000))}, {"quality": "superb"},
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_a_sentence(request_):
    with pytest.raises(HTTPException) as caught:
        checked(TumorOptions, request_)
    assert caught.value.status_code == 400 and next(iter(request_)) in caught.value.detail


@pytest.mark.parametrize(
    "request_",
    [{"foreground": [[1, 2]]}, {"foreground": [["a", 1, 2]]}, {"foreground": [[1.5, 2, 3]]}, {"roi": [1, 2, 3]},
     {"background": "all"}, {"foreground": [[0, 0, 0]] * 501}, {"undo": "maybe"}, {"label": "x" * 5000}],
)  # fmt: skip
def test_clicks_must_be_voxel_indices(request_):
    with pytest.raises(HTTPException):
        checked(RefineOptions, request_)


def test_a_prompt_that_looks_like_code_stays_a_prompt():
    assert checked(TumorOptions, {"prompt": "$import os"}).prompt == "$import os"


def test_every_label_has_a_number_and_only_one():
    assert sorted(LABELS.values()) == list(range(1, len(LABELS) + 1)) and len(LABELS) < 256
    assert set(LESIONS) - {"abstract lesion"} <= set(LABELS)


def test_class_prompts_are_the_vocabularys_words():
    assert prompts_of([LABELS["kidney cyst"], 1, LABELS["kidney cyst"]]) == ["kidney cyst", "tumor"]
    with pytest.raises(HTTPException, match="label"):
        prompts_of([999])


def test_prompts_get_different_numbers():
    prompts = parse("liver tumor; hypodense liver tumor; something odd; tumor")
    numbers = numbers_of(prompts)
    assert (
        numbers[0] == LABELS["liver tumor"]
        and len(set(numbers)) == 4
        and set(numbers[1:]) <= set(range(1, len(FREE) + 1))
    )
    with pytest.raises(HTTPException, match="at once"):
        numbers_of(parse("; ".join(f"odd thing {c}" for c in "abcde")))
