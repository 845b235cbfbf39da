"""A mid-timestep for each image: `(sigma_t / alpha_t)^2 = D`, with `D = E[(z_L - z_H)^2]` of that image alone.

Whoever has the clean image knows D (`own_timesteps`). Of a photograph it is estimated from its LQ latents, window by
window (`difference_map`), so that parts of a large photograph can differ. The paper names the timestep per image as
its open problem.
"""

import math
from itertools import product

import torch
from torch.nn import functional as F

from ..priors.latents import encode_latents
from ..schedules import pair_power
from ..tiling.arrays import Joined
from ..tiling.grid import tiled


WINDOW = 16  # latents: side of the crops that the estimator was trained on
STRIDE = 8


@torch.no_grad()
def own_timesteps(vae, lq, hq, schedule):
    """Each pair's own mid-timestep `(B,)`, the minimiser of the SNR rule for it alone.

    `lq`, `hq`: pixels `(B, 3, H, W)`; both are encoded by the untrained `vae`, means of its posterior.
    """
    _, difference = pair_power(encode_latents(vae, lq).float(), encode_latents(vae, hq).float())
    return schedule.nearest_timestep(1 / difference)


@torch.no_grad()
def difference_map(estimator, lq_latents):
    """Estimated D of each neighbourhood, `(B, 1, h, w)` float32, of the frozen encoder's latents `(B, C, h, w)`.

    The estimator sees windows of 16 latents, 8 apart; in between the map is bilinear in log D. Latents with no side
    above 16 are one window.
    """
    batch, _, *size = lq_latents.shape
    starts = [_starts(side) for side in size]
    windows = (lq_latents[..., y : y + WINDOW, x : x + WINDOW] for y, x in product(*starts))
    means = torch.stack([estimator(window.to(estimator.device))[0] for window in windows], dim=1)
    means = means.unflatten(1, [len(s) for s in starts])[:, None]
    return F.interpolate(means, size, mode="bilinear", align_corners=True).exp()


def _starts(side):
    count = max(0, math.ceil((side - WINDOW) / STRIDE)) + 1
    return [round(k * max(side - WINDOW, 0) / max(count - 1, 1)) for k in range(count)]


def shifted_timesteps(difference, schedule, strength=0.0):
    """Timesteps of `difference` (any shape) with `sigma_t / alpha_t` moved by `2^strength` from the square root of D.

    Negative values keep to the photograph, positive ones let the prior add more.
    """
    return schedule.nearest_timestep(1 / (difference.double() * torch.tensor(4.0).double() ** strength))


@torch.no_grad()
def predict_adaptive(model, lq_latents, difference, *, strength=0.0, tile=None, **options):
    """Clean latents `(B, C, h, w)` of LQ latents, each image (with `tile`: each tile) at its own timestep.

    Args:
        model: an `AdaptiveOMGSR`.
        lq_latents: of `model.encode`.
        difference: `(B, 1, h, w)`, of `difference_map`; the mean over an image or a tile decides.
        strength: see `shifted_timesteps`.
        tile, options: of `tiled`. The clean latents of the tiles are blended, since the formula that leads to
            them depends on the timestep.
    """

    def predict(parts):
        latents, difference = parts[:, :-1], parts[:, -1:]
        timesteps = shifted_timesteps(difference.mean((1, 2, 3)), model.prior.schedule, strength)
        return model.predict_clean(model.inject(latents, timesteps), timesteps)

    joined = Joined(lq_latents, difference)
    if tile is None:
        return predict(joined[...])
    multiple, rim = model.prior.latent_multiple, model.prior.rim
    return tiled(predict, joined, tile=tile, multiple=multiple, rim=rim, **options)
