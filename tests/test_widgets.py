import io
import re
import subprocess
import sys
import threading
import time
from datetime import datetime

import numpy as np
import pytest
from explorer_case import TIMESTEPS, FakeExplorer, colour
from PIL import Image

from omgsr_lib.explorer import widgets
from omgsr_lib.explorer.drawing import contact_sheet, explorer_picture, wiper_picture
from omgsr_lib.explorer.widgets import ExplorerView, before_after, nearest, timestep_explorer


@pytest.fixture
def explorer(tmp_path):
    return FakeExplorer(tmp_path)


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would display, in order."""
    displayed = []
    monkeypatch.setattr("IPython.display.display", displayed.append)
    yield displayed
    for view in widgets._OPEN.values():
        view.close()
    widgets._OPEN.clear()


def colours(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def seen(view):
    """What the browser shows, at the slider's index: line of text, image, plot."""
    return view.book.at(view.timestep.index)


def says(view):
    """The line of text, and what is said beside it."""
    return " ".join(filter(None, (re.sub("<.*?>", "", text) for text in (seen(view)[0], view.status.value))))


def picture(view):
    return bytes(seen(view)[1])


def plot(view):
    return bytes(seen(view)[2])


def finished(view):
    return not view._cache.missing and view.book.drawn == set(range(len(TIMESTEPS)))


# ---- explorer ----


def test_the_sheet_comes_first_and_needs_no_widget_and_no_further_frame(explorer, shown):
    view = timestep_explorer(explorer, static=(0, 480), interactive=False)
    cache = explorer.open("square", "medium")
    assert len(shown) == 1 and view.box is None
    assert cache.missing == [999]  # the mid-timesteps 223 and 325 belong to the sheet
    assert shown[0].data == view.sheet == contact_sheet(cache, [0, 223, 325, 500])
    assert shown[0].alt.startswith("square: ") and shown[0].alt.endswith("at the timesteps 0, 223, 325, 500")
    assert "static" in repr(view)


def test_slider_flips_through_the_frames(explorer, shown):
    view = timestep_explorer(explorer)
    assert [type(item).__name__ for item in shown] == ["Image", "VBox"]
    assert [value for _, value in view.timestep.options] == TIMESTEPS and view.timestep.value == 325
    wait_for(lambda: finished(view))
    cache = explorer.open("square", "medium")
    for timestep in TIMESTEPS:
        view.timestep.value = timestep
        assert picture(view) == explorer_picture(cache, "s", timestep)
        assert view.number.value == timestep and f"t = {timestep}" in says(view)
    view.timestep.value = 325
    assert says(view) == "square, medium degradation: t = 325 = t* of OMGSR-S"
    curves = plot(view)
    view.timestep.value = 500
    assert curves.startswith(b"<svg") and plot(view) != curves


def test_the_browser_turns_the_pages_and_the_kernel_only_fills_them(explorer, shown, monkeypatch):
    view = timestep_explorer(explorer)
    wait_for(lambda: finished(view))
    for tab in (view.book.lines, view.book.pages):
        links = [link for link in view.book._widgets if getattr(link, "target", None) == (tab, "selected_index")]
        assert [link.source for link in links] == [(view.timestep, "index")]
        assert tab.selected_index == view.timestep.index and len(set(tab.children)) == len(TIMESTEPS)
    monkeypatch.setattr(widgets, "explorer_picture", lambda *_: pytest.fail("drawn twice"))
    for timestep in TIMESTEPS:
        view.timestep.value = timestep


def test_a_picture_that_is_not_there_says_so(explorer, shown):
    explorer.gate = threading.Semaphore(0)
    view = timestep_explorer(explorer, static=())
    blank = explorer_picture(explorer.open("square", "medium"), "s", None)
    view.timestep.value = 999
    assert picture(view) == blank and "t = 999 (2 of 5 timesteps computed)" in says(view)
    explorer.gate.release(3)
    wait_for(lambda: finished(view))
    assert picture(view) == explorer_picture(explorer.open("square", "medium"), "s", 999)


def test_a_picture_of_what_was_shown_before_is_left_out(explorer, shown):
    view = timestep_explorer(explorer)
    wait_for(lambda: finished(view))
    before = view._edition()
    view.view.value = "f"
    wait_for(lambda: finished(view))
    view._draw(before, 325)
    assert picture(view) == explorer_picture(explorer.open("square", "medium"), "f", 325)


def test_a_typed_timestep_goes_to_the_nearest(explorer, shown):
    view = timestep_explorer(explorer)
    for typed in (430, 501):
        view.number.value = typed
        assert view.timestep.value == view.number.value == 500
    assert nearest(TIMESTEPS, 274) == 223 and nearest([0, 10], 5) == 0


def test_views_and_the_wiper(explorer, shown):
    view = timestep_explorer(explorer)
    cache = explorer.open("square", "medium")
    assert view.border.layout.display == "none"
    view.view.value = "both"
    assert picture(view) == explorer_picture(cache, "both", 325)
    assert b"OMGSR-F" in plot(view)
    view.view.value = "wiper"
    assert view.border.layout.display is None
    for border in (0, 70):
        view.border.value = border
        assert picture(view) == wiper_picture(cache, 325, border)
    view.view.value = "f"
    assert b"OMGSR-S" not in plot(view) and view.border.layout.display == "none"
    wait_for(lambda: finished(view))
    view.timestep.value = 0
    assert picture(view) == explorer_picture(cache, "f", 0)


def test_the_thread_starts_at_the_slider_and_follows_it(explorer, shown):
    explorer.gate = threading.Semaphore(0)
    view = ExplorerView(explorer, explorer.open("square", "medium"), b"")
    widgets._OPEN["view"] = view
    assert "0 of 5 timesteps computed" in says(view)
    explorer.gate.release()
    wait_for(lambda: "1 of 5" in says(view))
    assert explorer.order == [("square", 325)]
    wait_for(lambda: view.book.drawn)
    assert picture(view) == explorer_picture(explorer.open("square", "medium"), "s", 325)
    time.sleep(0.1)  # the thread waits for leave to compute 223, the second nearest
    view.timestep.value = 999
    explorer.gate.release(4)
    wait_for(lambda: finished(view))
    assert [timestep for _, timestep in explorer.order] == [325, 223, 999, 500, 0]
    assert view.progress.value == 5 and view.progress.layout.display == "none"
    assert picture(view) == explorer_picture(explorer.open("square", "medium"), "s", 999)


def test_another_photograph_and_strength_are_opened_by_the_thread(explorer, shown):
    view = timestep_explorer(explorer)
    view.photo.value = "other"
    view.strength.value = "extreme"
    wait_for(lambda: "other, extreme" in says(view) and finished(view))
    assert explorer.open("other", "extreme").missing == []
    assert picture(view) == explorer_picture(explorer.open("other", "extreme"), "s", 325)


def test_own_pictures_are_added_and_others_refused(explorer, shown):
    view = timestep_explorer(explorer)
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, "PNG")

    def upload(name, content):
        file = {"name": name, "type": "", "size": len(content), "content": memoryview(content)}
        view.upload.value = (file | {"last_modified": datetime.now()},)

    upload("notes.txt", b"text")
    assert "&#x27;notes.txt&#x27; is not" in view.error.value and 'role="alert"' in view.error.value
    assert view.photo.value == "square" and view.upload.value == ()
    upload("mine.png", buffer.getvalue())
    assert view.photo.value == "mine.png" and view.error.value == ""
    wait_for(lambda: says(view).startswith("mine.png, medium"))
    assert set(explorer.caches) == {("square", "medium"), ("mine.png", "medium")}


def test_a_photograph_that_fails_is_named_and_the_next_one_works(explorer, shown):
    explorer.photos.append("broken")
    view = timestep_explorer(explorer)
    view.photo.value = "broken"
    wait_for(lambda: "this photograph is broken" in view.error.value)
    view.timestep.value = 500  # nothing to show, and no error
    view.photo.value = "other"
    wait_for(lambda: says(view).startswith("other") and finished(view))
    assert view.error.value == ""


def test_closing_ends_the_thread_and_frees_the_widgets(explorer, shown, tmp_path_factory):
    before = threading.active_count()
    first = timestep_explorer(explorer)
    elsewhere = timestep_explorer(FakeExplorer(tmp_path_factory.mktemp("other")))
    second = timestep_explorer(explorer)
    assert first.box is None and first.book.pages.comm is None and first.timestep.comm is None
    assert second.box is not None and elsewhere.box is not None
    for view in (second, elsewhere):
        view.close()
        view.close()
    assert "closed" in repr(second)
    wait_for(lambda: threading.active_count() == before)


def test_one_variant_has_no_view_of_both(tmp_path, shown):
    view = timestep_explorer(FakeExplorer(tmp_path, variants=("f",)))
    assert [value for _, value in view.view.options] == ["f", "wiper"] and view.timestep.value == 223
    assert (colours(picture(view))[36 + 70, 20 + 150 + 70] == colour("f", "noisy", 223)).all()


def test_messages_are_escaped(explorer, shown):
    view = timestep_explorer(explorer)
    view._complain("<script>")
    assert "<script>" not in view.error.value and "&lt;script&gt;" in view.error.value


# ---- before and after ----


def test_before_after_moves_the_border(shown):
    black, white = Image.new("RGB", (50, 20)), Image.new("RGB", (50, 20), "white")
    view = before_after(black, white, ("bicubic", "OMGSR-S"))
    for position in (0, 30, 100):
        view.slider.value = position
        row = colours(view.image.value)[7, :, 0]
        assert row.tolist() == [0] * (position // 2) + [255] * (50 - position // 2)
    view.slider.value = 30
    assert "left of 30 %: bicubic; right: OMGSR-S" in view.status.value
    assert view.image.tooltip is None  # JupyterLab cannot draw an Image with one
    assert [type(item).__name__ for item in shown] == ["Image", "VBox"]
    sheet = colours(view.sheet)
    assert sheet[120, 250, 0] == 0 and sheet[120, 756, 0] == 255
    assert before_after(black, white).box is not None and view.box is None
    with pytest.raises(ValueError, match="got \\(50, 20\\) and \\(49, 20\\)"):
        before_after(black, white.crop((0, 0, 49, 20)))
    assert repr(view) == "<PictureView closed>"


def test_labels_are_escaped(shown):
    picture = Image.new("RGB", (50, 20))
    assert "<script>" not in before_after(picture, picture, ("<script>", "b")).status.value


def test_import_needs_no_ipywidgets():
    code = "import sys, omgsr_lib.explorer.widgets; sys.exit('ipywidgets' in sys.modules or 'IPython' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
