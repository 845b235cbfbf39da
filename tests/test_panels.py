import io
import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from explorer_case import SIZE, colour, empty_cache, fill
from PIL import Image

from omgsr_lib.explorer import drawing as panels
from omgsr_lib.explorer.curves import curves_svg, plot_svg
from omgsr_lib.explorer.drawing import (
    caption,
    cell_of,
    columns_of,
    contact_sheet,
    crop_box,
    difference_map,
    explorer_picture,
)


LEFT, TOP = 20, 36  # of the first image


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return fill(empty_cache(tmp_path_factory.mktemp("cache") / "case"), [0, 223, 325])


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def cell(sheet, view, column, row):
    """The image of a column and row."""
    side = cell_of(view)
    left, top = LEFT + column * (side + 6), TOP + row * (side + 6)
    return sheet[top : top + side, left : left + side]


@pytest.mark.parametrize("view", ["s", "f", "both"])
def test_each_picture_stands_in_its_column(cache, view):
    sheet = pixels(explorer_picture(cache, view, 325))
    assert sheet.shape == (TOP + 3 * cell_of(view) + 12, panels.WIDTH, 3)
    for column, (variant, panel) in enumerate(columns_of(view)):
        if variant:
            expected = colour(variant, panel, 325)
            assert (cell(sheet, view, column, 0) == expected).all()
            assert (cell(sheet, view, column, 1) == expected).all()


def test_crop_is_the_box_enlarged_without_smoothing(cache):
    box = crop_box(cache, "s")
    assert box[2] - box[0] == box[3] - box[1] == SIZE // 2  # an image of 32 pixels has no room for 36
    crop = cell(pixels(explorer_picture(cache, "s", 0)), "s", 4, 1)
    expected = cache.photo.crop(box).resize((cell_of("s"),) * 2, Image.NEAREST)
    assert (crop == np.asarray(expected)).all()
    assert cell_of("s") % panels.ZOOM == cell_of("both") % panels.ZOOM == 0


def test_difference_is_the_mean_over_channels_in_the_colours_of_inferno(cache):
    flat = Image.new("RGB", (SIZE, SIZE), (104, 97, 110))  # 4, 3 and 10 levels from grey 100: mean 5.67
    shown = np.asarray(difference_map(flat, cache.photo))
    inferno = matplotlib.colormaps["inferno"]
    assert (shown[0, 0] == np.round(255 * np.array(inferno(5 / 64)[:3]))).all()
    assert (shown[12, 20] == np.round(255 * np.array(inferno(1.0)[:3]))).all()  # 96, 103, 90 levels
    drawn = cell(pixels(explorer_picture(cache, "s", 325)), "s", 0, 2)
    assert (drawn[0, 0] == np.asarray(difference_map(cache.lq, cache.photo))[0, 0]).all()


def test_what_is_not_computed_is_grey(cache):
    sheet = pixels(explorer_picture(cache, "s", 999))
    assert (cell(sheet, "s", 1, 0) == 0xED).all() and (cell(sheet, "s", 3, 2) == 0xED).all()
    assert (cell(sheet, "s", 4, 1) == cell(pixels(explorer_picture(cache, "s", 0)), "s", 4, 1)).all()


def test_captions_are_the_caches_numbers(cache):
    assert caption(cache, None, "lq", 0) == "PSNR-Y 20.50 dB"
    assert caption(cache, "s", "noisy", 325) == "SNR 23.8 dB" and caption(cache, "s", "noisy", 0) == "no noise"
    assert caption(cache, "f", "tuned", 223) == "PSNR-Y 22.22 dB"
    assert caption(cache, None, "photo", 0) == "square"


@pytest.mark.parametrize("border", [0, 30, 100])
def test_wiper_shows_low_quality_left_of_the_border(cache, border):
    sheet = pixels(panels.wiper_picture(cache, 223, border))
    side = (panels.WIDTH - 6) // 2
    split = round(side * border / 100)
    for place, variant in enumerate("sf"):
        picture = sheet[TOP:, place * (side + 6) : place * (side + 6) + side]
        assert (picture[:, : max(0, split - 3)] == 90).all()
        assert (picture[:, split + 3 :] == colour(variant, "tuned", 223)).all()


def test_contact_sheet_has_a_column_per_timestep_after_the_input(cache):
    sheet = pixels(contact_sheet(cache, [0, 325], cell=40))
    assert sheet.shape == (22 + 6 * 46 - 6, 62 + 3 * 46 - 6, 3)
    rows = [(v, p) for v in "sf" for p in ("noisy", "prior", "tuned")]
    for row, (variant, panel) in enumerate(rows):
        middle = 22 + row * 46 + 20
        assert (sheet[middle, 62 + 46 + 20] == colour(variant, panel, 0)).all()
        assert (sheet[middle, 62 + 92 + 20] == colour(variant, panel, 325)).all()
        assert sheet[middle, 62 + 4].tolist() == ([100] * 3 if panel == "noisy" else [90] * 3)


def test_views_follow_the_variants(tmp_path):
    assert list(panels.views_of(fill(empty_cache(tmp_path / "one", variants=("f",))))) == ["f", "wiper"]
    assert list(panels.views_of(empty_cache(tmp_path / "two"))) == ["s", "f", "both", "wiper"]


# ---- curves ----


def elements(svg, tag, kind):
    root = ElementTree.fromstring(svg)
    return [e for e in root.iter(f"{{http://www.w3.org/2000/svg}}{tag}") if e.get("class") == kind]


def points_of(polyline):
    return np.array([point.split(",") for point in polyline.get("points").split()], dtype=float)


@pytest.mark.parametrize("timestep", [0, 325, 999])
def test_marker_stands_on_every_curve_at_the_timestep(cache, timestep):
    for name in ("snr", "gap"):
        svg = plot_svg(cache, name, ["s", "f"], timestep)
        (line,) = elements(svg, "line", "marker")
        x = float(line.get("data-left")) + timestep / 999 * float(line.get("data-wide"))
        assert float(line.get("x1")) == float(line.get("x2")) == pytest.approx(x, abs=0.05)
        curves = {e.get("data-curve"): points_of(e) for e in elements(svg, "polyline", "curve")}
        assert set(curves) == {f"{name}-s", f"{name}-f"}
        for dot in elements(svg, "circle", "marker"):
            assert float(dot.get("cx")) == pytest.approx(x, abs=0.05)
            assert float(dot.get("cy")) == pytest.approx(np.interp(x, *curves[dot.get("data-curve")].T), abs=0.1)


def test_points_are_the_curve_on_the_drawn_scale(cache):
    """Heights of points of the SNR curve against the grid lines of 0, 20 and 40 dB; infinity is cut at the top."""
    svg = plot_svg(cache, "snr", ["s"], 0)
    labels = [e for e in ElementTree.fromstring(svg).iter() if re.fullmatch("-?[0-9]+", e.text or "")]
    ticks = {float(e.text): float(e.get("y")) - 4 for e in labels if e.get("text-anchor") == "end"}
    (curve,) = elements(svg, "polyline", "curve")
    heights = dict(zip(cache.curve("s", "snr")[0].tolist(), points_of(curve)[:, 1], strict=True))
    for timestep, value in ((400, 20), (800, 0), (0, 40)):
        assert heights[timestep] == pytest.approx(ticks[value], abs=0.1)


def test_both_plots_make_one_picture(cache):
    root = ElementTree.fromstring(curves_svg(cache, ["s", "f"], 325))
    assert int(root.get("width")) == panels.WIDTH
    assert [child.get("x") for child in root] == ["0", str(panels.WIDTH // 2)]
