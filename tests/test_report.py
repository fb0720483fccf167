"""Numbers and pictures of a mask."""

import numpy as np
import torch
from monai.data import MetaTensor
from PIL import Image
from rich.console import Console

from zerotumor.prompts import parse
from zerotumor.report import caption, component_table, describe_prompt, feret_diameter, overlay, table


def box_mask():
    mask = np.zeros((20, 20, 20), bool)
    mask[2:8, 3:6, 4:8] = True
    mask[15, 15, 15] = True
    return mask


def test_volume_diameter_and_centroid_of_a_box():
    affine = np.diag([2.0, 1.0, 3.0, 1.0])
    affine[:3, 3] = [-5, 0, 10]
    (large, small), count = component_table(box_mask(), affine)
    assert count == 2
    assert large["volume_ml"] == round(6 * 3 * 4 * 6 / 1000, 3)
    assert abs(large["largest_diameter_mm"] - np.linalg.norm([5 * 2, 2 * 1, 3 * 3])) < 0.06
    assert np.allclose(large["centroid_mm"], [-5 + 4.5 * 2, 4, 10 + 5.5 * 3], atol=0.06)
    assert small["volume_ml"] == 0.006 and small["largest_diameter_mm"] == 0


def test_diagonal_neighbors_are_one_component():
    mask = np.zeros((5, 5, 5), bool)
    mask[1, 1, 1] = mask[2, 2, 2] = True
    assert component_table(mask, np.eye(4))[1] == 1


def test_volume_and_count_are_of_all_components_and_the_list_alone_is_capped():
    mask = torch.zeros(40, 40, 4)
    mask[::4, ::4, 0] = 1
    entry = describe_prompt(parse("tumor")[0], mask, torch.diag(torch.tensor([10.0, 10, 10, 1])), 0.5)
    assert (entry["component_count"], entry["volume_ml"], len(entry["components"])) == (100, 100.0, 20)


def test_diameter_and_centroid_are_of_the_component_of_the_largest_volume():
    mask = torch.zeros(40, 20, 20)
    mask[2:8, 2:8, 2:8] = 1
    mask[:, 15, 15] = 1  # longer, and smaller
    entry = describe_prompt(parse("tumor")[0], mask, torch.eye(4), 0.5)
    assert entry["centroid_mm"] == [4.5, 4.5, 4.5] and entry["largest_diameter_mm"] == round(5 * np.sqrt(3), 1)


def test_feret_of_a_ball_and_of_flat_points():
    grid = np.stack(np.meshgrid(*[np.arange(-12, 13)] * 3), -1).reshape(-1, 3)
    assert abs(feret_diameter(grid[np.linalg.norm(grid, axis=1) <= 10]) - 20) < 0.5
    flat = grid[grid[:, 2] == 0]
    assert abs(feret_diameter(flat) - 24 * np.sqrt(2)) < 1.0


def test_nothing_found():
    entry = describe_prompt(parse("renal cyst")[0], torch.zeros(4, 4, 4), torch.eye(4), 0.1)
    assert not entry["found"] and entry["volume_ml"] == 0 and entry["components"] == [] and "attributes" not in entry


def test_unknown_prompt_names_the_nearest_concept():
    from zerotumor.text import load_text_encoder

    prompt = parse("Nierenzyste", encoder=load_text_encoder())[0]
    entry = describe_prompt(prompt, torch.ones(4, 4, 4), torch.eye(4), 0.5)
    assert entry["nearest_concept"] == prompt.nearest and -1 <= entry["similarity"] <= 1


def report_of(mask):
    entry = describe_prompt(parse("tumor")[0], mask, torch.eye(4), 0.5)
    return {"scan": "a/b.nii.gz", "modality": "MR", "prompts": [entry]}


def test_table_shows_prompt_and_numbers():
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table([report_of(torch.from_numpy(box_mask()))]))
    text = console.export_text()
    assert "tumor" in text and "yes" in text and "0.1" in text


def test_picture_shows_the_patients_left_on_the_right(tmp_path):
    """RAS: a small x index is the patient's left, which radiologists see on the right."""
    scan = MetaTensor(torch.rand(1, 40, 40, 40) * 0.1 + 0.1, affine=torch.eye(4))
    mask = torch.zeros(1, 40, 40, 40)
    mask[:, 5:12, 15:25, 15:25] = 1
    overlay(scan, mask, report_of(mask[0]), tmp_path / "a.png")
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    red = (picture[..., 0] > 200) & (picture[..., 1] < 100)
    axial = red[:, : picture.shape[1] // 3]
    assert axial.any() and np.argwhere(axial)[:, 1].mean() > axial.shape[1] * 0.55


def test_picture_without_a_finding(tmp_path):
    scan = MetaTensor(torch.randn(1, 10, 10, 10) * 100, affine=torch.eye(4))
    report = report_of(torch.zeros(10, 10, 10)) | {"modality": "CT"}
    overlay(scan, torch.zeros(1, 10, 10, 10), report, tmp_path / "a.png", truth=torch.ones(10, 10, 10))
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_dollars_in_a_prompt_are_no_formula(tmp_path):
    scan, report = MetaTensor(torch.rand(1, 10, 10, 10), affine=torch.eye(4)), report_of(torch.ones(10, 10, 10))
    report["prompts"][0]["prompt"] = r"liver tumor of $\foo$"
    overlay(scan, torch.ones(1, 10, 10, 10), report, tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()


def test_a_map_has_a_row_of_its_own(tmp_path):
    """Bright where the map is high, and the scan alone where it is low."""
    scan = MetaTensor(torch.full((1, 40, 40, 40), 0.2), affine=torch.eye(4))
    heat = torch.zeros(1, 40, 40, 40)
    heat[:, :, 15:25, 15:25] = 1
    report = report_of(torch.zeros(40, 40, 40))
    overlay(scan, torch.zeros(1, 40, 40, 40), report, tmp_path / "plain.png")
    overlay(scan, torch.zeros(1, 40, 40, 40), report, tmp_path / "map.png", maps={"anomaly": heat})
    plain, shown = (np.asarray(Image.open(tmp_path / f"{n}.png").convert("RGB")).astype(int) for n in ("plain", "map"))
    assert shown.shape[0] == 2 * plain.shape[0] and shown.shape[1] == plain.shape[1]
    colorful = np.ptp(shown, axis=2) > 60  # gray has none
    assert colorful[plain.shape[0] :].mean() > 0.005 and not colorful[: plain.shape[0]].any()


def test_the_picture_says_who_of_several_methods_found_something():
    report = report_of(torch.ones(10, 10, 10))
    assert "found by" not in caption(report)
    report["prompts"][0]["found_by"] = "zept"
    assert caption(report).endswith("found by zept")
