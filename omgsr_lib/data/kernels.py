"""Blur kernels of the Real-ESRGAN degradation; the formulas are those of BasicSR's `basicsr.data.degradations`.

A kernel here has exactly the drawn size; zero-padding all kernels to one common size, as that library does for
batching, changes no result.
"""

import math

import torch
from scipy.special import j1


def gaussian_kernel(size, sigma_x, sigma_y=None, theta=0.0, *, beta=1.0):
    """Generalised bivariate Gaussian `exp(-d^beta / 2)`, `d` the squared Mahalanobis distance; `beta=1` is Gaussian.

    Args:
        size: odd side in pixels.
        sigma_x, sigma_y: standard deviations in pixels along the first and second axis; `sigma_y=None` is isotropic.
        theta: angle of the first axis against the columns' direction, in radians.
        beta: shape; below 1 peaked with long tails, above 1 flat with steep sides.

    Returns a float64 tensor `(size, size)` that sums to 1. Raises `ValueError` if `size` is not odd and positive.
    """
    kernel = torch.exp(-0.5 * _squared_distance(size, sigma_x, sigma_y, theta) ** beta)
    return kernel / kernel.sum()


def plateau_kernel(size, sigma_x, sigma_y=None, theta=0.0, *, beta=1.0):
    """Plateau-shaped kernel `1 / (1 + d^beta)`; arguments, result and errors as in `gaussian_kernel`."""
    kernel = 1 / (1 + _squared_distance(size, sigma_x, sigma_y, theta) ** beta)
    return kernel / kernel.sum()


def sinc_kernel(size, cutoff):
    """Circular ideal low-pass filter `cutoff * J1(cutoff * r) / (2 pi r)`, which rings like over-sharpened images.

    Args:
        size: odd side in pixels.
        cutoff: angular cut-off frequency in radians per pixel; `pi` is Nyquist.

    Returns a float64 tensor `(size, size)` that sums to 1. Raises `ValueError` if `size` is not odd and positive.
    """
    x, y = _grid(size)
    radius = torch.hypot(x, y)
    kernel = cutoff * torch.from_numpy(j1(cutoff * radius.numpy())) / (2 * math.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)  # the limit for r -> 0
    return kernel / kernel.sum()


def _squared_distance(size, sigma_x, sigma_y, theta):
    sigma_y = sigma_x if sigma_y is None else sigma_y
    x, y = _grid(size)
    along, across = x * math.cos(theta) + y * math.sin(theta), y * math.cos(theta) - x * math.sin(theta)
    return (along / sigma_x) ** 2 + (across / sigma_y) ** 2


def _grid(size):
    if size < 1 or size % 2 == 0:
        raise ValueError(f"A kernel needs an odd side of at least 1 pixel, got {size}. Use {abs(size) + 1}.")
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    return axis[None, :], axis[:, None]
