import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from omgsr_lib import widgets
from omgsr_lib.widgets import before_after, timestep_explorer


TIMESTEPS = (0, 125, 250, 500, 999)


@pytest.fixture
def cache(tmp_path):
    rows = ["timestep,file,PSNR-Y"]
    for timestep in reversed(TIMESTEPS):
        Image.new("RGB", (40, 30), (timestep // 4, 10, 200)).save(tmp_path / f"t{timestep:04d}.png")
        rows.append(f"{timestep},t{timestep:04d}.png,{20 + timestep / 1000}")
    (tmp_path / "index.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


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


def test_slider_flips_through_the_bytes_of_the_cache(cache, shown):
    view = timestep_explorer(cache)
    assert [value for _, value in view.slider.options] == list(TIMESTEPS)
    for timestep in TIMESTEPS:
        view.slider.value = timestep
        assert view.image.value == (cache / f"t{timestep:04d}.png").read_bytes()
        assert f"t = {timestep}; PSNR-Y {20 + timestep / 1000}" in view.status.value
    assert view.image.tooltip == "t = 999; PSNR-Y 20.999" and view.slider.description == "Timestep"
    assert not view.slider.continuous_update


def test_static_sheet_comes_first_and_needs_no_widget(cache, shown):
    view = timestep_explorer(cache, static=(0, 240, 260, 1000))
    assert [type(item).__name__ for item in shown] == ["Image", "VBox"]
    assert shown[0].data == view.sheet and shown[0].alt == "Restored pictures at the timesteps 0, 250, 999"
    sheet = colours(view.sheet)
    width = round(40 * 200 / 30)
    assert sheet.shape == (220, 3 * width + 12, 3)
    for place, timestep in enumerate((0, 250, 999)):
        assert sheet[120, place * (width + 6) + width // 2].tolist() == [timestep // 4, 10, 200]
    shown.clear()
    view = timestep_explorer(cache, interactive=False)
    assert len(shown) == 1 and view.slider is None and view.image is None


def test_second_call_closes_the_first_and_leaves_others(cache, shown, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for file in cache.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    first, elsewhere = timestep_explorer(cache), timestep_explorer(other)
    second = timestep_explorer(cache)
    assert first.box is None and first.slider.comm is None and repr(first) == "<PictureView closed>"
    assert second.box is not None and elsewhere.box is not None
    second.close()
    second.close()
    assert second.box is None


def test_before_after_moves_the_border(shown):
    black, white = Image.new("RGB", (50, 20)), Image.new("RGB", (50, 20), "white")
    view = before_after(black, white, ("bicubic", "OMGSR-S"))
    for position in (0, 30, 100):
        view.slider.value = position
        row = colours(view.image.value)[7, :, 0]
        assert row.tolist() == [0] * (position // 2) + [255] * (50 - position // 2)
    view.slider.value = 30
    assert "left of 30 %: bicubic; right: OMGSR-S" in view.status.value
    assert [type(item).__name__ for item in shown] == ["Image", "VBox"]
    sheet = colours(view.sheet)
    assert sheet[120, 250, 0] == 0 and sheet[120, 756, 0] == 255
    assert before_after(black, white).box is not None and view.box is None
    with pytest.raises(ValueError, match="got \\(50, 20\\) and \\(49, 20\\)"):
        before_after(black, white.crop((0, 0, 49, 20)))


def test_labels_are_escaped(cache, shown):
    rows = (cache / "index.csv").read_text().replace("PSNR-Y", "<script>")
    (cache / "index.csv").write_text(rows)
    assert "<script>" not in timestep_explorer(cache).status.value


def test_damaged_caches_are_named(cache, shown):
    with pytest.raises(FileNotFoundError, match="nowhere.*index.csv' is missing"):
        timestep_explorer(cache / "nowhere")
    (cache / "t0500.png").write_text("no picture")
    with pytest.raises(ValueError, match="readable PNG: '.*t0500.png' is not"):
        timestep_explorer(cache)
    (cache / "t0500.png").unlink()
    with pytest.raises(FileNotFoundError, match="t0500.png"):
        timestep_explorer(cache)
    (cache / "index.csv").write_text("timestep,picture\n0,a.png\n")
    with pytest.raises(ValueError, match="columns timestep \\(integer\\) and file"):
        timestep_explorer(cache)
    (cache / "index.csv").write_text("timestep,file\n")
    with pytest.raises(ValueError, match="names no picture"):
        timestep_explorer(cache)
    assert not shown


def test_import_needs_no_ipywidgets():
    code = "import sys, omgsr_lib.widgets; sys.exit('ipywidgets' in sys.modules or 'IPython' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
