"""Blur kernels against their formulas, pixel by pixel."""

import math

import numpy as np
import pytest
import torch

from omgsr_lib.data.kernels import gaussian_kernel, plateau_kernel, sinc_kernel


def test_isotropic_gaussian_is_the_product_of_two_one_dimensional_ones():
    axis = np.exp(-0.5 * (np.arange(-7, 8) / 1.7) ** 2)
    axis /= axis.sum()
    np.testing.assert_allclose(gaussian_kernel(15, 1.7), np.outer(axis, axis), atol=1e-15)


def test_anisotropic_kernels_follow_the_covariance_matrix():
    """Pixel by pixel from the inverse of U diag(sx^2, sy^2) U^T, x being the column."""
    sx, sy, theta, beta = 2.6, 0.9, 0.6, 1.7
    u = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    inverse = np.linalg.inv(u @ np.diag([sx**2, sy**2]) @ u.T)
    d = np.array([[np.array([x, y]) @ inverse @ [x, y] for x in range(-5, 6)] for y in range(-5, 6)])
    for kernel, expected in (
        (gaussian_kernel(11, sx, sy, theta), np.exp(-d / 2)),
        (gaussian_kernel(11, sx, sy, theta, beta=beta), np.exp(-(d**beta) / 2)),
        (plateau_kernel(11, sx, sy, theta, beta=beta), 1 / (1 + d**beta)),
    ):
        np.testing.assert_allclose(kernel, expected / expected.sum(), rtol=1e-12)


def test_a_wide_enough_gaussian_has_the_asked_covariance():
    kernel = gaussian_kernel(41, 3.0, 1.5, math.pi / 3).numpy()
    y, x = np.mgrid[-20:21, -20:21]
    c, s = 0.5, math.sqrt(3) / 2
    expected = [[9 * c * c + 2.25 * s * s, (9 - 2.25) * c * s], [(9 - 2.25) * c * s, 9 * s * s + 2.25 * c * c]]
    moments = [[(kernel * a * b).sum() for b in (x, y)] for a in (x, y)]
    np.testing.assert_allclose(moments, expected, atol=1e-8)


def test_sinc_kernel_equals_its_formula():
    """With the Bessel function from its integral, the mean of cos(angle - x sin(angle)) over the circle."""
    cutoff, angle = 1.9, np.linspace(0, 2 * np.pi, 200, endpoint=False)
    expected = np.empty((13, 13))
    for i in range(13):
        for j in range(13):
            r = math.hypot(i - 6, j - 6)
            bessel = np.cos(angle - cutoff * r * np.sin(angle)).mean()
            expected[i, j] = cutoff * bessel / (2 * math.pi * r) if r else cutoff**2 / (4 * math.pi)
    np.testing.assert_allclose(sinc_kernel(13, cutoff), expected / expected.sum(), atol=1e-14)


def test_a_sinc_passes_low_frequencies_and_stops_high_ones():
    response = torch.fft.fft2(sinc_kernel(101, math.pi / 2)).abs()  # index k is the frequency 2 pi k / 101
    assert response[0, 5:20].sub(1).abs().max() < 0.05
    assert response[0, 32:50].abs().max() < 0.05


def test_kernels_sum_to_one_and_are_symmetric():
    for kernel in (gaussian_kernel(9, 0.2, 3, 1.0, beta=0.5), plateau_kernel(21, 3, beta=2), sinc_kernel(7, math.pi)):
        assert float(kernel.sum()) == pytest.approx(1, abs=1e-14)
        torch.testing.assert_close(kernel, kernel.flip(0, 1))


@pytest.mark.parametrize("size", [0, 8, -3])
def test_even_kernels_are_refused(size):
    with pytest.raises(ValueError, match="odd side"):
        gaussian_kernel(size, 1.0)
