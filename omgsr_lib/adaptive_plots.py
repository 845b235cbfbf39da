"""Figures of the timestep per picture, from data frames."""

import numpy as np
from scipy.stats import norm

from .plots import COLUMN, DASHED, PAGE, _metric_label, _panels, figure


BIN_COLOURS = {"mild": "#56B4E9", "medium": "#0072B2", "extreme": "#332288"}
ESTIMATOR_COLOURS = {"network": "#0072B2", "sharpness and noise": "#E69F00", "constant": "#7F7F7F"}
SPACE_COLOURS = ("#0072B2", "#D55E00", "#009E73")


@figure
def plot_calibration(estimation):
    """Estimated against true D of each picture, and the share of pictures inside of an interval against its level.

    `estimation`: `adaptive_study.estimation_table`.
    """
    network = estimation[estimation.estimator == "network"]
    fig, ((left, right),) = _panels(1, 2, (PAGE, 2.6))
    for name, part in network.groupby("bin", sort=False):
        true, estimate = np.exp(part.log_difference), np.exp(part.estimate)
        spread = [estimate - np.exp(part.estimate - part.deviation), np.exp(part.estimate + part.deviation) - estimate]
        left.errorbar(true, estimate, yerr=spread, fmt="o", ms=2.5, lw=0.5, color=BIN_COLOURS[name], label=name)
    limits = [np.exp(network.log_difference.min()), np.exp(network.log_difference.max())]
    left.plot(limits, limits, color="#262626", lw=0.8, ls=DASHED)
    left.set(xscale="log", yscale="log", xlabel="True D", ylabel="Estimated D")
    left.legend(title="Degradation")
    levels = np.linspace(0.05, 0.95, 19)
    surprise = ((network.log_difference - network.estimate) / network.deviation).abs().to_numpy()
        right.plot(
        levels, [(surprise < norm.ppf(0.5 + level / 2)).mean() for level in levels], color="#0072B2", marker="."
    )
    right.plot([0, 1], [0, 1], color="#262626", lw=0.8, ls=DASHED)
    right.set(xlabel="Level of the interval", ylabel="Share of pictures inside", xlim=(0, 1), ylim=(0, 1))
    return fig


@figure
def plot_tolerance(table, metrics):
    """Loss of quality against the distance from the true timestep, in `log2(sigma / alpha)`: a panel per metric.

    `table`: columns bin, shift, metric, mean, lo, hi; differences from the true timestep.
    """
    fig, axes = _panels(1, len(metrics), (PAGE, 2.4))
    for axis, metric in zip(axes.flat, metrics, strict=True):
        for name, part in table[table.metric == metric].groupby("bin", sort=False):
            axis.plot(part["shift"], part["mean"], marker=".", color=BIN_COLOURS[name], label=name)
            axis.fill_between(part["shift"], part.lo, part.hi, color=BIN_COLOURS[name], alpha=0.2, lw=0)
        axis.axhline(0, color="#262626", lw=0.8, ls=DASHED)
        axis.set(xlabel=r"Shift of $\log_2(\sigma_t / \alpha_t)$", ylabel=f"Change of {_metric_label(metric)}")
    axes[0, 0].legend(title="Degradation")
    return fig


@figure
def plot_dial(table, x="psnr_y", y="lpips_squeeze"):
    """Fidelity against perception along the dial `strength`: a line per degradation, a marker per strength.

    `table`: columns bin, strength, metric, mean.
    """
    fig, ((axis,),) = _panels(1, 1, (COLUMN, 2.6))
    wide = table.pivot_table(index=["bin", "strength"], columns="metric", values="mean", sort=False).reset_index()
    for name, part in wide.groupby("bin", sort=False):
        part = part.sort_values("strength")
        axis.plot(part[x], part[y], color=BIN_COLOURS[name], lw=1, label=name)
        axis.scatter(part[x], part[y], s=12 + 10 * (part.strength - part.strength.min()), color=BIN_COLOURS[name])
    axis.set(xlabel=_metric_label(x), ylabel=_metric_label(y))
    axis.legend(title="Degradation")
    return fig


@figure
def plot_response(table):
    """Mid-timestep against scale, noise and blur, each alone: median and quartiles over photographs.

    `table`: columns space, kind, value, timestep.
    """
    kinds = list(table.kind.unique())
    fig, axes = _panels(1, len(kinds), (PAGE, 2.4), sharey=True)
    for axis, kind in zip(axes.flat, kinds, strict=True):
        spaces = table[table.kind == kind].groupby("space", sort=False)
        for colour, (space, part) in zip(SPACE_COLOURS, spaces, strict=False):
            quartiles = part.groupby("value").timestep.quantile([0.25, 0.5, 0.75]).unstack()
            axis.plot(quartiles.index, quartiles[0.5], marker=".", color=colour, label=space)
            axis.fill_between(quartiles.index, quartiles[0.25], quartiles[0.75], color=colour, alpha=0.2, lw=0)
        axis.set(xlabel=kind)
    axes[0, 0].set(ylabel="Mid-timestep")
    axes[0, 0].legend()
    return fig
