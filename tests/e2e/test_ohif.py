"""Stock OHIF in a real browser, the app, and Orthanc: type a prompt, see the mask, click, see it change."""

import io
import itertools
import json
import re
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pydicom
import pytest
import requests
from monai.data import MetaTensor
from monai.transforms import Orientation
from PIL import Image
from playwright.sync_api import TimeoutError
from scipy.ndimage import binary_dilation

from zerotumor.in_turn import usual
from zerotumor.pipeline import segment_scan
from zerotumor.report import as_mask
from zerotumor.segmenter import load
from zerotumor.volumes import read_scan

PROMPT = "liver tumor; tumor"
PATIENCE = 240_000
"""Milliseconds until an element or an answer must be there; a busy machine paints slowly."""
SLICES = 70
"""More than any of the scans here has."""
# What OHIF knows of itself: it says nowhere on the page when it has read an object, and where a place of the patient is.
VIEWPORT = (
    "services.cornerstoneViewportService.getCornerstoneViewport(services.viewportGridService.getActiveViewportId())"
)
MIDDLE = f"""() => {{
    const box = {VIEWPORT}.element.getBoundingClientRect()
    return [box.x + box.width / 2, box.y + box.height / 2]
}}"""
"""Of the active viewport, on the page; there may be others, with other planes."""
AWAY = f"""place => {{
    const camera = {VIEWPORT}.getCamera()
    return place.reduce((sum, x, i) => sum + (x - camera.focalPoint[i]) * camera.viewPlaneNormal[i], 0)
}}"""
"""How far a place, LPS mm, lies off the slice that is shown."""
ON_PAGE = f"""points => {{
    const viewport = {VIEWPORT}, box = viewport.element.getBoundingClientRect()
    return points.map(point => viewport.worldToCanvas(point)).map(([x, y]) => [x + box.x, y + box.y])
}}"""
"""Points in LPS mm to pixels of the page."""
OPENED = """type => {
    const viewport = services.viewportGridService.getActiveViewportId()
    const shown = services.viewportGridService.getDisplaySetsUIDsForViewport(viewport)
        .map(uid => services.displaySetService.getDisplaySetByUID(uid).Modality)
    const drawn = services.segmentationService.getSegmentationRepresentations(viewport)
    return shown.includes("CT") && drawn.some(one => one.type === type && one.visible)
}"""
"""Whether the scan is shown with segments of a type over it, and not the preview that comes before."""
OPTIONS, RUN, RUN_POINTS = (
    "Options / Configurations",
    'button[title="Run Segmentation"]',
    'button[title="Run PointPrompts"]',
)


@pytest.fixture
def viewer(browser, server):
    """A browser's page that reaches nothing but this machine."""
    context = browser.new_context(viewport={"width": 1500, "height": 900})
    context.route("**/*", lambda route: route.continue_()
                  if urlsplit(route.request.url).hostname in ("127.0.0.1", None) else route.abort())  # fmt: skip
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    yield page
    context.close()


@pytest.fixture
def page(viewer, server, archive):
    """The MONAI Label mode of OHIF on the CT, connected and painted."""
    viewer.goto(f"{server}/ohif/monai-label?StudyInstanceUIDs={archive[1]['CT']}", wait_until="domcontentloaded")
    viewer.locator("#monailabelServerURL").fill(server)
    wait_until(viewer, lambda: brightness(viewer) > 5, "OHIF paints the scan")
    hide_notice(viewer)
    viewer.locator(".settingsTable button.actionButton").click()
    viewer.wait_for_selector('label:has-text("Auto-Segmentation")')
    viewer.locator(".modelSelector select").first.wait_for()
    return viewer


def wait_until(page, holds, what: str) -> None:
    """Until `holds()` is true; fails after a while with what was waited for."""
    for _ in range(PATIENCE // 1000):
        if holds():
            return
        page.wait_for_timeout(1000)
    pytest.fail(f"waited in vain until {what}")


def pixels(page) -> np.ndarray:
    """The viewports as (height, width, 3), without the text in their corners."""
    picture = Image.open(io.BytesIO(page.locator("[data-cy='viewport-grid']").screenshot())).convert("RGB")
    array = np.asarray(picture, dtype=int)
    return array[array.shape[0] // 8 : -array.shape[0] // 8]


def brightness(page) -> float:
    return float(pixels(page).min(-1).mean())


def hide_notice(page) -> None:
    """OHIF's notice lies over the pictures until it is confirmed."""
    hide = page.locator('[data-cy="confirm-and-hide-button"]')
    if hide.count() and hide.first.is_visible():
        hide.first.click()


def open_options(page):
    """The field for the prompt, among the options of the task `tumor`."""
    page.get_by_text(OPTIONS).first.click()
    return page.locator("tr", has=page.get_by_text("prompt", exact=True)).locator("input").first


def close_options(page) -> None:
    page.get_by_role("button", name="Confirm", exact=True).click()


def choose_prompt(page, text: str, picture: Path) -> None:
    """Type into the options, and confirm. Options begin anew when the viewer fetches its list of models, so look again."""
    for _ in range(3):
        open_options(page).fill(text)
        page.screenshot(path=picture)
        close_options(page)
        kept = open_options(page).input_value()
        close_options(page)
        if kept == text:
            return
    raise AssertionError(f"the options keep {kept!r} of what was typed")


def run(page, button: str, task: str):
    """Press Run; returns the answer of the server."""
    with page.expect_response(lambda r: urlsplit(r.url).path.endswith(f"/infer/{task}")) as answered:
        page.locator(button).first.click()
    assert answered.value.ok, answered.value.text()[:500]
    return answered.value


def part_of(body: bytes, content_type: str) -> bytes:
    """The image of a reply, alone or as a part of several."""
    if "multipart" not in content_type:
        return body
    mark = b"--" + content_type.split("boundary=")[1].encode()
    return next(p.split(b"\r\n\r\n", 1)[1].rstrip(b"\r\n") for p in body.split(mark) if b"NRRD0" in p)


def mask_in(response, folder: Path) -> np.ndarray:
    """Labels of a reply (X, Y, Z), RAS."""
    path = folder / "seen.nrrd"
    path.write_bytes(part_of(response.body(), response.headers["content-type"]))
    return Orientation(axcodes="RAS", labels=None)(read_scan(path, labels=True))[0].numpy()


def fullest_slice(mask: MetaTensor) -> np.ndarray:
    """Where the axial slice that shows most of a mask (1, X, Y, Z), RAS, has it: (N, 3) LPS mm."""
    places = np.argwhere(mask[0].numpy())
    places = places[places[:, 2] == np.bincount(places[:, 2]).argmax()]
    affine = np.asarray(mask.affine)
    return (places @ affine[:3, :3].T + affine[:3, 3]) * (-1, -1, 1)


def test_a_prompt_typed_in_ohif_paints_the_command_lines_mask(page, series, pictures, tmp_path):
    page.screenshot(path=pictures / "ohif_connected.png")
    choose_prompt(page, PROMPT, pictures / "ohif_options.png")
    scan = read_scan(series["CT"])
    own = MetaTensor(as_mask(segment_scan(load(usual()), scan, PROMPT).masks)[None], affine=scan.affine)
    own = Orientation(axcodes="RAS", labels=None)(own) > 0
    assert own.any(), "with nothing found, nothing is compared"
    places = fullest_slice(own)
    leaf_to(page, places[0])
    assert colored(page, places) == 0, "a scan is gray"
    response = run(page, RUN, "tumor")
    assert PROMPT in (response.request.post_data or "")
    assert np.array_equal(mask_in(response, tmp_path) > 0, own[0].numpy()), "must be the command line's, voxel by voxel"
    wait_until(page, lambda: colored(page, places) > 0.95, "the mask is painted")
    page.screenshot(path=pictures / "ohif_segmentation.png")


def test_a_click_in_ohif_changes_the_mask_where_it_was_made(page, pictures, tmp_path):
    page.locator('label:has-text("Point Prompts")').click()
    rows = page.locator(".tab:has(#tab-3) tr.clickable-row")
    rows.filter(has=page.get_by_text("liver tumor", exact=True)).first.click()
    page.wait_for_timeout(1000)  # the tool that takes clicks is made active
    box = page.locator("canvas").first.bounding_box()
    x, y = box["x"] + 0.4 * box["width"], box["y"] + 0.5 * box["height"]
    page.mouse.click(x, y)
    page.wait_for_timeout(1000)
    page.screenshot(path=pictures / "ohif_clicked.png")
    response = run(page, RUN_POINTS, "tumor_refine")
    clicks = json.loads(re.search(r"\{.*\}", response.request.post_data).group())["foreground"]
    assert len(clicks) == 1
    assert (mask_in(response, tmp_path) > 0).any()
    page.get_by_text("Clear All Points").click()

    def coloured() -> bool:
        spot = page.screenshot(clip={"x": x - 2, "y": y - 2, "width": 5, "height": 5})
        values = np.asarray(Image.open(io.BytesIO(spot)).convert("RGB"), dtype=int)
        return bool((values.max(-1) - values.min(-1) > 15).mean() > 0.5)

    wait_until(page, coloured, "the place of the click is painted")
    page.screenshot(path=pictures / "ohif_refined.png")


def test_a_class_chosen_in_ohif_is_a_prompt(page, pictures):
    page.locator('label:has-text("Class Prompts")').click()
    row = page.locator(".tab:has(#tab-4) tr").filter(has=page.get_by_text("kidney cyst", exact=True))
    row.locator("input[type=checkbox]").first.check(force=True)
    page.screenshot(path=pictures / "ohif_class.png")
    response = run(page, 'button[title="Run Segmentation VISTA"]', "tumor")
    assert "label_prompt" in (response.request.post_data or "")


def structure_set(archive, modality: str) -> pydicom.Dataset:
    """The only RTSTRUCT of a scan's study in the archive."""
    query = {"StudyInstanceUID": archive[1][modality], "Modality": "RTSTRUCT"}
    found = requests.post(f"{archive[0]}/tools/find", json={"Level": "Instance", "Query": query}).json()
    assert len(found) == 1
    return pydicom.dcmread(io.BytesIO(requests.get(f"{archive[0]}/instances/{found[0]}/file").content))


def longest_outlines(structures: pydicom.Dataset) -> np.ndarray:
    """Points a millimeter apart (N, 3) along what a slice has of the first region's outline; of the slice with most."""
    slices: dict[str, list[np.ndarray]] = {}
    for contour in structures.ROIContourSequence[0].ContourSequence:
        corners = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
        for start, end in itertools.pairwise([*corners, corners[0]]):
            steps = np.linspace(0, 1, max(1, round(float(np.linalg.norm(end - start)))), endpoint=False)
            points = start + steps[:, None] * (end - start)
            slices.setdefault(str(contour.ContourImageSequence[0].ReferencedSOPInstanceUID), []).append(points)
    return max((np.concatenate(points) for points in slices.values()), key=len)


def leaf_to(page, place: np.ndarray) -> None:
    """Turn the mouse wheel until the active viewport shows the slice of a place (3,), LPS mm; every notch is given time."""
    page.mouse.move(*page.evaluate(MIDDLE))
    notch = 100
    for _ in range(2 * SLICES):
        before = page.evaluate(AWAY, place.tolist())
        if abs(before) < 0.5:
            return
        page.mouse.wheel(0, notch)
        with suppress(TimeoutError):  # the notch was lost
            page.wait_for_function(f"([place, before]) => Math.abs(({AWAY})(place) - before) > 0.1",
                                   arg=[place.tolist(), before], timeout=10_000)  # fmt: skip
        if abs(page.evaluate(AWAY, place.tolist())) > abs(before):
            notch = -notch
    pytest.fail(f"the wheel does not lead to the slice of {place.tolist()}")


def colored(page, places: np.ndarray) -> float:
    """How many of these places (N, 3), LPS mm, have color on the page, within two pixels of where it shows them; a share."""
    places = np.array(page.evaluate(ON_PAGE, places.tolist())).round().astype(int)
    values = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), dtype=int)
    color = binary_dilation(values.max(-1) - values.min(-1) > 50, np.ones((5, 5)))
    return float(color[places[:, 1], places[:, 0]].mean())


def test_dicom_seg_and_rtstruct_stored_in_the_archive_are_shown_by_ohif(viewer, server, archive, uid, pictures):
    for kind in ("dicom-seg", "rtstruct"):
        # One prompt: where segments overlap, OHIF shows the last, and of one that is covered whole nothing.
        options = {"prompt": "tumor", "format": kind, "push": True}
        answer = requests.post(
            f"{server}/infer/tumor?image={uid['CT']}&output=json", data={"params": json.dumps(options)}
        )
        assert answer.ok, answer.text
    outline = longest_outlines(structure_set(archive, "CT"))
    for modality, drawn in (("SEG", "Labelmap"), ("RTSTRUCT", "Contour")):
        viewer.goto(f"{server}/ohif/viewer?StudyInstanceUIDs={archive[1]['CT']}", wait_until="domcontentloaded")
        wait_until(viewer, lambda: brightness(viewer) > 5, "OHIF paints the scan")
        hide_notice(viewer)
        leaf_to(viewer, outline[0])
        assert colored(viewer, outline) == 0, "a scan is gray"
        entry = viewer.locator('[data-cy="study-browser-thumbnail-no-image"]').filter(has_text=modality)
        entry.first.dblclick()
        viewer.get_by_role("button", name="Yes", exact=True).click()
        viewer.wait_for_function(OPENED, arg=drawn)
        viewer.locator('[data-cy="panelSegmentation-btn"]').click()
        viewer.get_by_text("tumor", exact=True).last.wait_for()
        leaf_to(viewer, outline[0])
        wait_until(viewer, lambda: colored(viewer, outline) > 0.95, f"OHIF paints the {modality}")
        viewer.screenshot(path=pictures / f"ohif_{modality.lower()}.png")
        if modality == "SEG":  # is filled, while of an RTSTRUCT there are lines
            inner = pixels(viewer)[:, 100:-100]  # without the frame, which is blue
            assert int((inner.max(-1) - inner.min(-1) > 50).sum()) > 500
