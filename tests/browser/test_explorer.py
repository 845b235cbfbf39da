"""The explorer in JupyterLab: keyboard, drag, typing, upload, drop; how fast a move shows, and what it leaves."""

import io
import json
import os
import re
import statistics

import numpy as np
import pytest
from PIL import Image

from omgsr_lib.explorer.cache import FrameCache


pytestmark = pytest.mark.browser
NAME = "explore_timestep_injection"
STEPS = 8
MOVES = 200
LIMIT = 50  # milliseconds that the mean move may take of the processor, in server and kernel
TO_PICTURE = 50  # milliseconds that half of the moves may take until the image is there

# Milliseconds from a key to the frame in which another image, loaded, is drawn, of each move; `window.blank` counts
# the frames that are drawn without one.
WATCH = """box => {
    const shown = () => [...box.querySelectorAll("img.widget-image")].find(image => image.offsetParent !== null);
    let pressed = null, before = null;
    window.moves = [];
    window.blank = 0;
    const look = () => {
        const image = shown();
        if (!(image && image.complete && image.naturalWidth)) window.blank += 1;
        else if (image !== before) { window.moves.push(performance.now() - pressed); return; }
        requestAnimationFrame(look);
    };
    document.addEventListener("keydown", () => {
        pressed = performance.now();
        before = shown();
        requestAnimationFrame(look);
    }, true);
}"""


class View:
    """What a user sees and touches."""

    def __init__(self, page):
        self.page, self.box = page, page.locator(".omgsr-explorer")
        self.image, self.curves = (self.box.locator("img.widget-image:visible").nth(index) for index in (0, 1))
        self.slider = self.box.locator(".noUi-handle").first
        self.number = self.box.locator("input[type=number]").first

    def status(self):
        return self.box.locator("[role=status]:visible").first.inner_text()

    def timestep(self):
        return int(re.search(r"t = (\d+)", self.status())[1])

    def wait(self, text, absent=False):
        text_shown = f"document.querySelector('.omgsr-explorer').innerText.includes({json.dumps(text)})"
        self.page.wait_for_function(f"() => {'!' if absent else ''}{text_shown}")

    def choose(self, name):
        self.box.get_by_role("button", name=name, exact=True).click()

    def shoot(self, path):
        """A screenshot with the controls at the top of the window."""
        self.box.evaluate("element => element.scrollIntoView({block: 'start'})")
        self.page.wait_for_timeout(300)
        self.page.screenshot(path=path)


@pytest.fixture(scope="module")
def run(lab, page):
    yield lab.run(page, NAME, preset="mini", steps=STEPS, interactive=True)
    lab.close(NAME)


@pytest.fixture
def view(run, page):
    shown = View(page)
    shown.image.scroll_into_view_if_needed()
    shown.wait("computed", absent=True)  # the progress has ended
    return shown


@pytest.fixture
def timesteps():
    return sorted({round(999 * index / (STEPS - 1)) for index in range(STEPS)} | {223, 325})


def test_first_look(view, page, artefacts):
    assert view.timestep() == 325 and "t* of OMGSR-S" in view.status()
    sheet = page.locator(".jp-RenderedImage img")
    view.shoot(artefacts / "explorer_s.png")
    sheet.evaluate("element => element.scrollIntoView({block: 'start'})")
    page.wait_for_timeout(300)
    page.screenshot(path=artefacts / "explorer_sheet.png")


def test_everything_fits_in_the_window(view, page):
    """At 1280x900: no image is cut at the right, controls and curves are seen together."""
    view.box.evaluate("element => element.scrollIntoView({block: 'start'})")
    panel = page.locator(".jp-Notebook").bounding_box()
    for picture in (view.image, view.curves):
        box = picture.bounding_box()
        assert box["x"] + box["width"] <= panel["x"] + panel["width"]
    assert view.curves.bounding_box()["y"] + view.curves.bounding_box()["height"] <= 900
    assert view.image.evaluate("image => image.naturalWidth === image.clientWidth")  # drawn pixel by pixel


def test_keyboard(view, timesteps):
    view.slider.focus()
    place = timesteps.index(view.timestep())
    for _ in range(2):
        view.page.keyboard.press("ArrowRight")
    view.wait(f"t = {timesteps[place + 2]}")
    view.page.keyboard.press("ArrowLeft")
    view.wait(f"t = {timesteps[place + 1]}")
    assert view.number.input_value() == str(timesteps[place + 1])


def test_drag(view, timesteps):
    handle, track = view.slider.bounding_box(), view.box.locator(".noUi-base").first.bounding_box()
    y = handle["y"] + handle["height"] / 2
    view.page.mouse.move(handle["x"] + handle["width"] / 2, y)
    view.page.mouse.down()
    for share in (0.6, 0.8, 1.0):
        view.page.mouse.move(track["x"] + share * track["width"] + 2, y, steps=4)
    view.page.mouse.up()
    view.wait(f"t = {timesteps[-1]}")


def test_typing(view, timesteps):
    view.number.fill("300")
    view.number.press("Enter")
    view.wait(f"t = {min(timesteps, key=lambda t: abs(t - 300))}")
    assert view.number.input_value() == str(view.timestep())


def test_the_browser_turns_the_pages_while_the_kernel_sleeps(view, lab, timesteps):
    view.slider.focus()
    key = "ArrowLeft" if view.timestep() == timesteps[-1] else "ArrowRight"
    place, before = timesteps.index(view.timestep()), view.image.get_attribute("src")
    with lab.kernels_asleep():
        view.page.keyboard.press(key)
        view.wait(f"t = {timesteps[place + (1 if key == 'ArrowRight' else -1)]}")
        assert view.image.get_attribute("src") != before
    view.page.keyboard.press("ArrowLeft" if key == "ArrowRight" else "ArrowRight")


def test_a_move_shows_at_once_and_leaves_nothing_behind(view, lab, page, timesteps, artefacts):
    view.number.fill("0")
    view.number.press("Enter")
    view.wait("t = 0")
    view.slider.focus()
    session = page.context.new_cdp_session(page)

    def memory():
        session.send("HeapProfiler.collectGarbage")
        return lab.kernel_memory(), session.send("Runtime.getHeapUsage")["usedSize"] / 2**20

    page.evaluate(WATCH, view.box.element_handle())
    sent = 0

    def move(count):
        nonlocal sent
        for _ in range(count):
            forth = sent // (len(timesteps) - 1) % 2 == 0
            page.keyboard.press("ArrowRight" if forth else "ArrowLeft")
            sent += 1
            page.wait_for_function(f"() => window.moves.length === {sent}")

    move(2 * len(timesteps))
    before, started = memory(), lab.processor_seconds()
    move(MOVES)
    ended, after = lab.processor_seconds(), memory()
    moves = sorted(page.evaluate("() => window.moves")[-MOVES:])
    measured = {
        "moves": len(moves),
        "median_ms": statistics.median(moves),
        "p95_ms": moves[int(0.95 * len(moves))],
        "max_ms": moves[-1],
        "frames_without_picture": page.evaluate("() => window.blank"),
        "server_and_kernel_processor_ms": 1000 * (ended - started) / MOVES,
        "load": os.getloadavg()[0],
        "kernel_mib": [before[0], after[0]],
        "page_heap_mib": [before[1], after[1]],
    }
    (artefacts / "explorer_moves.json").write_text(json.dumps(measured, indent=2) + "\n")
    assert measured["server_and_kernel_processor_ms"] < LIMIT, measured
    if measured["load"] <= os.cpu_count() + 1:  # else other work takes the time, as the processor's share shows
        assert measured["median_ms"] < TO_PICTURE, measured
    assert measured["frames_without_picture"] == 0, measured
    assert after[0] - before[0] < 10 and after[1] - before[1] < 5, measured


def test_views(view, page, artefacts):
    def changes(action):
        before = view.image.get_attribute("src")
        action()
        page.wait_for_function("([image, src]) => image.src !== src", arg=[view.image.element_handle(), before])

    changes(lambda: view.choose("S and F"))
    view.shoot(artefacts / "explorer_both.png")
    changes(lambda: view.choose("Before / after"))
    view.box.locator(".noUi-handle").nth(1).focus()
    changes(lambda: page.keyboard.press("Home"))
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(3000)
    view.shoot(artefacts / "explorer_wiper.png")
    changes(lambda: view.choose("OMGSR-S"))


def test_another_photograph_and_strength(view, artefacts):
    view.box.locator("select").select_option("chelsea")
    view.choose("extreme")
    view.wait("chelsea, extreme degradation")
    view.shoot(artefacts / "explorer_filling.png")
    view.wait("computed", absent=True)
    view.shoot(artefacts / "explorer_chelsea.png")


def test_own_pictures(view, run, page, artefacts):
    def choose(file):
        with page.expect_file_chooser() as dialogue:
            view.box.locator(".widget-upload").click()
        dialogue.value.set_files(file)

    choose({"name": "notes.txt", "mimeType": "image/png", "buffer": b"no image"})
    view.wait("'notes.txt' is not")
    view.shoot(artefacts / "explorer_error.png")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((360, 240), Image.BICUBIC).save(buffer, "PNG")
    choose({"name": "chosen.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
    view.wait("chosen, extreme degradation")
    transfer = page.evaluate_handle(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
            return transfer;
        }""",
        list(buffer.getvalue()),
    )
    page.locator(".omgsr-explorer [ondrop]").dispatch_event("drop", {"dataTransfer": transfer})
    view.wait("dropped, extreme degradation")
    view.wait("computed", absent=True)
    view.shoot(artefacts / "explorer_own.png")
    (folder,) = (run / "frames").glob("dropped-*-extreme")
    assert FrameCache(folder).missing == []


def test_a_saved_notebook_holds_no_frames(view, lab, page):
    lab.saved(page, NAME)
    assert (lab.notebooks / f"{NAME}.ipynb").stat().st_size < 1e6
