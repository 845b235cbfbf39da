"""Colour fixes after restoring: take the colours of the up-scaled LQ picture, keep the restored detail.

Both work on pixels `(B, 3, H, W)` in `[-1, 1]` and clamp nothing; they equal the field's versions on `[0, 1]`. They go
through the picture in strips of rows that stay in the processor's cache.
"""

import torch

from ..utils.moments import Moments


RADII = (1, 2, 4, 8, 16)  # of the five blurs of the wavelet fix
REACH = sum(RADII)  # pixels around a strip that its low frequencies depend on
ROWS = 128  # of a strip


def fix_colour(restored, reference, method="adain"):
    """`restored` with the colours of `reference` (same shape); `method` is "adain", "wavelet" or None (unchanged)."""
    if restored.shape != reference.shape:
        raise ValueError(
            f"A colour fix needs a reference of the same shape: got {tuple(restored.shape)} and "
            f"{tuple(reference.shape)}. Up-scale the LQ picture first."
        )
    if method is None:
        return restored
    methods = {"adain": adain, "wavelet": wavelet}
    if method not in methods:
        raise ValueError(f'colour_fix must be "adain", "wavelet" or None, got {method!r}.')
    return methods[method](restored, reference)


def fix_colour_as_released(restored, reference, method="adain"):
    """`fix_colour` as in the authors' code, on 8-bit levels: `floor(255 * x)` of x in [0, 1], before and after.

    The reference is taken to its nearest 8-bit levels. The fix is computed in float64, since cutting makes a whole
    level of an error in the last bit. Returns float32 in [-1, 1] that stands exactly for levels of 0 .. 255.
    """
    levels = ((restored / 2 + 0.5).clamp(0, 1) * 255).floor()
    if method is not None:
        source, target = levels.double(), ((reference.double() + 1) * 127.5).round()
        fixed = fix_colour(source / 127.5 - 1, target / 127.5 - 1, method)
        levels = ((fixed.clamp(-1, 1) + 1) * 127.5 + 1e-9).floor()  # a level that the last bit alone misses is reached
    return (levels / 127.5 - 1).float()


def adain(restored, reference):
    """Give each channel the mean and standard deviation of the reference: `(x - m_x) / s_x * s_r + m_r`.

    `s = sqrt(variance + 1e-5)` on pixels in [0, 1] (unbiased variance, 0 of one pixel), which is 4e-5 on [-1, 1]. A
    constant colour shift is removed exactly.
    """
    moments = Moments(3), Moments(3)
    for part, whole in zip(moments, (restored, reference), strict=True):
        for strip in whole.split(ROWS, dim=2):
            part.update(strip)
    gain, offset = adain_gain(*moments)
    output = torch.empty_like(restored)
    for strip, source in zip(output.split(ROWS, dim=2), restored.split(ROWS, dim=2), strict=True):
        torch.addcmul(offset, source, gain, out=strip)
    return output


def adain_gain(restored, reference):
    """`(gain, offset)`, each `(B, 3, 1, 1)`, of `adain` from the `Moments` of both: `gain * x + offset`."""

    def deviation(moments):
        return (moments.variance * (moments.count / max(moments.count - 1, 1)) + 4e-5).sqrt()

    gain = deviation(reference) / deviation(restored)
    return gain[..., None, None], (reference.mean - gain * restored.mean)[..., None, None]


def wavelet(restored, reference):
    """High frequencies of `restored` plus low frequencies of `reference`.

    The field splits off five levels of detail and adds the blurred rest of the reference. All of that is linear, so it
    is `restored + L(reference - restored)` with one low-pass L, an order of magnitude faster.
    """
    output, height = restored.new_empty(restored.shape), restored.shape[2]
    planes = zip(restored.flatten(0, 1), reference.flatten(0, 1), output.flatten(0, 1), strict=True)
    for plane, target, result in planes:
        for top in range(0, height, ROWS):
            bottom = min(top + ROWS, height)
            first, last = max(top - REACH, 0), min(bottom + REACH, height)
            low = low_pass(target[first:last] - plane[first:last], top - first, bottom - first)
            torch.add(plane[top:bottom], low, out=result[top:bottom])
    return output


def low_pass(pixels, top=0, bottom=None):
    """Five blurs with [1 2 1] / 4 along each axis, dilated by 1, 2, 4, 8, 16, borders replicated.

    Returns the rows `[top, bottom)` of the result, all by default; the rows beyond serve as their surroundings.
    """
    return _blurs(_blurs(pixels, -2)[..., top:bottom, :], -1).mul_(4.0 ** (-2 * len(RADII)))


def _blurs(pixels, axis):
    """The blurs along one axis, times 4 each: powers of two cost no precision."""
    size, margin = pixels.shape[axis], max(RADII)
    shape = list(pixels.shape)
    shape[axis] += 2 * margin
    source, target = pixels.new_empty(shape), pixels.new_empty(shape)
    source.narrow(axis, margin, size).copy_(pixels)
    for radius in RADII:
        for edge, border in ((margin, margin - radius), (margin + size - 1, margin + size)):
            source.narrow(axis, border, radius).copy_(source.narrow(axis, edge, 1))
        before, after = source.narrow(axis, margin - radius, size), source.narrow(axis, margin + radius, size)
        total = torch.add(before, after, out=target.narrow(axis, margin, size))
        total.add_(source.narrow(axis, margin, size), alpha=2)
        source, target = target, source
    return source.narrow(axis, margin, size)
