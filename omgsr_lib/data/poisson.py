"""Photon counts of shot noise from uniform numbers, by the inverse of the Poisson distribution function.

A pixel of 8-bit level `n` sees `n / 255 * white` photons on average. `white`, the photons of a white pixel, is
BasicSR's `2^ceil(log2(distinct))` with the number of distinct levels in the image. One uniform number per pixel
means that a pixel one level brighter (a rounding difference between machines) changes its own count and no other.
"""

import math
from functools import cache

import numpy as np
import torch
from scipy.special import pdtr


BINS = 1024  # of the uniform numbers: most hold a single count, which is then looked up
WIDTH = 512  # thresholds per level on a device, a power of two; the longest distribution has 400


def photons(levels, uniform):
    """`(counts, white)` of each pixel.

    Args:
        levels: uint8 array of any shape.
        uniform: float64 array of its size, in `[0, 1)`.

    Returns float32 counts of the shape of `levels`, the number of `k` with `P(photons <= k) <= uniform`, and the int
    `white`.
    """
    flat, uniform = levels.ravel(), uniform.ravel()
    white = 1 << (int(np.count_nonzero(np.bincount(flat, minlength=256))) - 1).bit_length()
    distribution = photon_distribution(white)
    cell = (uniform * BINS).astype(np.int32)
    cell += flat.astype(np.int32) * BINS
    counts = _first_counts(white).take(cell)

    open_ = np.flatnonzero(counts < 0)  # bins with several counts, from ~count on: one step after the other
    threshold = flat[open_].astype(np.int64) * distribution.shape[1]
    place, sought, higher = threshold + ~counts[open_], uniform[open_], np.arange(open_.size)
    while higher.size:
        higher = higher[distribution.take(place[higher]) <= sought[higher]]
        place[higher] += 1
    counts[open_] = place - threshold
    return counts.astype(np.float32).reshape(levels.shape), white


def photons_on_device(levels, uniform):
    """The same `(counts, white)` by bisection, as tensors on the device of `levels` and without waiting for it.

    Args:
        levels: uint8 tensor of any shape.
        uniform: int64 tensor of its shape, the uniform numbers in units of `2^-53`, of which NumPy draws multiples.
    """
    levels = levels.long()
    present = torch.zeros(256, dtype=torch.long, device=levels.device).index_fill_(0, levels.flatten(), 1)
    exponent = (present.sum() > 2 ** torch.arange(8, device=levels.device)).sum()  # ceil(log2(.))
    row, counts = (exponent * 256 + levels) * WIDTH, torch.zeros_like(levels)
    table = _thresholds(levels.device)
    step = WIDTH // 2
    while step:
        counts += step * (table[row + counts + (step - 1)] <= uniform)
        step //= 2
    return counts.float(), (1 << exponent).float()


@cache
def photon_distribution(white):
    """P(photons <= k) of a pixel of each 8-bit level, `(256, k)`; the last k stands for rarer ones (1e-12)."""
    counts = np.arange(white + 8 * math.sqrt(white) + 16)
    distribution = pdtr(counts, np.arange(256)[:, None] / 255 * white)
    distribution[:, -1] = 1
    return distribution


@cache
def _first_counts(white):
    """The count in each bin of each level, `(256 * BINS,)`; `~count`, below 0, where it is the first of several."""
    edges = np.arange(BINS + 1) / BINS
    counts = np.stack([np.searchsorted(row, edges, side="right") for row in photon_distribution(white)])
    first, last = counts[:, :-1], counts[:, 1:]
    return np.where(first == last, first, ~first).astype(np.int16).ravel()


@cache
def _thresholds(device):
    """All nine distributions in units of `2^-53`, rounded up, flat `(9 * 256 * WIDTH,)`."""
    table = np.full((9, 256, WIDTH), 2**53)
    for exponent in range(9):
        distribution = photon_distribution(2**exponent)
        table[exponent, :, : distribution.shape[1]] = np.ceil(distribution * 2**53)
    return torch.from_numpy(table.ravel()).to(device)
