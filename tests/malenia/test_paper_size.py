"""The config of the paper's size builds, answers, and trains; the starter is the same network, smaller."""

import torch
import yaml

from zerotumor.malenia import Malenia
from zerotumor.malenia.criterion import MaleniaLoss
from zerotumor.malenia.model import Targets
from zerotumor.prompts import parse
from zerotumor.segmenter import MODELS

CONFIGS = MODELS.parent / "configs"


def network_config(name):
    return yaml.safe_load((CONFIGS / name).read_text())["network_config"]


def test_paper_and_starter_differ_in_size_alone():
    with torch.device("meta"):
        large, small = Malenia(**network_config("malenia_paper.yaml")), Malenia(**network_config("inference.yaml"))
    names = [{k.split(".")[0] for k in m.state_dict()} for m in (large, small)]
    assert names[0] == names[1]
    counts = [sum(p.numel() for p in m.parameters()) for m in (large, small)]
    assert 20e6 < counts[0] < 80e6 and 4e6 < counts[1] < 7e6


def test_the_papers_size_answers_and_learns():
    model = Malenia(**network_config("malenia_paper.yaml"))
    image = torch.rand(1, 2, 32, 32, 32)
    mask = torch.zeros(1, 32, 32, 32)
    mask[:, 8:20, 8:20, 8:20] = 1
    truth = Targets([mask], [torch.full((1, 8), -1)], torch.ones(1, 32, 32, 32, dtype=torch.long))
    loss = MaleniaLoss()(model(image, targets=truth), truth)
    loss.backward()
    assert torch.isfinite(loss)
    assert model.eval()(image, parse("liver tumor; cyst")).shape == (1, 2, 32, 32, 32)
