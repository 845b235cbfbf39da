"""The tables and figures of a preset from its CSV files alone: no model, no image, seconds."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ..metrics.comparisons import compare_methods, rank_stability
from ..metrics.specs import SPECS
from ..metrics.statistics import summarise
from ..presets import RECIPES
from . import plots, plots_compare
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
    "contrasts.csv": {
        "contrast",
        "variant",
        "protocol",
        "trainings",
        "crops",
        "metric",
        "mean",
        "lo",
        "hi",
        "n",
        "covers",
        "better",
    },
    "optimum.csv": {"variant", "protocol", "metric", "optimum", "lo", "hi", "mid", "least", "most", "crops"},
    "spaces.csv": {"space", "schedule", "timestep", "low", "high", "power", "difference", "source"},
    "gains.csv": {"contrast", "variant", "dataset", "metric", "mean", "lo", "hi", "better"},
    "published.csv": {"dataset", "method", "metric", "mean", "source"},
    "published_cost.csv": {"method", "seconds", "GPU", "source"},
    "conventions.csv": {"measure", "colours", "border", "rounding", "mean", "difference", "n"},
}

# Tables of the ablation and the contrasts in each (`contrasts.CONTRASTS`), by how their names begin.
ABLATIONS = {
    "ablation_timestep": ("mid - ",),
    "ablation_prior": ("trained - ",),
    "ablation_ldr": ("with - without LDR",),
    "ablation_chunks": ("with - without chunks",),
    "ablation_losses": ("with - without perceptual loss", "with - without adversarial loss",
                        "with - without grid penalty"),
    "ablation_own_timestep": ("own t* - ",),
}  # fmt: skip
VARIANTS = {"s": "OMGSR-S", "f": "OMGSR-F"}
FIGURES = "07_tables_and_figures/figures"
TABLES = "07_tables_and_figures/tables"
BY_NOTEBOOKS = ("gap", "snr_match", "per_image", "losses", "tradeoff", "sweep", "contrasts", "published", "costs")
NOT_RUN = "Not run: `make study FULL=1` trains what is missing."
IMAGES_ALONE = "The interval covers images alone where nothing was trained or the spread between trainings is unknown."


def read_results(path):
    """A CSV of results, its columns checked; `ValueError` for one of another version, which stays as it is."""
    frame = pd.read_csv(path)
    missing = CONTRACT[Path(path).name] - set(frame.columns)
    if missing:
        raise ValueError(
            f"'{path}' comes from another version: it lacks the columns {sorted(missing)}. Run the step that "
            "writes it."
        )
    return frame


def write_tables(folder, tables):
    """Write each of `{name: Table}` as .md, .tex and .html in `folder`; returns the paths."""
    suffixes = (".md", ".tex", ".html")
    return [
        write_table(table, Path(folder) / f"{name}{suffix}") for name, table in tables.items() for suffix in suffixes
    ]


def write_rest(folder, *, pdf=False):
    """Write every table of the preset in `folder`, and the figures that no notebook writes; `pdf`: all as PDF too."""
    write_tables(Path(folder, TABLES), all_tables(folder))
    for name, draw in all_figures(folder):
        for suffix in [".png"] * (not name.startswith(BY_NOTEBOOKS)) + [".pdf"] * pdf:
            plots.save_figure(draw(), Path(folder, FIGURES, name + suffix))


def all_tables(folder):
    """`{name: Table}` of all that the CSV files below the preset's `folder` hold."""
    sources = {
        "mid_timesteps": (mid_timestep_table, "02_mid_timestep/midstep.csv"),
        "latent_gap": (gap_table, "01_latent_gap/minima.csv"),
        "evaluation": (evaluation_table, "06_evaluate/summary.csv", "06_evaluate/comparisons.csv"),
        "comparisons": (comparison_table, "06_evaluate/comparisons.csv"),
        "repeated_runs": (spread_table, "06_evaluate/spread.csv"),
        "costs": (cost_table, "06_evaluate/costs.csv"),
        "sweep": (sweep_table, "06b_ablation/sweep.csv"),
        "optimum": (optimum_table, "06b_ablation/optimum.csv"),
        "latent_spaces": (spaces_table, "study/spaces.csv"),
        "published_cost": (published_cost_table, "benchmarks/RealSR/published_cost.csv"),
        "conventions": (convention_table, "benchmarks/RealSR/conventions.csv"),
    }
    tables = {}
    for name, (build, *files) in sources.items():
        if frames := _read_all(folder, *files):
            tables[name] = build(*frames)
    if frames := _read_all(folder, "06b_ablation/contrasts.csv"):
        tables |= ablation_tables(*frames)
    for name, data in benchmark_results(Path(folder, "benchmarks")).items():
        tables[f"benchmark_{name}"] = benchmark_table(*data)
    return tables


def all_figures(folder):
    """Yield `(name, function that draws it)` of every figure that the CSV files below `folder` hold."""
    read = partial(_read_all, folder)
    if frames := read("01_latent_gap/gap.csv", "01_latent_gap/minima.csv"):
        for v in frames[1]["variant"].unique():
            yield f"gap_{v}", partial(plots.plot_gap, *(frame[frame["variant"] == v] for frame in frames))
    if frames := read("02_mid_timestep/midstep.csv", "02_mid_timestep/curve.csv", "02_mid_timestep/per_image.csv"):
        mids, curves, images = frames
        snr = mids[mids["rule"] == "snr"]
        for v, mid, low, high in zip(snr.variant, snr.timestep, snr.low, snr.high, strict=True):
            curve = curves[curves["variant"] == v]
            yield f"snr_match_{v}", partial(plots.plot_snr_match, curve, int(mid), (int(low), int(high)))
        groups = {f"omgsr-{v}": part.timestep.to_numpy() for v, part in images.groupby("variant")}
        lines = {f"omgsr-{v}": int(mid) for v, mid in zip(snr.variant, snr.timestep, strict=True)}
        yield "per_image", partial(plots.plot_per_image_timesteps, groups, lines)
    for v, number in (("s", "03"), ("f", "04")):
        if frames := read(f"{number}_train_omgsr_{v}/log.csv"):
            yield f"losses_{v}", partial(plots.plot_losses, *frames)
    if frames := read("06_evaluate/summary.csv", "06_evaluate/comparisons.csv"):
        yield "tradeoff", partial(plots_compare.plot_tradeoff, *frames, y=perceptual(frames[0]))
    if frames := read("06_evaluate/ranks.csv"):
        yield "ranks", partial(plots_compare.plot_ranks, *frames)
    if frames := read("06_evaluate/costs.csv"):
        measured = frames[0][frames[0]["seconds"].notna()].drop(columns=PEAK, errors="ignore")
        if len(measured):
            yield "costs", partial(plots_compare.plot_costs, measured)
    if frames := read("06b_ablation/sweep.csv"):
        mids = frames[0].groupby("variant")["mid"].first().to_dict()
        yield "sweep", partial(plots.plot_timestep_sweep, main_metrics(frames[0]), mids)
    if frames := read("06b_ablation/contrasts.csv"):
        for name, protocol in (("contrasts", "full"), ("frozen_contrasts", "frozen-encoder")):
            rows = frames[0][frames[0]["protocol"] == protocol]
            if rows["mean"].notna().any():
                yield name, partial(plots_compare.plot_contrasts, rows)
    for name, data in benchmark_results(Path(folder, "benchmarks")).items():
        yield from benchmark_figures(name, *data).items()


def _read_all(folder, *files):
    """The data frames of `files`, or None unless all of them are there."""
    paths = [Path(folder, file) for file in files]
    return [read_results(path) for path in paths] if all(path.is_file() for path in paths) else None


def perceptual(frame):
    """The learned metric of a frame of scores if it has one, else GMSD."""
    return "lpips_squeeze" if "lpips_squeeze" in set(frame["metric"]) else "gmsd"


def main_metrics(frame):
    """The rows of the metrics that figures of several metrics show."""
    return frame[frame["metric"].isin(["psnr_y", "gmsd", "lpips_squeeze"])]


def named(frame):
    """A data frame for the eye: methods and metrics under the names that figures print, arrows on the metrics."""
    names = plots.METHOD_LABELS | {name: plots.metric_label(name) for name in SPECS}
    frame = frame.rename(index=names, columns=names).replace(names)
    return frame.rename_axis(index=[None] * frame.index.nlevels, columns=None)


def in_words(differences, keys):
    """Markdown list of paired differences: in which metrics the first side is better, worse, or neither.

    `differences` has the columns `keys` (what each line is about), metric, lo and hi of the paired interval.
    """
    lines, joint = [], " against " if "against" in keys else ", "
    for key, part in differences.groupby(list(keys), sort=False):
        lower = part["metric"].map(lambda name: SPECS[name].lower_better)
        better = np.where(lower, part["hi"] < 0, part["lo"] > 0)
        worse = np.where(lower, part["lo"] > 0, part["hi"] < 0)
        labels = part["metric"].map(lambda name: SPECS[name].label.removesuffix(" (dB)"))
        sides = {"better in": better, "worse in": worse, "undecided in": ~(better | worse)}
        said = [f"{side} {', '.join(labels[chosen])}" for side, chosen in sides.items() if chosen.any()]
        subject = joint.join(plots.METHOD_LABELS.get(name, str(name)) for name in key)
        lines.append(f"- {subject}: {'; '.join(said)}.")
    return "\n".join(lines)


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
    return frame_table(frame, left=2, notes=[note, "Bootstrap over images; the older rules have no interval."])


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
    notes = [*interval_notes(summary), *convention_notes(metrics)]
    return metric_table(summary, comparisons, labels=plots.METHOD_LABELS, notes=notes)


def interval_notes(summary):
    """What to say of the intervals: over what, or why there are none."""
    if (summary["n"] == 1).all():
        return ["One image: there is no interval, and nothing is decided."]
    return [f"Mean and 95 % bootstrap interval over {summary['n'].max()} images."]


def comparison_table(comparisons):
    """Every pair of methods: paired differences with interval and test; from `comparisons.csv`."""
    return difference_table(comparisons, ["method", "against"], labels=plots.METHOD_LABELS)


def spread_table(spread):
    """What the seed of the encoder's posterior changes; from `spread.csv`."""
    rows = []
    for row in spread.itertuples(index=False):
        digits = SPECS[row.metric].digits + 1
        means, spreads = ([f"{value:.{digits}f}" for value in values]
                          for values in ((row.mean, row.posterior_mean), (row.sd, row.sd_image)))  # fmt: skip
        shift = f"{row.difference:+.{digits}f} [{row.lo:+.{digits}f}, {row.hi:+.{digits}f}]"
        rows.append(
            (
                plots.METHOD_LABELS.get(row.method, row.method),
                SPECS[row.metric].label,
                row.runs,
                means[0],
                *spreads,
                means[1],
                shift,
            )
        )
    columns = ["Method", "Metric", "Seeds", "Mean of the runs", "SD between runs", "SD of one image",
               "Posterior mean", "Posterior mean - runs"]  # fmt: skip
    notes = ["SD: standard deviation. The interval of the last column is over images."]
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
    table = pd.concat(parts, ignore_index=True).replace({"method": plots.METHOD_LABELS})
    table = table.rename(columns=lambda name: name[0].upper() + name[1:])
    notes = ["GMAC: 10^9 multiplications with additions. Counted: no weights, not run."]
    return frame_table(table, left=2, notes=notes)


def published_cost_table(frame):
    """Costs that other papers print, their settings differ."""
    sources = "As printed at 512x512, batch 1; GPUs, precision and what is timed differ between the sources."
    return frame_table(frame, notes=[sources])


def sweep_table(sweep):
    """Quality by protocol and timestep of injection; from `sweep.csv`."""
    order = sweep.sort_values(["variant", "protocol", "timestep"], ascending=[False, True, True])
    labels = order["protocol"].replace(plots.METHOD_LABELS)
    names = [f"{label}, t {t}{' = t*' if t == mid else ''}" for label, t, mid in
             zip(labels, order.timestep, order.mid, strict=True)]  # fmt: skip
    order = order.assign(dataset=order["variant"].map(VARIANTS), method=names)
    return metric_table(order, notes=interval_notes(sweep))


def optimum_table(optimum):
    """The best timestep of each metric beside t*; from `optimum.csv`."""
    frame = pd.DataFrame({
        "Variant": optimum["variant"].map(VARIANTS),
        "Protocol": optimum["protocol"].replace(plots.METHOD_LABELS),
        "Metric": [SPECS[metric].label for metric in optimum["metric"]],
        "Best t": optimum["optimum"].round().astype(int),
        "95 % interval": [f"[{low:.0f}, {high:.0f}]" for low, high in zip(optimum.lo, optimum.hi, strict=True)],
        "t*": optimum["mid"],
    })  # fmt: skip
    return frame_table(frame, left=3, notes=["Vertex of the parabola through the best timestep and its neighbours."])


def spaces_table(spaces):
    """t*, D and where distances are least, for every latent space known; from `spaces.csv`."""
    frame = spaces.assign(
        timestep=[
            f"{row.timestep:.0f}" + ("" if pd.isna(row.low) else f" [{row.low:.0f}, {row.high:.0f}]")
            for row in spaces.itertuples()
        ]
    ).drop(columns=["low", "high"])
    names = {"space": "Latent space", "schedule": "Schedule", "timestep": "t*", "power": "E[z_H^2]"}
    names |= {"difference": "D", "source": "Source"} | {name: plots.DISTANCE_LABELS.get(name, name) for name in frame}
    names = {name: names[name] for name in frame}
    note = "Distances: the timestep at which each is least. Published values are of other photographs and bases."
    return frame_table(frame.rename(columns=names), left=2, notes=[note])


def ablation_tables(contrasts):
    """`{name: Table}` of `ABLATIONS`; what was not trained says so; from `contrasts.csv`."""
    tables = {}
    rows = contrasts.assign(variant=contrasts["variant"].map(VARIANTS))
    for name, wanted in ABLATIONS.items():
        part = rows[rows["contrast"].str.startswith(wanted)]
        part = part.sort_values(["variant", "protocol"], ascending=[False, True], kind="stable")
        notes = ["First minus second of the contrast, paired over the same images, averaged over the trainings."]
        notes += [NOT_RUN] if (part["n"] == 0).any() else []
        notes += [IMAGES_ALONE] if (part["covers"] == "images").any() else []
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
    """Ours with intervals, below a line what others published on the same images, each with its source."""
    scores = scores.drop(columns="dataset", errors="ignore")
    summary, metrics = summarise(scores), list(scores["metric"].unique())
    if published is not None:
        published = published.drop(columns="dataset")
        metrics += [metric for metric in published["metric"].unique() if metric not in metrics]
    comparisons = compare_methods(scores) if scores["method"].nunique() > 1 else None
    notes = [*interval_notes(summary), *convention_notes(summary["metric"].unique())]
    options = dict(published=published, metrics=metrics, labels=plots.METHOD_LABELS)
    return metric_table(summary, comparisons, **options, notes=notes)


def benchmark_figures(name, scores, published=None):
    """`{name: function that draws it}`: ranks, the trade-off where there is a reference, the place among published
    points where there are any.
    """
    scores = scores.drop(columns="dataset", errors="ignore")
    summary, metrics = summarise(scores), set(scores["metric"])
    drawn = {f"ranks_{name}": lambda: plots_compare.plot_ranks(rank_stability(scores))}
    if {"psnr_y", "lpips_squeeze"} <= metrics and "bicubic" in set(scores["method"]):
        drawn[f"tradeoff_{name}"] = lambda: plots_compare.plot_tradeoff(summary, compare_methods(scores))
    if published is not None and {"psnr_y", "niqe"} <= metrics & set(published["metric"]):
        drawn[f"published_{name}"] = lambda: plots_compare.plot_beside_published(summary, published)
    return drawn


def convention_table(table):
    """The same images under other conventions; from `conventions.csv`."""
    names = {"measure": "Measure", "colours": "Colours", "border": "Border", "rounding": "Rounding", "mean": "Mean",
             "difference": "Minus the field's", "n": "n"}  # fmt: skip
    note = f"The same {table['n'].max()} images in every row: nothing but the convention differs."
    return frame_table(table[list(names)].rename(columns=names), left=2, digits=5, notes=[note])
