"""Figure of the study: how a contrast changes as its trainings see more crops."""

from matplotlib.ticker import NullFormatter

from .plots import COLUMN, METHOD_COLOURS, METHOD_LABELS, PAGE, figure, metric_label, palette, panels


@figure
def plot_growth(growth):
    """Mid minus initial over the crops that both saw: a row per metric, a column per variant, a line per protocol.

    `growth` is `contrasts.growth_table` of one contrast. The side where the mid-timestep is better is shaded.
    """
    metrics, variants = list(growth["metric"].unique()), list(growth["variant"].unique())
    colours = palette(growth["protocol"].unique())
    marks = sorted(growth["crops"].unique())
    size = (PAGE if len(variants) > 1 else COLUMN, 1.35 * len(metrics) + 0.55)
    fig, axes = panels(len(metrics), len(variants), size, sharex=True, sharey="row")
    for row, metric in zip(axes, metrics, strict=True):
        row[0].set_ylabel(metric_label(metric))
        for ax, variant in zip(row, variants, strict=True):
            part = growth[(growth["metric"] == metric) & (growth["variant"] == variant)]
            for place, (protocol, line) in enumerate(part.groupby("protocol", sort=False)):
                line, shift = line.sort_values("crops"), 1.03**place  # intervals side by side
                error = [line["mean"] - line["lo"], line["hi"] - line["mean"]]
                style = dict(fmt="-" + "osD"[place % 3], ms=3.5, color=colours[protocol], elinewidth=0.8)
                label = METHOD_LABELS.get(protocol, protocol)
                ax.errorbar(line["crops"] * shift, line["mean"], yerr=error, label=label, **style)
            ax.axhline(0, color=METHOD_COLOURS["mid"], lw=0.7, zorder=1)
            ax.set_xscale("log")
            ax.set_xlim(marks[0] / 1.5, marks[-1] * 1.5)
            ax.set_xticks(marks, [f"{crops:,.0f}" for crops in marks])
            ax.xaxis.set_minor_formatter(NullFormatter())
        low, high = row[0].get_ylim()
        for ax in row:
            better = (low, 0) if metric_label(metric).endswith("↓") else (0, high)
            ax.axhspan(*better, color="#F0F0F0", lw=0, zorder=0)
            ax.set_ylim(low, high)
    for ax, variant in zip(axes[0], variants, strict=True):
        ax.set_title(METHOD_LABELS.get(variant, variant))
    for ax in axes[-1]:
        ax.set_xlabel("Crops seen in training")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    title = "Mid minus initial timestep, paired 95 % interval; shaded: mid better"
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels), title=title, title_fontsize=7)
    return fig
