"""Simple fills of a hole, and how they are scored."""

import torch

from zerotumor.diffugts.fills import neighbors, organ_mean, score_fill


def phantom():
    organs = torch.zeros(20, 20, 20, dtype=torch.long)
    organs[:10] = 1
    image = torch.where(organs == 1, torch.tensor(0.6), torch.tensor(0.2))
    hole = torch.zeros(20, 20, 20, dtype=torch.bool)
    hole[7:13, 8:12, 8:12] = True
    return image, organs, hole


def test_organ_mean_knows_each_organs_brightness():
    twin, organs, hole = phantom()
    sick = torch.where(hole, torch.tensor(0.9), twin)
    assert torch.allclose(organ_mean(sick, organs, hole), twin, atol=1e-6)


def test_an_organ_that_is_all_hole_gets_its_surroundings_mean():
    image, organs, hole = torch.full((8, 8, 8), 0.25), torch.zeros(8, 8, 8, dtype=torch.long), torch.zeros(8, 8, 8) > 0
    hole[3:5, 3:5, 3:5] = True
    organs[hole], image[hole] = 7, 0.9
    assert torch.allclose(organ_mean(image, organs, hole), torch.full((8, 8, 8), 0.25))


def test_neighbors_continue_a_slope():
    twin = torch.linspace(0, 1, 20)[:, None, None].expand(20, 20, 20).clone()
    hole = torch.zeros(20, 20, 20, dtype=torch.bool)
    hole[8:11, 8:11, 8:11] = True
    filled = neighbors(torch.where(hole, torch.tensor(0.0), twin), hole)
    assert torch.allclose(filled, twin, atol=1e-3) and torch.equal(filled[~hole], twin[~hole])


def test_wide_holes_are_continued_on_a_coarser_grid():
    axes = torch.meshgrid(*(torch.arange(n) / 30 for n in (31, 28, 24)), indexing="ij")
    twin = (0.2 + 0.5 * axes[0] + 0.3 * axes[1] - 0.2 * axes[2]).float()  # odd edges: the last coarse cell hangs over
    hole = torch.zeros_like(twin) > 0
    hole[5:26, 6:22, 4:20] = True
    sick = torch.where(hole, torch.tensor(5.0), twin)
    filled = neighbors(sick, hole, most=100)
    assert torch.equal(filled[~hole], twin[~hole]) and float((filled - twin)[hole].abs().max()) < 0.05
    everything = torch.ones_like(hole)
    assert torch.equal(neighbors(sick, everything, most=100), sick)  # nothing to continue


def test_scores():
    twin, _, hole = phantom()
    perfect, worse = score_fill(twin, twin, hole), score_fill(torch.where(hole, twin + 0.1, twin), twin, hole)
    assert perfect["mae"] == perfect["rmse"] == 0 and perfect["ssim"] > 0.999
    assert abs(worse["mae"] - 0.1) < 1e-5 and abs(worse["rmse"] - 0.1) < 1e-5 and worse["ssim"] < perfect["ssim"]
