import base64
import io
import json
import re
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from explorer_case import TIMESTEPS, FakeExplorer, colour
from PIL import Image

from omgsr_lib.explorer import widgets
from omgsr_lib.explorer.drawing import caption, contact_sheet, to_jpeg
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


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def message(widget):
    """What the page reads from a widget."""
    return json.loads(re.fullmatch(r'<script type="application/json">(.*)</script>', widget.value, re.S)[1])


def status(view):
    return message(view._status)


def case(view):
    return message(view._case)


def wish(view, photo="square", strength="medium", centre=None, timestep=325):
    """What the page writes when something is chosen."""
    view._wish.value = json.dumps(dict(photo=photo, strength=strength, centre=centre, timestep=timestep))


def upload(view, name, content, part=None, number=1):
    """What the page writes: `content` in parts of `part` bytes; the last answer."""
    parts = [content[i : i + part] for i in range(0, len(content), part)] if part else [content]
    for place, piece in enumerate(parts):
        said = dict(name=name, upload=number, number=place, parts=len(parts), content=base64.b64encode(piece).decode())
        view._upload.value = json.dumps(said)
        assert status(view)["part"] == [number, place]
    return status(view)


def finished(view):
    return status(view)["done"] == len(TIMESTEPS) and view._sent == set(TIMESTEPS)


def png(side=40):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


# ---- explorer ----


def test_the_sheet_comes_first_and_needs_no_widget_and_no_further_frame(explorer, shown):
    view = timestep_explorer(explorer, static=(0, 480), interactive=False)
    cache = explorer.open("square", "medium")
    assert len(shown) == 1 and view.box is None
    assert cache.missing == [999]  # the mid-timesteps 223 and 325 belong to the sheet
    assert shown[0].data == view.sheet == to_jpeg(contact_sheet(cache, [0, 223, 325, 500]))
    assert shown[0].alt.startswith("square: ") and shown[0].alt.endswith("at the timesteps 0, 223, 325, 500")
    assert "static" in repr(view)


def test_the_page_gets_the_case_and_every_frame_without_loss(explorer, shown):
    view = timestep_explorer(explorer)
    assert [type(item).__name__ for item in shown] == ["Image", "VBox"]
    wait_for(lambda: finished(view))
    cache, told = explorer.open("square", "medium"), case(view)
    assert (told["photo"], told["strength"], told["key"]) == ("square", "medium", cache.folder.name)
    assert told["overview"].startswith("data:image/webp") and told["box"] == [0.25, 0.5, 0.75, 1]
    for timestep, widget in view._frames.items():
        frames = message(widget)
        assert (frames["kind"], frames["key"], frames["timestep"]) == ("frames", told["key"], timestep)
        for variant in "sf":
            for panel, address in frames["frames"][variant]["images"].items():
                image = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB")
                assert image.getcolors() == [(32 * 32, colour(variant, panel, timestep))]
            assert frames["frames"][variant]["captions"]["tuned"] == caption(cache, variant, "tuned", timestep)


def test_the_page_is_in_a_frame_of_its_own_and_starts_as_the_page_does(explorer, shown):
    view = timestep_explorer(explorer)
    page, mail = view.box.children
    assert page.value.startswith("<iframe") and "&lt;!DOCTYPE html&gt;" in page.value
    data = re.search("type=&quot;application/json&quot; id=&quot;data&quot;&gt;(.*?)&lt;/script", page.value, re.S)[1]
    data = json.loads(data.replace("&quot;", '"'))
    assert data["start"] == "medium" and data["live"]["strengths"][0] == "as it is"
    assert data["live"]["part"] * 4 / 3 < 10 * 2**20  # as base64, in one message of JupyterLab's websocket
    assert mail.layout.display == "none"


def test_the_thread_starts_at_the_slider_and_follows_it(explorer, shown):
    explorer.gate = threading.Semaphore(0)
    view = ExplorerView(explorer, explorer.open("square", "medium"), b"")
    widgets._OPEN["view"] = view
    assert status(view)["done"] == 0 and status(view)["planned"] == 5
    explorer.gate.release()
    wait_for(lambda: status(view)["done"] == 1)
    assert explorer.order == [("square", 325)]
    time.sleep(0.1)  # the thread waits for leave to compute 223, the second nearest
    wish(view, timestep=999)
    explorer.gate.release(4)
    wait_for(lambda: finished(view))
    assert [timestep for _, timestep in explorer.order] == [325, 223, 999, 500, 0]


def test_another_photograph_strength_and_part_are_opened_by_the_thread(explorer, shown):
    view = timestep_explorer(explorer)
    wish(view, "other", "as it is", [0.2, 0.7])
    wait_for(lambda: case(view)["photo"] == "other" and finished(view))
    told = case(view)
    assert told["reference"] == "lq" and explorer.centres[-1] == [0.2, 0.7]
    assert {message(widget)["key"] for widget in view._frames.values()} == {told["key"]}
    wish(view, "other", "as it is", [0.2, 0.7], timestep=0)  # the slider alone opens nothing
    time.sleep(0.05)
    assert explorer.centres.count([0.2, 0.7]) == 1


def test_frames_of_what_was_shown_before_are_left_out(explorer, shown):
    view = timestep_explorer(explorer)
    wait_for(lambda: finished(view))
    before = view._cache
    wish(view, "other")
    wait_for(lambda: case(view)["photo"] == "other" and finished(view))
    view._send(before, 325)
    assert message(view._frames[325])["key"] == case(view)["key"]


def test_an_upload_comes_in_parts(explorer, shown):
    view = timestep_explorer(explorer)
    content = png()
    said = upload(view, "mine.png", content, part=len(content) // 3)
    assert said["added"] == "mine.png" and said["error"] == "" and said["photos"][-1] == "mine.png"
    wish(view, "mine.png", "as it is")
    wait_for(lambda: case(view)["photo"] == "mine.png")


def test_what_is_no_image_is_refused(explorer, shown):
    view = timestep_explorer(explorer)
    said = upload(view, "notes.txt", b"text")
    assert "'notes.txt' is not" in said["error"] and said["added"] is None and said["photos"] == ["square", "other"]
    assert upload(view, "mine.png", png(), number=2)["error"] == ""


def test_a_photograph_that_fails_is_named_and_the_next_one_works(explorer, shown):
    explorer.photos.append("broken")
    view = timestep_explorer(explorer)
    wish(view, "broken")
    wait_for(lambda: "this photograph is broken" in status(view)["error"])
    wish(view, "other")
    wait_for(lambda: case(view)["photo"] == "other" and finished(view))
    assert status(view)["error"] == ""


def test_closing_ends_the_thread_and_frees_the_widgets(explorer, shown, tmp_path_factory):
    before = threading.active_count()
    first = timestep_explorer(explorer)
    elsewhere = timestep_explorer(FakeExplorer(tmp_path_factory.mktemp("other")))
    second = timestep_explorer(explorer)
    assert first.box is None and first._case.comm is None and first._frames[0].comm is None
    assert second.box is not None and elsewhere.box is not None
    for view in (second, elsewhere):
        view.close()
        view.close()
    assert "closed" in repr(second)
    wait_for(lambda: threading.active_count() == before)


def test_messages_end_no_script(explorer, shown):
    view = timestep_explorer(explorer)
    view._say(error="</script><b>")
    assert view._status.value.count("</script>") == 1 and status(view)["error"] == "</script><b>"


def test_the_nearest_timestep():
    assert nearest(TIMESTEPS, 274) == 223 and nearest([0, 10], 5) == 0


# ---- before and after ----


def test_before_after_is_dragged_without_a_kernel(shown):
    black, white = Image.new("RGB", (50, 20)), Image.new("RGB", (50, 20), "white")
    sheet = np.asarray(Image.open(io.BytesIO(before_after(black, white, ("<bicubic>", "OMGSR-S")))))
    assert [type(item).__name__ for item in shown] == ["Image", "HTML"]
    assert sheet[120, 250, 0] == 0 and sheet[120, 756, 0] == 255
    page = shown[1].data
    assert 'type="range"' in page and "oninput" in page and "max-width: 50px" in page
    assert "&lt;bicubic&gt;" in page and "<bicubic>" not in page
    images = [Image.open(io.BytesIO(base64.b64decode(code))) for code in re.findall('base64,([^"]*)"', page)]
    assert [image.convert("L").getextrema() for image in images] == [(255, 255), (0, 0)]
    before_after(black, white, interactive=False)
    assert len(shown) == 3
    with pytest.raises(ValueError, match="got \\(50, 20\\) and \\(49, 20\\)"):
        before_after(black, white.crop((0, 0, 49, 20)))


def test_import_needs_no_ipywidgets():
    code = "import sys, omgsr_lib.explorer.widgets; sys.exit('ipywidgets' in sys.modules or 'IPython' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
