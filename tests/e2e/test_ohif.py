"""Stock OHIF in a real browser, the app, and Orthanc: type a prompt, see the mask, click, see it change."""

import json
from pathlib import Path
from urllib.parse import urlsplit

import nrrd
import numpy as np
import pytest

from zerotumor.pipeline import segment_scan
from zerotumor.report import as_mask
from zerotumor.segmenter import load
from zerotumor.volumes import read_scan

PROMPT = "liver tumor; tumor"


@pytest.fixture
def page(browser, server, archive):
    """The MONAI Label mode of OHIF on the CT, connected; nothing but this machine can be reached."""
    context = browser.new_context(viewport={"width": 1500, "height": 900})
    context.route("**/*", lambda route: route.continue_()
                  if urlsplit(route.request.url).hostname in ("127.0.0.1", None) else route.abort())  # fmt: skip
    opened = context.new_page()
    opened.set_default_timeout(120_000)
    opened.goto(f"{server}/ohif/monai-label?StudyInstanceUIDs={archive[1]['CT']}", wait_until="domcontentloaded")
    opened.wait_for_selector("#monailabelServerURL")
    opened.wait_for_timeout(8000)
    hide = opened.get_by_text("Confirm and Hide")
    if hide.count():
        hide.first.click()
    opened.locator(".settingsTable button.actionButton").click()
    opened.wait_for_selector('label:has-text("Auto-Segmentation")')
    opened.wait_for_timeout(2000)
    yield opened
    context.close()


def painted(page) -> bytes:
    """What the viewports show now."""
    return page.locator(".viewport-wrapper, [data-cy='viewport-grid'], .cornerstone-canvas").first.screenshot()


def test_a_prompt_typed_in_ohif_paints_the_command_lines_mask(page, series, pictures, tmp_path):
    page.screenshot(path=pictures / "ohif_connected.png")
    before = page.screenshot()
    page.locator(".modelSelector select").first.select_option("tumor")
    page.get_by_text("Options", exact=False).first.click()
    page.wait_for_timeout(1000)
    page.screenshot(path=pictures / "ohif_options.png")
    field = page.locator("input[type=text]").filter(has_not=page.locator("#monailabelServerURL"))
    for k in range(field.count()):
        if field.nth(k).input_value() == "tumor":
            field.nth(k).fill(PROMPT)
            break
    else:
        pytest.fail("the options show no field that holds the default prompt")
    page.screenshot(path=pictures / "ohif_prompt.png")
    for name in ("Save", "Confirm", "OK", "Close"):
        button = page.get_by_role("button", name=name)
        if button.count():
            button.first.click()
            break
    with page.expect_response(lambda r: "/infer/tumor" in r.url) as answered:
        page.locator('button[title="Run Segmentation"]').first.click()
    response = answered.value
    assert response.ok and PROMPT in (response.request.post_data or "")
    page.wait_for_timeout(4000)
    page.screenshot(path=pictures / "ohif_segmentation.png")
    assert page.screenshot() != before
    (tmp_path / "seen.nrrd").write_bytes(part_of(response.body(), response.headers["content-type"]))
    seen = nrrd.read(str(tmp_path / "seen.nrrd"))[0]
    own = as_mask(segment_scan(load(), read_scan(series["CT"]), PROMPT).masks).numpy() > 0
    assert same(seen > 0, own), "the mask in OHIF must be the command line's, voxel by voxel"


def part_of(body: bytes, content_type: str) -> bytes:
    """The image of a reply, alone or as a part of several."""
    if "multipart" not in content_type:
        return body
    mark = b"--" + content_type.split("boundary=")[1].encode()
    return next(p.split(b"\r\n\r\n", 1)[1].rstrip(b"\r\n") for p in body.split(mark) if b"NRRD0" in p)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to the order in which the two readers count slices, rows and columns."""
    flips = [tuple(x for x, on in enumerate(bits) if on) for bits in np.ndindex(2, 2, 2)]
    return a.shape == b.shape and any(np.array_equal(np.flip(a, f), b) for f in flips)


def test_a_click_in_ohif_changes_the_mask(page, pictures):
    page.locator('label:has-text("Point Prompts")').click()
    page.wait_for_timeout(1000)
    page.screenshot(path=pictures / "ohif_points.png")
    selects = page.locator(".modelSelector select")
    for k in range(selects.count()):
        if "tumor_refine" in selects.nth(k).locator("option").all_inner_texts():
            selects.nth(k).select_option("tumor_refine")
    page.wait_for_timeout(500)
    box = page.locator("canvas").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.45, box["y"] + box["height"] * 0.45)
    page.wait_for_timeout(1000)
    page.screenshot(path=pictures / "ohif_clicked.png")
    with page.expect_response(lambda r: "/infer/tumor_refine" in r.url) as answered:
        page.locator('button[title="Run Segmentation"], button:has-text("Run")').last.click()
    assert answered.value.ok, answered.value.text()[:500]
    assert json.dumps("foreground") in (answered.value.request.post_data or "")
    page.wait_for_timeout(3000)
    page.screenshot(path=pictures / "ohif_refined.png")


def test_the_pictures_are_there(pictures: Path):
    assert {"ohif_connected.png", "ohif_segmentation.png"} <= {f.name for f in pictures.iterdir()}
