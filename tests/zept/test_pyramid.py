"""What ZePT reads from its backbone."""

import torch
from monai.networks.utils import pixelshuffle

from zerotumor.backbone import evened
from zerotumor.zept.pyramid import ResidualPyramid


def test_a_checkerboard_is_evened_out_and_nothing_is_moved():
    torch.manual_seed(0)
    parities = torch.randn(8)  # what eight kernels answer to the same tissue
    map_ = pixelshuffle(parities[None, :, None, None, None].expand(1, 8, 6, 6, 6), spatial_dims=3, scale_factor=2)
    assert map_.std() > 0.5
    inner = evened(map_)[..., 1:-1, 1:-1, 1:-1]
    torch.testing.assert_close(inner, parities.mean().expand_as(inner))
    plain = torch.full((1, 2, 6, 6, 6), 3.0)
    torch.testing.assert_close(evened(plain), plain)
    point = torch.zeros(1, 1, 9, 9, 9)
    point[..., 4, 4, 4] = 1
    spread = evened(point)
    assert spread.argmax() == point.argmax() and torch.equal(spread, spread.flip(2, 3, 4))


def test_masks_are_read_from_an_even_map():
    torch.manual_seed(0)
    backbone = ResidualPyramid(2, [4] * 5, 3)
    image = torch.zeros(1, 2, 32, 32, 32)  # the same everywhere
    mask, shuffled = backbone(image).mask, backbone.levels(image)["f4"]
    inner = (slice(None), slice(None), *(slice(12, 20),) * 3)
    assert mask.shape == shuffled.shape == (1, 3, 32, 32, 32)
    parity = [
        v[inner].unfold(4, 2, 2)[..., 0].mean() - v[inner].unfold(4, 2, 2)[..., 1].mean() for v in (mask, shuffled)
    ]
    assert abs(parity[0]) < 0.3 * abs(parity[1])


def test_what_rises_to_the_full_grid_has_no_parity():
    torch.manual_seed(0)
    backbone = ResidualPyramid(2, [4] * 5, 3, fine_channels=4)
    image = torch.rand(1, 2, 32, 32, 32)
    assert torch.equal(backbone(image).mask, backbone.levels(image)["f4"])  # nothing is evened a second time
    cell, seen = torch.randn(1, 4, 2, 2, 2), []  # what eight kernels answer to the same tissue
    backbone.rise.register_forward_hook(lambda module, inputs, output: cell.repeat(1, 1, 16, 16, 16))
    backbone.fine.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][:, :4]))
    backbone.levels(image)
    inner = seen[0][..., 1:-1, 1:-1, 1:-1]
    torch.testing.assert_close(inner, cell.mean((2, 3, 4), keepdim=True).expand_as(inner))
