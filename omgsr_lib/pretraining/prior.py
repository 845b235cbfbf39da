"""Pre-train the small priors of the `mini` preset on cached latents."""

from pathlib import Path

import torch
from PIL import Image

from ..data.photos import open_photo, to_pixels
from ..priors import prior_class
from ..priors.latents import compression, encode_latents
from ..training.checkpoint import load_state, save_state
from ..utils.precision import faster_precision
from .loop import cosine_with_warmup, pretraining_autocast, run_steps


SIDES = ((0.75, 16), (1.0, 32))  # until which share of the steps windows have how many latents along a side
EMA_DECAY = 0.999


@torch.no_grad()
def cache_latents(vae, paths, file, *, short_sides=(256, 384)):
    """Latent maps `(C, h, w)` of each photograph and its mirror image at each size, in half precision.

    They are kept in `file`, written aside and renamed; one that exists is read instead.
    """
    file = Path(file)
    if not file.exists():
        factor, maps = compression(vae), []
        for path in paths:
            photo = open_photo(path)
            for side in short_sides:
                scale = side / min(photo.size)
                shape = [round(length * scale) // factor * factor for length in photo.size]
                pixels = to_pixels(photo.resize(shape, Image.LANCZOS))[None]
                maps += [encode_latents(vae, p)[0].half() for p in (pixels, pixels.flip(-1))]
        save_state(file, maps)
    return load_state(file)


def window_batch(step, steps, batch_size):
    """Side and number of the windows of a step: small ones first, then larger ones, fewer for the same cost.

    `batch_size` is that of the small ones; see `SIDES`.
    """
    side = next(side for until, side in SIDES if step < until * steps)
    return side, max(1, batch_size * SIDES[0][1] ** 2 // side**2)


def prior_crops(steps, batch_size):
    """How many windows a training of `steps` sees."""
    return sum(window_batch(step, steps, batch_size)[1] for step in range(steps))


def latent_windows(maps, step, batch_size, side, *, seed):
    """Random windows `(batch_size, C, side, side)` of latent maps, and the generator to go on drawing from.

    Both depend on `(seed, step)` alone.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    areas = torch.tensor([float(m.shape[1] * m.shape[2]) for m in maps])
    windows = []
    for index in torch.multinomial(areas, batch_size, replacement=True, generator=generator).tolist():
        latents = maps[index]
        top = int(torch.randint(latents.shape[1] - side + 1, (), generator=generator))
        left = int(torch.randint(latents.shape[2] - side + 1, (), generator=generator))
        windows.append(latents[:, top : top + side, left : left + side])
    return torch.stack(windows).float(), generator


def train_prior(family, maps, folder, *, steps, batch_size=16, learning_rate=6e-4, seed=0, every=100, device="cpu"):
    """Train the `family` prior on latent maps `(C, H, W)`; returns it with averaged weights. Resumable in `folder`.

    `batch_size` counts the small windows of the first three quarters of the steps (`window_batch`).
    """
    prior = prior_class(family).mini(maps[0].shape[0], seed).to(device).train()
    denoiser = prior.denoiser.to(memory_format=torch.channels_last)
    average = torch.optim.swa_utils.AveragedModel(
        denoiser, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    )
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=1e-2)
    schedule = cosine_with_warmup(optimizer, steps, warmup=100, flat=0.5)

    shape = (batch_size, maps[0].shape[0], SIDES[0][1], SIDES[0][1])
    half = faster_precision(prior, shape, training=True) == "bf16"

    def step_losses(step):
        side, count = window_batch(step, steps, batch_size)
        latents, generator = latent_windows(maps, step, count, side, seed=seed)
        timesteps = prior.draw_timesteps(count, generator)
        noise = torch.randn(latents.shape, generator=generator)
        noisy = prior.schedule.add_noise(latents, noise, timesteps)
        target = prior.target(latents, noise)
        weights = prior.loss_weights(timesteps).to(device)
        with pretraining_autocast(device, on_cpu=half):
            output = prior(noisy.to(device), timesteps.to(device))
        errors = (output.float() - target.to(device)).square().mean((1, 2, 3))
        return {"mse": (weights * errors).mean()}

    modules = {"denoiser": denoiser, "average": average}
    run_steps(
        folder, steps, step_losses, modules=modules, optimizer=optimizer, schedule=schedule, every=every,
        after_step=lambda step: average.update_parameters(denoiser),
    )  # fmt: skip
    denoiser.load_state_dict(average.module.state_dict())
    return prior.cpu().eval()


@torch.no_grad()
def sample(prior, shape, *, steps=20, seed=0):
    """Latents `(B, C, H, W)` drawn from the prior in `steps` steps of its sampler."""
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    sampler, indices = prior.sampler(steps)
    for index, timestep in zip(indices, sampler.timesteps, strict=True):
        latents = sampler.step(prior(latents, int(index)), timestep, latents).prev_sample
    return latents


@torch.no_grad()
def clean_error(prior, latents, timesteps, *, seed=0):
    """Mean squared error of the one-step prediction from noisy HQ latents, by timestep; 1 is predicting the mean."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    errors = {}
    for timestep in timesteps:
        noisy = prior.schedule.add_noise(latents, noise, timestep)
        clean = prior.schedule.predict_clean(noisy, prior(noisy, timestep), timestep)
        errors[int(timestep)] = float((clean - latents).square().mean() / latents.var())
    return errors
