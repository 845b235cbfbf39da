"""Photon counts against SciPy's inverse of the Poisson distribution, on the host and by bisection."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import poisson

from omgsr_lib.data.poisson import photons, photons_on_device


def draw(distinct):
    """An image of so many levels and uniform numbers with both ends of their range."""
    rng = np.random.default_rng(distinct)
    levels = rng.choice(256, distinct, replace=False)[np.arange(3 * 40 * 41) % distinct].astype(np.uint8)
    uniform = rng.random(levels.size)
    uniform[:600:3], uniform[1:600:3], uniform[2:600:3] = 0, 2.0**-53, 1 - 2.0**-53
    return levels.reshape(3, 40, 41), uniform


@pytest.mark.parametrize("distinct", [1, 2, 3, 4, 5, 31, 129, 255, 256])
def test_counts_are_the_inverse_distribution(distinct):
    levels, uniform = draw(distinct)
    counts, white = photons(levels, uniform)
    assert white == 2 ** math.ceil(math.log2(distinct))
    inside = (uniform > 1e-12) & (uniform < 1 - 1e-12)
    expected = poisson.ppf(uniform, levels.ravel() / 255 * white)
    np.testing.assert_array_equal(counts.ravel()[inside], expected[inside])
    assert counts.shape == levels.shape and counts.dtype == np.float32
    assert (counts.ravel()[uniform == 0] == 0).all()
    assert (counts[levels == 0] == 0).all()
    assert counts.max() < white + 8 * math.sqrt(white) + 17


@pytest.mark.parametrize("distinct", [1, 2, 3, 4, 5, 31, 129, 255, 256])
def test_bisection_counts_alike(distinct):
    levels, uniform = draw(distinct)
    expected, white = photons(levels, uniform)
    units = torch.from_numpy((uniform * 2**53).astype(np.int64)).view(levels.shape)
    counts, device_white = photons_on_device(torch.from_numpy(levels), units)
    np.testing.assert_array_equal(counts, expected)
    assert device_white == white and counts.dtype == torch.float32
