"""Figures that set methods against each other: contrasts, trade-off, ranks, published points, costs, memory."""

import re

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter

from .labels import name_points
from .plots import (
    COLUMN,
    METHOD_COLOURS,
    METHOD_LABELS,
    PAGE,
    figure,
    metric_label,
    palette,
    panels,
)


MARKERS = "osD^vP*X"
PUBLISHED = "#9E9E9E"  # points that other papers print


@figure
def plot_contrasts(table, metrics=None, sides="First minus second"):
    """Paired differences with their intervals: a row per contrast, a panel per metric, a colour per variant.

    `table` has the columns contrast, variant, metric, mean, lo, hi (`contrasts.contrast_table` of one protocol). The
    side where the first of the contrast is better is shaded; marks whose interval holds 0 are hollow. Axes are linear
    near 0 and logarithmic beyond (asinh), since contrasts differ tenfold. Those without a mean were not run and
    are left out. `sides`: what is subtracted from what, where the contrasts' names do not say it.
    """
    table = table.dropna(subset="mean")
    metrics = list(table["metric"].unique()) if metrics is None else list(metrics)
    contrasts, variants = list(table["contrast"].unique()), list(table["variant"].unique())
    colours = palette([_method(variant) for variant in variants])
    fig, axes = panels(1, len(metrics), (PAGE, 0.3 * len(contrasts) + 0.9), sharey=True)
    for ax, metric in zip(axes[0], metrics, strict=True):
        rows = table[table["metric"] == metric]
        for place, variant in enumerate(variants):
            shift = 0.26 * (place - (len(variants) - 1) / 2)
            for row in rows[rows["variant"] == variant].itertuples():
                colour, y = colours[_method(variant)], contrasts.index(row.contrast) + shift
                ax.plot([row.lo, row.hi], [y, y], color=colour, lw=1)
                face = colour if row.lo > 0 or row.hi < 0 else "white"
                ax.plot(row.mean, y, MARKERS[place], color=colour, mfc=face, ms=3.5, mew=0.8)
        reach = 1.3 * np.nanmax(np.abs(rows[["lo", "hi"]].to_numpy()))
        lower = metric_label(metric).endswith("↓")
        ax.axvspan(-reach if lower else 0, 0 if lower else reach, color="#F0F0F0", lw=0, zorder=0)
        ax.axvline(0, color=METHOD_COLOURS["mid"], lw=0.7, zorder=1)
        ax.set_xscale("asinh", linear_width=float(rows["mean"].abs().median()))
        name = metric_label(metric).replace(" (dB)", "\n(dB)") if len(metrics) > 4 else metric_label(metric)
        ax.set_title(name, fontsize=6.5 if len(metrics) > 4 else 8)
        ax.set(xlim=(-reach, reach), ylim=(len(contrasts) - 0.5, -0.5))
        tick = float(f"{reach / 2:.0e}")
        ax.set_xticks([-tick, 0, tick], [f"{-tick:g}", "0", f"{tick:g}"])
        ax.set_xticks([-tick / 10, tick / 10], minor=True)
        ax.grid(axis="y", visible=False)
        ax.tick_params(left=False)
    axes[0, 0].set_yticks(range(len(contrasts)), contrasts)
    keys = [
        Line2D([], [], color=colours[_method(v)], marker=MARKERS[place], lw=1, ms=3.5, label=METHOD_LABELS.get(v, v))
        for place, v in enumerate(variants)
    ]
    title = (
        f"{sides}, paired 95 % interval; shaded: better; hollow: undecided.\n"
        "Axes linear near 0 and logarithmic beyond; ticks without a number are at a tenth of the numbers."
    )
    fig.legend(handles=keys, loc="outside lower center", ncols=len(keys), title=title, title_fontsize=7)
    return fig


@figure
def plot_tradeoff(summary, comparisons, *, x="psnr_y", y="lpips_squeeze", reference="bicubic"):
    """Perception against distortion: each method named beside its mean.

    Bars are paired: the 95 % interval of the difference from `reference`, drawn around the method's mean, so that a
    method whose bar misses the thin line of the reference differs from it.

    `summary` is `statistics.summarise`, `comparisons` `comparisons.compare_methods` of the same scores.
    """
    means = summary.pivot(index="method", columns="metric", values="mean")
    fig, ax = plt.subplots(figsize=(0.7 * PAGE, 2.9))
    ax.axvline(means.loc[reference, x], color=METHOD_COLOURS["bicubic"], lw=0.6, zorder=1)
    ax.axhline(means.loc[reference, y], color=METHOD_COLOURS["bicubic"], lw=0.6, zorder=1)
    lengths = [_against(comparisons, means.index, metric, reference) for metric in (x, y)]
    _marks(ax, means, [x, y], {method: np.stack([length[method] for length in lengths]) for method in means.index})
    ax.set(xlabel=metric_label(x), ylabel=metric_label(y))
    ax.margins(0.18, 0.12)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    note = f"Bars: paired 95 % interval of the difference from {reference}; thin lines: {reference}"
    fig.supxlabel(note, fontsize=6.5)
    name_points(ax, _names(means, [x, y]))
    return fig


def _against(comparisons, methods, metric, reference):
    """`{method: (down, up)}`: how far the paired interval of the difference from `reference` reaches from its mean."""
    lengths = {method: (0.0, 0.0) for method in methods}
    for row in comparisons[comparisons["metric"] == metric].itertuples():
        if row.against == reference:
            lengths[row.method] = row.mean - row.lo, row.hi - row.mean
        elif row.method == reference:
            lengths[row.against] = row.hi - row.mean, row.mean - row.lo
    return lengths


def _marks(ax, means, metrics, lengths):
    """A mark per method with bars to both sides; `lengths` maps it to `((left, right), (down, up))`."""
    colours = palette(means.index)
    for place, (method, centre) in enumerate(means[metrics].iterrows()):
        across, along = np.nan_to_num(lengths[method])[:, :, None]
        ax.errorbar(*centre, xerr=across, yerr=along, fmt=MARKERS[place % 8], color=colours[method],
                    elinewidth=0.8, ms=5, mec="white", mew=0.5)  # fmt: skip


def _names(means, metrics):
    colours = {method: _ink(colour) for method, colour in palette(means.index).items()}
    points = means[metrics].to_numpy()
    return [(METHOD_LABELS.get(m, m), tuple(p), colours[m], 7) for m, p in zip(means.index, points, strict=True)]


def _ink(colour):
    """A colour as dark as text must be on white: the same hue, of at most half the brightness."""
    rgb = np.array(to_rgb(colour))
    return tuple(rgb * min(1, 0.5 / (rgb @ (0.3, 0.59, 0.11))))


@figure
def plot_beside_published(summary, published, *, x="psnr_y", y="niqe"):
    """Methods measured here with their intervals among published points (grey, as printed, not re-measured).

    A method that several sources print has a point for each, joined by a line, and one name. `summary` and
    `published` of one dataset (`statistics.summarise`, `published.read_published`).
    """
    fig, ax = plt.subplots(figsize=(PAGE, 4.4))
    printed = published.pivot_table(index=["method", "source"], columns="metric", values="mean").reindex(
        columns=[x, y]
    )
    printed = printed.dropna().sort_values(y)
    ax.plot(printed[x], printed[y], "o", color=PUBLISHED, ms=3)
    names = {}
    for (method, _), point in printed.iterrows():
        names.setdefault(re.sub(r" \([^)]*\)", "", method), []).append(tuple(point))
    for points in names.values():
        ax.plot(*zip(*points, strict=True), color=PUBLISHED, lw=0.6, zorder=1)
    table = summary.pivot(index="method", columns="metric", values=["mean", "lo", "hi"])
    means = table["mean"]
    lengths = {}
    for method in means.index:
        centre, low, high = (table.loc[method, kind][[x, y]].to_numpy(float) for kind in ("mean", "lo", "hi"))
        lengths[method] = np.stack([centre - low, high - centre], axis=1)
    _marks(ax, means, [x, y], lengths)
    ax.set(xlabel=metric_label(x), ylabel=metric_label(y))
    ax.margins(0.08)
    note = (
        "Colour: measured here, 95 % interval; grey: as printed, a line joins what several papers print of one method"
    )
    fig.supxlabel(note, fontsize=6.5)
    grey = [(name, points[0], "#6E6E6E", 5.5) for name, points in names.items()]
    name_points(ax, _names(means, [x, y]) + grey)
    return fig


@figure
def plot_ranks(stability):
    """How sure each rank is: a panel per metric, a bar per method, its parts the shares of the ranks (number inside).

    `stability` is `comparisons.rank_stability` of one dataset.
    """
    metrics, methods = list(stability["metric"].unique()), list(stability["method"].unique())
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    shades = plt.get_cmap("Blues")(np.linspace(0.95, 0.12, len(methods)))
    fig, axes = panels(rows, columns, (PAGE, rows * (0.2 * len(methods) + 0.45) + 0.45), sharex=True, sharey=True)
    for ax, metric in zip(axes.flat, metrics, strict=False):
        part = stability[stability["metric"] == metric].pivot(index="method", columns="rank", values="probability")
        part = part.reindex(methods)
        left = np.zeros(len(methods))
        for rank in part.columns:
            share = part[rank].to_numpy()
            ax.barh(range(len(methods)), share, left=left, color=shades[rank - 1], height=0.78, lw=0)
            for y in np.flatnonzero(share > 0.12):
                ink = "white" if rank <= len(methods) / 2 else "black"
                ax.text(left[y] + share[y] / 2, y, str(rank), ha="center", va="center", color=ink, fontsize=6.5)
            left += np.nan_to_num(share)
        ax.set(title=metric_label(metric), xlim=(0, 1), ylim=(len(methods) - 0.5, -0.5))
        ax.grid(visible=False)
        ax.tick_params(left=False, labelbottom=True)
        ax.set_yticks(range(len(methods)), [METHOD_LABELS.get(method, method) for method in methods])
    for ax in axes.flat[len(metrics) :]:
        ax.set_visible(False)
    names = {0: "rank 1, best", len(methods) - 1: f"rank {len(methods)}, worst"}
    keys = [Patch(color=shade, label=names.get(place, str(place + 1))) for place, shade in enumerate(shades)]
    title = "Colour and number: rank of the method. Length: share of bootstrap draws over images in which it has it"
    fig.legend(handles=keys, loc="outside lower center", ncols=len(keys), title=title, title_fontsize=7)
    return fig


@figure
def plot_costs(costs):
    """What each stage costs: a panel per quantity, a bar per method, its parts the stages.

    `costs` has the columns method, stage and one per quantity, named as it shall be printed (`measured_costs`).
    """
    quantities = [name for name in costs.columns if name not in ("method", "stage", "size")]
    methods, stages = list(costs["method"].unique()), list(costs["stage"].unique())
    colours = dict(zip(stages, ("#0072B2", "#E69F00", "#009E73", "#CC79A7"), strict=False))
    fig, axes = panels(1, len(quantities), (PAGE, 0.3 * len(methods) + 0.8), sharey=True)
    for ax, quantity in zip(axes[0], quantities, strict=True):
        values = costs.pivot(index="method", columns="stage", values=quantity).loc[methods, stages].fillna(0)
        left = np.zeros(len(methods))
        for stage in stages:
            ax.barh(range(len(methods)), values[stage], left=left, color=colours[stage], height=0.6, label=stage)
            left += values[stage].to_numpy()
        ax.set(title=quantity[0].upper() + quantity[1:], ylim=(len(methods) - 0.5, -0.5))
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.grid(axis="y", visible=False)
        ax.tick_params(left=False)
    axes[0, 0].set_yticks(range(len(methods)), [METHOD_LABELS.get(method, method) for method in methods])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    title = "One image, one step; seconds measured, all else counted"
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels), title=title, title_fontsize=7)
    return fig


@figure
def plot_memory(frame):
    """Peak memory against the side of the image: a panel per autoencoder and stage, a line per mode.

    `frame` has the columns autoencoder, stage, mode, side, bytes (`study.costs.autoencoder_memory`).
    """
    parts = list(frame.groupby(["autoencoder", "stage"], sort=False))
    colours = palette(frame["mode"].unique())
    fig, axes = panels(1, len(parts), (PAGE if len(parts) > 2 else COLUMN, 2.0), sharey=True)
    for ax, ((autoencoder, stage), part) in zip(axes[0], parts, strict=True):
        for index, (mode, line) in enumerate(part.groupby("mode", sort=False)):
            ax.plot(line["side"], line["bytes"] / 1e9, "-" + "osD^"[index % 4], color=colours[mode], label=mode)
        ax.set_xscale("log", base=2)
        ax.set_xlabel("Side (pixels)")
        ax.set_xticks(sorted(part["side"].unique()), sorted(part["side"].unique()))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_title(f"{autoencoder}, {stage}")
    axes[0, 0].set_ylabel("Peak memory (GB)")
    axes[0, 0].set_ylim(bottom=0)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return fig


def _method(variant):
    """Fixed colour of a variant: that of its method."""
    return {"s": "omgsr-s", "f": "omgsr-f"}.get(variant, variant)
