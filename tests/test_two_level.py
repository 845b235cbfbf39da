"""Intervals over seeds and images: coverage by simulation."""

import numpy as np
import pytest

from omgsr_lib.metrics.statistics import mean_interval
from omgsr_lib.metrics.two_level import detectable_effect, two_level_interval


def simulated(generator, seeds, images, sd_seeds, sd_images, sd_rest, effect=0.0):
    of_seeds = sd_seeds * generator.standard_normal((seeds, 1))
    of_images = sd_images * generator.standard_normal((1, images))
    return effect + of_seeds + of_images + sd_rest * generator.standard_normal((seeds, images))


@pytest.mark.parametrize(("sd_seeds", "sd_images"), [(0.0, 1.0), (0.1, 1.0), (0.5, 1.0), (1.0, 0.2)])
def test_the_interval_covers_at_least_at_its_level(sd_seeds, sd_images):
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        values = simulated(generator, 3, 60, sd_seeds, sd_images, 0.5)
        _, lo, hi = two_level_interval(values, draws=2000)
        held += lo <= 0 <= hi
    assert held / 400 >= 0.93


def test_an_interval_over_images_alone_does_not_cover_what_differs_between_seeds():
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        values = simulated(generator, 3, 60, 0.5, 1.0, 0.5)
        _, lo, hi = mean_interval(values.mean(axis=0), draws=500)
        held += lo <= 0 <= hi
    assert held / 300 < 0.7


def test_one_seed_is_the_interval_over_images():
    values = np.random.default_rng(2).standard_normal(40)
    assert two_level_interval(values[None]) == mean_interval(values)


def test_the_detectable_effect_is_found_with_the_stated_power():
    generator = np.random.default_rng(3)
    effect = detectable_effect(0.1, 1.0, seeds=3, images=60)
    found = 0
    for _ in range(300):
        _, lo, _ = two_level_interval(simulated(generator, 3, 60, 0.1, 1.0, 0.0, effect), draws=2000)
        found += lo > 0
    assert 0.7 <= found / 300 <= 0.95


def test_more_seeds_and_images_detect_less():
    effects = [detectable_effect(0.2, 1.0, seeds, images) for seeds, images in ((2, 30), (3, 30), (3, 60), (6, 60))]
    assert effects == sorted(effects, reverse=True)
    assert detectable_effect(0.0, 0.0, 3, 10) == 0


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((0, 4)), np.array([[1.0, np.nan]])])
def test_values_that_make_no_table_are_refused(values):
    with pytest.raises(ValueError, match="one row per seed"):
        two_level_interval(values)
