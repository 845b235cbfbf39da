"""Several methods over the same images: permutation tests, Holm's correction, ranks, and spread between runs."""

from itertools import combinations

import numpy as np
import pandas as pd

from .statistics import (
    check_unique,
    cluster_sums,
    drop_undefined,
    image_clusters,
    mean_interval,
    paired_difference,
    paired_values,
    set_columns,
)


def permutation_test(differences, *, clusters=None, draws=20_000, seed=0):
    """Two-sided p-value of paired `differences` (n,) whose signs are exchangeable if the methods are equal.

    All `2**n` sign changes are counted where they are at most `draws` (exact); otherwise `draws` random ones, with
    the observed one among them: `(1 + hits) / (1 + draws)`. With `clusters` (n,) the signs of a cluster change
    together. Equals `scipy.stats.permutation_test(..., permutation_type="samples")` of the mean.
    """
    differences = np.asarray(differences, dtype=np.float64)
    sums = differences if clusters is None else cluster_sums(differences, clusters)[0]
    observed = abs(sums.sum()) - 1e-12 * np.abs(sums).sum()  # equal up to rounding is a hit
    if len(sums) < 60 and 2 ** len(sums) <= draws:
        numbers = np.arange(2 ** len(sums))[:, None]
        signs = 1 - 2 * ((numbers >> np.arange(len(sums))) & 1)
        return float(np.mean(np.abs(signs @ sums) >= observed))
    generator = np.random.default_rng(seed)
    hits, chunk = 0, max(1, 2_000_000 // len(sums))
    for start in range(0, draws, chunk):
        signs = 2 * generator.integers(2, size=(min(chunk, draws - start), len(sums)), dtype=np.int8) - 1
        hits += int(np.sum(np.abs(signs @ sums) >= observed))
    return (1 + hits) / (1 + draws)


def holm(p_values):
    """Holm's step-down correction: p-values (m,) that may each be compared with the level (Holm, 1979)."""
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values)
    adjusted = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    result = np.empty_like(adjusted)
    result[order] = np.minimum(adjusted, 1)
    return result


def compare_methods(frame, against=None, *, cluster=None, level=0.95, draws=10_000, seed=0):
    """Paired differences between methods with intervals and p-values, per (dataset and) metric.

    Without `against` every pair of methods, in order of appearance; with it every other method minus `against`.
    Columns: method, against, those of `statistics.paired_difference`, p (`permutation_test`) and p_holm, corrected
    over the comparisons of one (dataset and) metric. Methods are compared on the datasets they share.
    """
    methods = list(frame["method"].unique())
    pairs = combinations(methods, 2) if against is None else [(m, against) for m in methods if m != against]
    tables = []
    for one, other in pairs:
        shared = _shared_sets(frame, one, other)
        if not len(shared):
            continue
        table = paired_difference(shared, one, other, cluster=cluster, level=level, draws=draws, seed=seed)
        table.insert(0, "method", one)
        table.insert(1, "against", other)
        pairs_of_values = paired_values(shared, one, other, cluster=cluster)
        table["p"] = [permutation_test(d, clusters=labels, seed=seed) for _, d, labels, _ in pairs_of_values]
        tables.append(table)
    if not tables:
        raise ValueError(f"A comparison needs two methods over the same images, got {methods}. Evaluate another.")
    result = pd.concat(tables, ignore_index=True)
    result["p_holm"] = result.groupby(set_columns(frame) + ["metric"], sort=False)["p"].transform(holm)
    return result


def rank_stability(frame, *, cluster=None, draws=10_000, seed=0):
    """How sure each rank is: its share of bootstrap draws of the images, per (dataset,) metric and method.

    Columns: (dataset,) metric, method, rank (1 is best), probability; the probabilities of a method add up to 1. A
    rank is one plus the number of methods that are strictly better in the draw. All methods need the same images.
    """
    keys = set_columns(frame, cluster) + ["metric"]
    check_unique(frame, keys + ["method"])
    rows = []
    for key, group in drop_undefined(frame, keys).groupby(keys, sort=False):
        values = group.pivot(index="image", columns="method", values="value")[list(group["method"].unique())]
        if values.isna().any(axis=None):
            raise ValueError(f"Ranks need the same images for all methods: {key} lacks some. Evaluate all on one set.")
        labels = values.index if cluster is None else image_clusters(group, values.index, cluster)
        sums, sizes = cluster_sums(values, labels)
        counts = np.random.default_rng(seed).multinomial(len(sizes), [1 / len(sizes)] * len(sizes), size=draws)
        means = counts @ (sums if group["lower_better"].iloc[0] else -sums) / (counts @ sizes)[:, None]
        means = means.round(12)  # the order of summation does not part equal methods
        ranks = 1 + (means[:, :, None] > means[:, None, :]).sum(axis=2)
        for column, method in enumerate(values.columns):
            for rank in range(1, values.shape[1] + 1):
                rows.append((*key, method, rank, float(np.mean(ranks[:, column] == rank))))
    return pd.DataFrame(rows, columns=[*keys, "method", "rank", "probability"])


def repeat_spread(frame, *, cluster=None, level=0.95, draws=10_000, seed=0):
    """What one seeded sample of the encoder's posterior is worth beside its mean, per (dataset,) method and metric.

    `frame` has a column seed: a number for each repeated run, missing for the deterministic run from the mean.
    Columns: runs; mean and sd of the runs' means over images (sd: by how much a table's number moves from run to
    run); range; sd_image, of one image from run to run (root mean square over images); posterior_mean, the
    deterministic run's mean; difference, posterior mean minus the runs, with the paired interval lo, hi over images.
    The last four are NaN without a deterministic run. Raises `ValueError` for fewer than two seeds, or where the runs
    differ in their images.
    """
    if "seed" not in frame.columns:
        raise ValueError("Repeated runs are told apart by the column seed, which this frame lacks. Add it.")
    keys = set_columns(frame, cluster) + ["method", "metric"]
    rows = []
    for key, group in drop_undefined(frame, keys).groupby(keys, sort=False):
        sampled, fixed = group[group["seed"].notna()], group[group["seed"].isna()].set_index("image")
        check_unique(sampled, keys + ["seed"])
        values = sampled.pivot(index="image", columns="seed", values="value")
        if values.shape[1] < 2 or values.isna().any(axis=None):
            raise ValueError(
                f"A spread needs at least two seeds over the same images: {key} has {values.shape[1]} on "
                f"{len(values)} images, {int(values.isna().sum().sum())} missing. Repeat the run with other seeds."
            )
        means = values.mean()
        spread = (values.shape[1], means.mean(), means.std(), means.max() - means.min())
        shift = (np.nan,) * 4
        if len(fixed):
            if set(fixed.index) != set(values.index):
                raise ValueError(f"The run without a seed needs the images of the others: {key} differs.")
            labels = None if cluster is None else fixed.loc[values.index, cluster]
            difference = fixed.loc[values.index, "value"] - values.mean(axis=1)
            interval = mean_interval(difference, clusters=labels, level=level, draws=draws, seed=seed)
            shift = (fixed["value"].mean(), *interval)
        rows.append((*key, *spread, float(np.sqrt(values.var(axis=1).mean())), *shift))
    columns = ["runs", "mean", "sd", "range", "sd_image", "posterior_mean", "difference", "lo", "hi"]
    return pd.DataFrame(rows, columns=[*keys, *columns])


def _shared_sets(frame, one, other):
    if "dataset" not in frame.columns:
        return frame
    sets = [set(frame.loc[frame["method"] == method, "dataset"]) for method in (one, other)]
    return frame[frame["dataset"].isin(sets[0] & sets[1])]
