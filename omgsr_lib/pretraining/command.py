"""`omgsr pretrain`: train a part of the `mini` preset, write it in diffusers layout with its model card."""

from pathlib import Path

import torch

from ..cards import autoencoder_card, estimator_card, prior_card
from ..checkpoint import load_state, read_log
from ..data.crops import CropSampler
from ..data.photos import find_photos
from ..journal import alone
from ..losses.perceptual import lpips_squeeze
from ..priors.latents import encode_latents
from ..priors.loading import WEIGHTS, load_autoencoder, load_prior, save_model, save_prior
from .autoencoder import reconstruction_quality, train_autoencoder
from .estimator import train_estimator
from .prior import cache_latents, clean_error, sample, train_prior


def pretrain(
    part,
    paths,
    out,
    *,
    steps,
    batch_size,
    learning_rate,
    size=96,
    perceptual=None,
    evaluation=None,
    data="the user's own",
    seed=0,
):
    """Train `part` ("autoencoder", "ddpm", "flow" or "estimator") on `paths` of photographs; resumable in `out`,
    which is held against a second run.

    Writes `<out>/mini-<part>/`: weights in half precision, scheduler and prompt embeddings of a prior, and the model
    card with figures. The card measures on the folder `evaluation` (on crops of the training photographs without it,
    and says so) and calls the training photographs what `data` says. A prior is trained in the latent space of the
    package's autoencoder, and so is the estimator, which is written in full precision; it is measured on a tenth of
    the training photographs that it leaves out.
    """
    out, model = Path(out), Path(out) / f"mini-{part}"
    with alone(out):
        distance = lpips_squeeze(perceptual) if perceptual else None
        held_out = CropSampler(find_photos(evaluation) if evaluation else paths, 128, seed=2).batch(0, 60)
        options = dict(steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
        facts = {name.replace("_", " "): value for name, value in options.items()}
        facts |= {
            "photographs": f"{len(paths)}, {data}",
            "measured on": "other photographs" if evaluation else "the same",
        }
        if part == "autoencoder":
            vae = train_autoencoder(CropSampler(paths, size, seed=seed), out, perceptual=distance, **options)
            save_model(vae, model, torch.float16)
            vae = load_autoencoder(model)
            quality = reconstruction_quality(vae, held_out, distance)
            facts |= {"crop": f"{size} px", "perceptual loss": "LPIPS-SqueezeNet" if distance else "none"}
            autoencoder_card(model, vae, held_out, quality, read_log(out / "log.jsonl"), facts)
            return
        vae = load_autoencoder(WEIGHTS / "mini-autoencoder")
        if part == "estimator":
            estimator = train_estimator(vae, paths, out, **options)
            save_model(estimator, model)
            pairs = load_state(out / "pairs.pt")["held_out"]
            latents, target = pairs["latents"].float(), pairs["log_difference"]
            facts["measured on"] = "other photographs"
            estimator_card(model, estimator, latents, target, read_log(out / "log.jsonl"), facts)
            return
        maps = cache_latents(vae, paths, out / "latents.pt")
        save_prior(train_prior(part, maps, out, **options), model, dtype=torch.float16)
        prior = load_prior(model, part)
        latents = encode_latents(vae, held_out)
        errors = clean_error(prior, latents, (25, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999))
        samples = sample(prior, (12, maps[0].shape[0], 16, 16), steps=20, seed=seed)
        prior_card(model, vae, samples, latents, errors, read_log(out / "log.jsonl"), facts)
