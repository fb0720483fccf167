"""What is kept of a scan between prompts, and how much memory it takes."""

import torch

from zerotumor.kept import Kept, VolumeFeatures, Window


def test_a_value_is_made_once_and_again_after_somebody_made_room():
    kept, made = Kept(), []

    def make():
        made.append(1)
        kept.clear()  # by another request, meanwhile
        return None

    assert kept.once("a", make) is None and kept.once("a", make) is None and len(made) == 1  # nothing is an answer, too
    kept.clear()
    kept.once("a", make)
    assert len(made) == 2


def test_all_that_is_kept_counts():
    inner = VolumeFeatures([Window((), {"f": torch.zeros(3, dtype=torch.half)})])
    outer = VolumeFeatures([Window((), {"f": torch.zeros(5), "g": torch.zeros(2)}), Window((), {"f": torch.zeros(5)})])
    assert outer.bytes == 48
    outer.further |= {"organs": torch.zeros(10), ("second", 1): inner, "too large": None}
    assert outer.bytes == 48 + 40 + 6
