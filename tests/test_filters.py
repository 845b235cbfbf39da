"""Filtering against direct sums, for every kind of kernel that the degradation draws."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import correlate

from omgsr_lib.data.degradation import Degradation, draw_kernel
from omgsr_lib.data.filters import filter2d, filter2d_batch, reflected, reflection, separated
from omgsr_lib.data.kernels import gaussian_kernel, plateau_kernel, sinc_kernel


def plain(image, kernel):
    """Every sum written out, in float64."""
    return np.stack([correlate(channel, kernel, mode="mirror") for channel in image.double().numpy()])


@pytest.mark.parametrize("shape, size", [((40, 33), 7), ((64, 50), 21), ((16, 30), 41), ((1, 5), 7), ((2, 2), 21)])
def test_filter_equals_scipy_with_mirrored_borders(shape, size):
    rng = np.random.default_rng(0)
    image, kernel = rng.random((3, *shape)), rng.random((size, size))
    kernel /= kernel.sum()
    expected = plain(torch.from_numpy(image), kernel)
    got = filter2d(torch.from_numpy(image), torch.from_numpy(kernel))
    np.testing.assert_allclose(got, expected, atol=1e-12)
    got = filter2d(torch.from_numpy(image).float(), torch.from_numpy(kernel))
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("column, size", [(512, 21), (1024, 41)])
def test_drawn_kernels_equal_the_direct_sum_with_zero_padded_ones(column, size):
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.random((3, 24, 31), dtype=np.float32))
    kernels = [draw_kernel(Degradation.for_size(column), (0.2, 3.0), rng)() for _ in range(60)]
    assert 15 < sum(separated(kernel, image.dtype) is not None for kernel in kernels) < 35
    for kernel in kernels:
        padded = F.pad(kernel, ((size - len(kernel)) // 2,) * 4)  # as BasicSR stores all of them
        np.testing.assert_allclose(filter2d(image, kernel), plain(image, padded), atol=1e-6)


def test_a_batch_equals_the_direct_sum_of_each():
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.random((4, 3, 40, 30), dtype=np.float32))
    kernels = [gaussian_kernel(7, 1.0), sinc_kernel(41, 2.0), plateau_kernel(21, 2, 1, 0.3), gaussian_kernel(1, 1.0)]
    filtered = filter2d_batch(images, kernels)
    for number, kernel in enumerate(kernels):
        np.testing.assert_allclose(filtered[number], plain(images[number], kernel), atol=1e-6)


@pytest.mark.parametrize("shape", [(1.7,), (1.2, 2.0, 0.0), (1.2, 2.0, math.pi / 2)])
def test_round_and_upright_gaussians_are_separated(shape):
    kernel = gaussian_kernel(21, *shape)
    column, row = separated(kernel, torch.float32)
    product = F.pad(column[:, None] * row, [(21 - len(f)) // 2 for f in (row, row, column, column)])
    assert (product - kernel).abs().sum() < 1.2e-7


@pytest.mark.parametrize(
    "kernel",
    [
        gaussian_kernel(21, 1.2, 2.0, 0.3),
        gaussian_kernel(21, 1.7, beta=1.1),
        plateau_kernel(21, 1.7, beta=1.5),
        sinc_kernel(21, 2.0),
        torch.tensor([[0.0, 1, 0], [0, 0, 0], [0, -1, 0]], dtype=torch.float64),
    ],
)
def test_other_kernels_are_not(kernel):
    assert separated(kernel, torch.float32) is None


@pytest.mark.parametrize("sigma", [0.2, 0.8, 2.0, 3.0])
def test_negligible_ends_are_cut_off(sigma):
    """A quarter of the machine's epsilon may go, and not one pair of pixels less."""
    (column, row), whole = separated(gaussian_kernel(41, sigma), torch.float32), gaussian_kernel(41, sigma).sum(1)
    assert torch.equal(column, row) or (column - row).abs().max() < 1e-15
    cut = (41 - len(column)) // 2
    lost = [float(whole[:n].sum() + whole[41 - n :].sum()) for n in (cut, cut + 1)]
    assert lost[0] <= 2**-25 < lost[1]
    assert len(column) < 41


def test_reflection_bounces():
    assert reflection(torch.arange(-5, 9), 3).tolist() == [1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert reflection(torch.arange(-2, 3), 1).tolist() == [0] * 5


@pytest.mark.parametrize("rows, columns", [((2, 3), (4, 1)), ((9, 20), (0, 7))])
def test_reflected_equals_numpy(rows, columns):
    images = torch.arange(2 * 3 * 5 * 6.0).view(2, 3, 5, 6)
    expected = np.pad(images.numpy(), ((0, 0), (0, 0), rows, columns), mode="reflect")
    np.testing.assert_array_equal(reflected(images, rows, columns), expected)
