"""NIQE: naturalness of an image without a reference (Mittal et al., 2013)."""

import numpy as np
import torch
from torch.nn import functional as F

from .measures import Undefined, luma_yiq


PRISTINE = ("gaussian_window", "mu_pris_param", "cov_pris_param")  # the authors' model of pristine photographs


def niqe(pixels, parameters):
    """Natural image quality evaluator of pixels `(B, 3, H, W)` in `[-1, 1]`: one value per image, larger is worse.

    `parameters` maps `mu_pris_param` (1, 36), `cov_pris_param` (36, 36) and `gaussian_window` (7, 7) to arrays: the
    authors' model of pristine photographs. Luma is rounded to 8 bits, blocks of 96 pixels, border 0, as in pyiqa.
    Both sides need 96 pixels, and the image at least two blocks for a covariance. Raises `Undefined` for a smaller one
    and for one whose blocks have no structure, such as a black frame.
    """
    height, width = (side - side % 96 for side in pixels.shape[-2:])
    if height * width < 2 * 96 * 96:
        raise Undefined(f"NIQE needs at least two blocks of 96x96 pixels, got {tuple(pixels.shape[-2:])}.")
    window, mean_pristine, cov_pristine = (np.asarray(parameters[name], dtype=np.float64) for name in PRISTINE)
    luma = (luma_yiq(pixels) * 255).round()[..., :height, :width].cpu()
    scores = []
    for image in luma:
        features = np.concatenate(
            [_block_features(image, window, 96), _block_features(_half_size(image), window, 48)], axis=1
        )
        valid = features[~np.isnan(features).any(axis=1)]
        if len(valid) < 2:
            raise Undefined(
                f"NIQE needs at least two blocks of 96x96 pixels with structure, {len(valid)} of {len(features)} have."
            )
        covariance = np.linalg.pinv((cov_pristine + np.cov(valid, rowvar=False)) / 2)
        difference = mean_pristine.ravel() - np.nanmean(features, axis=0)
        scores.append(np.sqrt(difference @ covariance @ difference))
    return torch.tensor(np.array(scores))


def _half_size(image):
    """MATLAB's `imresize(., 0.5)` of `(1, H, W)` with even sides: bicubic (a = -0.5), antialiased, mirrored border."""
    x = torch.tensor([0.25, 0.75, 1.25, 1.75], dtype=torch.float64)
    cubic = torch.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)
    taps = torch.cat([cubic.flip(0), cubic]) / (2 * cubic.sum())
    for axis in (1, 2):
        edge = image.narrow(axis, 0, 3).flip(axis), image.narrow(axis, image.shape[axis] - 3, 3).flip(axis)
        padded = torch.cat([edge[0], image, edge[1]], dim=axis)
        shape, stride = ((1, 1, 8, 1), (2, 1)) if axis == 1 else ((1, 1, 1, 8), (1, 2))
        image = F.conv2d(padded[None], taps.view(shape), stride=stride)[0]
    return image


def _block_features(image, window, block):
    """18 statistics of the locally normalised luma in each `block`: `(number of blocks, 18)`."""
    kernel = torch.tensor(window)[None, None]
    mean = F.conv2d(F.pad(image[None], (3, 3, 3, 3), mode="replicate"), kernel)[0]
    square = F.conv2d(F.pad(image[None] ** 2, (3, 3, 3, 3), mode="replicate"), kernel)[0]
    normalised = (image - mean) / ((square - mean**2).abs().sqrt() + 1)
    blocks = normalised[0].unfold(0, block, block).unfold(1, block, block).reshape(-1, block, block).numpy()

    alpha, left, right, _ = _asymmetric_gaussian(blocks)
    features = [alpha, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        alpha, left, right, mean = _asymmetric_gaussian(blocks * np.roll(blocks, shift, axis=(1, 2)))
        features += [alpha, mean, left, right]
    return np.stack(features, axis=1)


def _asymmetric_gaussian(blocks):
    """Moment fit of an asymmetric generalised Gaussian per block: shape, left scale, right scale, mean."""
    from scipy.special import gamma

    shapes = np.arange(0.2, 10.001, 0.001)
    table = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
    values = blocks.reshape(len(blocks), -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.sqrt((values**2 * (values < 0)).sum(1) / (values < 0).sum(1))
        right = np.sqrt((values**2 * (values > 0)).sum(1) / (values > 0).sum(1))
        ratio = left / right
        spread = np.abs(values).mean(1) ** 2 / (values**2).mean(1)
        target = spread * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    position = np.searchsorted(table, target).clip(1, len(table) - 1)
    position -= target - table[position - 1] < table[position] - target
    alpha = shapes[position]
    scale = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    left, right = left * scale, right * scale
    return alpha, left, right, (right - left) * gamma(2 / alpha) / gamma(1 / alpha)
