"""Where an image has the most detail."""

import numpy as np


def most_detailed(grey, side, *, step=1, power=1):
    """`(left, top)` of the square of `side` pixels with the most detail, the first of equal ones.

    Args:
        grey: array `(h, w)`; detail is the sum of absolute differences of neighbours to the `power`.
        step: pixels from one square that is considered to the next.
    """
    detail = np.zeros(grey.shape)
    detail[1:] += np.abs(np.diff(grey, axis=0)) ** power
    detail[:, 1:] += np.abs(np.diff(grey, axis=1)) ** power
    total = np.pad(detail.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    sums = sums[::step, ::step].round(6)
    top, left = np.unravel_index(sums.argmax(), sums.shape)
    return step * int(left), step * int(top)
