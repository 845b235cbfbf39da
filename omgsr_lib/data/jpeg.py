"""JPEG compression simulated on tensors: the losses of the standard's baseline coder without its bit stream.

The arithmetic is that of the differentiable JPEG module which Real-ESRGAN trains with (here with true rounding). It
differs from a real coder in four ways, kept because the method was trained with them: the luma quantisation table is
transposed, tables are scaled by the quality factor without rounding, colours are not rounded to 8 bits, and images
are padded with black to multiples of 16.
"""

import math

import torch
import torch.nn.functional as F

from ..utils.device import to_device


# Tables of ITU-T T.81 (1992), annex K.1; rows are vertical frequencies.
LUMA = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    dtype=torch.float64,
)
CHROMA = torch.full((8, 8), 99, dtype=torch.float64)
CHROMA[:4, :4] = torch.tensor([[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]])

# JFIF: luma, blue difference, red difference. The offset of 128 of the differences cancels against the level shift.
FROM_RGB = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], dtype=torch.float64
)
TO_RGB = torch.tensor([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]], dtype=torch.float64)

_FREQUENCY = torch.arange(8, dtype=torch.float64)
DCT = torch.cos((2 * _FREQUENCY + 1) * _FREQUENCY[:, None] * math.pi / 16) / 2  # orthonormal: DCT @ DCT.T = 1
DCT[0] /= math.sqrt(2)


def quality_factor(quality):
    """Multiplier of both quantisation tables at `quality`: `(200 - 2q) / 100` from 50 on, else `50 / q`, unrounded.

    Raises `ValueError` outside 0 < quality < 100; at 100 the multiplier would be 0.
    """
    if not 0 < quality < 100:
        raise ValueError(f"JPEG quality must lie between 0 and 100 (both excluded), got {quality}. Use 1 to 99.")
    return (200 - 2 * quality) / 100 if quality >= 50 else 50 / quality


def jpeg(image, *, quality):
    """What is left of `image` after JPEG compression with 4:2:0 chroma.

    Args:
        image: float tensor `(3, H, W)`, RGB in `[0, 1]`, any size.
        quality: real number between 0 and 100.

    Returns a tensor of the same shape and dtype in `[0, 1]`, not rounded to 8 bits.
    """
    factor = quality_factor(quality)
    _, height, width = image.shape
    padded = F.pad(image, (0, -width % 16, 0, -height % 16)).mul_(255)  # in place: fresh memory costs more than sums
    colours = _mix(FROM_RGB, padded)
    colours[:1] = _quantise(colours[:1] - 128, LUMA.T * factor).add_(128)
    chroma = sum(colours[1:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
    chroma = _quantise(chroma, CHROMA * factor)
    colours[1:] = F.interpolate(chroma[None], scale_factor=2, mode="nearest")[0]
    return _mix(TO_RGB, colours)[:, :height, :width].contiguous().clamp_(0, 255).div_(255)


def _mix(matrix, image):
    return (_like(matrix, image) @ image.flatten(1)).view_as(image)


def _quantise(planes, table):
    """Round the 8x8 block DCT of `planes (C, H, W)` to multiples of `table (8, 8)`; H and W are multiples of 8."""
    channels, height, width = planes.shape
    dct, step = _like(DCT, planes), _like(table.repeat(1, width // 8), planes)  # (8, W): one row of blocks
    columns = dct @ planes.reshape(-1, 8, width)
    coefficients = (columns.view(-1, width // 8, 8) @ dct.T).view(-1, 8, width)
    coefficients = coefficients.div_(step).round_().mul_(step)
    rows = (coefficients.view(-1, width // 8, 8) @ dct).view(-1, 8, width)
    return (dct.T @ rows).view(channels, height, width)


def _like(constant, image):
    return to_device(constant.to(image.dtype), image.device)
