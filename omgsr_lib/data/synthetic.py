"""Seeded synthetic training images: dead leaves (edges and occlusion) and 1/f fields (texture).

Both share statistics of photographs: a power spectrum that falls as 1/f^2 to 1/f^3, colours that vary mostly in
brightness and, for dead leaves, objects of all sizes that hide one another (Ruderman 1997; Lee, Mumford, Huang 2001).
"""

from typing import NamedTuple

import numpy as np
import torch


# Brightness, orange-blue and green-magenta: nearly decorrelated axes of natural colours (Ohta, Kanade and Sakai 1980),
# with rough standard deviations relative to brightness.
AXES = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])
SPREAD = np.array([1.0, 0.3, 0.1])


class Leaves(NamedTuple):
    """Leaves in front-to-back order; the last one is the backdrop, which fills the canvas."""

    label: np.ndarray  # (S, S) the front-most leaf of each pixel
    centre: np.ndarray  # (leaves, 2) row and column, pixels
    radius: np.ndarray  # (leaves,) pixels


def one_over_f(size, *, seed, index, exponent=2.0):
    """A periodic random field whose power spectrum falls as `1 / f^exponent`, in correlated colours.

    Args:
        size: side in pixels.
        seed, index: non-negative integers, the only source of randomness.
        exponent: of the power (the amplitude falls with half of it); photographs lie between 2 and 3.

    Returns a float32 tensor `(3, size, size)` in `[-1, 1]`; never clipped, which keeps the spectrum exact.
    """
    rng = np.random.default_rng([seed, index, 1])
    field = np.stack([_field(size, exponent, rng) for _ in AXES], -1) * SPREAD @ AXES
    mean = 0.25 * rng.standard_normal(3) * SPREAD @ AXES
    contrast = rng.uniform(0.7, 1) * (1 - np.abs(mean).max()) / np.abs(field).max()
    return _to_pixels(mean + contrast * field)


def dead_leaves(size, *, seed, index):
    """Opaque discs, ellipses and rounded boxes in front of one another, plain, shaded, textured or striped.

    Args:
        size: side in pixels, at least 16.
        seed, index: non-negative integers, the only source of randomness.

    Returns a float32 tensor `(3, size, size)` in `[-1, 1]` with anti-aliased edges (2x2 samples per pixel).
    Raises `ValueError` if `size` is below 16.
    """
    if size < 16:
        raise ValueError(f"A dead-leaves image needs a side of at least 16 pixels, got {size}.")
    rng = np.random.default_rng([seed, index, 0])
    fine = 2 * size
    smallest = fine * np.exp(rng.uniform(np.log(1 / 64), np.log(1 / 10)))
    label, centre, radius = scatter_leaves(fine, rng, smallest=smallest, largest=fine / 2)
    leaves = len(radius)
    rows, columns = np.mgrid[:fine, :fine] - centre[label].transpose(2, 0, 1)

    def along(angle):
        """Position of each pixel in its leaf along the leaf's `angle`, pixels from the centre."""
        return np.sin(angle)[label] * rows + np.cos(angle)[label] * columns

    shading = along(rng.uniform(0, 2 * np.pi) + 0.5 * rng.standard_normal(leaves)) / radius[label]  # one lamp, roughly
    fields = np.stack([_field(fine, exponent, rng) for exponent in (1.0, 1.6, 2.4)])
    grain = np.take_along_axis(fields, rng.integers(3, size=leaves)[label][None], 0)[0] / 2
    period = 2 * np.exp(rng.uniform(np.log(3), np.log(12), leaves))
    stripes = np.tanh(2 * np.sin(2 * np.pi * along(rng.uniform(0, np.pi, leaves)) / period[label]))

    look = rng.choice(4, size=leaves, p=(0.3, 0.25, 0.3, 0.15))[label]
    relief = np.choose(look, [np.zeros_like(grain), shading, grain + 0.5 * shading, stripes])
    strength = rng.uniform(0.05, 0.23, (leaves, 1)) * (1 + 0.3 * rng.standard_normal((leaves, 3)))  # per colour
    picture = _palette(leaves, rng)[label] + strength[label] * relief[..., None]
    return _to_pixels(np.clip(picture, -1, 1).reshape(size, 2, size, 2, 3).mean((1, 3)))


def synthetic_pictures(count, size, *, seed):
    """Training images `(count, 3, size, size)` in `[-1, 1]`: every fourth a 1/f field, else leaves.

    Exponents lie between 1.5 and 3. Image `i` depends on `(seed, i, size)`: a longer list begins with the shorter.
    """
    exponents = [1.5 + 1.5 * np.random.default_rng([seed, index, 2]).random() for index in range(count)]
    pictures = [
        one_over_f(size, seed=seed, index=index, exponent=exponent)
        if index % 4 == 3
        else dead_leaves(size, seed=seed, index=index)
        for index, exponent in enumerate(exponents)
    ]
    return torch.stack(pictures) if pictures else torch.empty(0, 3, size, size)


def scatter_leaves(size, rng, *, smallest, largest):
    """Drop leaves on a canvas of `size` pixels, front-most first, until it is full or eight times its area has fallen.

    Radii follow the scale-invariant density `r^-3` between `smallest` and `largest` pixels. A leaf is the superellipse
    `|u / a|^p + |v / b|^p <= 1` of random angle, `p` and aspect `b / a`, with `a` its radius. Returns `Leaves`.
    """
    label = np.full((size, size), -1)
    centres, radii, fallen = [], [], 0.0
    while fallen < 8 * size**2 and (label < 0).any():
        # inverse of the distribution function of r^-3 on [smallest, largest]
        radius = (smallest**-2 - rng.random() * (smallest**-2 - largest**-2)) ** -0.5
        centre = rng.uniform(-radius, size + radius, 2)
        power, aspect, angle = rng.choice((2, 2, 4, 12)), rng.choice((1, rng.uniform(0.3, 1))), rng.uniform(0, np.pi)
        reach = radius * 2 ** (0.5 - 1 / power)  # half of the diagonal of a rounded box
        top, left = np.maximum(np.floor(centre - reach), 0).astype(int)
        bottom, right = np.minimum(np.ceil(centre + reach) + 1, size).astype(int)
        rows, columns = np.arange(top, bottom)[:, None] - centre[0], np.arange(left, right) - centre[1]
        u = (columns * np.cos(angle) + rows * np.sin(angle)) / radius
        v = (rows * np.cos(angle) - columns * np.sin(angle)) / (radius * aspect)
        patch = label[top:bottom, left:right]
        patch[(np.abs(u) ** power + np.abs(v) ** power <= 1) & (patch < 0)] = len(radii)
        centres.append(centre)
        radii.append(radius)
        fallen += np.pi * aspect * radius**2
    label[label < 0] = len(radii)
    return Leaves(label, np.array([*centres, (size / 2, size / 2)]), np.array([*radii, size / 2]))


def _field(size, exponent, rng):
    """Periodic Gaussian field `(size, size)` with power `1 / f^exponent`, zero mean, unit variance."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) * frequency ** (-exponent / 2)
    field = np.fft.irfft2(spectrum, s=(size, size))
    return field / field.std()


def _palette(count, rng):
    """Colours `(count, 3)` in `[-1, 1]`: leaves scatter about a few base colours that differ per image."""
    bases = 0.9 * rng.standard_normal((6, 3)) * SPREAD * (1, 1.3, 1.3)
    colours = bases[rng.integers(6, size=count)] + 0.25 * rng.standard_normal((count, 3)) * SPREAD
    return np.tanh(colours @ AXES)


def _to_pixels(picture):
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32))
