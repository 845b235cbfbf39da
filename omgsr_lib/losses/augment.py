"""DiffAugment: differentiable random colour, translation and cut-out of images in `[-1, 1]` (Zhao et al., 2020)."""

import torch
from torch.nn import functional as F

from ..utils.device import to_device
from ..utils.random import rand, randint


def diff_augment(pixels, generator):
    """Brightness, saturation, contrast, translation by up to an eighth, cut-out of half a side; per-image draws.

    Order and ranges are those of OMGSR's discriminator: x + u - 0.5; factor 2u about the mean over channels; factor
    u + 0.5 about the image's mean; translation with zero fill; a rectangle of half the sides with uniform centre,
    clipped at the border, set to 0. u ~ U(0, 1). `generator`: see `utils.random`.
    """
    batch, _, height, width = pixels.shape

    def draw():
        return rand((batch, 1, 1, 1), generator, pixels)

    pixels = pixels + draw() - 0.5
    grey = pixels.mean(1, keepdim=True)
    pixels = grey + (pixels - grey) * 2 * draw()
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = mean + (pixels - mean) * (draw() + 0.5)
    pixels = _translate(pixels, int(height / 8 + 0.5), int(width / 8 + 0.5), generator)
    return pixels * to_device(_cut_out(batch, height, width, generator), pixels.device)


def shifted_views(images, offset, generator):
    """The images `(B, 3, H, W)` of a list, cut at one random corner, mirrored and transposed alike.

    Corners lie below `offset` pixels on each axis and the cut leaves `H - offset` by `W - offset`: a loss that sees
    such views cannot lock a pattern to the period of the latents. One draw for all images, by the first's generator.
    """
    top, left, mirrored, transposed = (int(randint(stop, 1, generator)[0]) for stop in (offset, offset, 2, 2))
    views = []
    for pixels in images:
        height, width = (side - offset for side in pixels.shape[-2:])
        view = pixels[..., top : top + height, left : left + width]
        view = view.flip(-1) if mirrored else view
        views.append(view.transpose(-1, -2) if transposed else view)
    return views


def _translate(pixels, rows, columns, generator):
    batch, _, height, width = pixels.shape
    top = randint(2 * rows + 1, batch, generator).tolist()
    left = randint(2 * columns + 1, batch, generator).tolist()
    padded = F.pad(pixels, (columns, columns, rows, rows))
    windows = zip(padded, top, left, strict=True)
    return torch.stack([image[:, y : y + height, x : x + width] for image, y, x in windows])


def _cut_out(batch, height, width, generator):
    rows = randint(height + 1, batch, generator).view(-1, 1, 1, 1)
    columns = randint(width + 1, batch, generator).view(-1, 1, 1, 1)
    y, x = torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)
    inside_rows = (y >= rows - height // 4) & (y < rows - height // 4 + height // 2)
    inside_columns = (x >= columns - width // 4) & (x < columns - width // 4 + width // 2)
    return ~(inside_rows & inside_columns)
