"""A model's mean image over shifts and mirrorings of its input: no pattern is locked to its tokens, no detail invented
that another view lacks (cycle spinning, Coifman and Donoho 1995; self-ensemble, Timofte et al. 2016)."""

from torch.nn import functional as F

from ..utils.random import randint


def view_mean(restore, lq, period, generator):
    """The mean of `restore(lq)` `(B, 3, H, W)` over two random views of `lq`, each taken back.

    The first view is shifted by less than `period` pixels on each axis, the second by half a period more on both; each
    is mirrored on either axis and transposed or not, all images alike. Over many draws all that repeats with the
    period cancels, and what differs between the eight orientations is averaged. `restore` maps pixels to pixels and
    takes sides that are greater by `period`; borders are mirrored. Raises `ValueError` for a period that is odd or not
    below the sides.
    """
    height, width = lq.shape[-2:]
    if period % 2 or not 0 < period < min(height, width):
        raise ValueError(f"The period of shifts must be even and below the sides: got {period} for {height}x{width}.")
    top, left = (int(randint(period, 1, generator)[0]) for _ in range(2))
    padded = F.pad(lq, (period,) * 4, mode="reflect")
    total = 0
    for y, x in ((top, left), ((top + period // 2) % period, (left + period // 2) % period)):
        *mirrored, transposed = (bool(randint(2, 1, generator)[0]) for _ in range(3))
        axes = [axis for axis, chosen in zip((-2, -1), mirrored, strict=True) if chosen]
        view = padded[..., y : y + height + period, x : x + width + period].flip(axes)
        if transposed:
            images = restore(view.transpose(-2, -1)).transpose(-2, -1)
        else:
            images = restore(view)
        total = total + images.flip(axes)[..., period - y :, period - x :][..., :height, :width]
    return total / 2
