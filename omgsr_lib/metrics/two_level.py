"""Intervals over trainings and images at once: a difference must hold for other seeds as well as for other images."""

import math

import numpy as np
from scipy import stats

from .statistics import mean_interval


def two_level_interval(differences, *, level=0.95, draws=10_000, seed=0):
    """`(mean, lo, hi)` of paired differences `(seeds, images)`: one row per training, one column per image.

    Images are drawn with replacement (percentile bootstrap of their means over seeds). The few seeds are no sample
    that can be drawn from: their mean gets Student's t with `seeds - 1` degrees of freedom and the standard error of
    the rows' means. Both add up in every draw. With one seed the interval covers images alone, as `mean_interval`.
    Exactly reproducible from `seed`. Raises `ValueError` for values that are not finite or not two-dimensional.
    """
    differences = np.asarray(differences, dtype=np.float64)
    if differences.ndim != 2 or not differences.size or not np.isfinite(differences).all():
        raise ValueError(
            f"Differences must be finite, one row per seed and one column per image: got shape {differences.shape}. "
            "Leave out images without a value."
        )
    seeds, images = differences.shape
    if seeds == 1:
        return mean_interval(differences[0], level=level, draws=draws, seed=seed)
    generator = np.random.default_rng(seed)
    mean, by_image = differences.mean(), differences.mean(axis=0)
    picks = generator.integers(images, size=(draws, images))
    of_images = by_image[picks].mean(axis=1) - mean
    of_seeds = generator.standard_t(seeds - 1, size=draws) * differences.mean(axis=1).std(ddof=1) / math.sqrt(seeds)
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
    generator = np.random.default_rng(0)
    draws = of_images * generator.standard_normal(100_000)
    draws += of_seeds * (generator.standard_t(seeds - 1, 100_000) if seeds > 1 else generator.standard_normal(100_000))
    half_width = np.quantile(np.abs(draws), level)
    return float(half_width + stats.norm.ppf(power) * math.hypot(of_seeds, of_images))
