"""What the study of the timestep per picture says, from its CSV alone: contrasts, tolerance, dial, errors."""

import numpy as np
import pandas as pd

from .metrics.specs import SPECS
from .metrics.statistics import paired_difference


# Name of a contrast, and its two sides: arm and choice of the timestep.
CONTRASTS = (
    ("estimated - fixed, both adaptive", ("adaptive", "estimated"), ("adaptive", "fixed")),
    ("estimated - true", ("adaptive", "estimated"), ("adaptive", "true")),
    ("estimated - random", ("adaptive", "estimated"), ("adaptive", "random")),
    ("adaptive - trained on the same at t*", ("adaptive", "estimated"), ("dial", "fixed")),
    ("trained on the same at t* - published", ("dial", "fixed"), ("published", "fixed")),
    ("adaptive - published", ("adaptive", "estimated"), ("published", "fixed")),
)


def contrast_table(scores):
    """Paired differences: variant, bin, contrast, metric, mean, lo, hi, n, better ("", "first" or "second")."""
    tables = []
    for (variant, bin_name), part in scores.groupby(["variant", "bin"], sort=False):
        for name, *sides in CONTRASTS:
            pair = [_chosen(part, *side, method) for side, method in zip(sides, ("first", "second"), strict=True)]
            table = paired_difference(pd.concat(pair), "first", "second")
            tables.append(table.assign(variant=variant, bin=bin_name, contrast=name))
    columns = ["variant", "bin", "contrast", "metric", "mean", "lo", "hi", "n", "better"]
    return pd.concat(tables, ignore_index=True)[columns]


def tolerance_table(scores):
    """Paired differences of a shifted from the true timestep: variant, bin, shift, metric, mean, lo, hi."""
    tables = []
    for (variant, bin_name), part in scores.groupby(["variant", "bin"], sort=False):
        for choice in part.choice.unique():
            shift = 0.0 if choice == "true" else _shift(choice, "true")
            if shift is None:
                continue
            pair = _chosen(part, "adaptive", choice, "shifted"), _chosen(part, "adaptive", "true", "true")
            table = paired_difference(pd.concat(pair), "shifted", "true")
            tables.append(table.assign(variant=variant, bin=bin_name, shift=shift))
    columns = ["variant", "bin", "shift", "metric", "mean", "lo", "hi"]
    return pd.concat(tables, ignore_index=True)[columns].sort_values(["variant", "bin", "shift"], kind="stable")


def dial_table(scores):
    """Means along the dial: variant, bin, strength, metric, mean."""
    adaptive = scores[scores.arm == "adaptive"]
    strength = adaptive.choice.map(lambda choice: 0.0 if choice == "estimated" else _shift(choice, "estimated"))
    rows = adaptive.assign(strength=strength).dropna(subset="strength")
    keys = ["variant", "bin", "strength", "metric"]
    return rows.groupby(keys, sort=False)["value"].mean().rename("mean").reset_index().sort_values(keys, kind="stable")


def error_table(estimation):
    """Error of each estimator by bin: correlation and median error in log D, median error in timesteps, and the share
    of pictures within 1 and 2 of the estimated deviations (0.68 and 0.95 where they are right).
    """
    rows = []
    for (bin_name, name), part in estimation.groupby(["bin", "estimator"], sort=False):
        error = (part.estimate - part.log_difference).abs()
        inside = [np.nan if part.deviation.isna().all() else (error < k * part.deviation).mean() for k in (1, 2)]
        varies = part.estimate.std() > 0
        correlation = np.corrcoef(part.estimate, part.log_difference)[0, 1] if varies else np.nan
        steps = (part.timestep - part.true_timestep).abs().median()
        rows.append((bin_name, name, correlation, error.median(), steps, *inside))
    return pd.DataFrame(
        rows, columns=["bin", "estimator", "correlation", "log_error", "timesteps", "within_1", "within_2"]
    )


def _chosen(part, arm, choice, method):
    chosen = part[(part.arm == arm) & (part.choice == choice)]
    return chosen.assign(method=method, lower_better=chosen.metric.map(lambda name: SPECS[name].lower_better))


def _shift(choice, name):
    start, _, shift = choice.partition(" ")
    return float(shift) if start == name and shift else None
