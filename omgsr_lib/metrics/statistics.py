"""Means with bootstrap intervals and paired differences between methods, over long data frames.

A frame has one row per method, image and metric, with the columns method, image, metric, value, lower_better and, if
several sets are measured, dataset. Differences between methods are far steadier than their means, because a hard
image is hard for both: only the paired interval can support a ranking. Crops of one photograph are alike and count
as one draw: `cluster` names the column that says which rows belong together. NaN is the value of an image that a
metric is not defined for: it is left out, from a comparison for all methods.
"""

import math

import numpy as np
import pandas as pd
from scipy import stats


def mean_interval(values, *, clusters=None, level=0.95, draws=10_000, seed=0):
    """`(mean, lo, hi)` of `values` (n,): percentile bootstrap over the values, which equals that of scipy.stats.

    Exactly reproducible from `seed`. A single value has no interval: lo and hi are NaN.

    With `clusters` (n,), labels, whole clusters are drawn and the percentiles are those of Student's t for their
    number G, `Phi(sqrt(G / (G - 1)) t)` (Hesterberg, 2015), since G is small where n is not. Fewer than
    `fewest_clusters(level)` have no interval: not even the range of their means would cover.
    """
    values = _finite(values)
    if clusters is not None:
        return _cluster_interval(values, clusters, level, draws, seed)
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


def fewest_clusters(level):
    """The smallest G for which the range of G cluster means covers a median with `level`: `2**(1 - G) <= 1 - level`.

    It is also where the exact sign-flip test can first reach significance: 6 at 95 %.
    """
    return 1 + math.ceil(math.log2(1 / (1 - level)) - 1e-9)


def summarise(frame, *, cluster=None, level=0.95, draws=10_000, seed=0):
    """Mean and interval per (dataset,) method and metric: the columns of these, then mean, lo, hi, n, lower_better.

    With `cluster`, the name of a column, the interval is that over clusters, and their number is the column clusters.
    Without any value the mean is NaN and n is 0.
    """
    keys = set_columns(frame, cluster) + ["method", "metric"]
    check_unique(frame, keys)
    rows = []
    for key, group in frame.groupby(keys, sort=False):
        values = group["value"].dropna()
        labels = None if cluster is None else group.loc[values.index, cluster]
        interval = (np.nan,) * 3
        if len(values):
            interval = mean_interval(values, clusters=labels, level=level, draws=draws, seed=seed)
        rows.append((*key, *interval, len(values), *_count(labels), group["lower_better"].iloc[0]))
    return pd.DataFrame(rows, columns=[*keys, "mean", "lo", "hi", "n", *_counted(cluster), "lower_better"])


def paired_difference(frame, method_a, method_b, *, cluster=None, level=0.95, draws=10_000, seed=0):
    """Mean of `method_a - method_b` over the same images, per (dataset and) metric, with its bootstrap interval.

    Columns: (dataset,) metric, mean, lo, hi, n, (clusters,) lower_better, better. `better` names the method that the
    interval decides for and is empty where the interval holds 0 or is missing. `cluster` is that of `summarise`.
    Raises `ValueError` if the images of the methods differ.
    """
    rows = []
    for key, differences, labels, lower_better in paired_values(frame, method_a, method_b, cluster=cluster):
        mean, lo, hi = mean_interval(differences, clusters=labels, level=level, draws=draws, seed=seed)
        better = "" if not (lo > 0 or hi < 0) else method_a if (hi < 0) == lower_better else method_b
        rows.append((*key, mean, lo, hi, len(differences), *_count(labels), lower_better, better))
    keys = set_columns(frame, cluster) + ["metric"]
    return pd.DataFrame(rows, columns=[*keys, "mean", "lo", "hi", "n", *_counted(cluster), "lower_better", "better"])


def paired_values(frame, method_a, method_b, *, cluster=None):
    """Yields `(key, differences, labels, lower_better)` per (dataset and) metric: `method_a - method_b` by image.

    `labels` are the images' clusters, or None. Raises `ValueError` as `paired_difference` does.
    """
    known = list(frame["method"].unique())
    for method in (method_a, method_b):
        if method not in known:
            raise ValueError(f"A method must be one of {known}, got {method!r}.")
    keys = set_columns(frame, cluster) + ["metric"]
    check_unique(frame, keys + ["method"])
    pair = drop_undefined(frame[frame["method"].isin([method_a, method_b])], keys)
    for key, group in pair.groupby(keys, sort=False):
        values = group.pivot(index="image", columns="method", values="value").reindex(columns=[method_a, method_b])
        unpaired = values.index[values.isna().any(axis=1)]
        if len(unpaired):
            raise ValueError(
                f"A paired difference needs the same images for both methods; {key} lacks one of "
                f"{method_a!r} and {method_b!r} for {', '.join(map(str, unpaired[:5]))}. Evaluate both on the same "
                "set."
            )
        labels = None if cluster is None else image_clusters(group, values.index, cluster)
        yield key, (values[method_a] - values[method_b]).to_numpy(), labels, group["lower_better"].iloc[0]


def image_clusters(frame, images, cluster):
    """The value of the column `cluster` for each of `images`, an array."""
    return frame.drop_duplicates("image").set_index("image")[cluster][images].to_numpy()


def cluster_sums(values, clusters):
    """`(sums, sizes)` over each cluster of `values` `(n,)` or `(n, k)`, clusters in the order of their labels."""
    values = np.asarray(values, dtype=np.float64)
    _, index, sizes = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
    sums = np.zeros((len(sizes), *values.shape[1:]))
    np.add.at(sums, index, values)
    return sums, sizes


def set_columns(frame, cluster=None):
    """`["dataset"]` or `[]`; `ValueError` for a frame that lacks a column of scores, or `cluster`."""
    missing = {"method", "image", "metric", "value", "lower_better"} - set(frame.columns)
    missing |= set() if cluster is None else {cluster} - set(frame.columns)
    if missing:
        raise ValueError(f"A frame of scores needs the columns {sorted(missing)}; it has {list(frame.columns)}.")
    return ["dataset"] if "dataset" in frame.columns else []


def drop_undefined(frame, keys):
    """The rows of those images that have no NaN in any row with the same `keys`."""
    pictures = pd.MultiIndex.from_frame(frame[[*keys, "image"]])
    return frame[~pictures.isin(pictures[frame["value"].isna()])]


def check_unique(frame, keys):
    """`ValueError` where an image has several values for the same `keys`."""
    twice = frame[frame.duplicated(keys + ["image"])]
    if len(twice):
        row = twice.iloc[0]
        raise ValueError(
            f"One value per method, image and metric is needed; {row['method']!r} has several of {row['metric']!r} "
            f"for {row['image']!r}. Average over seeds first, or give each seed its own method name."
        )


def _cluster_interval(values, clusters, level, draws, seed):
    mean = values.mean()
    sums, sizes = cluster_sums(values - mean, clusters)
    groups = len(sizes)
    if groups < fewest_clusters(level):
        return mean, np.nan, np.nan
    picks = np.random.default_rng(seed).integers(groups, size=(draws, groups))
    means = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    tail = stats.norm.cdf(math.sqrt(groups / (groups - 1)) * stats.t.ppf((1 - level) / 2, groups - 1))
    lo, hi = mean + np.quantile(means, [tail, 1 - tail])
    return mean, lo, hi


def _finite(values):
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"A mean needs finite values in one dimension, got {values!r}. Remove missing images.")
    return values


def _count(labels):
    return () if labels is None else (len(set(labels)),)


def _counted(cluster):
    return [] if cluster is None else ["clusters"]
