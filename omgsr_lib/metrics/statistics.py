"""Means with bootstrap intervals and paired differences between methods, over long data frames.

A frame has one row per method, picture and metric, with the columns method, image, metric, value and, if several
sets are measured, dataset. Differences between methods are far steadier than their means, because a hard picture is
hard for both: only the paired interval can support a ranking.
"""

import numpy as np
import pandas as pd


def mean_interval(values, *, level=0.95, draws=10_000, seed=0):
    """`(mean, lo, hi)` of `values` (n,): percentile bootstrap over the values, which equals that of scipy.stats.

    Exactly reproducible from `seed`. A single value has no interval: lo and hi are NaN.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"A mean needs finite values in one dimension, got {values!r}. Remove missing pictures.")
    if len(values) == 1:
        return values[0], np.nan, np.nan
    generator = np.random.default_rng(seed)
    deviations = values - values.mean()
    means = np.empty(draws)
    chunk = max(1, 2_000_000 // len(values))
    for start in range(0, draws, chunk):
        picks = generator.integers(len(values), size=(min(chunk, draws - start), len(values)))
        means[start : start + chunk] = deviations[picks].mean(axis=1)
    lo, hi = values.mean() + np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return values.mean(), lo, hi


def summarise(frame, *, level=0.95, draws=10_000, seed=0):
    """Mean and interval per (dataset,) method and metric: the columns of these, then mean, lo, hi, n, lower_better."""
    keys = _sets(frame) + ["method", "metric"]
    _check_unique(frame, keys)
    rows = []
    for key, group in frame.groupby(keys, sort=False):
        interval = mean_interval(group["value"], level=level, draws=draws, seed=seed)
        rows.append((*key, *interval, len(group), group["lower_better"].iloc[0]))
    return pd.DataFrame(rows, columns=[*keys, "mean", "lo", "hi", "n", "lower_better"])


def paired_difference(frame, method_a, method_b, *, level=0.95, draws=10_000, seed=0):
    """Mean of `method_a - method_b` over the same pictures, per (dataset and) metric, with its bootstrap interval.

    Columns: (dataset,) metric, mean, lo, hi, n, lower_better, better. `better` names the method that the interval
    decides for and is empty where the interval holds 0. Raises `ValueError` if the pictures of the methods differ.
    """
    known = list(frame["method"].unique())
    for method in (method_a, method_b):
        if method not in known:
            raise ValueError(f"A method must be one of {known}, got {method!r}.")
    keys = _sets(frame) + ["metric"]
    _check_unique(frame, keys + ["method"])
    pair = frame[frame["method"].isin([method_a, method_b])]
    rows = []
    for key, group in pair.groupby(keys, sort=False):
        values = group.pivot(index="image", columns="method", values="value").reindex(columns=[method_a, method_b])
        lonely = values.index[values.isna().any(axis=1)]
        if len(lonely):
            raise ValueError(
                f"A paired difference needs the same pictures for both methods; {key} lacks one of "
                f"{method_a!r} and {method_b!r} for {', '.join(map(str, lonely[:5]))}. Evaluate both on the same set."
            )
        mean, lo, hi = mean_interval(values[method_a] - values[method_b], level=level, draws=draws, seed=seed)
        lower_better = group["lower_better"].iloc[0]
        better = "" if not (lo > 0 or hi < 0) else method_a if (hi < 0) == lower_better else method_b
        rows.append((*key, mean, lo, hi, len(values), lower_better, better))
    return pd.DataFrame(rows, columns=[*keys, "mean", "lo", "hi", "n", "lower_better", "better"])


def _sets(frame):
    missing = {"method", "image", "metric", "value", "lower_better"} - set(frame.columns)
    if missing:
        raise ValueError(f"A frame of scores needs the columns {sorted(missing)}; it has {list(frame.columns)}.")
    return ["dataset"] if "dataset" in frame.columns else []


def _check_unique(frame, keys):
    twice = frame[frame.duplicated(keys + ["image"])]
    if len(twice):
        row = twice.iloc[0]
        raise ValueError(
            f"One value per method, picture and metric is needed; {row['method']!r} has several of {row['metric']!r} "
            f"for {row['image']!r}. Average over seeds first, or give each seed its own method name."
        )
