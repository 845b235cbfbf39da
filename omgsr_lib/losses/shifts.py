"""Cycle spinning: the mean of a model's images over shifts of its input has no pattern that is locked to its tokens."""

from torch.nn import functional as F

from ..utils.random import randint


def shift_mean(restore, lq, period, generator):
    """The mean of `restore(lq)` `(B, 3, H, W)` over four shifts of `lq`, each taken back (Coifman and Donoho, 1995).

    The shifts are all pairs of 0 and half a `period` of pixels, from a random corner, so that what repeats with the
    period cancels, and over many draws what repeats with its half. `restore` maps pixels to pixels and takes sides
    that are greater by `period`, of which the sides must be multiples; borders are mirrored. Raises `ValueError` for a
    period that is odd or not below the sides.
    """
    height, width = lq.shape[-2:]
    if period % 2 or not 0 < period < min(height, width):
        raise ValueError(f"The period of shifts must be even and below the sides: got {period} for {height}x{width}.")
    half = period // 2
    top, left = (int(randint(half, 1, generator)[0]) for _ in range(2))
    padded = F.pad(lq, (period,) * 4, mode="reflect")
    total = 0
    for y in (top, top + half):
        for x in (left, left + half):
            images = restore(padded[..., y : y + height + period, x : x + width + period])
            total = total + images[..., period - y :, period - x :][..., :height, :width]
    return total / 4
