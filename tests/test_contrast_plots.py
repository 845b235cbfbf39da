import hashlib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from skimage.color import rgb2lab

from omgsr_lib.metrics.comparisons import compare_methods, rank_stability
from omgsr_lib.metrics.statistics import summarise
from omgsr_lib.report import plots, plots_images
from omgsr_lib.report import plots_compare as contrast_plots
from omgsr_lib.report.labels import name_points


@pytest.fixture
def contrasts():
    rows = [
        ("mid - initial", "s", "psnr_y", 7.0, 6.5, 7.5),
        ("mid - initial", "f", "psnr_y", 2.0, 1.5, 2.5),
        ("with - without", "s", "psnr_y", 0.1, -0.2, 0.4),
        ("with - without", "f", "psnr_y", -0.3, -0.4, -0.2),
        ("mid - initial", "s", "gmsd", -0.05, -0.06, -0.04),
    ]
    return pd.DataFrame(rows, columns=["contrast", "variant", "metric", "mean", "lo", "hi"])


@pytest.fixture
def stability():
    base = np.random.default_rng(0).normal(25, 3, 20)
    values = {"bicubic": base, "omgsr-s": base + 1, "omgsr-f": base + 1 + np.random.default_rng(1).normal(0, 1, 20)}
    rows = [(m, i, "psnr_y", v, False) for m, scores in values.items() for i, v in enumerate(scores)]
    return rank_stability(pd.DataFrame(rows, columns=["method", "image", "metric", "value", "lower_better"]))


@pytest.fixture
def costs():
    rows = [("omgsr-s", "encode", 1.0, 2.0), ("omgsr-s", "decode", 3.0, 1.0), ("omgsr-f", "encode", 2.0, 2.0)]
    return pd.DataFrame(rows, columns=["method", "stage", "Parameters (M)", "Seconds"])


@pytest.fixture
def published():
    rows = [
        ("SinSR", "psnr_y", 26.28),
        ("SinSR", "niqe", 6.29),
        ("OSEDiff", "psnr_y", 25.15),
        ("OSEDiff", "niqe", 5.65),
    ]
    return pd.DataFrame(rows, columns=["method", "metric", "mean"]).assign(source="paper")


@pytest.fixture
def summary():
    rows = [("omgsr-s", "psnr_y", 24.0, 23.5, 24.6), ("omgsr-s", "niqe", 6.0, 5.7, 6.4)]
    return pd.DataFrame(rows, columns=["method", "metric", "mean", "lo", "hi"])


def images():
    photo = np.zeros((60, 90, 3), np.uint8)
    photo[20:40, 50:70] = np.random.default_rng(0).integers(0, 255, (20, 20, 3))
    return [photo // 2, photo]


def scored():
    """Summary and comparisons of two methods whose images differ more than their difference does."""
    base, noise = np.random.default_rng(0).normal(25, 3, 20), np.random.default_rng(1).normal(0, 0.1, 20)
    values = {("bicubic", "psnr_y"): base, ("omgsr-s", "psnr_y"): base - 1 + noise}
    values |= {("bicubic", "lpips_squeeze"): base / 50, ("omgsr-s", "lpips_squeeze"): base / 50 - 0.1 + noise / 50}
    rows = [
        (m, i, metric, v, metric != "psnr_y") for (m, metric), scores in values.items() for i, v in enumerate(scores)
    ]
    frame = pd.DataFrame(rows, columns=["method", "image", "metric", "value", "lower_better"])
    return summarise(frame), compare_methods(frame)


def tiles():
    """2 x 3 tiles of 40 pixels."""
    corners = [(x, y) for y in (0, 20) for x in (0, 30, 50)]
    return pd.DataFrame([(x, y, x + 40, y + 40) for x, y in corners], columns=["left", "top", "right", "bottom"])


def large():
    return dict(zip(("omgsr-f", "bicubic"), images(), strict=True))


def drawings(contrasts, stability, costs, summary, published):
    return {
        "contrasts": contrast_plots.plot_contrasts(contrasts),
        "ranks": contrast_plots.plot_ranks(stability),
        "published": contrast_plots.plot_beside_published(summary, published),
        "tradeoff": contrast_plots.plot_tradeoff(*scored()),
        "costs": contrast_plots.plot_costs(costs),
        "boxed": plots_images.plot_boxed_crops(
            [images()], ["omgsr-s", "photograph"], [(50, 20, 70, 40)], [["24 dB", ""]]
        ),
        "tiles": plots_images.plot_tiles(large(), tiles(), [(40, 20, 60, 40), (20, 0, 40, 20)]),
    }


def test_two_renderings_are_equal(contrasts, stability, costs, summary, published, tmp_path):
    hashes = []
    for run in ("first", "second"):
        for name, fig in drawings(contrasts, stability, costs, summary, published).items():
            plots.save_figure(fig, tmp_path / run / f"{name}.{'pdf' if name == 'contrasts' else 'png'}")
        files = sorted((tmp_path / run).iterdir())
        assert len(files) == 7
        hashes.append([(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files])
    assert hashes[0] == hashes[1] and not plt.get_fignums()


def test_nothing_is_cut_off(contrasts, stability, costs, summary, published):
    for name, fig in drawings(contrasts, stability, costs, summary, published).items():
        fig.draw_without_rendering()
        box, (width, height) = fig.get_tightbbox(), fig.get_size_inches()
        assert -0.02 < box.x0 and box.x1 < width + 0.02 and -0.02 < box.y0 and box.y1 < height + 0.02, name


def test_contrasts_are_placed_and_hollow_where_undecided(contrasts):
    psnr, gmsd = contrast_plots.plot_contrasts(contrasts).axes
    marks = [line for line in psnr.get_lines() if line.get_marker() not in (None, "None")]
    assert [mark.get_xdata()[0] for mark in marks] == [7.0, 0.1, 2.0, -0.3]
    assert [mark.get_markerfacecolor() == "white" for mark in marks] == [False, True, False, False]
    assert [round(mark.get_ydata()[0]) for mark in marks] == [0, 1, 0, 1]
    shaded = [ax.patches[0].get_extents().x1 > ax.transData.transform((0.001, 0))[0] for ax in (psnr, gmsd)]
    assert shaded == [True, False]  # PSNR: positive is better; GMSD: negative
    assert psnr.get_title() == "" and psnr.get_title(loc="left") == "PSNR-Y (dB) ↑"


def test_rank_bars_are_the_probabilities(stability):
    ax = contrast_plots.plot_ranks(stability).axes[0]
    widths = {(round(bar.get_y() + bar.get_height() / 2), rank): bar.get_width()
              for rank, bars in enumerate(ax.containers, start=1) for bar in bars}  # fmt: skip
    expected = stability.set_index(["method", "rank"]).probability
    for row, method in enumerate(["bicubic", "omgsr-s", "omgsr-f"]):
        for rank in (1, 2, 3):
            assert widths[row, rank] == expected[method, rank]


def test_published_points_are_grey_and_ours_have_intervals(summary, published):
    ax = contrast_plots.plot_beside_published(summary, published).axes[0]
    grey = ax.get_lines()[0]
    assert sorted(grey.get_xdata()) == [25.15, 26.28] and grey.get_color() == "#9E9E9E"
    assert {text.get_text() for text in ax.texts} - {""} == {"SinSR", "OSEDiff", "OMGSR-S"}
    (ours,) = ax.containers
    assert ours.lines[0].get_xydata().tolist() == [[24.0, 6.0]]
    assert ours.lines[2][0].get_segments()[0][:, 0] == pytest.approx([23.5, 24.6])


def test_a_method_of_two_papers_has_one_name_and_a_line_between_its_points(summary, published):
    again = published[published.method == "SinSR"].assign(source="other", method="SinSR (re-run)")
    again = again.assign(mean=again["mean"] + 0.1)
    ax = contrast_plots.plot_beside_published(summary, pd.concat([published, again])).axes[0]
    joined = [
        line.get_xydata() for line in ax.get_lines() if len(line.get_xdata()) == 2 and line.get_marker() == "None"
    ]
    (joined,) = [points for points in joined if np.ptp(points[:, 0])]
    assert joined == pytest.approx(np.array([[26.28, 6.29], [26.38, 6.39]]))
    assert [text.get_text() for text in ax.texts if text.get_text()].count("SinSR") == 1


def test_a_name_stands_nearer_to_its_own_point_than_to_another():
    fig, ax = plt.subplots(figsize=(4, 4))
    ax.set(xlim=(0, 10), ylim=(0, 10))
    points = {"a rather long name": (5.0, 5.0), "another": (4.4, 5.05), "third": (5.6, 5.1)}
    ax.plot(*zip(*points.values(), strict=True), "o", ms=3)
    name_points(ax, [(name, point, "black", 7) for name, point in points.items()])
    places = {name: ax.transData.transform(point) for name, point in points.items()}
    leaders = sum(text.get_text() == "" for text in ax.texts)
    crowded = 0
    for text in filter(lambda text: text.get_text(), ax.texts):
        box = text.get_window_extent()
        away = {n: np.linalg.norm(np.maximum(0, np.maximum(box.min - p, p - box.max))) for n, p in places.items()}
        crowded += min(away, key=away.get) != text.get_text()
    assert crowded <= leaders
    plt.close(fig)


def test_the_tradeoff_has_paired_bars_around_each_mean():
    summary, comparisons = scored()
    bicubic, ours = contrast_plots.plot_tradeoff(summary, comparisons).axes[0].containers
    mean = summary.set_index(["method", "metric"])["mean"]
    assert ours.lines[0].get_xydata().tolist() == [[mean["omgsr-s", "psnr_y"], mean["omgsr-s", "lpips_squeeze"]]]
    row = comparisons[comparisons.metric == "psnr_y"].iloc[0]  # bicubic minus omgsr-s
    assert (row.method, row.against) == ("bicubic", "omgsr-s")
    low, high = ours.lines[2][0].get_segments()[0][:, 0]
    assert (low, high) == pytest.approx((mean["bicubic", "psnr_y"] - row.hi, mean["bicubic", "psnr_y"] - row.lo))
    assert high - low < 0.2  # the images themselves differ by 3 dB
    assert np.ptp(bicubic.lines[2][0].get_segments()[0]) == 0 or len(bicubic.lines[2]) == 2


def test_names_cover_neither_each_other_nor_a_mark():
    fig = contrast_plots.plot_tradeoff(*scored())
    (ax,) = fig.axes
    fig.draw_without_rendering()
    names = [text.get_window_extent() for text in ax.texts if text.get_text()]
    marks = [bars.lines[0].get_window_extent() for bars in ax.containers]
    boxes = names + marks
    assert len(names) == len(marks) == 2
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_cost_bars_are_stacked_by_stage(costs):
    parameters, seconds = contrast_plots.plot_costs(costs).axes
    encode, decode = parameters.containers
    assert [bar.get_width() for bar in encode] == [1, 2] and [bar.get_x() for bar in decode] == [1, 2]
    assert seconds.get_title(loc="left") == "Seconds"


def test_the_box_is_cut_from_every_image_and_framed_in_the_first():
    half, photo = images()
    box = plots_images.detail_box(photo, 20)
    assert box == (50, 20, 70, 40)
    whole, first, second = plots_images.plot_boxed_crops([[half, photo]], ["a", "b"], [box]).axes
    assert np.array_equal(whole.images[0].get_array(), photo)
    assert np.array_equal(first.images[0].get_array(), half[20:40, 50:70])
    assert np.array_equal(second.images[0].get_array(), photo[20:40, 50:70])
    frame = whole.patches[0]
    assert (frame.get_x(), frame.get_y(), frame.get_width(), frame.get_height()) == (49.5, 19.5, 20, 20)
    with pytest.raises(ValueError, match="1 photographs needs 2 images.*\\[1\\]"):
        plots_images.plot_boxed_crops([[photo]], ["a", "b"], [box])


def test_tiles_are_outlined_and_boxes_are_cut_from_each_image():
    box = (40, 20, 60, 40)
    fig = plots_images.plot_tiles(large(), tiles(), [box])
    first, detail, second, same_detail = fig.axes
    *outlines, frame = first.patches
    assert [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in outlines] == [
        (x, y, 40, 40) for y in (0, 20) for x in (0, 30, 50)
    ]
    assert (frame.get_x(), frame.get_y()) == (39.5, 19.5) and not second.patches
    assert [ax.get_ylabel() for ax in (first, second)] == ["OMGSR-F", "Bicubic"]
    half, photo = images()
    assert np.array_equal(detail.images[0].get_array(), half[20:40, 40:60])
    assert np.array_equal(same_detail.images[0].get_array(), photo[20:40, 40:60])


def test_boxes_lie_at_the_joints_with_the_most_detail_and_apart():
    _, photo = images()  # detail at rows 20 to 40, columns 50 to 70; joints at row 30, columns 35 and 60
    assert plots_images.joint_boxes(photo, tiles(), 20) == [(50, 20, 70, 40), (25, 20, 45, 40)]
    assert plots_images.joint_boxes(photo, tiles(), 40) == [(40, 10, 80, 50)]  # the other one would overlap it
    assert plots_images.joint_boxes(photo, tiles().head(1), 20) == []


# Dichromats by projection in cone space (Vienot et al., 1999, protanopia and deuteranopia; the same for tritanopia).
CONES = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
PROJECTIONS = {
    "protanopia": [[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]],
    "deuteranopia": [[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]],
    "tritanopia": [[1, 0, 0], [0, 1, 0], [-0.395913, 0.801109, 0]],
}


def as_seen(colours, projection):
    rgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = (np.linalg.inv(CONES) @ np.array(projection) @ CONES @ linear.T).T.clip(0, 1)
    return rgb2lab(np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("vision", PROJECTIONS)
@pytest.mark.parametrize(
    "together",
    [
        ("omgsr-s", "omgsr-f"),
        ("omgsr-s", "omgsr-f", "bicubic"),
        ("full", "frozen-encoder", "untuned", "full-random", "frozen-encoder-random"),
        ("bicubic", "prior-s", "short-s", "omgsr-s"),
        ("bicubic", "prior-f", "short-f", "omgsr-f"),
        ("mid", "published", "omgsr-s"),
    ],
)
def test_colours_that_meet_in_a_figure_stay_apart_for_dichromats(vision, together):
    """CIE 1976 distances above 10 are told apart at a glance; markers differ besides."""
    seen = as_seen([plots.METHOD_COLOURS[name] for name in together], PROJECTIONS[vision])
    distances = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(distances) > 10


def test_memory_has_a_panel_per_stage_and_a_line_per_mode():
    modes, sides = ("one piece", "flat"), (1024, 2048)
    rows = [
        {"autoencoder": "SD", "stage": stage, "mode": mode, "side": side, "bytes": side**2 * (1 + i) * (3 + j) * 1000}
        for i, stage in enumerate(("encode", "decode"))
        for j, mode in enumerate(modes)
        for side in sides
    ]
    fig = contrast_plots.plot_memory(pd.DataFrame(rows))
    assert [ax.get_title("left") for ax in fig.axes] == ["SD, encode", "SD, decode"]
    for i, ax in enumerate(fig.axes):
        for j, line in enumerate(ax.get_lines()):
            assert line.get_label() == modes[j]
            assert line.get_xdata().tolist() == [1024, 2048]
            assert line.get_ydata() == pytest.approx([side**2 * (1 + i) * (3 + j) / 1e6 for side in sides])
