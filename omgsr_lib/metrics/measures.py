"""Image measures without a trained network: pixels `(B, 3, H, W)` in `[-1, 1]` in, one value per image `(B,)` out.

All of them compute in float64 and round nothing unless the field does; `specs.py` states each convention in words.
"""

import math
from itertools import pairwise

import torch
from torch.nn import functional as F


class Undefined(ValueError):
    """A measure has no value for this image: it is too small, or without structure."""


def luma_601(pixels):
    """Studio-range Y of BT.601, `(B, 1, H, W)` in `[16/255, 235/255]`, as MATLAB's rgb2ycbcr before its rounding."""
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64, device=pixels.device)
    return (unit_range(pixels) * weights.view(3, 1, 1)).sum(1, keepdim=True) / 255 + 16 / 255


def luma_yiq(pixels):
    """Full-range luma, `(B, 1, H, W)` in `[0, 1]`, with the weights of MATLAB's rgb2gray and rgb2ntsc."""
    weights = torch.tensor([0.298936021, 0.587043074, 0.114020904], dtype=torch.float64, device=pixels.device)
    return (unit_range(pixels) * weights.view(3, 1, 1)).sum(1, keepdim=True)


def unit_range(pixels):
    """Pixels in `[0, 1]`, float64."""
    return (pixels.double() + 1) / 2


def psnr_y(restored, reference):
    """Peak signal-to-noise ratio (dB) of the unrounded BT.601 Y: `10 log10(1 / (MSE + 1e-8))`, so at most 80 dB."""
    return psnr(luma_601(restored), luma_601(reference))


def psnr_rgb(restored, reference):
    """Peak signal-to-noise ratio (dB) over the three channels, data range 1."""
    return psnr(unit_range(restored), unit_range(reference))


def psnr(x, y):
    """Peak signal-to-noise ratio (dB) of planes `(B, C, H, W)` in `[0, 1]`, 1e-8 added to the mean squared error."""
    return -10 / math.log(10) * ((x - y).square().mean(dim=(1, 2, 3)) + 1e-8).log()


def ssim_y(restored, reference):
    """Structural similarity (`ssim`) of Y rounded to 8 bits."""
    return ssim(*((luma_601(pixels) * 255).round() for pixels in (restored, reference)))


def ssim(x, y):
    """Structural similarity (Wang et al., 2004) of planes `(B, C, H, W)` in 0..255, averaged over them.

    Gaussian window 11x11, sigma 1.5, windows inside the image only (so both sides need 11 pixels), biased moments,
    data range 255. Negative contrast-structure terms count as 0, as in pyiqa.
    """
    if min(x.shape[-2:]) < 11:
        raise Undefined(f"SSIM needs images of at least 11x11 pixels, got {tuple(x.shape[-2:])}.")
    window = torch.exp(-(torch.arange(-5.0, 6.0, dtype=torch.float64, device=x.device) ** 2) / (2 * 1.5**2))
    window = window / window.sum()

    def local_mean(values):
        planes = values.flatten(0, 1).unsqueeze(1)
        means = F.conv2d(F.conv2d(planes, window.view(1, 1, 11, 1)), window.view(1, 1, 1, 11))
        return means.view(*values.shape[:2], *means.shape[-2:])

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = local_mean(x), local_mean(y)
    var_x, var_y = local_mean(x * x) - mean_x**2, local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    structure = ((2 * covariance + c2) / (var_x + var_y + c2)).clamp(min=0)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * structure).mean(dim=(1, 2, 3))


def gmsd(restored, reference):
    """Gradient magnitude similarity deviation (Xue et al., 2014): 0 for equal images, larger is worse.

    Full-range luma in 0..255, averaged over 2x2 pixels, Prewitt gradients / 3, T = 170, zero padding as in the
    authors' MATLAB code.
    """
    prewitt = torch.tensor([[1.0, 0.0, -1.0]] * 3, dtype=torch.float64, device=restored.device) / 3
    kernels = torch.stack([prewitt, prewitt.T]).unsqueeze(1)

    def gradient(pixels):
        luma = luma_yiq(pixels) * 255
        luma = F.pad(luma, (0, luma.shape[-1] % 2, 0, luma.shape[-2] % 2))
        return F.conv2d(F.avg_pool2d(luma, 2), kernels, padding=1).square().sum(1).sqrt()

    x, y = gradient(restored), gradient(reference)
    similarity = (2 * x * y + 170) / (x**2 + y**2 + 170)
    return similarity.flatten(1).std(dim=1)


def checkerboard(pixels, period=8):
    """Energy of a pattern that repeats every `period` pixels, in dB above the spectrum around it; 0 without a pattern.

    The power spectra of all rows (Hann window) are averaged, likewise those of all columns. At the frequencies
    k / period, k = 1 .. period - 1, the power is compared with the geometric mean of the bins 2, 3 and 4 to each side;
    the result is the mean of these ratios in decibels over k and both directions. An autoencoder that compresses by
    `period`, or a transformer that packs its latents (issue #17 of the official tracker), leaves such a grid.
    Both sides need at least 9 periods, or neighbouring peaks would share bins.
    """
    height, width = (side - side % period for side in pixels.shape[-2:])
    if min(height, width) < 9 * period:
        raise Undefined(
            f"The checkerboard metric needs at least {9 * period} pixels on each side (9 periods of {period}), "
            f"got {tuple(pixels.shape[-2:])}."
        )
    luma = luma_yiq(pixels)[:, 0, :height, :width]
    ratios = []
    for lines in (luma, luma.transpose(1, 2)):
        length = lines.shape[-1]
        window = torch.hann_window(length, periodic=True, dtype=torch.float64, device=lines.device)
        power = torch.fft.fft((lines - lines.mean(-1, keepdim=True)) * window).abs().square().mean(1) + 1e-12
        peaks = torch.arange(1, period, device=lines.device) * length // period
        offsets = torch.tensor([-4, -3, -2, 2, 3, 4], device=lines.device)
        around = power[:, (peaks[:, None] + offsets) % length].log10().mean(-1)
        ratios.append(power[:, peaks].log10() - around)
    return 10 * torch.cat(ratios, dim=1).mean(1)


def seam_energy(pixels, rows=(), columns=(), width=8):
    """Gradient energy at the borders of tiles over that elsewhere; about 1 where the borders leave no trace.

    `rows` and `columns` name the first pixel after each border (`TilePlan.seams` gives them in latents). The squared
    differences of the lumas of neighbours are averaged over all pairs across `columns` (or `rows`) and less than
    `width` pixels away, and divided by the mean over the other pairs in that direction; borders in both directions
    count by their number of pairs.
    """
    luma = luma_yiq(pixels)[:, 0]
    near = elsewhere = 0.0
    for lines, borders in ((luma, [*columns]), (luma.transpose(1, 2), [*rows])):
        if not borders:
            continue
        energy = lines.diff(dim=-1).square().sum(1)
        distance = torch.arange(1, lines.shape[-1])[:, None] - torch.tensor(borders)
        at_border = distance.abs().lt(width).any(1)
        near = near + energy[:, at_border].sum(1)
        elsewhere = elsewhere + energy[:, ~at_border].mean(1) * at_border.sum()
    if not isinstance(near, torch.Tensor) or elsewhere.isnan().any():
        raise ValueError(
            f"The seam metric compares borders with the rest, so both must exist: got rows {list(rows)}, columns "
            f"{list(columns)} of {tuple(luma.shape[1:])} pixels."
        )
    return (near + 1e-12) / (elsewhere + 1e-12)


def seam_lines(pixels, reference, rows=(), columns=(), width=8):
    """How much brighter or darker than its surroundings the image is along the borders of tiles, in levels of 255.

    `rows` and `columns` as in `seam_energy`. The luma of `pixels` less that of `reference` (the enlarged input, so
    that edges of what is seen do not count) is averaged along each line and over the `width` lines around a border,
    and the mean of 12 times as many lines around them is taken off. Returns `(at, between)`, each `(B,)`: the root
    mean square over the borders, and the same half-way between them. Where the borders leave no trace both are alike;
    a grid of faint lines in a flat sky, which the mean gradient of `seam_energy` does not see, sets them apart.
    """
    change = 255 * (luma_yiq(pixels) - luma_yiq(reference))[:, 0]
    found = [], []
    for lines, borders in ((change, [*columns]), (change.transpose(1, 2), [*rows])):
        profile = lines.mean(1, keepdim=True)
        around = F.avg_pool1d(profile, 12 * width + 1, 1, 6 * width, count_include_pad=False)
        bands = F.avg_pool1d(profile - around, width, 1)[:, 0]
        edges = [0, *borders, lines.shape[-1]]
        middles = [(left + right) // 2 for left, right in pairwise(edges)] if borders else []
        for where, squares in zip((borders, middles), found, strict=True):
            squares.append(bands[:, [position - width // 2 for position in where]].square())
    at, between = (torch.cat(squares, dim=1) for squares in found)
    if not at.shape[1]:
        raise ValueError("Lines along the borders of tiles need at least one border: got none.")
    return at.mean(1).sqrt(), between.mean(1).sqrt()
