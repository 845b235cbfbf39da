"""The demo page in Chromium: a photograph in, the restored file out, and nothing asked of any other computer."""

import shutil
import socket
from contextlib import closing

import numpy as np
import pytest
from PIL import Image


pytestmark = pytest.mark.browser
pytest.importorskip("gradio", reason="the demo page needs pip install -e '.[demo]'")

from omgsr_lib.cli.restore import prepared_model  # noqa: E402
from omgsr_lib.integrations.demo import serve  # noqa: E402
from omgsr_lib.restore.folder import restore_folder  # noqa: E402
from omgsr_lib.restore.pipeline import restore  # noqa: E402


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("photo") / "a photo.png"
    Image.fromarray(pixels).resize((96, 64), Image.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def loaded():
    """The models that the page has loaded, by name."""
    return {}


@pytest.fixture(scope="module")
def shown(page, loaded):
    """The page as it starts; whatever it asks for is noted, and its errors."""

    def load(name):
        return loaded.setdefault(name, prepared_model(name, precision="no", device="cpu"))

    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    blocks, address, folder = serve(load, "mini-s", ("mini-s", "mini-f"), "127.0.0.1", port)
    page.asked, page.errors = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(address)
    page.locator("#start").wait_for()
    yield page
    blocks.close(verbose=False)
    folder.cleanup()
    assert page.errors == []
    elsewhere = [url for url in page.asked if not url.startswith((address, "data:", "blob:"))]
    assert page.asked and elsewhere == []


def upload(page, path):
    clear = page.locator("#photograph button[aria-label=Clear]")
    if clear.count():
        clear.click()
        clear.wait_for(state="detached")
    page.locator("#photograph input[type=file]").set_input_files(path)


def restored(page):
    """Press the button; the facts below the image and the downloaded file."""
    page.locator("#start").click()
    page.locator("#facts dl").wait_for()
    with page.expect_download() as download:
        page.locator("#download").click()
    names, texts = (page.locator(f"#facts {tag}").all_inner_texts() for tag in ("dt", "dd"))
    return dict(zip(names, texts, strict=True)), download.value


def test_it_starts_with_the_models_timestep(shown, artefacts):
    assert "t* = 255" in shown.locator("#as-trained").inner_text()
    assert shown.locator("#as-trained input").is_checked()
    assert shown.locator("#timestep input[type=range]").is_disabled()
    assert not shown.locator("#compare").is_visible() and not shown.locator("#download").is_visible()
    shown.screenshot(path=artefacts / "demo_start.png")


def test_the_download_is_the_file_of_omgsr_restore(shown, photo, loaded, tmp_path, artefacts):
    upload(shown, photo)
    shown.locator("#preview img").wait_for()
    facts, download = restored(shown)
    assert download.suggested_filename == "a photo_mini-s_x4_t255.png"
    assert facts["Size"] == "96x64 to 384x256 pixels" and facts["Timestep"] == "255, as trained"
    assert facts["Model"] == "mini-s" and facts["Time"].endswith(" s")
    options = dict(scale=4, tile="auto", progress=False)
    restore_folder(loaded["mini-s"], photo, tmp_path, **options)
    assert open(download.path(), "rb").read() == (tmp_path / photo.name).read_bytes()
    with Image.open(photo) as image, Image.open(download.path()) as found:
        assert np.array_equal(found, restore(loaded["mini-s"], image, **options).images[0])
    shown.screenshot(path=artefacts / "demo_restored.png")


def test_the_border_is_dragged_between_images_of_the_outputs_size(shown, artefacts):
    before, after = (shown.locator("#compare img").nth(number) for number in (0, 1))
    for image in (before, after):
        image.evaluate("image => image.decode()")
        assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [384, 256]
    handle, box = shown.locator("#compare [data-testid=slider]"), before.bounding_box()

    def border():
        share = after.evaluate("image => getComputedStyle(image).clipPath").split()[-1].rstrip("%)")
        return float(share)

    assert border() == pytest.approx(50, abs=2)
    at = handle.bounding_box()
    shown.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    shown.mouse.down()
    shown.mouse.move(box["x"] + 0.25 * box["width"], at["y"] + at["height"] / 2, steps=6)
    shown.mouse.up()
    assert border() == pytest.approx(25, abs=3)
    shown.screenshot(path=artefacts / "demo_dragged.png")


def test_another_model_brings_its_timestep_which_can_be_changed(shown, photo, loaded, tmp_path):
    shown.locator("#model").get_by_text("mini-f").click()
    shown.locator("#as-trained").get_by_text("t* = 183").wait_for()
    shown.locator("#as-trained input").uncheck()
    number = shown.locator("#timestep input[type=number]")
    shown.wait_for_function("() => !document.querySelector('#timestep input[type=number]').disabled")
    number.fill("300")
    number.blur()
    upload(shown, photo)
    shown.locator("#preview img").wait_for()
    facts, download = restored(shown)
    assert facts["Timestep"] == "300" and facts["Model"] == "mini-f"
    restore_folder(loaded["mini-f"], photo, tmp_path, scale=4, tile="auto", timestep=300, progress=False)
    assert open(download.path(), "rb").read() == (tmp_path / photo.name).read_bytes()


def test_what_is_refused_is_said_in_plain_words(shown, photo, tmp_path, artefacts):
    (tmp_path / "notes.png").write_text("not an image")
    upload(shown, tmp_path / "notes.png")
    shown.get_by_text("A photograph must be a readable image: 'notes.png' is not.").wait_for()
    shown.screenshot(path=artefacts / "demo_refused.png")
    Image.new("RGB", (12, 40)).save(tmp_path / "small.png")
    upload(shown, tmp_path / "small.png")
    shown.get_by_text("at least 16 pixels on each side: it is 12x40.").wait_for()
    shutil.copy(photo, tmp_path / "good.png")
    upload(shown, tmp_path / "good.png")
    shown.locator("#preview img").wait_for()


def test_what_does_not_fit_the_memory_is_said_in_plain_words(shown, photo, monkeypatch):
    monkeypatch.setattr("omgsr_lib.integrations.demo.fits_memory", lambda *_: False)
    upload(shown, photo)
    shown.locator("#preview img").wait_for()
    shown.locator("#start").click()
    shown.get_by_text("The photograph becomes 384x256 pixels, more than fit into the memory.").wait_for()


def test_a_telephone_is_wide_enough(shown, artefacts):
    shown.set_viewport_size({"width": 390, "height": 844})
    assert shown.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    shown.screenshot(path=artefacts / "demo_390.png", full_page=True)
