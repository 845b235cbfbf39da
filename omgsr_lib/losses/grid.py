"""Penalties on patterns that repeat with the tokens of a latent model: the grid that perceptual losses leave.

A perceptual loss rewards whatever resembles the grain of a photograph, and a network that draws no noise imitates it
by what it repeats from token to token.
"""

from torch.nn import functional as F


FLAT = 0.03  # images in [-1, 1] are flat where the root mean square of their detail is below this


def grid_loss(predicted, target, period=16):
    """Energy of the pattern of `period` pixels that the error `predicted - target` repeats, averaged over the images.

    The error `(B, 3, H, W)` without its 5x5 local mean is cut into tiles of `period` pixels (8-pixel latents packed
    2x2: 16), of whose pattern this is the `repeated_energy`. Sides are cut to multiples of `period`; gradients flow to
    both arguments. Raises `ValueError` for images of less than two tiles.
    """
    fine = detail(predicted - target)
    rows, columns = fine.shape[-2] // period, fine.shape[-1] // period
    if rows * columns < 2:
        raise ValueError(
            f"A repeated pattern needs two tiles of {period} pixels: got images of {tuple(fine.shape[-2:])}."
        )
    fine = fine[..., : rows * period, : columns * period]
    tiles = fine.unflatten(-1, (columns, period)).unflatten(-3, (rows, period))
    return repeated_energy(tiles, (2, 4)).mean((1, 2, 3)).relu().mean()


def flat_grid_loss(predicted, target, period=8, window=32):
    """The same of flat surfaces in small windows, where the eye finds a pattern first and edges do not hide it.

    The error without its 5x5 local mean is taken where the target is `flat` and cut into windows of `window` pixels, a
    multiple of `period` (4-pixel latents packed 2x2: 8), each with a pattern of its own: what a model repeats changes
    with the surface. Sides are cut to multiples of `window`; gradients flow to both arguments, save through the mask.
    Raises `ValueError` for images smaller than a window.
    """
    rows, columns = (side // window for side in predicted.shape[-2:])
    if not rows * columns:
        raise ValueError(
            f"A repeated pattern needs a window of {window} pixels: got images of {tuple(predicted.shape[-2:])}."
        )
    error = (detail(predicted - target) * flat(target))[..., : rows * window, : columns * window]
    side = window // period
    tiles = error.unflatten(-1, (columns, side, period)).unflatten(-4, (rows, side, period))
    return repeated_energy(tiles, (3, 6)).mean((1, 2, 3, 4, 5)).relu().mean()


def repeated_energy(tiles, dims):
    """The energy of what n tiles, along the two dimensions `dims`, have in common.

    The square of their mean holds the pattern and an n-th of the energy of all that differs from tile to tile; the
    products of different tiles hold the pattern alone, so that texture is not smoothed away:

        (n * mean(tile)^2 - mean(tile^2)) / (n - 1)

    It is negative where tiles cancel. The losses bound it at 0 for each image: a model would gain by errors that
    alternate from tile to tile.
    """
    number = tiles.shape[dims[0]] * tiles.shape[dims[1]]
    return (number * tiles.mean(dims).square() - tiles.square().mean(dims)) / (number - 1)


def detail(images):
    """`(B, C, H, W)` images without their 5x5 local mean."""
    return images - F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), 5, stride=1)


def flat(images):
    """The mask `(B, 1, H, W)` of pixels around which, in 9x9, `images` in `[-1, 1]` have hardly any detail."""
    energy = detail(images.detach()).square().mean(1, keepdim=True)
    return (F.avg_pool2d(F.pad(energy, (4, 4, 4, 4), mode="reflect"), 9, stride=1) < FLAT**2).to(images.dtype)
