"""A penalty on patterns that repeat with the tokens of a latent model: the grid that perceptual losses leave."""

from torch.nn import functional as F


def grid_loss(predicted, target, period=16):
    """Mean square of the error's fine structure averaged over all tiles of `period` pixels.

    The error `predicted - target` `(B, 3, H, W)` without its 5x5 local mean is folded at `period` (8-pixel latents
    packed 2x2: 16). Errors of texture have no fixed place in a tile and average out over tiles; a pattern locked to
    the tokens remains. Sides are cut to multiples of `period`; gradients flow to both arguments.
    """
    error = predicted - target
    fine = error - F.avg_pool2d(F.pad(error, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
    rows, columns = fine.shape[-2] // period, fine.shape[-1] // period
    tiles = (
        fine[..., : rows * period, : columns * period].unflatten(-1, (columns, period)).unflatten(-3, (rows, period))
    )
    return tiles.mean((2, 4)).square().mean()
