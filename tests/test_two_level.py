"""Intervals over seeds and images: coverage by simulation."""

import numpy as np
import pytest

from omgsr_lib.metrics.statistics import mean_interval
from omgsr_lib.metrics.two_level import (
    detectable_effect,
    detectable_from_interval,
    optimum_interval,
    two_level_interval,
)


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


def test_one_seed_with_a_known_spread_covers_as_several_do():
    generator, held = np.random.default_rng(4), 0
    for _ in range(400):
        pilot = 0.5 * generator.standard_normal(3)
        values = simulated(generator, 1, 60, 0.5, 1.0, 0.5)
        _, lo, hi = two_level_interval(values, spread=(pilot.std(ddof=1), 2), draws=2000)
        held += lo <= 0 <= hi
    assert held / 400 >= 0.93


def test_an_interval_says_what_it_could_have_seen():
    assert detectable_from_interval(-1.96, 1.96) == pytest.approx(1.96 + 0.8416, rel=1e-3)
    values = np.random.default_rng(5).standard_normal((1, 200))
    _, lo, hi = two_level_interval(values)
    assert detectable_from_interval(lo, hi) == pytest.approx(
        detectable_effect(0, values.std(ddof=1), 1, 200), rel=0.05
    )


TIMESTEPS = np.array([25, 100, 200, 255, 400, 600, 800, 999])


@pytest.mark.parametrize(("optimum", "sd_seeds"), [(300, 0.0), (300, 0.3), (150, 0.3)])
def test_the_interval_of_the_best_timestep_covers_it(optimum, sd_seeds):
    """Curves are parabolas around the optimum, with errors of images and of trainings."""
    generator, held, repeats = np.random.default_rng(6), 0, 150
    for _ in range(repeats):
        curve = ((TIMESTEPS - optimum) / 200)[:, None] ** 2 + 0.5 * generator.standard_normal((8, 60))
        curve += generator.standard_normal(60) + sd_seeds * generator.standard_normal((8, 1))
        _, lo, hi = optimum_interval(TIMESTEPS, curve, (sd_seeds, 30), np.ones(8), draws=500)
        held += lo <= optimum <= hi
    assert held / repeats >= 0.9


def test_the_best_timestep_may_lie_at_an_end():
    curve = np.repeat(TIMESTEPS[:, None] / 1000.0, 5, axis=1)
    assert optimum_interval(TIMESTEPS, curve, (0.0, 0), np.ones(8)) == (25, 25, 25)
    assert optimum_interval(TIMESTEPS, -curve, (0.0, 0), np.ones(8)) == (999, 999, 999)


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((0, 4)), np.array([[1.0, np.nan]])])
def test_values_that_make_no_table_are_refused(values):
    with pytest.raises(ValueError, match="one row per seed"):
        two_level_interval(values)
