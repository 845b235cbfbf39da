"""Colour fixes after restoring: take the colours of the up-scaled LQ image, keep the restored detail.

Both work on pixels `(B, 3, H, W)` in `[-1, 1]` and clamp nothing; they equal the field's versions on `[0, 1]`. They go
through the image in strips of rows that stay in the processor's cache, so that it may be an array in a file.
"""

import torch

from ..tiling.arrays import View
from ..utils.moments import Moments


RADII = (1, 2, 4, 8, 16)  # of the five blurs of the wavelet fix
REACH = sum(RADII)  # pixels around a strip that its low frequencies depend on
ROWS = 128  # of a strip


def fix_colour(restored, reference, method="adain", *, as_released=False):
    """`restored` with the colours of `reference` (same shape); `method` is "adain", "wavelet" or None (unchanged).

    `as_released`: see `colour_strips`.
    """
    if restored.shape != reference.shape:
        raise ValueError(
            f"A colour fix needs a reference of the same shape: got {tuple(restored.shape)} and "
            f"{tuple(reference.shape)}. Up-scale the LQ image first."
        )
    check_method(method)
    if method is None and not as_released:
        return restored
    output = torch.empty_like(restored)
    for rows, strip in colour_strips(restored, reference, restored.shape[-2:], method, as_released=as_released):
        output[..., rows, :] = strip
    return output


def check_method(method):
    """Raise `ValueError` if there is no such colour fix."""
    if method not in ("adain", "wavelet", None):
        raise ValueError(f'colour_fix must be "adain", "wavelet" or None, got {method!r}.')


def colour_strips(restored, reference, size, method="adain", *, as_released=False):
    """Yield `(rows, pixels)` of the image with its colours fixed, strip by strip.

    Args:
        restored, reference: pixels in `[-1, 1]`, tensors or arrays in files (see `tiling.arrays`).
        size: height and width of the image; pixels beyond are padding and left out.
        method: as in `fix_colour`.
        as_released: as in the authors' code the restored image is cut to 8-bit levels, `floor(255 x)` of x in
            `[0, 1]`, before and after the fix, which is computed in float64, since cutting makes a whole level of an
            error in the last bit.
    """
    if not as_released:
        yield from _fixed_strips(restored, reference, size, method)
        return
    levels, target = View(restored, _cut), View(reference, lambda part: _from_levels(_to_levels(part).round()))
    for rows, strip in _fixed_strips(levels, target, size, method):
        yield rows, _cut(strip, 1e-9).float()  # a level that the last bit alone misses is reached


def _cut(pixels, margin=0.0):
    return _from_levels((_to_levels(pixels.clamp(-1, 1)) + margin).floor())


def _to_levels(pixels):
    return (pixels.double() / 2 + 0.5) * 255


def _from_levels(levels):
    return levels / 127.5 - 1


def _fixed_strips(restored, reference, size, method):
    height, width = size
    strips = [slice(top, min(top + ROWS, height)) for top in range(0, height, ROWS)]
    if method == "adain":
        moments = Moments(3), Moments(3)
        for pooled, image in zip(moments, (restored, reference), strict=True):
            for rows in strips:
                pooled.update(image[..., rows, :width])
        gain, offset = adain_gain(*moments)
    for rows in strips:
        if method == "adain":
            yield rows, torch.addcmul(offset, restored[..., rows, :width], gain)
        elif method == "wavelet":
            around = slice(max(rows.start - REACH, 0), min(rows.stop + REACH, height))
            strip, target = (image[..., around, :width] for image in (restored, reference))
            yield rows, wavelet(strip, target, rows.start - around.start, rows.stop - around.start)
        else:
            yield rows, restored[..., rows, :width]


def adain_gain(restored, reference):
    """`(gain, offset)`, each `(B, 3, 1, 1)`, of `(x - m_x) / s_x * s_r + m_r = gain * x + offset`, from `Moments`.

    That gives each channel the mean and standard deviation of the reference, with `s = sqrt(variance + 1e-5)` on
    pixels in [0, 1] (unbiased variance, 0 of one pixel), which is 4e-5 on [-1, 1]. A constant colour shift is removed
    exactly.
    """

    def deviation(moments):
        return (moments.variance * (moments.count / max(moments.count - 1, 1)) + 4e-5).sqrt()

    gain = deviation(reference) / deviation(restored)
    return gain[..., None, None], (reference.mean - gain * restored.mean)[..., None, None]


def wavelet(restored, reference, top=0, bottom=None):
    """High frequencies of `restored` plus low frequencies of `reference`, in the rows `[top, bottom)`.

    The field splits off five levels of detail and adds the blurred rest of the reference. All of that is linear, so it
    is `restored + L(reference - restored)` with one low-pass L, an order of magnitude faster.
    """
    output = restored[..., top:bottom, :].clone(memory_format=torch.contiguous_format)
    planes = zip(restored.flatten(0, 1), reference.flatten(0, 1), output.flatten(0, 1), strict=True)
    for plane, target, result in planes:
        result += low_pass(target - plane, top, bottom)
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
