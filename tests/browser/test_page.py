"""The page without kernel and network: same slider, same images, same numbers."""

import base64
import io
import json
import statistics

import numpy as np
import pytest
from PIL import Image
from slider_moves import MOVE, MOVES

from omgsr_lib.explorer.compute import Explorer, explorer_models
from omgsr_lib.explorer.drawing import DETAIL, DIFFERENCE_LIMIT, caption, difference_colours
from omgsr_lib.explorer.page import QUALITY, explore_page


pytestmark = pytest.mark.browser
LIMIT = 50  # milliseconds that half of the moves may take


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Complete caches of one photograph of the mini preset, at two strengths."""
    explorer = Explorer(explorer_models(), None, tmp_path_factory.mktemp("frames"), steps=5)
    return [explorer.fill(explorer.open("chelsea", strength)) for strength in ("medium", "extreme", "as it is")]


@pytest.fixture(scope="module")
def shown(cases, page, tmp_path_factory):
    """The page, opened offline; whatever it asks for is noted, and its errors."""
    path = explore_page(tmp_path_factory.mktemp("page") / "explorer.html", cases)
    page.context.set_offline(True)
    page.asked, page.errors = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("canvas")
    yield page
    assert page.errors == []


def position(page):
    return page.locator("#position").inner_text()


def canvas_pixels(page, selector):
    address = page.locator(selector).first.evaluate("canvas => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB")).astype(int)


def as_in_the_page(image):
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY)
    return Image.open(buffer).convert("RGB")


def levels_of(colours):
    """The difference in grey levels that each colour stands for."""
    table = {tuple(colour): level for level, colour in enumerate(difference_colours().tolist())}
    return np.array([[table[tuple(pixel)] for pixel in row] for row in colours.tolist()])


def detail_of(image, centre, side=DETAIL[5]):
    left, top = (min(max(place - side // 2, 0), image.width - side) for place in centre)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def test_it_opens_at_the_mid_timestep_and_asks_for_nothing(shown, artefacts):
    assert position(shown) == "t = 255 = t* of OMGSR-S"
    assert shown.locator("#strengths input:checked").get_attribute("value") == "medium"
    shown.screenshot(path=artefacts / "page_s.png")
    assert [url[:5] for url in shown.asked if not url.startswith("data:")] == ["file:"]
    assert shown.locator("#matrix canvas").count() == 14
    assert shown.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    assert shown.evaluate("() => document.documentElement.scrollHeight <= window.innerHeight")


def test_keyboard_on_the_slider_and_beside_it(shown, cases):
    timesteps = cases[0].timesteps
    place = timesteps.index(255)
    shown.locator("#timestep").focus()
    shown.keyboard.press("ArrowRight")
    assert position(shown) == f"t = {timesteps[place + 1]}"
    shown.locator("#timestep").blur()
    shown.keyboard.press("ArrowLeft")
    shown.keyboard.press("ArrowLeft")
    assert position(shown).startswith(f"t = {timesteps[place - 1]}")
    shown.locator("#timestep").focus()
    shown.keyboard.press("End")
    assert position(shown) == "t = 999"


def test_drag(shown):
    track = shown.locator("#timestep").bounding_box()
    shown.mouse.move(track["x"] + track["width"] - 8, track["y"] + track["height"] / 2)
    shown.mouse.down()
    shown.mouse.move(track["x"] + 2, track["y"] + track["height"] / 2, steps=8)
    shown.mouse.up()
    assert position(shown) == "t = 0"


def test_images_differences_and_captions_are_the_caches(shown, cases):
    cache = cases[0]
    for index, timestep in enumerate(cache.timesteps):
        shown.locator("#timestep").fill(str(index))
        for panel, image in cache.panels("s", timestep).items():
            heading = f"#matrix .caption[data-panel={panel}]"
            assert shown.locator(heading).inner_text() == caption(cache, "s", panel, timestep)
            inside, photo = as_in_the_page(image), as_in_the_page(cache.photo)
            drawn = canvas_pixels(shown, f"canvas.detail[data-panel={panel}]")
            assert np.abs(drawn - detail_of(inside, cache.about["centre"])).mean() < 0.5, (timestep, panel)
            drawn = levels_of(canvas_pixels(shown, f"canvas.difference[data-panel={panel}]"))
            levels = np.abs(np.asarray(inside, int) - np.asarray(photo, int)).sum(2) // 3
            assert np.abs(drawn - levels.clip(max=DIFFERENCE_LIMIT)).mean() < 0.5, (timestep, panel)


def test_marker_stands_on_the_curves(shown, cases):
    shown.locator("#timestep").fill(str(cases[0].timesteps.index(255)))
    found = shown.evaluate(
        """() => [...document.querySelectorAll("#plots svg")].map(svg => {
            const line = svg.querySelector("line.marker"), dot = svg.querySelector("circle.marker");
            return [+line.getAttribute("x1"), +dot.getAttribute("cx"), +dot.getAttribute("cy"),
                    +line.dataset.left + 255 / line.dataset.last * line.dataset.wide,
                    svg.querySelector("polyline.curve").getAttribute("points")];
        })"""
    )
    assert len(found) == 2
    for x, cx, cy, expected, points in found:
        points = np.array([point.split(",") for point in points.split()], dtype=float)
        assert x == cx == pytest.approx(expected, abs=0.01)
        assert cy == pytest.approx(np.interp(x, *points.T), abs=0.05)


def test_a_move_is_drawn_at_once_and_leaves_nothing_behind(shown, artefacts):
    session = shown.context.new_cdp_session(shown)

    def heap():
        session.send("HeapProfiler.collectGarbage")
        return session.send("Runtime.getHeapUsage")["usedSize"] / 2**20

    shown.evaluate(MOVE, 20)
    before = heap()
    times = sorted(shown.evaluate(MOVE, MOVES))
    measured = {
        "moves": MOVES,
        "median_ms": statistics.median(times),
        "p95_ms": times[int(0.95 * MOVES)],
        "max_ms": times[-1],
        "page_heap_mib": [before, heap()],
    }
    (artefacts / "page_moves.json").write_text(json.dumps(measured, indent=2) + "\n")
    assert measured["median_ms"] < LIMIT and measured["page_heap_mib"][1] - before < 5, measured


def test_a_click_moves_the_detail(shown):
    before = canvas_pixels(shown, "canvas.detail[data-panel=photo]")
    shown.locator("canvas.image[data-panel=photo]").click(position={"x": 120, "y": 120})
    assert not np.array_equal(canvas_pixels(shown, "canvas.detail[data-panel=photo]"), before)


def test_values_are_read_on_the_curves_and_a_click_goes_there(shown, cases, artefacts):
    line = "line => +line.dataset.left + 500 / line.dataset.last * line.dataset.wide"
    for number, (name, unit) in enumerate((("snr", " dB"), ("gap", ""))):
        svg = shown.locator("#plots svg").nth(number)
        box = svg.bounding_box()
        x = svg.locator("line.marker").evaluate(line) * box["width"] / 382
        svg.hover(position={"x": x, "y": 60})
        reading = svg.locator("..").locator("output").inner_text()
        assert reading.startswith("t = 500   S ") and reading.endswith(unit)
        assert float(reading.split()[4]) == pytest.approx(cases[0].at("s", name, 500), rel=5e-3)
    shown.screenshot(path=artefacts / "page_values.png")
    svg.click(position={"x": x, "y": 60})
    assert position(shown) == "t = 500"


def test_a_larger_view_and_the_file(shown, cases, artefacts):
    shown.locator("canvas.image[data-panel=tuned]").hover()
    shown.get_by_label("Larger: OMGSR-S").click()
    large = shown.locator("#large canvas").bounding_box()
    assert large["width"] == large["height"] > 500
    shown.keyboard.press("ArrowLeft")
    assert position(shown).split()[2] in shown.locator("#large p").inner_text()
    shown.screenshot(path=artefacts / "page_large.png")
    timestep = int(position(shown).split()[2])
    with shown.expect_download() as download:
        shown.locator("#save").click()
    assert download.value.suggested_filename == f"chelsea_medium_OMGSR-S_t{timestep}.png"
    saved = np.asarray(Image.open(download.value.path()).convert("RGB")).astype(int)
    assert np.abs(saved - np.asarray(as_in_the_page(cases[0].panels("s", timestep)["tuned"]))).mean() < 0.5
    shown.keyboard.press("Escape")
    assert not shown.locator("#large").is_visible()


def test_choices(shown, artefacts):
    shown.locator("#strengths").get_by_text("extreme").click()
    shown.wait_for_function("() => document.querySelector('#strengths input:checked').value === 'extreme'")
    shown.locator("#views").get_by_text("S and F").click()
    assert shown.locator("canvas.image").count() == 6
    shown.screenshot(path=artefacts / "page_both.png")
    shown.locator("#views").get_by_text("OMGSR-F").click()
    assert shown.locator("canvas.image").count() == 5
    shown.screenshot(path=artefacts / "page_f.png")


def test_as_it_is_there_is_no_reference_and_no_score(shown, artefacts):
    shown.locator("#strengths").get_by_text("as it is").click()
    shown.wait_for_function("() => document.querySelectorAll('canvas.image').length === 4")
    assert "PSNR" not in shown.locator("#matrix").inner_text()
    assert shown.locator("#plots svg").count() == 1
    shown.screenshot(path=artefacts / "page_as_it_is.png")
    shown.locator("#strengths").get_by_text("extreme").click()
    shown.wait_for_function("() => document.querySelectorAll('canvas.image').length === 5")


def test_the_border_is_dragged_in_the_image(shown, artefacts):
    shown.locator("#views").get_by_text("Before / after").click()
    border, box = shown.locator(".compare input").first, shown.locator(".compare").first.bounding_box()
    shown.mouse.move(box["x"] + 10, box["y"] + 50)
    shown.mouse.down()
    shown.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 60, steps=4)
    shown.mouse.up()
    assert abs(float(border.input_value()) - 25) <= 1
    shifts = shown.evaluate("() => [...document.querySelectorAll('.compare')].map(e => e.style.cssText)")
    assert len(set(shifts)) == 1 and len(shifts) == 2  # both together
    shown.screenshot(path=artefacts / "page_compare.png")
    seen = Image.open(io.BytesIO(shown.locator(".compare").first.screenshot())).convert("RGB")
    sides = [shown.locator(f".compare canvas[data-panel={panel}]").first for panel in ("lq", "tuned")]
    for side, span in zip(sides, ((0.02, 0.23), (0.28, 0.95)), strict=True):
        address = side.evaluate("canvas => canvas.toDataURL()")
        whole = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB").resize(seen.size)
        left, right = (round(share * seen.width) for share in span)
        off = np.abs(np.asarray(seen, int) - np.asarray(whole, int))[60:, left:right].mean()
        assert off < 3, off
    place = position(shown)
    border.focus()
    shown.keyboard.press("End")
    assert border.input_value() == "100" and position(shown) == place


@pytest.mark.parametrize("width, height", [(1920, 1080), (800, 1000), (390, 844)])
def test_every_window_is_wide_enough(shown, artefacts, width, height):
    """A projector, a tablet, a telephone, where the images are moved sideways inside their own frame."""
    shown.locator("#views").get_by_text("S and F").click()
    shown.set_viewport_size({"width": width, "height": height})
    assert shown.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    if width > 1000:
        assert shown.evaluate("() => document.documentElement.scrollHeight <= window.innerHeight")
    shown.screenshot(path=artefacts / f"page_{width}.png", full_page=True)
