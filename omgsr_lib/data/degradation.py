"""The two-order Real-ESRGAN degradation that makes a low-quality image from a photograph (Wang et al. 2021).

Parameters are those with which OMGSR is trained. `draw_chain` draws a whole chain, `degrade` draws and applies it,
`degrade_batch` does so for a batch on its device. Inside the chain images are RGB tensors `(3, H, W)` in `[0, 1]`.
"""

import math
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from ..utils.device import to_device
from .filters import filter2d, filter2d_batch
from .jpeg import jpeg
from .kernels import gaussian_kernel, plateau_kernel, sinc_kernel
from .poisson import photons, photons_on_device


RESIZE_MODES = ("area", "bilinear", "bicubic")
STRENGTHS = {
    "mild": (0, 1 / 3),
    "medium": (1 / 3, 2 / 3),
    "extreme": (2 / 3, 1),
}  # part of each range, gentle to strong


@dataclass(frozen=True)
class Order:
    """One pass of blur, resize, noise and JPEG. Pairs are ranges of uniform draws."""

    blur: float  # probability
    sigma: tuple  # standard deviations of the blur, pixels
    resize: tuple  # probabilities of enlarging, shrinking, keeping
    factor: tuple  # smallest and largest resize factor
    gaussian: tuple  # standard deviation of Gaussian noise, in units of 1/255
    poisson: tuple  # multiple of Poisson noise
    jpeg: tuple  # quality


@dataclass(frozen=True)
class Degradation:
    """All parameters of the chain; the defaults are OMGSR's at 512 pixels, `for_size` has both columns."""

    scale: int = 4  # side of HQ / side of LQ
    kernel_sizes: tuple = tuple(range(7, 22, 2))
    sinc: float = 0.1  # probability of a sinc instead of a bell-shaped kernel
    sinc_switch: int = 13  # sinc kernels below this size start at a cut-off of pi/3, the others at pi/5
    final_sinc: float = 0.8  # probability of the last sinc; otherwise no filter
    isotropic: tuple = (0.45, 0.12, 0.12)  # probabilities of round Gaussian, generalised Gaussian, plateau
    anisotropic: tuple = (0.25, 0.03, 0.03)
    beta_gaussian: tuple = (0.5, 4.0)  # half of the draws below 1, half above
    beta_plateau: tuple = (1.0, 2.0)
    gaussian_noise: float = 0.5  # probability of Gaussian instead of Poisson noise
    grey_noise: float = 0.4  # probability of the same noise in all channels
    first: Order = Order(1.0, (0.2, 3.0), (0.2, 0.7, 0.1), (0.3, 1.5), (1, 15), (0.05, 2.0), (60, 95))
    second: Order = Order(0.5, (0.2, 1.5), (0.3, 0.4, 0.3), (0.6, 1.2), (1, 12), (0.05, 1.0), (60, 100))

    @classmethod
    def for_size(cls, size):
        """OMGSR's parameters for images of 512 (x4; also right for smaller crops) or 1024 pixels (x8).

        Raises `ValueError` for any other size.
        """
        if size == 512:
            return cls()
        if size == 1024:
            return cls(scale=8, kernel_sizes=tuple(range(11, 42, 2)), sinc_switch=25)
        raise ValueError(f"The degradation is specified for 512 and 1024 pixels, got {size}. Use 512 for small crops.")

    @classmethod
    def of_strength(cls, strength):
        """OMGSR's chain at 512 pixels with one third of each range: "mild", "medium" or "extreme".

        The thirds of blur, noise and JPEG are counted from the gentle end of their range (of JPEG: the high quality);
        shrinking starts at a factor of 1 and ends at the end of the third. With one seed the draws of all strengths
        are alike: same kernels, same kind of noise, each number moved along its range. Raises `ValueError` otherwise.
        """
        if strength not in STRENGTHS:
            raise ValueError(f"A strength must be one of {', '.join(STRENGTHS)}: got {strength!r}.")
        part = STRENGTHS[strength]
        return cls(first=_part_of_order(cls.first, *part), second=_part_of_order(cls.second, *part))

    @classmethod
    def dial(cls, strength):
        """A chain from mild to extreme: `strength` from 0 to 1, in which OMGSR's own lies in the middle.

        The scale runs from 1 to 6, and each range is cut to the third of it around `strength` of the way from its
        gentle to its strong end (see `of_strength`), less at the ends. Raises `ValueError` outside of [0, 1].
        """
        if not 0 <= strength <= 1:
            raise ValueError(f"The strength of a degradation lies between 0 and 1: got {strength}.")
        part = max(0.0, strength - 1 / 6), min(1.0, strength + 1 / 6)
        orders = dict(first=_part_of_order(cls.first, *part), second=_part_of_order(cls.second, *part))
        return cls(scale=round(1 + 5 * strength), **orders)


def random_dial(index, *, seed):
    """`Degradation.dial` of a strength that is uniform in [0, 1] and depends on `(seed, index)` alone."""
    return Degradation.dial(np.random.default_rng([seed, index, 7]).random())


def _part_of_order(order, low, high):
    """`order` with its ranges cut to the part from `low` to `high` of the way from the gentle to the strong end."""

    def part(gentle, strong):
        return gentle + low * (strong - gentle), gentle + high * (strong - gentle)

    smallest, largest = order.factor
    return replace(
        order,
        sigma=part(*order.sigma),
        factor=(part(1, smallest)[1], largest),
        gaussian=part(*order.gaussian),
        poisson=part(*order.poisson),
        jpeg=part(*reversed(order.jpeg))[::-1],
    )


@contextmanager
def _one_thread():
    """The last bits of a bilinear resize and of an FFT depend on the number of threads, an image must not."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def degrade(hq, *, seed, index, scale=None, settings=None, upscale=True):
    """The low-quality twin of `hq`, a function of `(hq, seed, index)` and the settings alone; runs on one thread.

    Args:
        hq: float tensor `(3, H, W)` in `[-1, 1]`; both sides at least 16 pixels and at least `2 * scale`.
        seed, index: non-negative integers; all draws come from `numpy.random.default_rng([seed, index])`.
        scale: overrides the factor of `settings` (4 by default).
        settings: a `Degradation`; `Degradation.for_size(512)` by default.
        upscale: False returns the small image `(3, H // scale, W // scale)` before the final resize.

    Returns a float32 tensor in `[-1, 1]` on the grid of 8-bit values: with `upscale` of the size of `hq`, rounded only
    after the up-scaling as OMGSR's training does, so not exactly an enlargement of the rounded small image.
    Raises `ValueError` for a wrong shape, type, range, size or scale.
    """
    settings = Degradation() if settings is None else settings
    settings = settings if scale is None else replace(settings, scale=scale)
    _check(hq, settings.scale)
    _check_range(hq)
    rng = np.random.default_rng([seed, index])
    steps = draw_chain(settings, *hq.shape[1:], rng)
    image = (hq.float().contiguous() + 1) / 2
    for step in steps if upscale else steps[:-1]:
        image = step(image)
    return _to_8_bits(image)


@_one_thread()
@torch.no_grad()
def degrade_batch(hq, *, seed, indices, settings=None, scale=None):
    """The low-quality twins of a batch on any device, each with the draws of `degrade(..., seed=seed, index=index)`.

    Blurs of images of one size are filtered together. The only waits are for NumPy's draws on the host: the device
    is never asked for a number, so the range of `hq` is not checked.

    Args:
        hq: float tensor `(B, 3, H, W)` in `[-1, 1]`; sides as in `degrade`.
        seed: non-negative integer.
        indices: `B` non-negative integers.
        settings: a `Degradation`, or a function of the index that gives one.
        scale: as in `degrade`.

    Returns a float32 tensor like `hq` on the grid of 8-bit values. Parameters and noise equal those of `degrade`; the
    filters differ in the last bits, which moves a value by more than one level only where a JPEG coefficient or a
    level of shot noise lay on a rounding tie. Raises `ValueError` for a wrong shape, type, scale or number of indices.
    """
    each = [settings(index) if callable(settings) else settings or Degradation() for index in indices]
    each = each if scale is None else [replace(one, scale=scale) for one in each]
    if hq.ndim != 4 or not 0 < len(hq) == len(indices):
        raise ValueError(
            f"hq must be a batch (B, 3, H, W) with an index for each image, got {tuple(hq.shape)} and "
            f"{len(indices)} indices. Give as many of both."
        )
    _check(hq[0], max(one.scale for one in each))
    images = list((hq.float() + 1) / 2)
    chains = [
        iter(draw_chain(one, *hq.shape[2:], np.random.default_rng([seed, index])))
        for one, index in zip(each, indices, strict=True)
    ]
    running = range(len(images))
    while running:
        kernels, sizes = {}, defaultdict(list)
        for i in running:
            for step in chains[i]:
                if step.func is blur:
                    kernels[i] = step.keywords["kernel"]()
                    sizes[images[i].shape].append(i)
                    break
                images[i] = step(images[i])
        for members in sizes.values():
            blurred = filter2d_batch(torch.stack([images[i] for i in members]), [kernels[i] for i in members])
            for i, image in zip(members, blurred, strict=True):
                images[i] = image
        running = list(kernels)
    return _to_8_bits(torch.stack(images))


def draw_chain(settings, height, width, rng):
    """Draw the chain for an image of `height x width` pixels: a list of `functools.partial`, one per step.

    Call each in turn on the image, in `[0, 1]`; `.func` and `.keywords` show what was drawn. The last step is the
    enlargement back to the full size. Order and odds: OMGSR's training pipeline.
    """
    lq_size = (height // settings.scale, width // settings.scale)
    first, second = settings.first, settings.second

    steps = _blur(settings, first, rng)
    factor = _factor(first, rng)
    if factor != 1:
        steps += [partial(resize, scale_factor=factor, mode=_mode(rng))]
    steps += [_noise(settings, first, rng), partial(jpeg, quality=rng.uniform(*first.jpeg))]

    steps += _blur(settings, second, rng)
    factor = _factor(second, rng)
    size = (int(height / settings.scale * factor), int(width / settings.scale * factor))
    steps += [partial(resize, size=size, mode=_mode(rng)), _noise(settings, second, rng)]

    to_lq = [partial(resize, size=lq_size, mode=_mode(rng))]
    if rng.random() < settings.final_sinc:
        size = int(rng.choice(settings.kernel_sizes))
        to_lq += [partial(blur, kernel=partial(sinc_kernel, size, _cutoff(rng, 3)))]
    compress = [partial(jpeg, quality=rng.uniform(*second.jpeg))]
    steps += to_lq + compress if rng.random() < 0.5 else compress + to_lq
    return steps + [partial(resize, size=(height, width), mode=_mode(rng))]


def draw_kernel(settings, sigma, rng):
    """Draw a kernel with standard deviations from the range `sigma`: a partial that builds it when called."""
    size = int(rng.choice(settings.kernel_sizes))
    if rng.random() < settings.sinc:
        return partial(sinc_kernel, size, _cutoff(rng, 3 if size < settings.sinc_switch else 5))
    family = rng.choice(6, p=settings.isotropic + settings.anisotropic)
    shape = {"sigma_x": rng.uniform(*sigma)}
    if family >= 3:
        shape |= {"sigma_y": rng.uniform(*sigma), "theta": rng.uniform(-math.pi, math.pi)}
    if family % 3 == 0:
        return partial(gaussian_kernel, size, **shape)
    kernel, (smallest, largest) = (
        (gaussian_kernel, settings.beta_gaussian) if family % 3 == 1 else (plateau_kernel, settings.beta_plateau)
    )
    beta = rng.uniform(smallest, 1) if rng.random() < 0.5 else rng.uniform(1, largest)
    return partial(kernel, size, **shape, beta=beta)


def blur(image, *, kernel):
    """Filter `image` with the kernel that `kernel()` builds."""
    return filter2d(image, kernel())


def resize(image, *, mode, size=None, scale_factor=None):
    """`torch.nn.functional.interpolate` without anti-aliasing, as BasicSR resizes; give `size` or `scale_factor`."""
    return F.interpolate(image[None], size=size, scale_factor=scale_factor, mode=mode)[0]


def gaussian_noise(image, *, sigma, grey, rng):
    """Add white noise of standard deviation `sigma / 255`, one field for all channels if `grey`; clamp to `[0, 1]`."""
    shape = (1 if grey else 3, *image.shape[1:])
    noise = to_device(torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)), image.device)
    return (image + noise.mul_(sigma / 255)).clamp_(0, 1)


def poisson_noise(image, *, scale, grey, rng):
    """Add `scale` times the shot noise of the 8-bit image (of its grey version if `grey`); clamp to `[0, 1]`.

    White stands for `2^ceil(log2(n))` photons, `n` being the number of distinct 8-bit values (BasicSR's rule). Each
    pixel turns one uniform number into its photons by the inverse distribution function, see `poisson`.
    """
    signal = (0.2989 * image[:1] + 0.587 * image[1:2] + 0.114 * image[2:]) if grey else image
    levels = (signal.clamp(0, 1) * 255).round_()
    uniform = rng.random(tuple(levels.shape))
    if image.is_cpu:
        counts, white = photons(levels.byte().numpy(), uniform)
        noise = torch.from_numpy(counts).div_(white)
    else:
        uniform = torch.from_numpy((uniform * 2**53).astype(np.int64))
        counts, white = photons_on_device(levels.byte(), to_device(uniform, image.device))
        noise = counts / white
    return noise.sub_(levels.div_(255)).mul_(scale).add(image).clamp_(0, 1)


def _blur(settings, order, rng):
    return [partial(blur, kernel=draw_kernel(settings, order.sigma, rng))] if rng.random() < order.blur else []


def _factor(order, rng):
    smallest, largest = order.factor
    return (rng.uniform(1, largest), rng.uniform(smallest, 1), 1)[rng.choice(3, p=order.resize)]


def _mode(rng):
    return RESIZE_MODES[rng.integers(3)]


def _cutoff(rng, divisor):
    return rng.uniform(math.pi / divisor, math.pi)


def _noise(settings, order, rng):
    grey = rng.random() < settings.grey_noise
    if rng.random() < settings.gaussian_noise:
        return partial(gaussian_noise, sigma=rng.uniform(*order.gaussian), grey=grey, rng=rng)
    return partial(poisson_noise, scale=rng.uniform(*order.poisson), grey=grey, rng=rng)


def _to_8_bits(image):
    """From `[0, 1]` to the 8-bit grid in `[-1, 1]`."""
    return (image.clamp(0, 1) * 255).round_().div_(127.5).sub_(1)


def _check(hq, scale):
    if scale < 1 or scale != int(scale):
        raise ValueError(f"scale must be a positive integer, got {scale}.")
    if hq.ndim != 3 or hq.shape[0] != 3 or not hq.is_floating_point():
        raise ValueError(f"hq must be a float tensor (3, H, W), got {hq.dtype} {tuple(hq.shape)}. Index a batch.")
    if min(hq.shape[1:]) < max(16, 2 * scale):
        raise ValueError(
            f"hq must measure at least {max(16, 2 * scale)} pixels on each side at scale {scale}, got "
            f"{hq.shape[2]}x{hq.shape[1]}. Use a larger crop."
        )


def _check_range(hq):
    if not hq.abs().max() <= 1 + 1e-4:  # also true for NaN
        raise ValueError(
            f"hq must lie in [-1, 1], got {float(hq.min()):g} to {float(hq.max()):g}. Map bytes by x / 127.5 - 1."
        )
