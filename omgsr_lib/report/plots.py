"""Figures from data frames: functions return a matplotlib `Figure` and leave nothing open.

Widths are those of a paper's column and page; one method has one colour in all figures.
"""

from functools import wraps
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from ..metrics.specs import SPECS
from ..utils.files import atomic_write


STYLE = Path(__file__).with_name("paper.mplstyle")
COLUMN, PAGE = 3.25, 6.75  # inches
DASHED = (0, (3, 2))
FEW_COLOURS = 4096  # photographs have more
FORMATS = {  # suffix: options without which equal figures differ, dpi
    ".png": ({"metadata": {"Software": None}}, 200),
    ".jpg": ({"pil_kwargs": {"quality": 92, "subsampling": 0}}, 140),
    ".pdf": ({"metadata": {"CreationDate": None}}, 200),
}

METHOD_COLOURS = {
    "bicubic": "#7F7F7F",
    "prior": "#CC79A7",
    "prior-s": "#88B7D5",
    "prior-f": "#F2CDB0",
    "short-s": "#56B4E9",
    "short-f": "#E69F00",
    "untuned": "#CC79A7",
    "omgsr-s": "#0072B2",
    "omgsr-f": "#D55E00",
    "full": "#0072B2",
    "frozen-encoder": "#009E73",
    "full-random": "#56B4E9",
    "frozen-encoder-random": "#E69F00",
    "mini-s": "#0072B2",
    "mini-f": "#D55E00",
    "mini-s-adaptive": "#56B4E9",
    "mini-f-adaptive": "#E69F00",
    "realesrgan-x4plus": "#882255",
    "published": "#009E73",
    "mid": "#262626",
}
SPARE_COLOURS = ("#56B4E9", "#882255", "#999933", "#CA9161", "#332288", "#44AA99")
METHOD_LABELS = {
    "bicubic": "Bicubic",
    "prior": "Prior, not tuned",
    "prior-s": "Prior S",
    "prior-f": "Prior F",
    "short-s": "OMGSR-S, short",
    "short-f": "OMGSR-F, short",
    "untuned": "Prior, not tuned",
    "omgsr-s": "OMGSR-S",
    "s": "OMGSR-S",
    "omgsr-f": "OMGSR-F",
    "f": "OMGSR-F",
    "full": "Encoder and denoiser tuned",
    "frozen-encoder": "Encoder frozen, loss on latents",
    "full-random": "Both tuned, random prior",
    "frozen-encoder-random": "Encoder frozen, random prior",
    "mini-s": "OMGSR-S (mini)",
    "mini-f": "OMGSR-F (mini)",
    "mini-s-adaptive": "OMGSR-S, adaptive (mini)",
    "mini-f-adaptive": "OMGSR-F, adaptive (mini)",
    "realesrgan-x4plus": "Real-ESRGAN x4plus",
    "photograph": "Photograph",
}
DISTANCE_LABELS = {
    "snr": "SNR difference",
    "sliced_wasserstein": "Sliced Wasserstein",
    "frechet": "Gaussian Fréchet",
    "power_spectrum": "Power spectrum",
    "paired_mse": "Paired MSE",
    "mse_difference": "Difference of MSEs",
    "absolute_difference": "MSE of differences",
}


def figure(function):
    """Draw in the paper's style and hand the figure over closed, so that a notebook shows it once."""

    @wraps(function)
    def drawn(*args, **kwargs):
        with plt.style.context(STYLE):
            fig = function(*args, **kwargs)
        plt.close(fig)
        return fig

    return drawn


def save_figure(fig, path, *, dpi=None):
    """Write `fig` to `path`, whole or not at all; equal figures give equal bytes.

    Args:
        path: `.png` for lines and text, `.jpg` for photographs (a quarter of the PNG, without visible loss), `.pdf`
            for print.
        dpi: by default 140 for photographs and 200 for the others.

    Raises `ValueError` for another suffix.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"A figure is written as {', '.join(FORMATS)}; got '{path.name}'. Change the suffix.")
    fixed, usual_dpi = FORMATS[path.suffix]
    with atomic_write(path) as part, plt.style.context(STYLE):
        fig.savefig(part, dpi=dpi or usual_dpi, **fixed)
        if path.suffix == ".png":
            _compress(part)
    plt.close(fig)


def _compress(file):
    """Store a PNG of few colours (lines and text) with a palette: a third of the bytes, the same to the eye."""
    with Image.open(file) as image:
        image = image.convert("RGB")
    if image.getcolors(FEW_COLOURS):
        image.quantize(256, dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)


@figure
def plot_gap(frame, minima, mid=None):
    """Distance between LQ latents and noisy latents over timesteps: one panel per distance, its minimum marked.

    `frame` has the columns timestep, distance, value (`gap.latent_gap`); `minima` distance, timestep, value
    (`gap.gap_minimum`). `mid` is the mid-timestep, a dashed line.
    """
    minima = minima.set_index("distance")
    columns = min(4, len(minima))
    rows = -(-len(minima) // columns)
    fig, axes = panels(rows, columns, (PAGE, 1.4 * rows + 0.3), sharex=True)
    for ax, (distance, curve) in zip(axes.flat, frame.groupby("distance", sort=False), strict=False):
        curve = curve[np.isfinite(curve["value"])]
        least = minima.loc[distance]
        if mid is not None:
            ax.axvline(mid, color=METHOD_COLOURS["mid"], lw=0.7, ls=DASHED, zorder=1)
        ax.plot(curve["timestep"], curve["value"], color=METHOD_COLOURS["omgsr-s"])
        ax.plot(least["timestep"], least["value"], "o", color=METHOD_COLOURS["omgsr-s"], mec="white", mew=0.8, ms=5)
        if curve["value"].min() > 0 and curve["value"].max() > 30 * curve["value"].min():
            _log_scale(ax.yaxis, ax.set_yscale)
        else:
            ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        ax.set_title(DISTANCE_LABELS.get(distance, distance), pad=12)
        ax.annotate(f"least at t = {int(least['timestep'])}", (0, 1), (0, 3), xycoords="axes fraction",
                    textcoords="offset points", color=METHOD_COLOURS["omgsr-s"], fontsize=7)  # fmt: skip
    for ax in axes.flat[len(minima) :]:
        ax.set_visible(False)
    for ax in axes.flat[: len(minima)]:
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.tick_params(labelbottom=True)
    fig.supxlabel("Timestep t" + ("" if mid is None else f"   (dashed: mid-timestep {mid})"), fontsize=7)
    fig.supylabel("Distance to LQ latents", fontsize=7)
    return fig


@figure
def plot_snr_match(curve, mid, interval, published=None):
    """The objective of the SNR rule over timesteps (`MidTimestep.curve()`: timestep, objective) and its minimum.

    `interval` (low, high) is shaded; `published` is the paper's value, a grey line.
    """
    curve = curve[np.isfinite(curve["objective"]) & (curve["objective"] > 0)]
    fig, ax = plt.subplots(figsize=(COLUMN, 2.2))
    ax.axvspan(*interval, color=METHOD_COLOURS["mid"], alpha=0.18, lw=0, label=f"95 % interval {_range(interval)}")
    ax.plot(curve["timestep"], curve["objective"], color=METHOD_COLOURS["omgsr-s"])
    least = curve.loc[curve["timestep"] == mid, "objective"]
    ax.plot([mid], least, "o", color=METHOD_COLOURS["mid"], mec="white", mew=0.8, ms=6, label=f"mid-timestep {mid}")
    if published is not None:
        ax.axvline(published, color=METHOD_COLOURS["published"], lw=0.9, ls=DASHED, label=f"published {published}")
    _log_scale(ax.yaxis, ax.set_yscale)
    ax.set(xlabel="Timestep t", ylabel="Mean |SNR(z$_t$) − SNR(z$_L$)|")
    handles, labels = ax.get_legend_handles_labels()
    order = [labels.index(label) for label in sorted(labels, key=lambda text: text.startswith("95"))]
    ax.legend([handles[i] for i in order], [labels[i] for i in order], loc="upper right")
    return fig


@figure
def plot_weighted_median(target, weight, ratio, neighbours, mid):
    """The SNR rule as a weighted median: the sorted pairs on the left, the objective and its two candidates right.

    Args:
        target, weight: `(N,)`, `1 / D` of the pairs in rising order and their powers.
        ratio: `(T,)`, `alpha_t^2 / sigma_t^2`.
        neighbours: the two timesteps on either side of the median; `mid` the better of them.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.3))
    share = np.cumsum(weight) / np.sum(weight)
    median = target[np.searchsorted(share, 0.5)]
    left.step(target, share, where="post", color=METHOD_COLOURS["omgsr-s"])
    left.plot([target[0], median, median], [0.5, 0.5, 0], color=METHOD_COLOURS["mid"], lw=0.7, ls=DASHED)
    left.set(xlabel="1 / D of the pairs, sorted", ylabel="Share of the weight", xscale="log", ylim=(0, 1.02))
    left.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_formatter="")
    left.annotate(f"weighted median {median:.3f}", (median, 0.1), (4, 0), textcoords="offset points")
    near = np.arange(max(min(neighbours) - 6, 0), min(max(neighbours) + 7, len(ratio)))
    near = near[np.isfinite(ratio[near])]
    fine = np.sort(np.append(np.linspace(ratio[near].min(), ratio[near].max(), 400), target))
    fine = fine[(fine >= ratio[near].min()) & (fine <= ratio[near].max())]
    values, curve = (np.abs(points[:, None] - target) @ weight / len(weight) for points in (ratio[near], fine))
    right.plot(fine, curve, color=METHOD_COLOURS["omgsr-s"], lw=0.8)
    right.plot(ratio[near], values, "|", color=METHOD_COLOURS["omgsr-s"], ms=6)
    right.axvline(median, color=METHOD_COLOURS["mid"], lw=0.7, ls=DASHED)
    for timestep, side, shift in zip(neighbours, ("left", "right"), (5, -5), strict=True):
        value = np.abs(ratio[timestep] - target) @ weight / len(weight)
        chosen = timestep == mid
        right.plot(ratio[timestep], value, "o", ms=6, color=METHOD_COLOURS["omgsr-f"],
                   mfc=METHOD_COLOURS["omgsr-f"] if chosen else "white")  # fmt: skip
        right.annotate(f"t {timestep}" + (" = t*" if chosen else ""), (ratio[timestep], value), (shift, -7),
                       va="top", textcoords="offset points", ha=side, color=METHOD_COLOURS["omgsr-f"])  # fmt: skip
    right.margins(y=0.25)
    right.set(xlabel="r = α² / σ²; a tick for every timestep", ylabel="Mean |SNR(z$_t$) − SNR(z$_L$)|")
    return fig


FEW = 8  # images whose spread is not drawn: it would be invented


@figure
def plot_per_image_timesteps(per_image, mid):
    """How the mid-timestep differs from image to image: every image a dot, `mid` a line.

    `per_image` is a sequence of timesteps, or a dictionary of name to timesteps with `mid` a dictionary likewise.
    From `FEW` images on, an outline and dotted quartiles show how they are spread.
    """
    groups = per_image if isinstance(per_image, dict) else {"": per_image}
    mids = mid if isinstance(mid, dict) else {"": mid}
    names = list(groups)
    values = [np.asarray(groups[name]) for name in names]
    fig, ax = plt.subplots(figsize=(COLUMN, 0.85 + 0.55 * len(names)))
    if min(map(len, values)) >= FEW:
        sns.violinplot(values, orient="h", ax=ax, cut=0, inner="quart", width=0.75, color="#EDEDED", linewidth=0.7,
                       linecolor="#7F7F7F")  # fmt: skip
    jitter = np.random.default_rng(0)
    for row, (name, timesteps) in enumerate(zip(names, values, strict=True)):
        ax.scatter(timesteps, row + jitter.uniform(-0.22, 0.22, len(timesteps)), s=5, alpha=0.55, lw=0, zorder=3,
                   color=METHOD_COLOURS.get(name, METHOD_COLOURS["omgsr-s"]))  # fmt: skip
    alike = len(set(mids.values())) == 1  # then one line serves all rows
    for row, name in enumerate(names[:1] if alike else names):
        last = len(names) - 1 if alike else row
        ax.plot([mids[name]] * 2, [row - 0.4, last + 0.4], color=METHOD_COLOURS["mid"], lw=1.6, zorder=5)
        ax.annotate(f"mid-timestep {mids[name]}", (mids[name], row - 0.4), (0, 2), textcoords="offset points",
                    ha="center", va="bottom", color=METHOD_COLOURS["mid"])  # fmt: skip
    ax.set_yticks(range(len(names)), [METHOD_LABELS.get(name, name) for name in names])
    drawn = "   (dashed: quartiles)" if min(map(len, values)) >= FEW else ""
    ax.set(xlabel="Timestep of each image" + drawn, ylabel="", ylim=(len(names) - 0.45, -0.75))
    ax.grid(axis="y", visible=False)
    ax.tick_params(left=False)
    return fig


@figure
def plot_losses(log_frame):
    """Training losses over steps: one panel per numeric column of `log_frame` (besides step and seconds), smoothed."""
    names = [
        name
        for name in log_frame.select_dtypes("number").columns
        if name != "step" and not name.startswith("seconds") and log_frame[name].notna().any()
    ]
    if "step" not in log_frame or not names:
        raise ValueError(f"A loss figure needs the column 'step' and losses, got {list(log_frame.columns)}.")
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    fig, axes = panels(rows, columns, (COLUMN if columns == 1 else PAGE, 1.4 * rows + 0.1), sharex=True)
    for ax, name in zip(axes.flat, names, strict=False):
        series = log_frame[["step", name]].dropna()
        smooth = series[name].rolling(len(series) // 20 + 1, center=True, min_periods=1).mean()
        ax.plot(series["step"], series[name], color=METHOD_COLOURS["omgsr-s"], alpha=0.25, lw=0.6)
        ax.plot(series["step"], smooth, color=METHOD_COLOURS["omgsr-s"])
        ax.set_title(name.replace("_", " ").capitalize())
        if series[name].min() > 0 and series[name].max() > 20 * series[name].min():
            _log_scale(ax.yaxis, ax.set_yscale)
        else:
            ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.tick_params(labelbottom=True)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    fig.supxlabel("Step   (pale: each step; bold: running mean)", fontsize=7)
    return fig


@figure
def plot_timestep_sweep(frame, mids=None):
    """Quality against the timestep of injection: a row per metric, a column per variant, a line per protocol.

    `frame` has the columns variant, protocol, metric, timestep, mean, lo, hi. `mids` maps a variant to its
    mid-timestep, a dashed line. Arrows on the axes say which way is better.
    """
    metrics, variants = list(frame["metric"].unique()), list(frame["variant"].unique())
    protocols = list(frame["protocol"].unique())
    colours = palette(protocols)
    size = (PAGE if len(variants) > 1 else COLUMN, 1.35 * len(metrics) + 0.55)
    fig, axes = panels(len(metrics), len(variants), size, sharex="col", sharey="row")
    for row, metric in zip(axes, metrics, strict=True):
        row[0].set_ylabel(metric_label(metric))
        for ax, variant in zip(row, variants, strict=True):
            if mids is not None:
                ax.axvline(mids[variant], color=METHOD_COLOURS["mid"], lw=0.7, ls=DASHED, zorder=1)
            for shift, protocol in enumerate(protocols):
                line = frame.query("metric == @metric and variant == @variant and protocol == @protocol")
                line = line.sort_values("timestep")
                ax.errorbar(
                    line["timestep"] + 6 * (shift - (len(protocols) - 1) / 2),  # intervals side by side
                    line["mean"],
                    yerr=[line["mean"] - line["lo"], line["hi"] - line["mean"]],
                    fmt="-" + "osD^v"[shift % 5],
                    color=colours[protocol],
                    elinewidth=0.8,
                    mec="white",
                    mew=0.4,
                    label=METHOD_LABELS.get(protocol, protocol),
                )
            ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    for ax, variant in zip(axes[0], variants, strict=True):
        ax.set_title(METHOD_LABELS.get(variant, variant))
    for ax, variant in zip(axes[-1], variants, strict=True):
        ax.set_xlabel("Timestep t" + ("" if mids is None else f"   (dashed: mid-timestep {mids[variant]})"))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    title = "Mean and 95 % interval over images; of trainings that of seed 0" if len(variants) > 1 else None
    fig.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)) if len(variants) > 1 else 1,
               title=title, title_fontsize=7)  # fmt: skip
    return fig


def panels(rows, columns, size, **options):
    """Figure and its axes as an array `(rows, columns)`; `size` in inches."""
    return plt.subplots(rows, columns, figsize=size, squeeze=False, **options)


def _log_scale(axis, set_scale):
    set_scale("log")
    axis.set_major_locator(LogLocator(numticks=5))
    axis.set_minor_formatter(NullFormatter())


def _range(interval):
    return f"{interval[0]}" if interval[0] == interval[1] else f"{interval[0]}–{interval[1]}"


def metric_label(name):
    """Heading of a metric with the arrow of its better direction."""
    spec = SPECS.get(name)
    return name if spec is None else f"{spec.label} {'↓' if spec.lower_better else '↑'}"


def palette(names):
    """Fixed colours for known methods; the others get those of `SPARE_COLOURS` in order of appearance."""
    spare = cycle(SPARE_COLOURS)
    return {name: METHOD_COLOURS[name] if name in METHOD_COLOURS else next(spare) for name in names}
