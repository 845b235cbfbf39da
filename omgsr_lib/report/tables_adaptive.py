"""Tables of notebook 08, from the CSV files that `omgsr adaptive` wrote."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from ..metrics.specs import SPECS
from ..metrics.statistics import mean_interval, paired_difference, summarise
from .plots import METHOD_LABELS


KEYS = ["variant", "set", "strength", "image", "model", "choice", "shift", "timestep"]
# What is compared, (model, choice) of both sides, in the order of the tables.
CONTRASTS = {
    "more training": (("control", "fixed"), ("shipped", "fixed")),
    "own timestep": (("adaptive", "estimated"), ("control", "fixed")),
    "both": (("adaptive", "estimated"), ("shipped", "fixed")),
    "estimated, not t*": (("adaptive", "estimated"), ("adaptive", "fixed")),
    "estimated, not random": (("adaptive", "estimated"), ("adaptive", "random")),
    "oracle, not estimated": (("adaptive", "oracle"), ("adaptive", "estimated")),
}
MAIN = ("more training", "own timestep", "both")
LEVELS = (0.5, 0.8, 0.9, 0.95)  # of the estimator's intervals


def read_scores(file):
    """`scores.csv` as a long data frame: variant, dataset, photo, image, method, shift, timestep, metric, value,
    lower_better; None where there is no such file.

    `method` is "model, choice"; an image is a photograph at one strength, so `photo` is its cluster.
    """
    if not Path(file).is_file():
        return None
    wide = pd.read_csv(file)
    metrics = [name for name in wide.columns if name in SPECS]
    if missing := set(KEYS) - set(wide.columns):
        raise ValueError(
            f"'{file}' lacks the columns {sorted(missing)}: another version wrote it. Run omgsr adaptive."
        )
    wide["method"] = wide["model"] + ", " + wide["choice"]
    wide["photo"] = wide["image"]
    wide["image"] = wide["image"] + "@" + wide["strength"].fillna(0).astype(str)
    keys = ["variant", "set", "photo", "image", "method", "shift", "timestep"]
    long = wide.melt(keys, metrics, "metric", "value").rename(columns={"set": "dataset"})
    return long.assign(lower_better=long["metric"].map({name: SPECS[name].lower_better for name in metrics}))


def read_table(file, column):
    """A CSV of `omgsr adaptive`; `ValueError` if it lacks `column`, that is, if another version wrote it."""
    frame = pd.read_csv(file)
    if column not in frame:
        raise ValueError(f"'{file}' lacks the column {column}: another version wrote it. Run omgsr adaptive.")
    return frame


def gain_table(scores, contrasts=CONTRASTS):
    """Paired differences of `contrasts`, intervals over photographs: contrast, variant, dataset, metric, mean, lo, hi,
    n, better ("first", "second" or empty). Contrasts of a model that is not there are left out.
    """
    tables, scores = [], scores[scores["shift"] == 0]
    for contrast, sides in contrasts.items():
        first, second = (", ".join(side) for side in sides)
        for variant, part in scores.groupby("variant", sort=False):
            if not {first, second} <= set(part["method"]):
                continue
            table = paired_difference(part, first, second, cluster="photo")
            table["better"] = table["better"].map({first: "first", second: "second", "": ""})
            table.insert(0, "variant", variant)
            table.insert(0, "contrast", contrast)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def dial_table(scores):
    """Means along the dial, and against its middle: variant, dataset, shift, metric, moved (timesteps, mean), value,
    and mean, lo, hi of the paired difference to shift 0 (NaN at 0).
    """
    rows, scores = [], scores[scores["method"] == "adaptive, estimated"]
    for (variant, dataset), part in scores.groupby(["variant", "dataset"], sort=False):
        part = part.assign(method=part["shift"].map("{:g}".format)).drop(columns="dataset")
        middle = part[part["shift"] == 0].set_index(["image", "metric"])["timestep"]
        for shift in sorted(part["shift"].unique()):
            here = part[part["shift"] == shift].set_index(["image", "metric"])
            moved = float((here["timestep"] - middle).mean())
            values = here.groupby("metric")["value"].mean()
            change = pd.DataFrame(columns=["mean", "lo", "hi"], dtype=float)
            if shift:
                change = paired_difference(part, f"{shift:g}", "0", cluster="photo").set_index("metric")
            for metric, value in values.items():
                ends = change.loc[metric, ["mean", "lo", "hi"]] if shift else (np.nan,) * 3
                rows.append((variant, dataset, shift, metric, moved, value, *ends))
    columns = ["variant", "dataset", "shift", "metric", "moved", "value", "mean", "lo", "hi"]
    return pd.DataFrame(rows, columns=columns)


def matched_table(scores, against="control, fixed", by="psnr_y"):
    """The dial where it is as faithful as `against`: there the mean of `by` is that of `against`, and each metric is
    compared: variant, dataset, shift, metric, mean, lo, hi, better ("first": adaptive, "second" or empty).

    Between two shifts the values of each image are interpolated. Sets that the dial does not reach are left out.
    """
    rows = []
    for (variant, dataset), part in scores.groupby(["variant", "dataset"], sort=False):
        fixed = part[part["method"] == against].pivot(index="image", columns="metric", values="value")
        moved = part[part["method"] == "adaptive, estimated"]
        shifts = {s: p.pivot(index="image", columns="metric", values="value") for s, p in moved.groupby("shift")}
        means = {shift: table[by].mean() for shift, table in shifts.items()}
        photos = part.drop_duplicates("image").set_index("image")["photo"].loc[fixed.index]
        lower = part.drop_duplicates("metric").set_index("metric")["lower_better"]
        for low, high in pairwise(sorted(shifts)) if len(fixed) else ():
            target = fixed[by].mean()
            if not min(means[low], means[high]) <= target < max(means[low], means[high]):
                continue
            share = (target - means[low]) / (means[high] - means[low])
            values = (1 - share) * shifts[low].loc[fixed.index] + share * shifts[high].loc[fixed.index]
            for metric in fixed.columns:
                mean, lo, hi = mean_interval(values[metric] - fixed[metric], clusters=photos)
                decided = metric != by and (lo > 0 or hi < 0)
                better = ("first" if (hi < 0) == lower[metric] else "second") if decided else ""
                rows.append((variant, dataset, low + share * (high - low), metric, mean, lo, hi, better))
            break
    return pd.DataFrame(rows, columns=["variant", "dataset", "shift", "metric", "mean", "lo", "hi", "better"])


def tolerance_table(dial, scores):
    """How far the timestep may be off: for each variant, dataset and metric the range of `moved` around the estimate
    in which the metric is nowhere worse than at the estimate beyond its interval, on the grid of the dial.
    """
    lower = scores.drop_duplicates("metric").set_index("metric")["lower_better"]
    rows = []
    for key, part in dial.groupby(["variant", "dataset", "metric"], sort=False):
        part = part.sort_values("shift")
        worse = (part["lo"] > 0) if lower[key[-1]] else (part["hi"] < 0)
        middle = int((part["shift"] == 0).to_numpy().argmax())
        worse, moved = worse.to_numpy(), part["moved"].to_numpy()
        below = next((i + 1 for i in range(middle - 1, -1, -1) if worse[i]), 0)
        above = next((i - 1 for i in range(middle + 1, len(moved)) if worse[i]), len(moved) - 1)
        rows.append((*key, round(moved[below]), round(moved[above])))
    return pd.DataFrame(rows, columns=["variant", "dataset", "metric", "from", "to"])


def mean_table(scores):
    """Means with intervals of every method without a shift, per variant, dataset and metric (`summarise`)."""
    scores = scores[scores["shift"] == 0]
    return pd.concat(
        summarise(part, cluster="photo").assign(variant=variant)
        for variant, part in scores.groupby("variant", sort=False)
    )


def estimator_table(errors, schedules):
    """Mean absolute error in timesteps of each way to guess, by kind of degradation, for the schedule of each variant.

    `errors` is `timesteps.csv`; `schedules` `{variant: NoiseSchedule}`. Columns: variant, kind, n, true (median t*),
    the ways, and covered (share of true log D inside the estimator's 95 % interval).
    """
    ways = [way for way in ("estimated", "line", "constant") if way in errors]
    inside = (errors["true"] - errors["estimated"]).abs() <= 1.96 * errors["deviation"]
    rows = []
    for variant, schedule in schedules.items():
        times = {way: _timesteps(errors[way], schedule) for way in ("true", *ways)}
        for kind, part in errors.groupby("kind", sort=False):
            true = times["true"][part.index]
            off = [np.abs(times[way][part.index] - true).mean() for way in ways]
            rows.append((variant, kind, len(part), int(np.median(true)), *off, inside[part.index].mean()))
    return pd.DataFrame(rows, columns=["variant", "kind", "n", "true", *ways, "covered"])


def coverage_table(errors, levels=LEVELS):
    """Share of true log D inside the estimator's central intervals, per kind: kind, level, covered."""
    from scipy.stats import norm

    units = (errors["true"] - errors["estimated"]).abs() / errors["deviation"]
    rows = [
        (kind, level, float((units[part.index] <= norm.ppf((1 + level) / 2)).mean()))
        for kind, part in errors.groupby("kind", sort=False)
        for level in levels
    ]
    return pd.DataFrame(rows, columns=["kind", "level", "covered"])


def kind_table(kinds, schedules):
    """Quartiles of t* over photographs: space, variant, kind, level, low, median, high."""
    rows = []
    for variant, schedule in schedules.items():
        times = schedule.nearest_timestep(1 / kinds["difference"].to_numpy()).numpy()
        for key, part in kinds.groupby(["space", "kind", "level"], sort=False):
            rows.append((*key, variant, *np.quantile(times[part.index], (0.25, 0.5, 0.75))))
    return pd.DataFrame(rows, columns=["space", "kind", "level", "variant", "low", "median", "high"])


def variant_label(variant):
    """The name of a variant in tables and figures."""
    return METHOD_LABELS.get(variant, variant)


def _timesteps(log_difference, schedule):
    return schedule.nearest_timestep(np.exp(-log_difference.to_numpy())).numpy()
