"""Figures of notebook 08: the estimator, the dial, and how the mid-timestep moves with each kind of degradation."""

import numpy as np
from matplotlib.ticker import MaxNLocator, NullFormatter

from .labels import name_points
from .plots import DASHED, METHOD_COLOURS, PAGE, figure, metric_label, palette, panels
from .plots_compare import MARKERS
from .tables_adaptive import variant_label


KIND_LABELS = {
    "mix": "Mix",
    "scale": "Scale (factor)",
    "blur": "Blur (pixels)",
    "noise": "Noise (1/255)",
    "jpeg": "JPEG (quality)",
}
SPACE_COLOURS = {"mini": "#0072B2", "FLUX.2 tiny": "#009E73"}


@figure
def plot_calibration(errors, coverage):
    """Is the estimator right, and does it know when not? True against estimated D on equal axes, a panel per kind of
    degradation, with the median and the quartiles of the true D in eighths of the estimates; in the last panel the
    share of true values inside its intervals.

    `errors` is `timesteps.csv`, `coverage` is `tables_adaptive.coverage_table`.
    """
    kinds = list(errors["kind"].unique())
    colours = palette(kinds)
    columns = min(3, len(kinds) + 1)
    rows = -(-(len(kinds) + 1) // columns)
    fig, axes = panels(rows, columns, (PAGE, 2.3 * rows))
    *scatters, curve = axes.flat[: len(kinds) + 1]
    both = np.exp(errors[["estimated", "true"]])
    limits = both.min().min() / 1.2, both.max().max() * 1.2
    ends = []
    for place, (ax, kind) in enumerate(zip(scatters, kinds, strict=True)):
        part, colour = both[errors["kind"] == kind].sort_values("estimated"), colours[kind]
        ax.plot(part["estimated"], part["true"], ".", ms=2, alpha=0.35, color=colour)
        ax.axline((1, 1), (2, 2), color=METHOD_COLOURS["mid"], lw=0.7)
        eighths = part.groupby(np.arange(len(part)) * 8 // len(part))
        low, middle, high = (eighths["true"].quantile(share) for share in (0.25, 0.5, 0.75))
        ax.errorbar(eighths["estimated"].median(), middle, yerr=[middle - low, high - middle], fmt="o", ms=3.5,
                    color=METHOD_COLOURS["mid"], mec="white", mew=0.5, elinewidth=0.8, capsize=0)  # fmt: skip
        ax.set(xscale="log", yscale="log", xlim=limits, ylim=limits, aspect="equal", xlabel="Estimated D")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_ticks([tick for tick in (0.001, 0.01, 0.1, 1, 10) if limits[0] < tick < limits[1]])
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        ax.set_ylabel("True D" if place % columns == 0 else "")
        name = KIND_LABELS[kind].split(" (")[0]
        ax.set_title(name + (", as in training" if kind == "mix" else " alone"), fontsize=7)
        part = coverage[coverage["kind"] == kind]
        curve.plot(part["level"], part["covered"], "-" + MARKERS[place], ms=3.5, lw=1, color=colour)
        ends.append((name, tuple(part[["level", "covered"]].iloc[-1]), colour, 7))
    curve.plot([0.4, 1], [0.4, 1], color=METHOD_COLOURS["mid"], lw=0.7)
    curve.set(xlabel="Nominal coverage", ylabel="Share of true D inside", xlim=(0.4, 1.25), ylim=(0, 1.02))
    curve.set(xticks=[0.5, 0.8, 0.95], box_aspect=1)
    curve.set_title("Its intervals", fontsize=7)
    curve.annotate("line: nominal", (0.42, 0.88), color=METHOD_COLOURS["mid"])
    name_points(curve, ends)
    for ax in axes.flat[len(kinds) + 1 :]:
        ax.set_visible(False)
    note = "Line: true D = estimated D. Black: median and quartiles of the true D in each eighth of the estimates"
    fig.supxlabel(note, fontsize=6.5)
    return fig


@figure
def plot_dial(dial, means, x="psnr_y", y="lpips_squeeze"):
    """Perception against distortion over the strength from -1 to 1: a panel per set, a line per variant, the estimate
    itself large, both ends named. The model that ships at t* is a cross, the same with the longer training of the
    adaptive model (control) a plus.

    `dial` is `tables_adaptive.dial_table`, `means` `mean_table`.
    """
    sets, variants = list(dial["dataset"].unique()), list(dial["variant"].unique())
    colours = palette([f"omgsr-{variant}" for variant in variants])
    columns = min(2, len(sets))
    rows = -(-len(sets) // columns)
    fig, axes = panels(rows, columns, (PAGE, 2.4 * rows))
    for ax, name in zip(axes.flat, sets, strict=False):
        names = []
        for place, variant in enumerate(variants):
            colour = colours[f"omgsr-{variant}"]
            part = dial[(dial["dataset"] == name) & (dial["variant"] == variant) & (dial["shift"].abs() <= 1)]
            line = part.pivot(index="shift", columns="metric", values="value")[[x, y]]
            ax.plot(line[x], line[y], "-" + MARKERS[place], ms=2.5, lw=1, color=colour)
            ax.plot(*line.loc[0], MARKERS[place], ms=6, color=colour, mec="white", mew=0.6)
            names.append((variant_label(variant), tuple(line.loc[0]), colour, 7))
            for shift in line.index[[0, -1]]:
                names.append((f"s = {shift:+g}".replace("-", "−"), tuple(line.loc[shift]), colour, 6))
            fixed = means[(means["dataset"] == name) & (means["variant"] == variant)]
            points = fixed.pivot(index="method", columns="metric", values="mean")
            for method, marker, label in (("shipped, fixed", "x", "t*"), ("control, fixed", "+", "t*, control")):
                if method in points.index:
                    point = tuple(points.loc[method, [x, y]])
                    ax.plot(*point, marker, ms=5, mew=1.2, color=colour, ls="none")
                    names.append((label, point, colour, 6))
        ax.set(title=name[0].upper() + name[1:], xlabel=metric_label(x), ylabel=metric_label(y))
        ax.margins(0.12)
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        ax.yaxis.set_major_locator(MaxNLocator(5))
        name_points(ax, names)
    for ax in axes.flat[len(sets) :]:
        ax.set_visible(False)
    fig.supxlabel(
        "Line: the adaptive model from strength s = −1 (keeps to the input) to +1 (the prior adds more); large: s = 0,"
        "\nthe estimate. x: the model that ships, at its t*; +: the control, at the same t*",
        fontsize=6.5,
    )
    return fig


@figure
def plot_shift(dial, metrics):
    """Change of each metric along the dial against its middle, with paired intervals: a row per metric, a column per
    set, over the timesteps moved from the estimate (mean over images).
    """
    sets, variants = list(dial["dataset"].unique()), list(dial["variant"].unique())
    colours = palette([f"omgsr-{variant}" for variant in variants])
    fig, axes = panels(len(metrics), len(sets), (PAGE, 1.25 * len(metrics) + 0.5), sharex=True, sharey="row")
    for row, metric in zip(axes, metrics, strict=True):
        for ax, name in zip(row, sets, strict=True):
            ax.axhline(0, color=METHOD_COLOURS["mid"], lw=0.7)
            ax.axvline(0, color=METHOD_COLOURS["mid"], lw=0.7, ls=DASHED)
            for place, variant in enumerate(variants):
                part = dial[(dial["dataset"] == name) & (dial["variant"] == variant) & (dial["metric"] == metric)]
                part, colour = part.fillna(0), colours[f"omgsr-{variant}"]
                ax.fill_between(part["moved"], part["lo"], part["hi"], color=colour, alpha=0.2, lw=0)
                ax.plot(part["moved"], part["mean"], "-" + MARKERS[place], ms=2.5, lw=1, color=colour,
                        label=variant_label(variant))  # fmt: skip
            ax.yaxis.set_major_locator(MaxNLocator(4))
        row[0].set_ylabel(metric_label(metric))
    for ax, name in zip(axes[0], sets, strict=True):
        ax.set_title(name)
    for ax in axes[-1]:
        ax.set_xlabel("Timesteps moved")
    title = "Change of each measure when every timestep is moved from its estimate (0); band: paired 95 % interval"
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(variants), title=title,
               title_fontsize=7)  # fmt: skip
    return fig


@figure
def plot_kinds(table):
    """The mid-timestep against the level of one degradation alone: a row per variant, a column per kind, a line per
    latent space with the quartiles over photographs. `table` is `tables_adaptive.kind_table`.
    """
    kinds, variants = list(table["kind"].unique()), list(table["variant"].unique())
    fig, axes = panels(len(variants), len(kinds), (PAGE, 1.5 * len(variants) + 0.5), sharey="row", sharex="col")
    for row, variant in zip(axes, variants, strict=True):
        for ax, kind in zip(row, kinds, strict=True):
            part = table[(table["variant"] == variant) & (table["kind"] == kind)]
            for place, (space, line) in enumerate(part.groupby("space", sort=False)):
                colour = SPACE_COLOURS[space]
                ax.fill_between(line["level"], line["low"], line["high"], color=colour, alpha=0.2, lw=0)
                ax.plot(line["level"], line["median"], "-" + MARKERS[place], ms=3, lw=1, color=colour, label=space)
            if kind == "jpeg":
                ax.set_xlim(100, 15)
        row[0].set_ylabel(f"t*, {variant_label(variant)}")
    for ax, kind in zip(axes[-1], kinds, strict=True):
        ax.set_xlabel(KIND_LABELS[kind])
    title = "Median over photographs, band: quartiles. Latent space:"
    fig.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, title=title, title_fontsize=7
    )
    return fig
