"""What the click network is trained on: lesions, masks to start from, simulated clicks."""

from collections import Counter

import pytest
import torch
from monai.apps.deepgrow.interaction import Interaction
from monai.data import list_data_collate
from monai.engines import SupervisedTrainer

from zerotumor import refine_training
from zerotumor.refine import ClickNet
from zerotumor.refine_training import AddClickd, GenerateLesion, RandClickTask, lesion_datalist, start_from
from zerotumor.segmenter import build


def sample():
    lesions = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    lesions[0, 4:10, 4:10, 4:10] = 1
    return {"image": torch.rand(2, 16, 16, 16).half(), "lesions": lesions}


def task(empty=1.0, clicks=(1, 5), seed=0):
    transform = RandClickTask(empty, clicks)
    transform.set_random_state(seed)
    return transform


def test_every_number_of_clicks_is_as_likely_as_the_next():
    transform, data = task(), sample()
    drawn = Counter(int(transform(data)["clicks"]) for _ in range(500))
    assert set(drawn) == {1, 2, 3, 4, 5} and min(drawn.values()) > 60


def test_a_click_is_drawn_and_counted_and_then_no_more():
    data = task(clicks=(1, 1))(sample())
    click = AddClickd(loose=0.0)
    once = click({**data, "pred": torch.full((1, 16, 16, 16), -9.0)})
    assert once["image"][3].any() and not once["image"][4].any() and int(once["clicks"]) == 0
    where = once["image"][3].nonzero().float().mean(0)
    assert (where - 6.5).abs().max() <= 1  # the middle of the lesion
    again = click({**once, "pred": torch.full((1, 16, 16, 16), 9.0)})
    assert torch.equal(again["image"], once["image"])


def test_later_clicks_judge_the_answer_and_the_first_the_mask_to_start_from():
    data = task(clicks=(2, 2))(sample())
    everything = torch.full((1, 16, 16, 16), 9.0)
    click = AddClickd(loose=0.0)
    first = click({**data, "pred": everything})
    assert not first["image"][2].any() and first["image"][3].any()
    second = click({**first, "pred": everything})
    assert second["image"][2].all() and second["image"][4].any()  # a click outside, where the answer is too much


class OnGpu(torch.Tensor):
    """Values that, as a GPU's, meet those of the CPU nowhere before they are brought to it."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.to and args[1:] == (torch.device("cpu"),):
            return args[0].as_subclass(torch.Tensor)
        if any(isinstance(a, torch.Tensor) and not isinstance(a, cls) and a.ndim for a in args):
            raise RuntimeError("Expected all tensors to be on the same device")
        return super().__torch_function__(func, types, args, kwargs or {})


def test_answers_come_from_where_the_network_is():
    data = task(clicks=(3, 3))(sample())
    everything = torch.full((1, 16, 16, 16), 9.0)
    there, here = ({**data, "pred": pred} for pred in (everything.as_subclass(OnGpu), everything))
    for _ in range(3):
        there, here = AddClickd(loose=0.0)(there), AddClickd(loose=0.0)(here)
    assert type(there["image"]) is torch.Tensor and torch.equal(there["image"], here["image"])


def test_the_engine_clicks_as_often_as_each_sample_asks():
    batch = list_data_collate([task(clicks=(n, n))(sample()) for n in (1, 3)])
    seen = []

    class Nothing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(1))

        def forward(self, inputs):
            seen.append([int((one[3] > 0).sum()) for one in inputs])
            return inputs[:, :1] * 0 - 1 + self.bias

    network = Nothing()
    interaction = Interaction(AddClickd(loose=1.0), max_interactions=5, train=True)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=1, train_data_loader=[batch], network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1), loss_function=torch.nn.BCEWithLogitsLoss(),
        iteration_update=interaction,
    )  # fmt: skip
    torch.manual_seed(0)
    trainer.run()
    assert len(seen) == 6 and seen[0] == [0, 0]  # five looks for clicks, and the one that is learned from
    one, three = ([step[k] for step in seen[1:]] for k in (0, 1))
    assert one == one[:1] * 5 and one[0] > 0
    assert three[0] == one[0] and three[0] < three[1] < three[2] == three[3] == three[4]


@pytest.fixture
def malenia():
    torch.manual_seed(0)
    return build(
        "malenia", {"channels": [4, 4, 8, 8, 8], "mask_channels": 4, "dim": 8, "tokens": 2, "gain": 0.15}
    ).eval()


def click_net(**other):
    return ClickNet(**{"channels": [4, 4, 8, 8, 8], "mask_channels": 4, "gain": 0.15, **other}).eval()


@torch.no_grad()
def test_it_starts_as_malenias_lesion_prior_and_blind_for_clicks(malenia, tmp_path):
    torch.save(malenia.state_dict(), tmp_path / "model.pt")
    net, image = click_net(), torch.rand(1, 2, 32, 32, 32)
    start_from(net, tmp_path / "model.pt")
    prior = malenia.decoder.priors(malenia.backbone(image))[-1]
    for clicks in (torch.zeros(1, 3, 32, 32, 32), torch.rand(1, 3, 32, 32, 32)):
        assert torch.allclose(net(torch.cat([image, clicks], 1)), prior, atol=1e-5)


@torch.no_grad()
def test_it_starts_as_another_click_network_or_its_checkpoint(tmp_path):
    before, inputs = click_net(), torch.rand(1, 5, 32, 32, 32)
    for state in (before.state_dict(), {"model": before.state_dict(), "ema": {}}):
        torch.save(state, tmp_path / "model.pt")
        net = click_net()
        start_from(net, tmp_path / "model.pt")
        assert torch.equal(net(inputs), before(inputs))


def test_weights_of_another_size_are_refused(malenia, tmp_path):
    torch.save(malenia.state_dict(), tmp_path / "model.pt")
    for other in ({"channels": [4, 4, 8, 8, 16]}, {"gain": None}):
        with pytest.raises(ValueError, match="does not fit this click network .*give it the same channels"):
            start_from(click_net(**other), tmp_path / "model.pt")


def test_masses_and_lesions_in_real_anatomy_are_drawn_too(monkeypatch):
    scan = {"seed": 99, "difficulty": 0.5, "image": "a", "label": "b"}
    monkeypatch.setattr(refine_training, "healthy_datalist", lambda n: [scan, {**scan, "category": "healthy"}][:n])
    records = lesion_datalist(3, masses={"limb": 10}, scans=2)
    assert len(records) == 3 + 8 + 1 and all(r.get("category") != "healthy" for r in records)
    assert sum(r.get("region") == "limb" for r in records) == 8 and records[-1]["image"] == "a"
    assert all(1.4 <= r["spacing"] <= 5.0 for r in records) and len({r["seed"] for r in records}) == len(records)


def test_a_lesion_of_a_record_is_drawn():
    record = lesion_datalist(0, masses={"limb": 2})[0]
    made = GenerateLesion(32)(record)
    assert set(made) == {"image", "lesions"} and made["image"].shape == (2, 32, 32, 32)
    assert made["lesions"].any() and torch.equal(made["lesions"], GenerateLesion(32)(record)["lesions"])


def test_voxels_are_as_fine_and_as_coarse_as_those_of_windows():
    spacings = [record["spacing"] for record in lesion_datalist(200)]
    assert 1.4 <= min(spacings) < 1.5 and 4.9 < max(spacings) <= 5.0
