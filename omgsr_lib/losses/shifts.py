"""Cycle spinning: a model's mean image over shifts of its input has no pattern that is locked to its tokens."""

from torch.nn import functional as F

from ..utils.random import randint


def shift_mean(restore, lq, period, generator):
    """The mean of `restore(lq)` `(B, 3, H, W)` over two shifts of `lq`, each taken back (Coifman and Donoho, 1995).

    The first shift is random, below `period` pixels on each axis, the other half a period further on both: what
    alternates between the halves of a period cancels in each mean, all else that repeats with it over many draws.
    `restore` maps pixels to pixels and takes sides that are greater by `period`; borders are mirrored. Raises
    `ValueError` for a period that is odd or not below the sides.
    """
    height, width = lq.shape[-2:]
    if period % 2 or not 0 < period < min(height, width):
        raise ValueError(f"The period of shifts must be even and below the sides: got {period} for {height}x{width}.")
    top, left = (int(randint(period, 1, generator)[0]) for _ in range(2))
    padded = F.pad(lq, (period,) * 4, mode="reflect")
    total = 0
    for y, x in ((top, left), ((top + period // 2) % period, (left + period // 2) % period)):
        images = restore(padded[..., y : y + height + period, x : x + width + period])
        total = total + images[..., period - y :, period - x :][..., :height, :width]
    return total / 2
