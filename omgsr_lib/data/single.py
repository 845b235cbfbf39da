"""One kind of degradation at a time, of a given level: how the mid-timestep moves with each."""

import numpy as np

from .degradation import gaussian_noise, resize
from .filters import filter2d
from .jpeg import jpeg
from .kernels import gaussian_kernel


# Gentle to strong: factor of shrinking, standard deviation of the blur (pixels) and of the noise (1/255), quality.
KINDS = {
    "scale": (1.5, 2, 3, 4, 6),
    "blur": (0.5, 1, 1.5, 2, 3),
    "noise": (2, 5, 10, 15, 25),
    "jpeg": (95, 80, 60, 40, 20),
}


def degrade_by(hq, kind, level, *, seed=0):
    """`hq` `(3, H, W)` in `[-1, 1]` with one degradation, on the 8-bit grid.

    "scale": shrunk by area to 1 / level and enlarged again (bicubic); "blur": Gaussian; "noise": Gaussian, its own in
    each channel; "jpeg": of quality `level`. Raises `ValueError` for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"A single degradation must be one of {', '.join(KINDS)}: got {kind!r}.")
    picture = (hq + 1) / 2
    if kind == "scale":
        small = resize(picture, mode="area", size=[max(1, round(side / level)) for side in hq.shape[-2:]])
        picture = resize(small, mode="bicubic", size=list(hq.shape[-2:]))
    elif kind == "blur":
        picture = filter2d(picture, gaussian_kernel(21, level))
    elif kind == "noise":
        picture = gaussian_noise(picture, sigma=level, grey=False, rng=np.random.default_rng([seed, 11]))
    else:
        picture = jpeg(picture, quality=level)
    return (picture.clamp(0, 1) * 255).round() / 127.5 - 1
