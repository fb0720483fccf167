"""A method that looks twice draws once for all thetas that are tried."""

import calibrate
import torch

from zerotumor.diffugts import DiffuGTS
from zerotumor.inferer import encode_volume, segment_volume
from zerotumor.prompts import parse

THETAS = (0.2, 0.4, 0.5, 0.6, 0.8)


def test_every_theta_is_answered_as_by_the_method_itself(make, monkeypatch):
    model = make(threshold=0.3)
    torch.nn.init.normal_(model.fusion.net[-1].weight, std=0.5)
    image = torch.rand(2, 20, 20, 20, generator=torch.Generator().manual_seed(1))
    features, prompts = encode_volume(model, image), parse("liver tumor; lesion in the spleen")
    expected = []
    for theta in THETAS:
        model.theta = theta
        expected.append(segment_volume(model, image, prompts, features=features).probabilities >= 0.5)
    drawn, whole = [], DiffuGTS.complete
    monkeypatch.setattr(DiffuGTS, "complete", lambda self, *a: (drawn.append(1), whole(self, *a))[1])
    answers = calibrate.answers(model, image, prompts, [(theta, 0.0) for theta in THETAS])
    for ((theta, _), masks), wanted in zip(answers, expected, strict=True):
        assert torch.equal(masks, wanted), theta
    assert len(drawn) == 1 and len({int(e.sum()) for e in expected}) > 2
