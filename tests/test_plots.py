import hashlib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.data import astronaut

from omgsr_lib.report import plots
from omgsr_lib.report.plots_images import compare_crops, contact_sheet


@pytest.fixture
def gap():
    timesteps = np.arange(0, 1000, 100)
    curves = {"snr": np.abs(timesteps - 300) / 100 + 0.05, "frechet": timesteps / 1000 + 0.2}
    frame = pd.concat(pd.DataFrame({"timestep": timesteps, "distance": k, "value": v}) for k, v in curves.items())
    minima = pd.DataFrame({"distance": ["snr", "frechet"], "timestep": [300, 0], "value": [0.05, 0.2]})
    return frame, minima


@pytest.fixture
def sweep():
    rows = [
        (variant, protocol, metric, timestep, value, value - 0.1, value + 0.2)
        for variant in ("omgsr-s", "omgsr-f")
        for protocol in ("full", "frozen-encoder")
        for metric, value in (("psnr_y", 23.0), ("gmsd", 0.3))
        for timestep in (999, 25, 365)
    ]
    return pd.DataFrame(rows, columns=["variant", "protocol", "metric", "timestep", "mean", "lo", "hi"])


def drawings(gap, sweep):
    steps = np.arange(40)
    images = [np.full((20, 30, 3), shade, dtype=np.uint8) for shade in (0, 100, 200)]
    log = pd.DataFrame({"step": steps, "pixel": 1 / (steps + 1), "note": "", "seconds": 0.1})
    target = np.array([0.1, 0.2, 0.27, 0.4, 3.0])
    curve = pd.DataFrame({"timestep": range(1000), "objective": np.abs(np.arange(1000) - 365) + 0.5})
    return {
        "gap": plots.plot_gap(*gap, mid=365),
        "snr": plots.plot_snr_match(curve, 365, (350, 380), 273),
        "per_image": plots.plot_per_image_timesteps(
            {"omgsr-s": range(340, 390), "b": [500]}, {"omgsr-s": 365, "b": 500}
        ),
        "losses": plots.plot_losses(log),
        "sweep": plots.plot_timestep_sweep(sweep, {"omgsr-s": 365, "omgsr-f": 509}),
        "median": plots.plot_weighted_median(target, np.ones(5), 1 / np.linspace(0.01, 9, 99), [40, 41], 41),
        "crops": compare_crops([images], ["a", "b", "c"], [["1", "2", "3"]], [(5, 0, 25, 20)]),
        "sheet": contact_sheet(images, ["t = 0", "", "t = 2"], columns=2),
    }


def test_two_runs_give_identical_files_and_leave_nothing_open(gap, sweep, tmp_path):
    hashes = []
    for run in ("first", "second"):
        np.random.seed(len(hashes))
        for name, fig in drawings(gap, sweep).items():
            suffix = {"snr": ".pdf", "crops": ".jpg", "sheet": ".jpg"}.get(name, ".png")
            plots.save_figure(fig, tmp_path / run / f"{name}{suffix}")
        files = sorted((tmp_path / run).iterdir())
        assert len(files) == 8
        hashes.append([(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files])
    assert hashes[0] == hashes[1]
    assert not plt.get_fignums()
    image = Image.open(tmp_path / "first" / "sweep.png")
    assert image.width == round(plots.PAGE * 200) and not image.text


def test_no_text_is_cut_off(gap, sweep):
    for name, fig in drawings(gap, sweep).items():
        fig.draw_without_rendering()
        page = fig.bbox
        box = fig.get_tightbbox()
        inches = np.array([[0, 0], [page.width / fig.dpi, page.height / fig.dpi]])
        assert box.x0 > inches[0, 0] - 0.02 and box.x1 < inches[1, 0] + 0.02, name
        assert box.y0 > inches[0, 1] - 0.02 and box.y1 < inches[1, 1] + 0.02, name


def test_gap_marks_each_minimum(gap):
    fig = plots.plot_gap(*gap, mid=365)
    for ax, (timestep, value) in zip(fig.axes, ((300, 0.05), (0, 0.2)), strict=True):
        dashed, curve, mark = ax.get_lines()
        assert dashed.get_xdata() == [365, 365]
        assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (timestep, value)
        assert len(curve.get_xdata()) == 10
        assert ax.texts[0].get_text() == f"least at t = {timestep}"
    assert [ax.get_yscale() for ax in fig.axes] == ["log", "linear"]


def test_the_weighted_median_marks_both_neighbours():
    target, ratio = np.array([0.1, 0.2, 0.27, 0.4, 3.0]), 1 / np.linspace(0.01, 9, 99)
    left, right = plots.plot_weighted_median(target, np.ones(5), ratio, [40, 41], 41).axes
    marks = [line for line in right.get_lines() if line.get_marker() == "o"]
    assert [mark.get_xdata()[0] for mark in marks] == [ratio[40], ratio[41]]
    for mark, timestep in zip(marks, (40, 41), strict=True):
        assert mark.get_ydata()[0] == pytest.approx(np.abs(ratio[timestep] - target).mean())
    assert [text.get_text() for text in right.texts] == ["t 40", "t 41 = t*"]
    assert left.texts[0].get_text() == "weighted median 0.270"


def test_sweep_draws_means_and_intervals_in_fixed_colours(sweep):
    fig = plots.plot_timestep_sweep(sweep)
    axes = np.reshape(fig.axes, (2, 2))
    assert axes[0, 0].get_ylabel() == "PSNR-Y (dB) ↑" and axes[1, 0].get_ylabel() == "GMSD ↓"
    full, frozen = axes[0, 0].containers
    assert full.lines[0].get_color() == plots.METHOD_COLOURS["full"]
    assert frozen.lines[0].get_color() == plots.METHOD_COLOURS["frozen-encoder"]
    assert full.lines[0].get_xdata().tolist() == [22, 362, 996]  # 3 steps aside, so that intervals do not overlap
    low, high = full.lines[2][0].get_segments()[0]
    assert (low[1], high[1]) == pytest.approx((22.9, 23.2))


def test_crops_show_the_box_of_the_image():
    image = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    fig = compare_crops([[image, Image.fromarray(image)]], ["a", "b"], boxes=[(5, 2, 25, 12)])
    for ax in fig.axes:
        assert np.array_equal(ax.images[0].get_array(), image[2:12, 5:25])
    with pytest.raises(ValueError, match="image of 30x20"):
        compare_crops([[image]], ["a"], boxes=[(5, 2, 31, 12)])
    with pytest.raises(ValueError, match="2 images.*\\[1\\]"):
        compare_crops([[image]], ["a", "b"])


def test_figures_are_written_whole_or_not_at_all(gap, tmp_path, monkeypatch):
    fig = plots.plot_gap(*gap)
    with pytest.raises(ValueError, match="'a.gif'"):
        plots.save_figure(fig, tmp_path / "a.gif")

    def fail(part, **_):
        open(part, "w").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fig, "savefig", fail)
    with pytest.raises(OSError, match="No space left"):
        plots.save_figure(fig, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_figures_of_photographs_are_light(tmp_path):
    photo = astronaut()
    for suffix in (".jpg", ".png"):
        plots.save_figure(compare_crops([[photo, photo]], ["a", "b"]), tmp_path / f"a{suffix}", dpi=140)
    light, exact = (Image.open(tmp_path / f"a{suffix}").convert("RGB") for suffix in (".jpg", ".png"))
    assert light.size == exact.size and light.width == round(140 * plots.PAGE)
    assert np.sqrt(np.mean((np.asarray(light, dtype=float) - np.asarray(exact)) ** 2)) < 3  # of 255 levels
    assert (tmp_path / "a.jpg").stat().st_size < (tmp_path / "a.png").stat().st_size / 2


def test_losses_need_a_step():
    with pytest.raises(ValueError, match="needs the column 'step' and losses, got \\['pixel'\\]"):
        plots.plot_losses(pd.DataFrame({"pixel": [1.0]}))
