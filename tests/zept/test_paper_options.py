"""Every option: ours and the paper's do different things, and nothing else is taken."""

import pytest
import torch

from zerotumor.prompts import PromptError, parse
from zerotumor.zept.criterion import ZeptLoss
from zerotumor.zept.options import CHOICES, PAPER, Options


@pytest.mark.parametrize("name", list(CHOICES))
def test_other_values_are_refused(make, name):
    with pytest.raises(ValueError, match=f"{name} cannot be 'both': choose"):
        make(**{name: "both"})


def test_defaults_are_ours_and_the_papers_are_all_others():
    assert all(getattr(Options(), name) == ours for name, (ours, _) in CHOICES.items())
    assert all(PAPER[name] != ours for name, (ours, _) in CHOICES.items())


def test_loss_refuses_them_too():
    with pytest.raises(ValueError, match="similarity cannot be"):
        ZeptLoss(similarity="euclid")


def test_similarity(make):
    ours, paper = make(), make(similarity="raw")
    with torch.no_grad():
        for model in (ours, paper):
            model.log_temperature.fill_(2.0)
    assert ours.temperature == 0.5 and paper.temperature > 7


def test_targets():
    aliased, cloned = ZeptLoss(targets="aliased").targets, ZeptLoss().targets
    assert aliased[0] is aliased[1] and torch.equal(aliased[1], cloned[1]) and not torch.equal(*cloned)


def test_anomaly_gate(make):
    anomaly, mask = torch.full((1, 1, 32, 32, 32), 3.0), torch.zeros(1, 1, 32, 32, 32)
    organs = torch.tensor([0.0, -20.0]).expand(1, 32, 2)  # whatever the mask, their offset says -20
    host = make().seen_anomaly(anomaly, organs, mask, make().hosts)
    everywhere = make(anomaly_gate="all").seen_anomaly(anomaly, organs, mask, make().hosts)
    assert (everywhere == 3).all() and everywhere.shape == (1, 8, 32, 32, 32)
    assert (host[:, :7] < -3.9).all() and (host[:, 7] == 3).all()  # no organ anywhere; any lesion has no host


def test_anomaly_range(make):
    assert make().whole_scan == ("limits",) and make(anomaly_range="window").whole_scan == ()
    windows = [{"limits": torch.tensor([[[0.0, 1.0]]])}, {"limits": torch.tensor([[[-2.0, 0.5]]])}]
    assert make().shared(windows)["limits"].tolist() == [[[-2.0, 1.0]]]


def test_background(make):
    ours, paper = make(), make(background="none")
    assert ours.fundamental.queries.shape[0] == 33 and paper.fundamental.queries.shape[0] == 32
    image = torch.rand(1, 2, 32, 32, 32)
    for model in (ours, paper):
        assert model(image, organs=True).shape == (1, 32, 32, 32, 32)


def test_offset(make):
    """Classes start rare in ours, as likely as not in the paper's."""
    image = torch.rand(1, 2, 32, 32, 32)
    with torch.no_grad():
        ours, paper = make()(image, organs=True).mean(), make(offset="none")(image, organs=True).mean()
    assert ours < -2 and abs(paper) < 1


def test_an_organ_is_read_by_its_query_and_by_what_is_learned_of_it(make):
    """Queries of four numbers cannot tell five organs apart; a vector of each organ's own can."""
    model, queries, mask = make().eval(), torch.randn(1, 33, 4), torch.randn(1, 4, 8, 8, 8)
    with torch.no_grad():
        before = model.organ_weights(queries), model.full_anomaly(queries, mask)
        model.offsets.vectors[5] += 3
        after = model.organ_weights(queries), model.full_anomaly(queries, mask)
    changed = (after[0] - before[0])[0]
    assert torch.allclose(changed[5], torch.tensor([3.0, 3, 3, 3, 0])) and changed.abs().sum() == 12
    assert not torch.equal(after[1], before[1])  # what it claims is no anomaly


def test_a_background_query_can_only_lower_the_anomaly(make):
    model = make(offset="none")
    queries, mask = torch.randn(1, 33, 4), torch.randn(1, 4, 8, 8, 8)
    with torch.no_grad():
        assert (model.full_anomaly(queries, mask) <= model.full_anomaly(queries[:, :32], mask)).all()


def test_organ_correction_subtracts_once_a_tumor(make):
    organs, anomaly = torch.randn(1, 25, 8, 8, 8), torch.randn(1, 1, 8, 8, 8)
    model = make(classes="paper", organ_correction="hosts")
    step = 0.75
    change = model.corrected(organs, anomaly + step) - model.corrected(organs, anomaly)
    expected = torch.zeros(25)
    expected[[1, 2]] = -2 * step
    expected[[5, 10, 14, 15, 16, 17]] = -step
    assert torch.allclose(change.mean((0, 2, 3, 4)), expected, atol=1e-5)
    assert torch.equal(make(classes="paper").corrected(organs, anomaly), organs)


def test_selection(make):
    prompts = parse("splenic lesion")
    assert make().select(prompts).sum() == pytest.approx(1)
    with pytest.raises(PromptError, match="has no slot"):
        make(selection="slot").select(prompts)
    known = make(selection="slot").select(parse("renal cyst; tumor"))
    assert known[0].argmax() == 6 and known[0].max() == 1 and known[1].sum() == pytest.approx(1)
