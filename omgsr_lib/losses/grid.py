"""A penalty on patterns that repeat with the tokens of a latent model: the grid that perceptual losses leave."""

from torch.nn import functional as F


def grid_loss(predicted, target, period=16):
    """Energy of the pattern of `period` pixels that the error `predicted - target` repeats, averaged over the images.

    The error `(B, 3, H, W)` without its 5x5 local mean is cut into n tiles of `period` pixels (8-pixel latents packed
    2x2: 16). The square of their mean holds the pattern and an n-th of the energy of all that differs from tile to
    tile; the products of different tiles hold the pattern alone, so that texture is not smoothed away:

        energy = (n * mean(tile)^2 - mean(tile^2)) / (n - 1), at least 0 for each image

    Without that bound a model would gain by errors that alternate from tile to tile. Sides are cut to multiples of
    `period`; gradients flow to both arguments. Raises `ValueError` for images of less than two tiles.
    """
    error = predicted - target
    fine = error - F.avg_pool2d(F.pad(error, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
    rows, columns = fine.shape[-2] // period, fine.shape[-1] // period
    number = rows * columns
    if number < 2:
        raise ValueError(
            f"A repeated pattern needs two tiles of {period} pixels: got images of {tuple(fine.shape[-2:])}."
        )
    fine = fine[..., : rows * period, : columns * period]
    tiles = fine.unflatten(-1, (columns, period)).unflatten(-3, (rows, period))
    energy = (number * tiles.mean((2, 4)).square() - tiles.square().mean((2, 4))) / (number - 1)
    return energy.mean((1, 2, 3)).relu().mean()
