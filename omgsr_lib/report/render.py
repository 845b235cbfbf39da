"""The tables and figures of a preset from its CSV files alone: no model, no picture, seconds."""

from pathlib import Path

import pandas as pd

from ..metrics.comparisons import compare_methods, rank_stability
from ..metrics.specs import SPECS
from ..metrics.statistics import summarise
from ..presets import RECIPES
from . import plots
from . import plots_compare as contrast_plots
from .tables import convention_notes, difference_table, frame_table, metric_table, write_table


# Columns that this version reads in the files of the earlier notebooks, of `make study` and of `omgsr benchmark`.
CONTRACT = {
    "gap.csv": {"timestep", "distance", "value", "variant"},
    "minima.csv": {"distance", "timestep", "value", "clean_value", "noisy_value", "variant"},
    "midstep.csv": {"variant", "rule", "timestep", "low", "high", "sigma"},
    "curve.csv": {"timestep", "objective", "variant"},
    "per_image.csv": {"image", "variant", "timestep"},
    "log.csv": {"step", "pixel", "refinement"},
    "scores.csv": {"method", "image", "metric", "value", "lower_better"},
    "summary.csv": {"method", "metric", "mean", "lo", "hi", "n", "lower_better"},
    "comparisons.csv": {"method", "against", "metric", "mean", "lo", "hi", "better", "p_holm"},
    "ranks.csv": {"method", "metric", "rank", "probability"},
    "spread.csv": {"method", "metric", "runs", "mean", "sd", "sd_image", "posterior_mean", "difference", "lo", "hi"},
    "costs.csv": {"method", "stage"},
    "large_tiles.csv": {"left", "top", "right", "bottom"},
    "sweep.csv": {"variant", "protocol", "timestep", "metric", "mean", "lo", "hi", "n", "lower_better", "mid"},
    "contrasts.csv": {"contrast", "variant", "protocol", "trainings", "metric", "mean", "lo", "hi", "n", "better"},
    "gains.csv": {"contrast", "variant", "dataset", "metric", "mean", "lo", "hi", "better"},
    "published.csv": {"dataset", "method", "metric", "mean", "source"},
    "published_cost.csv": {"method", "seconds", "GPU", "source"},
    "conventions.csv": {"measure", "colours", "border", "rounding", "mean", "difference", "n"},
}

# Tables of the ablation and the contrasts in each (`contrasts.CONTRASTS`).
ABLATIONS = {
    "ablation_timestep": ("mid - initial (999)", "mid - initial, both without LDR", "mid - 600", "mid - 200",
                          "mid - late (25)"),
    "ablation_prior": ("trained - random prior",),
    "ablation_ldr": ("with - without LDR",),
    "ablation_chunks": ("with - without chunks",),
    "ablation_losses": ("with - without perceptual loss", "with - without adversarial loss",
                        "with - without grid penalty"),
}  # fmt: skip
VARIANTS = {"s": "OMGSR-S", "f": "OMGSR-F"}
NOT_RUN = "Not run: `make study` trains what is missing."


def read_results(path):
    """A CSV of results, its columns checked; `ValueError` for one of another version, which stays as it is."""
    frame = pd.read_csv(path)
    missing = CONTRACT[Path(path).name] - set(frame.columns)
    if missing:
        raise ValueError(
            f"'{path}' is of another version: it lacks the columns {sorted(missing)}. Run the step that writes it."
        )
    return frame


def write_tables(folder, tables):
    """Write each of `{name: Table}` as .md, .tex and .html in `folder`; returns the paths."""
    suffixes = (".md", ".tex", ".html")
    return [
        write_table(table, Path(folder) / f"{name}{suffix}") for name, table in tables.items() for suffix in suffixes
    ]


def mid_timestep_table(midsteps):
    """t* of each rule with its interval, beside the published values; from `midstep.csv`."""
    frame = midsteps.assign(variant=midsteps["variant"].map(VARIANTS))
    interval = [
        "–" if pd.isna(low) else f"[{low:.0f}, {high:.0f}]" for low, high in zip(frame.low, frame.high, strict=True)
    ]
    names = {"variant": "Variant", "rule": "Rule", "timestep": "t*", "sigma": "Sigma"}
    frame = frame[list(names)].rename(columns=names)
    frame.insert(3, "95 % interval", interval)
    published = sorted({(preset, name, chosen.timestep) for (preset, name), chosen in RECIPES.items()
                        if preset in ("paper", "release")})  # fmt: skip
    note = "Published, on other photographs and bases: " + ", ".join(f"{p} {n} {t}" for p, n, t in published) + "."
    return frame_table(frame, left=2, notes=[note, "Bootstrap over pictures; the older rules have no interval."])


def gap_table(minima):
    """Where each distance between LQ latents and noisy latents is least; from `minima.csv`."""
    below = 1 - minima["value"] / minima[["clean_value", "noisy_value"]].min(axis=1)
    names = [plots.DISTANCE_LABELS.get(distance, distance) for distance in minima["distance"]]
    columns = {"Variant": minima["variant"].map(VARIANTS), "Distance": names, "Least at t": minima["timestep"]}
    columns |= {"Below both ends": [f"{share:.1%}" for share in below]}
    return frame_table(pd.DataFrame(columns), left=2)


def evaluation_table(summary, comparisons):
    """Methods of notebook 06 with intervals, bold where decided against every other; from its CSV."""
    metrics = list(summary["metric"].unique())
    return metric_table(summary, comparisons, notes=[*interval_notes(summary), *convention_notes(metrics)])


def interval_notes(summary):
    """What to say of the intervals: over what, or why there are none."""
    if (summary["n"] == 1).all():
        return ["One picture: there is no interval, and nothing is decided."]
    return [f"Mean and 95 % bootstrap interval over {summary['n'].max()} pictures."]


def comparison_table(comparisons):
    """Every pair of methods: paired differences with interval and test; from `comparisons.csv`."""
    return difference_table(comparisons, ["method", "against"])


def spread_table(spread):
    """What the seed of the encoder's posterior changes; from `spread.csv`."""
    rows = []
    for row in spread.itertuples(index=False):
        digits = SPECS[row.metric].digits + 1
        means, spreads = ([f"{value:.{digits}f}" for value in values]
                          for values in ((row.mean, row.posterior_mean), (row.sd, row.sd_image)))  # fmt: skip
        shift = f"{row.difference:+.{digits}f} [{row.lo:+.{digits}f}, {row.hi:+.{digits}f}]"
        rows.append((row.method, SPECS[row.metric].label, row.runs, means[0], *spreads, means[1], shift))
    columns = ["Method", "Metric", "Seeds", "Mean of the runs", "SD between runs", "SD of one picture",
               "Posterior mean", "Posterior mean - runs"]  # fmt: skip
    notes = ["SD: standard deviation. The interval of the last column is over pictures."]
    if (spread["sd_image"] < 1e-9).all():
        notes.append("The autoencoder of this preset has no variance: every sample of its posterior is the mean.")
    return frame_table(pd.DataFrame(rows, columns=columns), left=2, notes=notes)


PEAK = "activations (MiB)"  # of one stage at a time


def cost_table(costs):
    """Parameters, operations, seconds and memory by stage with the sum of each method, of activations the most; from
    `costs.csv`.
    """
    numbers = [name for name in costs.columns if name not in ("method", "stage")]
    parts = []
    for method, part in costs.groupby("method", sort=False):
        total = part[numbers].sum(min_count=len(part))
        if PEAK in numbers:
            total[PEAK] = part[PEAK].max()
        parts += [part, pd.DataFrame([{"method": method, "stage": "all", **total}])]
    table = pd.concat(parts, ignore_index=True).rename(columns=lambda name: name[0].upper() + name[1:])
    return frame_table(
        table, left=2, notes=["GMAC: 10^9 multiplications with additions. Counted: no weights, not run."]
    )


def sweep_table(sweep):
    """Quality by protocol and timestep of injection; from `sweep.csv`."""
    order = sweep.sort_values(["variant", "protocol", "timestep"], ascending=[False, True, True])
    names = [f"{protocol}, t {t}{' = t*' if t == mid else ''}" for protocol, t, mid in
             zip(order.protocol, order.timestep, order.mid, strict=True)]  # fmt: skip
    return metric_table(
        order.assign(dataset=order["variant"].map(VARIANTS), method=names), notes=interval_notes(sweep)
    )


def ablation_tables(contrasts):
    """`{name: Table}` of `ABLATIONS`; what was not trained says so; from `contrasts.csv`."""
    tables = {}
    rows = contrasts.assign(variant=contrasts["variant"].map(VARIANTS))
    for name, wanted in ABLATIONS.items():
        part = rows[rows["contrast"].isin(wanted)]
        part = part.sort_values(["variant", "protocol"], ascending=[False, True], kind="stable")
        notes = ["First minus second of the contrast, paired over the same pictures, averaged over the trainings."]
        notes += [NOT_RUN] if (part["n"] == 0).any() else []
        tables[name] = difference_table(part, ["contrast", "variant", "protocol", "trainings"], notes=notes)
    return tables


def benchmark_results(folder):
    """`{name: (scores, published)}` of the folders that `omgsr benchmark` wrote below `folder`; published may be None.

    Datasets come in the order of their names.
    """
    found = {}
    for scores in sorted(Path(folder).glob("*/scores.csv")):
        published = scores.with_name("published.csv")
        found[scores.parent.name] = (
            read_results(scores),
            read_results(published).assign(lo=float("nan"), hi=float("nan")) if published.is_file() else None,
        )
    return found


def benchmark_table(scores, published=None):
    """Ours with intervals, below a line what others published on the same pictures, each with its source."""
    scores = scores.drop(columns="dataset", errors="ignore")
    summary, metrics = summarise(scores), list(scores["metric"].unique())
    if published is not None:
        published = published.drop(columns="dataset")
        metrics += [metric for metric in published["metric"].unique() if metric not in metrics]
    comparisons = compare_methods(scores) if scores["method"].nunique() > 1 else None
    notes = [*interval_notes(summary), *convention_notes(summary["metric"].unique())]
    return metric_table(summary, comparisons, published=published, metrics=metrics, notes=notes)


def benchmark_figures(name, scores, published=None):
    """Rank stability, and our methods among published points where there are any; `{name: figure}`."""
    scores = scores.drop(columns="dataset", errors="ignore")
    figures = {f"ranks_{name}": contrast_plots.plot_ranks(rank_stability(scores))}
    shared = (
        [] if published is None else [m for m in ("psnr_y", "niqe") if m in set(scores.metric) & set(published.metric)]
    )
    if len(shared) == 2:
        figures[f"published_{name}"] = contrast_plots.plot_beside_published(summarise(scores), published)
    return figures


def convention_table(table):
    """The same pictures under other conventions; from `conventions.csv`."""
    names = {"measure": "Measure", "colours": "Colours", "border": "Border", "rounding": "Rounding", "mean": "Mean",
             "difference": "Minus the field's", "n": "n"}  # fmt: skip
    note = f"The same {table['n'].max()} pictures in every row: nothing but the convention differs."
    return frame_table(table[list(names)].rename(columns=names), left=2, digits=5, notes=[note])
