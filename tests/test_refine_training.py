"""What the click network is trained on: lesions, masks to start from, simulated clicks."""

from collections import Counter

import torch
from monai.apps.deepgrow.interaction import Interaction
from monai.data import list_data_collate
from monai.engines import SupervisedTrainer

from zerotumor.refine_training import AddClickd, RandClickTask, lesion_datalist


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


def test_voxels_are_as_fine_and_as_coarse_as_those_of_windows():
    spacings = [record["spacing"] for record in lesion_datalist(200)]
    assert 1.4 <= min(spacings) < 1.5 and 4.9 < max(spacings) <= 5.0
