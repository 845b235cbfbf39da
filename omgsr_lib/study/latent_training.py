"""Training with the encoder frozen: its latents are computed once, and a step costs the denoiser alone."""

from functools import partial

import torch
from torch.nn import functional as F

from ..data.degradation import random_dial
from ..data.pairs import Pairs
from ..priors.latents import encode_latents
from ..schedules import pair_power
from ..training.checkpoint import cached
from ..training.loop import learning_rate_factor
from ..utils.device import to_device


ENCODED_AT_ONCE = 16


@torch.no_grad()
def crop_latents(folder, vae, data, resolution, *, dial, scale):
    """LQ and HQ latents `(data.crops, C, h, w)` of crops, half precision; those in `folder` are read instead.

    `dial`: degradations from mild to extreme instead of the published ones.
    """

    def compute():
        settings = partial(random_dial, seed=0) if dial else None
        pairs = Pairs(data.train, resolution, seed=0, scale=scale, synthetic=data.synthetic, settings=settings)
        latents = {"lq": [], "hq": []}
        for first in range(0, data.crops, ENCODED_AT_ONCE):
            batch = [pairs[index] for index in range(first, min(first + ENCODED_AT_ONCE, data.crops))]
            for side, parts in latents.items():
                pixels = torch.stack([pair[side] for pair in batch])
                parts.append(encode_latents(vae, to_device(pixels, vae.device)).half().cpu())
        return {side: torch.cat(parts) for side, parts in latents.items()}

    found = cached(folder, f"latents_{'dial' if dial else 'fixed'}_{resolution}", compute)
    return found["lq"], found["hq"]


def train_on_latents(model, recipe, lq, hq, *, seed, steps, precision, after_step):
    """Train the denoiser's adapters to predict HQ from LQ latents `(N, C, h, w)`; `after_step(step)` from 1 on.

    Loss: mean squared error of the clean latents. `seed` draws the order of the crops. With `recipe.adaptive` each
    crop enters at its own mid-timestep.
    """
    parameters, device = list(model.trainable_parameters().values()), next(model.parameters()).device
    options = dict(lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay)
    optimizer = torch.optim.AdamW(parameters, **options)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(recipe, step, steps))
    order = torch.randperm(len(lq), generator=torch.Generator().manual_seed(seed))
    for step in range(steps):
        places = torch.arange(step * recipe.batch_size, (step + 1) * recipe.batch_size) % len(order)
        inputs, targets = (to_device(latents[order[places]].float(), device) for latents in (lq, hq))
        timestep = model.timestep
        if recipe.adaptive:
            timestep = model.prior.schedule.nearest_timestep(1 / pair_power(inputs, targets)[1])
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            clean = model.predict_clean(model.inject(inputs, timestep), timestep)
        F.mse_loss(clean.float(), targets).backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        rate.step()
        after_step(step + 1)
