"""A mid-timestep for each picture: `(sigma_t / alpha_t)^2 = D`, with `D = E[(z_L - z_H)^2]` of that picture alone.

Whoever has the clean picture knows D (`own_timesteps`); of a photograph it must be estimated from its LQ latents
(`Estimator`). The paper names the timestep per picture as its open problem.
"""

import torch

from .priors.latents import encode_latents
from .schedules import pair_power


@torch.no_grad()
def own_timesteps(vae, lq, hq, schedule):
    """Each pair's own mid-timestep `(B,)`, the minimiser of the SNR rule for it alone.

    `lq`, `hq`: pixels `(B, 3, H, W)`; both are encoded by the untrained `vae`, means of its posterior.
    """
    _, difference = pair_power(encode_latents(vae, lq).float(), encode_latents(vae, hq).float())
    return schedule.nearest_timestep(1 / difference)
