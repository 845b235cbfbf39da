"""`omgsr pretrain`: train a part of the `mini` preset, write it in diffusers layout with its model card."""

from dataclasses import asdict
from pathlib import Path

import torch

from ..data.crops import CropSampler
from ..data.degraded_crops import describe_photos
from ..data.photos import find_photos
from ..losses.perceptual import lpips_squeeze
from ..priors.latents import encode_latents
from ..priors.loading import WEIGHTS, load_autoencoder, load_prior, save_model, save_prior
from ..training.checkpoint import keep_settings, load_state, read_log, weights_of
from ..training.model_card import autoencoder_card, estimator_card, prior_card
from ..utils.journal import alone
from .autoencoder import reconstruction_quality, train_autoencoder
from .estimator import train_estimator
from .prior import cache_latents, clean_error, prior_crops, sample, train_prior


def pretrain(
    part,
    paths,
    out,
    row,
    *,
    command,
    perceptual=None,
    evaluation=None,
    autoencoder=None,
    data="the user's own",
    device="cpu",
    seed=0,
):
    """Train `part`, a key of `presets.PRETRAINING`, on `paths` of photographs; resumable in `out`, which is held
    against a second run.

    `row` is its `presets.Pretraining`, `command` the command line for the card. Writes `<out>/mini-<part>/`: weights
    in half precision, scheduler and prompt embeddings of a prior, and the model card with figures. The card measures
    on the folder `evaluation` (on crops of the training photographs without it, and says so) and calls the training
    photographs what `data` says. A prior and the estimator are trained in the latent space of the folder
    `autoencoder`, the package's by default; a prior of another one keeps it in `vae/`, so that it is a base for
    `omgsr train --base`. The estimator is written in full precision; it is measured on a tenth of the training
    photographs that it leaves out.

    Raises `ValueError` for the estimator on another device than the CPU, and if `out` holds a run with another recipe,
    seed, autoencoder, perceptual loss or other photographs, `OSError` if another run writes to it.
    """
    if part == "estimator" and torch.device(device).type != "cpu":
        raise ValueError(f"The estimator is trained on a CPU: got device {device}. Take cpu.")
    out, model = Path(out), Path(out) / f"mini-{part}"
    with alone(out):
        distance = lpips_squeeze(perceptual) if perceptual else None
        held_out = CropSampler(find_photos(evaluation) if evaluation else paths, 128, seed=2).batch(0, 60)
        first = part == "autoencoder"  # it has a perceptual loss, the others its latents
        origins = {
            "autoencoder_weights": None if first else weights_of(autoencoder or WEIGHTS / "mini-autoencoder"),
            "perceptual_weights": weights_of(perceptual, "squeezenet") if first else None,
        }
        keep_settings(out, {"part": part, **asdict(row), "seed": seed, "data": describe_photos(paths), **origins})
        options = dict(steps=row.steps, batch_size=row.batch_size, learning_rate=row.learning_rate, seed=seed)
        facts = {name.replace("_", " "): value for name, value in options.items()}
        facts |= {
            "photographs": f"{len(paths)}, {data}",
            "measured on": "held-out photographs" if evaluation else "the training photographs",
        }
        if part == "autoencoder":
            crops = CropSampler(paths, row.size, seed=seed)
            vae = train_autoencoder(crops, out, perceptual=distance, device=device, **options)
            save_model(vae, model, torch.float16)
            vae = load_autoencoder(model)
            distance = None if distance is None else distance.cpu()
            quality = reconstruction_quality(vae, held_out, distance)
            facts |= {"crop": f"{row.size} px", "perceptual loss": "LPIPS-SqueezeNet" if distance else "none"}
            autoencoder_card(model, vae, held_out, quality, read_log(out / "log.jsonl"), facts, command=command)
            return
        vae = load_autoencoder(autoencoder or WEIGHTS / "mini-autoencoder")
        if part == "estimator":
            estimator = train_estimator(vae, paths, out, **options)
            save_model(estimator, model)
            pairs = load_state(out / "pairs.pt")["held_out"]
            latents, target = pairs["latents"].float(), pairs["log_difference"]
            facts["measured on"] = "held-out photographs"
            estimator_card(model, estimator, latents, target, read_log(out / "log.jsonl"), facts, command=command)
            return
        maps = cache_latents(vae, paths, out / "latents.pt")
        facts["crops seen"] = prior_crops(row.steps, row.batch_size)
        save_prior(train_prior(part, maps, out, device=device, **options), model, dtype=torch.float16)
        if autoencoder:
            save_model(vae, model / "vae", torch.float16)
        prior = load_prior(model, part)
        latents = encode_latents(vae, held_out)
        errors = clean_error(prior, latents, (25, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999))
        samples = sample(prior, (12, maps[0].shape[0], 32, 32), steps=20, seed=seed)
        loss, log = prior_loss(prior, latents), read_log(out / "log.jsonl")
        prior_card(model, vae, samples, latents, loss, errors, log, facts, command=command)


@torch.no_grad()
def prior_loss(prior, latents, *, draws=8, seed=0):
    """The training loss of a prior on latents `(B, C, h, w)`, the mean over `draws` timesteps and noises of each."""
    generator, losses = torch.Generator().manual_seed(seed), []
    for _ in range(draws):
        timesteps = prior.draw_timesteps(len(latents), generator)
        noise = torch.randn(latents.shape, generator=generator)
        output = prior(prior.schedule.add_noise(latents, noise, timesteps), timesteps)
        errors = (output - prior.target(latents, noise)).square().mean((1, 2, 3))
        losses.append((prior.loss_weights(timesteps) * errors).mean())
    return float(torch.stack(losses).mean())
