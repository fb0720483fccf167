"""Dice against clicks: the page says whose masks the clicks start from, and whether these weights ship."""

import re

import evaluate_clicks

from zerotumor.segmenter import MODELS, sha256

RECORD = {"set": "real", "category": "sarcoma", "modality": "CT", "dice": [0.5] + [0.75] * 10, "seconds_a_click": 0.4}


def test_the_page_says_whether_its_weights_ship():
    made = evaluate_clicks.rows([RECORD | {"start": start} for start in ("text", "empty")])
    assert evaluate_clicks.shipped_hash("malenia") == sha256(MODELS / "model.pt")
    for ships, words in ((True, "These are the weights that ship."), (False, "not the weights of zept that ship:")):
        text = evaluate_clicks.page(made, "abc", "def", "zept", ships)
        assert "weights of zept that read the prompt\n`def`.\nThese are" in text and words in text
        assert "| real | sarcoma CT | empty | 1 | 0.50 (0.50 to 0.50) | 0.75" in text
        assert "Not measured" not in text
    assert "could not be read: a, b." in evaluate_clicks.page(made, "abc", "def", "zept", True, ["a", "b"])


def test_the_page_that_is_there_is_true_of_the_weights_that_ship():
    text = (MODELS.parent / "docs" / "clicks.md").read_text()
    refiner, method = re.findall(r"`([0-9a-f]{64})`", text)
    made = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(("| real", "| phantom"))]
    ships = method == evaluate_clicks.shipped_hash("malenia")
    assert text == evaluate_clicks.page(made, refiner, method, "malenia", ships), "measure anew, or say whose weights"
    assert refiner == sha256(MODELS / "refine" / "model.pt")
