"""Quality against the timestep of injection: the sweep of the study, and where its best timestep lies."""

import numpy as np
import pandas as pd

from ..metrics.specs import SPECS
from ..metrics.statistics import summarise
from ..metrics.two_level import optimum_interval
from .contrasts import trained_to_the_end, usual


def sweep_table(frame, mids):
    """Mean and interval by variant, protocol, timestep and metric (`mid`: t*): seed 0 and full loss.

    The control with a random prior is a protocol of its own, such as "full-random". Of two precisions the one with
    more runs is taken, since trainings in different ones are not compared.
    """
    runs, tables = _sweep(frame), []
    runs = runs[runs.seed == 0]
    for (variant, prior, protocol, timestep), part in runs.groupby(["variant", "prior", "protocol", "timestep"]):
        scores = part[["image", "metric", "value"]].assign(method="run")
        table = summarise(scores.assign(lower_better=scores.metric.map(lambda name: SPECS[name].lower_better)))
        name = protocol.replace("_", "-") + ("-random" if prior == "random" else "")
        tables.append(table.assign(variant=variant, protocol=name, timestep=timestep, mid=mids[variant]))
    table = pd.concat(tables, ignore_index=True).drop(columns="method")
    return table.sort_values("variant", ascending=False, kind="stable", ignore_index=True)


def optimum_of(frame, mids):
    """The timestep at which each metric is best, with an interval over images and trainings, beside t*.

    Over the seeds that all timesteps have, as the curves of `sweep_table`: a further training of one timestep would
    move that one alone. Columns: variant, protocol, metric, optimum, lo, hi, mid, least, most (the ends of the sweep),
    crops. The spread between trainings is that of the timesteps with several, pooled; without any the interval covers
    images alone.
    """
    runs, rows = _sweep(frame), []
    runs = runs[runs.prior == "trained"]
    for (variant, protocol, metric), part in runs.groupby(["variant", "protocol", "metric"], sort=False):
        values = part.pivot_table(index=["timestep", "seed"], columns="image", values="value").dropna(axis=1)
        if values.index.get_level_values("timestep").nunique() < 3:
            continue
        of_seeds = values.mean(axis=1).groupby("timestep")
        count = of_seeds.count()
        freedom = int((count - 1).sum())
        spread = ((of_seeds.var(ddof=1).fillna(0) * (count - 1)).sum() / freedom) ** 0.5 if freedom else 0.0
        seeds = values.index.get_level_values("seed")
        shared = values[(seeds.value_counts()[seeds] == len(count)).to_numpy()]
        curve = shared.groupby("timestep").mean()
        curve = curve if SPECS[metric].lower_better else -curve
        trainings = np.full(len(curve), len(shared) // len(curve))
        interval = optimum_interval(curve.index.to_numpy(), curve.to_numpy(), (spread, freedom), trainings)
        facts = (mids[variant], curve.index[0], curve.index[-1], part["crops"].max())
        rows.append((variant, protocol.replace("_", "-"), metric, *interval, *facts))
    columns = ["variant", "protocol", "metric", "optimum", "lo", "hi", "mid", "least", "most", "crops"]
    return pd.DataFrame(rows, columns=columns)


def _sweep(frame):
    """Rows of the runs with the full loss, at the usual size and on the usual images, trained to the end."""
    runs = trained_to_the_end(frame)
    runs = runs[runs.refinement & (runs.without == "")]
    for column, value in usual(runs).items():
        runs = runs[runs[column] == value]
    return runs[runs.precision == runs.precision.mode()[0]]
