import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from explorer_case import colour, empty_cache, fill

from omgsr_lib.explorer.curves import plot_svg, plots_of
from omgsr_lib.explorer.drawing import caption, contact_sheet, views_of


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return fill(empty_cache(tmp_path_factory.mktemp("cache") / "case"), [0, 223, 325])


def test_captions_are_the_caches_numbers(cache):
    assert caption(cache, None, "lq", 0) == "PSNR-Y 20.50 dB"
    assert caption(cache, "s", "noisy", 325) == "SNR 23.8 dB" and caption(cache, "s", "noisy", 0) == "no noise"
    assert caption(cache, "f", "tuned", 223) == "PSNR-Y 22.22 dB"
    assert caption(cache, None, "photo", 0) == "square"


def test_contact_sheet_has_a_column_per_timestep_after_the_input(cache):
    sheet = np.asarray(contact_sheet(cache, [0, 325], cell=40))
    assert sheet.shape == (22 + 6 * 46 - 6, 62 + 3 * 46 - 6, 3)
    rows = [(v, p) for v in "sf" for p in ("noisy", "prior", "tuned")]
    for row, (variant, panel) in enumerate(rows):
        middle = 22 + row * 46 + 20
        assert (sheet[middle, 62 + 46 + 20] == colour(variant, panel, 0)).all()
        assert (sheet[middle, 62 + 92 + 20] == colour(variant, panel, 325)).all()
        assert sheet[middle, 62 + 4].tolist() == ([100] * 3 if panel == "noisy" else [90] * 3)


def test_views_follow_the_variants(tmp_path):
    assert list(views_of(fill(empty_cache(tmp_path / "one", variants=("f",))))) == ["f", "compare"]
    assert list(views_of(empty_cache(tmp_path / "two"))) == ["s", "f", "both", "compare"]


def test_a_photograph_as_it_is_has_no_scores_and_no_gap(tmp_path):
    own = fill(empty_cache(tmp_path / "own", strength="as it is"), [325])
    assert caption(own, None, "lq", 0) == "as it is" and caption(own, "s", "tuned", 325) == "no reference"
    assert plots_of(own) == ["snr"] and plots_of(empty_cache(tmp_path / "other")) == ["snr", "gap"]
    assert "LQ latent" not in plot_svg(own, "snr", ["s"], 325)


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


@pytest.mark.parametrize("name, axis", [("snr", "SNR (dB)"), ("gap", "sliced Wasserstein")])
def test_both_axes_have_titles(cache, name, axis):
    texts = [element.text for element in ElementTree.fromstring(plot_svg(cache, name, ["s"], 325)).iter()]
    assert {axis, "timestep t"} <= set(texts)
