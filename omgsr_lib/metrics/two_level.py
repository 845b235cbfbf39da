"""Intervals over trainings and images at once: a difference must hold for other seeds as well as for other images."""

import math
from functools import lru_cache

import numpy as np
from scipy import stats

from .statistics import mean_interval


def two_level_interval(differences, *, spread=None, level=0.95, draws=10_000, seed=0):
    """`(mean, lo, hi)` of paired differences `(seeds, images)`: one row per training, one column per image.

    Images are drawn with replacement (percentile bootstrap of their means over seeds). The few seeds are no sample
    that can be drawn from: their mean gets Student's t with `seeds - 1` degrees of freedom and the standard error of
    the rows' means. Both add up in every draw. A single seed has the `spread` that is known of other differences, its
    standard deviation and the degrees of freedom of that; without it the interval covers images alone, as
    `mean_interval`. Exactly reproducible from `seed`. Raises `ValueError` for values that are not finite or not
    two-dimensional.
    """
    differences = np.asarray(differences, dtype=np.float64)
    if differences.ndim != 2 or not differences.size or not np.isfinite(differences).all():
        raise ValueError(
            f"Differences must be finite, one row per seed and one column per image: got shape {differences.shape}. "
            "Leave out images without a value."
        )
    seeds, images = differences.shape
    if seeds > 1:
        spread = differences.mean(axis=1).std(ddof=1), seeds - 1
    if spread is None:
        return mean_interval(differences[0], level=level, draws=draws, seed=seed)
    generator = np.random.default_rng(seed)
    mean, by_image = differences.mean(), differences.mean(axis=0)
    picks = generator.integers(images, size=(draws, images))
    of_images = by_image[picks].mean(axis=1) - mean
    of_seeds = generator.standard_t(spread[1], size=draws) * spread[0] / math.sqrt(seeds)
    lo, hi = mean + np.quantile(of_images + of_seeds, [(1 - level) / 2, (1 + level) / 2])
    return mean, lo, hi


def detectable_effect(sd_seeds, sd_images, seeds, images, *, level=0.95, power=0.8):
    """The smallest true difference that an interval of `level` separates from 0 with probability `power`.

    Args:
        sd_seeds: standard deviation between trainings of their mean difference, of a pilot.
        sd_images: standard deviation of the difference between images, of the same.
        seeds, images: how many of both the study will have. With one seed the spread between trainings is an error
            that no interval shows; it counts with the factor of the normal distribution.

    The half-width is that of `two_level_interval` at the standard deviations given.
    """
    of_seeds, of_images = sd_seeds / math.sqrt(seeds), sd_images / math.sqrt(images)
    normal, of_few = _standard_draws(seeds)
    half_width = np.quantile(np.abs(of_images * normal + of_seeds * of_few), level)
    return float(half_width + stats.norm.ppf(power) * math.hypot(of_seeds, of_images))


@lru_cache
def _standard_draws(seeds):
    """100,000 draws of the normal distribution, and as many of Student's t of so many seeds (normal for one)."""
    generator = np.random.default_rng(0)
    normal = generator.standard_normal(100_000)
    return normal, generator.standard_t(seeds - 1, 100_000) if seeds > 1 else generator.standard_normal(100_000)


def detectable_from_interval(lo, hi, *, level=0.95, power=0.8):
    """The smallest true difference that an interval as wide as `lo` to `hi` separates from 0 with that `power`."""
    return (hi - lo) / 2 * (1 + stats.norm.ppf(power) / stats.norm.ppf((1 + level) / 2))


def optimum_interval(timesteps, values, spread, seeds, *, level=0.95, draws=10_000, seed=0):
    """`(best, lo, hi)`: the timestep at which the mean of `values` is least, and its interval.

    The optimum is the vertex of the parabola through the least mean and its neighbours, or an end of the curve.
    Images are drawn with replacement, and each timestep's mean gets the error of its trainings.

    Args:
        timesteps: `(T,)`, rising, three or more; values: `(T, images)`.
        spread: standard deviation between trainings of one timestep's mean, and its degrees of freedom (0: unknown).
        seeds: `(T,)`, trainings of each timestep.
    """
    timesteps, values = np.asarray(timesteps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    picks = generator.integers(values.shape[1], size=(draws, values.shape[1]))
    means = np.stack([row[picks].mean(axis=1) for row in values], axis=1)
    if spread[1]:
        means += generator.standard_t(spread[1], size=means.shape) * spread[0] / np.sqrt(seeds)
    lo, hi = np.quantile(_vertices(timesteps, means), [(1 - level) / 2, (1 + level) / 2])
    return float(_vertices(timesteps, values.mean(axis=1)[None])[0]), float(lo), float(hi)


def _vertices(x, curves):
    """Where the parabola through the least of each of `curves` `(n, T)` and its neighbours over `x` has its vertex."""
    least = curves.argmin(axis=1)
    middle = least.clip(1, len(x) - 2)
    (a, b, c), rows = (x[middle + step] for step in (-1, 0, 1)), np.arange(len(curves))
    below, here, above = (curves[rows, middle + step] for step in (-1, 0, 1))
    left, right = (here - below) / (b - a), (above - here) / (c - b)  # slopes at the middles of both sides
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = (a + b) / 2 - left * ((c - a) / 2) / (right - left)
    return np.where(least == middle, vertex.clip(a, c), x[least])
