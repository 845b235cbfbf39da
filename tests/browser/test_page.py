"""The page without kernel and network: same slider, same images, same numbers."""

import base64
import io
import json
import statistics

import numpy as np
import pytest
from PIL import Image

from omgsr_lib.explorer.compute import Explorer, explorer_models
from omgsr_lib.explorer.drawing import caption, crop_box, difference_colours, difference_map
from omgsr_lib.explorer.page import QUALITY, explore_page


pytestmark = pytest.mark.browser
MOVES = 200
LIMIT = 50  # milliseconds that half of the moves may take


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Complete caches of one photograph of the mini preset, at two strengths."""
    explorer = Explorer(explorer_models(), None, tmp_path_factory.mktemp("frames"), steps=5)
    return [explorer.fill(explorer.open("chelsea", strength)) for strength in ("medium", "extreme")]


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


def as_in_the_page(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY)
    return Image.open(buffer).convert("RGB")


def levels_of(colours):
    """The difference in grey levels that each colour stands for."""
    table = {tuple(colour): level for level, colour in enumerate(difference_colours().tolist())}
    return np.array([[table[tuple(pixel)] for pixel in row] for row in colours.tolist()])


def test_it_opens_at_the_mid_timestep_and_asks_for_nothing(shown, artefacts):
    assert position(shown) == "t = 325 = t* of OMGSR-S"
    shown.screenshot(path=artefacts / "page_s.png")
    assert [url[:5] for url in shown.asked if not url.startswith("data:")] == ["file:"]
    assert shown.locator("canvas").count() == 14
    assert shown.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    assert shown.evaluate("() => document.documentElement.scrollHeight <= window.innerHeight")


def test_keyboard_on_the_slider_and_beside_it(shown, cases):
    timesteps = cases[0].timesteps
    place = timesteps.index(325)
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


def test_pictures_differences_and_captions_are_the_caches(shown, cases):
    cache = cases[0]
    for index, timestep in enumerate(cache.timesteps):
        shown.locator("#timestep").fill(str(index))
        for panel, picture in cache.panels("s", timestep).items():
            heading = f"#matrix .caption[data-panel={panel}]"
            assert shown.locator(heading).inner_text() == caption(cache, "s", panel, timestep)
            inside, photo = as_in_the_page(picture), as_in_the_page(cache.photo)
            drawn = canvas_pixels(shown, f"canvas.crop[data-panel={panel}]")
            assert np.abs(drawn - np.asarray(inside.crop(crop_box(cache, "s")))).mean() < 0.5, (timestep, panel)
            drawn = canvas_pixels(shown, f"canvas.difference[data-panel={panel}]")
            off = levels_of(drawn) - levels_of(np.asarray(difference_map(inside, photo)))
            assert np.abs(off).mean() < 0.5, (timestep, panel)


def test_marker_stands_on_the_curves(shown, cases):
    shown.locator("#timestep").fill(str(cases[0].timesteps.index(325)))
    found = shown.evaluate(
        """() => [...document.querySelectorAll("#plots svg")].map(svg => {
            const line = svg.querySelector("line.marker"), dot = svg.querySelector("circle.marker");
            return [+line.getAttribute("x1"), +dot.getAttribute("cx"), +dot.getAttribute("cy"),
                    +line.dataset.left + 325 / line.dataset.last * line.dataset.wide,
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

    moves = """async count => {
        const slider = document.getElementById("timestep"), times = [];
        for (let move = 0; move < count; move++) {
            slider.value = move % (+slider.max + 1);
            const start = performance.now();
            slider.dispatchEvent(new Event("input"));
            await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
            times.push(performance.now() - start);
        }
        return times;
    }"""
    shown.evaluate(moves, 20)
    before = heap()
    times = sorted(shown.evaluate(moves, MOVES))
    measured = {
        "moves": MOVES,
        "median_ms": statistics.median(times),
        "p95_ms": times[int(0.95 * MOVES)],
        "max_ms": times[-1],
        "page_heap_mib": [before, heap()],
    }
    (artefacts / "page_moves.json").write_text(json.dumps(measured, indent=2) + "\n")
    assert measured["median_ms"] < LIMIT and measured["page_heap_mib"][1] - before < 5, measured


def test_a_click_moves_the_crop(shown):
    before = canvas_pixels(shown, "canvas.crop[data-panel=photo]")
    shown.locator("canvas.picture[data-panel=photo]").click(position={"x": 120, "y": 120})
    assert not np.array_equal(canvas_pixels(shown, "canvas.crop[data-panel=photo]"), before)


def test_choices(shown, artefacts):
    shown.locator("#strengths").get_by_text("extreme").click()
    shown.wait_for_function("() => document.querySelector('#strengths input:checked').value === 'extreme'")
    shown.locator("#views").get_by_text("S and F").click()
    assert shown.locator("canvas.picture").count() == 6
    shown.screenshot(path=artefacts / "page_both.png")
    shown.locator("#views").get_by_text("OMGSR-F").click()
    assert shown.locator("canvas.picture").count() == 5
    shown.screenshot(path=artefacts / "page_f.png")


def test_wiper(shown, artefacts):
    shown.locator("#views").get_by_text("Before / after").click()
    shown.locator("#border").focus()
    shown.keyboard.press("Home")
    full = canvas_pixels(shown, "canvas.wiper")
    shown.keyboard.press("End")
    assert shown.locator("#border-position").inner_text() == "100 %"
    none = canvas_pixels(shown, "canvas.wiper")
    box = shown.locator("canvas.wiper").first.bounding_box()
    shown.mouse.move(box["x"] + 10, box["y"] + 50)
    shown.mouse.down()
    shown.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 60, steps=4)
    shown.mouse.up()
    assert abs(int(shown.locator("#border-position").inner_text().split()[0]) - 25) <= 1
    drawn, quarter = canvas_pixels(shown, "canvas.wiper"), len(full) // 4
    assert np.array_equal(drawn[:, : quarter - 6], none[:, : quarter - 6])
    assert np.array_equal(drawn[:, quarter + 6 :], full[:, quarter + 6 :])
    shown.screenshot(path=artefacts / "page_wiper.png")


@pytest.mark.parametrize("width, height", [(1920, 1080), (800, 1000), (390, 844)])
def test_every_window_is_wide_enough(shown, artefacts, width, height):
    """A projector, a tablet, a telephone, where the images are moved sideways inside their own frame."""
    shown.locator("#views").get_by_text("S and F").click()
    shown.set_viewport_size({"width": width, "height": height})
    assert shown.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    if width > 1000:
        assert shown.evaluate("() => document.documentElement.scrollHeight <= window.innerHeight")
    shown.screenshot(path=artefacts / f"page_{width}.png", full_page=True)
