"""What an annotator would click, and what the network is shown of it."""

import torch

from zerotumor.clicks import Click, balls, next_click


def cube(low, high, shape=(20, 20, 20)):
    mask = torch.zeros(shape)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    return mask


def test_the_first_click_is_the_middle_of_the_lesion():
    assert next_click(torch.zeros(20, 20, 20), cube((4, 4, 4), (9, 9, 9))) == Click((6, 6, 6), True)


def test_the_largest_mistake_comes_first_and_what_is_too_much_is_clicked_outside():
    truth = cube((0, 0, 0), (3, 3, 3))
    assert next_click(cube((10, 10, 10), (17, 17, 17)), truth) == Click((13, 13, 13), False)


def test_nothing_is_clicked_when_nothing_is_wrong():
    assert next_click(cube((2, 2, 2), (5, 5, 5)), cube((2, 2, 2), (5, 5, 5))) is None


def test_a_click_lies_in_the_wrong_region_even_if_it_is_hollow():
    truth = cube((2, 2, 2), (15, 15, 15)) - cube((4, 4, 4), (13, 13, 13))
    click = next_click(torch.zeros_like(truth), truth)
    assert truth[click.index] == 1


def test_depth_is_in_millimeters():
    plate_and_peg = (cube((1, 1, 1), (18, 18, 4)) + cube((6, 6, 4), (13, 13, 14))).clamp(0, 1)
    nothing = torch.zeros_like(plate_and_peg)
    assert next_click(nothing, plate_and_peg, spacing=(1, 1, 5)).index[2] == 2
    assert next_click(nothing, plate_and_peg, spacing=(1, 1, 1)).index[2] >= 4


def test_balls_are_round_and_cut_off_at_the_edge():
    ball = balls((15, 15, 15), [(7, 7, 7)])
    assert ball[7, 7, 7] == 1 and ball[7, 7, 8] == 1 and 0 < ball[7, 7, 9] < 1 and ball[7, 7, 10] == 0
    assert torch.equal(ball, ball.flip(0)) and torch.equal(ball, ball.transpose(0, 2))
    assert balls((15, 15, 15), [(0, 0, 0)])[0, 0, 0] == 1 and not balls((15, 15, 15), [(40, 0, 0)]).any()
    assert not balls((5, 5, 5), []).any()
