"""Fine-tune OMGSR: one loop for both variants, on Accelerate, that resumes exactly."""

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from .checkpoint import append_log, load_state, read_log, save_state, trim_log
from .losses.adversarial import Discriminator, discriminator_loss, generator_loss
from .losses.features import EncoderFeatures
from .losses.grid import grid_loss
from .losses.perceptual import FeatureDistance, chunked_distance
from .losses.refinement import refinement_loss
from .priors.latents import encode_latents


PRECISIONS = ("no", "bf16")


@dataclass
class TrainResult:
    """What `train` leaves: the folder with `state.pt` and `log.jsonl`, the log's lines, the seconds of this call."""

    folder: Path
    log: list
    seconds: float

    def discard(self):
        """Remove checkpoint and log: a later call with this folder starts from the beginning."""
        shutil.rmtree(self.folder)


def train(
    model, pairs, recipe, folder, *, seed=0, steps=None, perceptual=None, precision="no", every=50, progress=True
):
    """Train the adapters of `model` in place and return a `TrainResult`.

    Args:
        model: `OMGSR` with adapters (`add_adapters`).
        pairs: dataset whose item `i` is `{"lq", "hq"}` `(3, H, W)` in `[-1, 1]` and depends on `i` alone.
        recipe: `presets.Recipe`: loss weights, learning rate, batch.
        folder: checkpoint and log; a run that finds its checkpoint goes on from it and equals an uninterrupted one.
        seed: of the noise, the augmentation and the discriminator.
        steps: optimiser steps; the recipe's by default.
        perceptual: distance `(B, 3, h, w) x 2 -> (B, 1, 1, 1)`. Recipes with `perceptual_loss="autoencoder"` have one
            by default, on the features of the frozen autoencoder, which the discriminator always uses.
        precision: "no", or "bf16" for forward passes under autocast; weights and losses are float32 in both.
        every: steps between checkpoints.

    Order of a step: generator, then discriminator, which sees the picture made before the generator's update. The
    discriminator's heads are frozen in the generator's pass, so that its loss does not leak into their gradients (the
    release lets it). Raises `ValueError` if the folder holds a run with other settings, or an argument has no meaning.
    """
    from accelerate import Accelerator

    if perceptual is None and recipe.perceptual and recipe.perceptual_loss != "autoencoder":
        raise ValueError(
            f"A recipe with the perceptual loss '{recipe.perceptual_loss}' needs the distance itself: got "
            "perceptual=None. Give one, or choose a recipe with 'autoencoder'."
        )
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}: got {precision!r}.")
    started = time.perf_counter()
    steps = recipe.steps if steps is None else steps
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    if accelerator.num_processes > 1:
        raise ValueError(f"Training runs in one process so far: got {accelerator.num_processes}. Launch a single one.")

    features = EncoderFeatures(model.vae.encoder)
    perceptual = FeatureDistance(features) if perceptual is None else perceptual
    perceptual.to(accelerator.device)
    torch.manual_seed(seed)
    critic = Discriminator(features, features.widths(), chunk=recipe.critic_chunk)
    generator, critic = accelerator.prepare(model, critic)
    heads = accelerator.unwrap_model(critic).heads
    parameters = list(model.trainable_parameters().values())
    options = dict(lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay)
    optimizers = {
        "generator": torch.optim.AdamW(parameters, **options),
        "discriminator": torch.optim.AdamW(heads.parameters(), **options),
    }
    schedules = {
        f"{name}_schedule": torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(recipe, step, steps)
        )
        for name, optimizer in optimizers.items()
    }
    stateful = {"heads": heads, **optimizers, **schedules}
    settings = {**describe(recipe), "seed": seed, "steps": steps, "timestep": model.timestep}
    settings |= {"precision": precision, "perceptual": type(perceptual).__name__}
    step = _resume(folder, settings, model, stateful)

    def autocast():
        return torch.autocast(accelerator.device.type, torch.bfloat16, enabled=precision == "bf16")

    while step < steps:
        began = time.perf_counter()
        noise = torch.Generator().manual_seed(seed * 1_000_003 + step)
        sums = {}
        for micro in range(recipe.accumulation):
            lq, hq = _batch(pairs, (step * recipe.accumulation + micro) * recipe.batch_size, recipe.batch_size)
            lq, hq = lq.to(accelerator.device), hq.to(accelerator.device)
            with autocast():
                predicted, losses = _generator_losses(
                    generator, critic, perceptual, lq, hq, recipe=recipe, model=model, heads=heads, noise=noise
                )
            accelerator.backward(sum(losses.values()) / recipe.accumulation)
            if recipe.adversarial:
                with autocast():
                    logits = critic(hq, noise), critic(predicted.detach(), noise)
                    losses["discriminator"] = recipe.adversarial * discriminator_loss(*map(_float, logits))
                accelerator.backward(losses["discriminator"] / recipe.accumulation)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + loss.detach() / recipe.accumulation
        for group in (parameters, list(heads.parameters())):
            accelerator.clip_grad_norm_(group, recipe.clip)
        for optimizer, schedule in zip(optimizers.values(), schedules.values(), strict=True):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
        step += 1
        line = {"step": step, **{name: float(value) for name, value in sums.items()}}
        append_log(folder / "log.jsonl", {**line, "seconds": round(time.perf_counter() - began, 4)})
        if step % every == 0 or step == steps:
            _checkpoint(folder, step, settings, model, stateful)
            if progress:
                print(" ".join(f"{k} {v:.4g}" for k, v in line.items()), flush=True)
    return TrainResult(folder, read_log(folder / "log.jsonl"), time.perf_counter() - started)


def learning_rate_factor(recipe, step, steps):
    """Linear warm-up over `recipe.warmup` steps, then 1; linear decay to zero over the last share `recipe.decay`."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    left = (steps - step) / steps
    return min(1.0, left / recipe.decay) if recipe.decay else 1.0


def describe(recipe):
    """The recipe as a flat dictionary for logs and manifests."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(recipe).items()}


def _generator_losses(generator, critic, perceptual, lq, hq, *, recipe, model, heads, noise):
    output = generator(lq, generator=noise)
    predicted, lq_latents = output.images.float(), output.lq_latents.float()
    with torch.no_grad():
        hq_latents = encode_latents(model.vae, hq, generator=noise).float()
    pixel = {"mse": F.mse_loss, "l1": F.l1_loss}[recipe.pixel_loss]
    losses = {"pixel": recipe.pixel * pixel(predicted, hq)}
    if recipe.refinement:
        loss = refinement_loss(lq_latents, hq_latents, model.prior.schedule, model.timestep, generator=noise)
        losses["refinement"] = recipe.refinement * loss
    if recipe.perceptual:
        losses["perceptual"] = recipe.perceptual * chunked_distance(perceptual, predicted, hq, recipe.chunk).float()
    if recipe.grid:
        losses["grid"] = recipe.grid * grid_loss(predicted, hq)
    if recipe.adversarial:
        heads.requires_grad_(False)
        losses["adversarial"] = recipe.adversarial * generator_loss(_float(critic(predicted, noise)))
        heads.requires_grad_(True)
    return predicted, losses


def _float(logits):
    return [level.float() for level in logits]


def _batch(pairs, first, size):
    items = [pairs[index] for index in range(first, first + size)]
    return (torch.stack([item[name] for item in items]) for name in ("lq", "hq"))


def _checkpoint(folder, step, settings, model, stateful):
    adapters = {name: p.detach() for name, p in model.trainable_parameters().items()}
    parts = {name: part.state_dict() for name, part in stateful.items()}
    save_state(folder / "state.pt", {"step": step, "settings": settings, "adapters": adapters, **parts})


def _resume(folder, settings, model, stateful):
    state = load_state(folder / "state.pt")
    step = 0 if state is None else state["step"]
    if state is not None:
        changed = [name for name in settings if settings[name] != state["settings"].get(name)]
        if changed:
            before = state["settings"].get(changed[0])
            raise ValueError(
                f"A run goes on with the settings it began with: '{folder}' has {changed[0]} = "
                f"{before!r}, got {settings[changed[0]]!r}. Choose another folder or delete it."
            )
        with torch.no_grad():
            for name, parameter in model.trainable_parameters().items():
                parameter.copy_(state["adapters"][name])
        for name, part in stateful.items():
            part.load_state_dict(state[name])
    trim_log(folder / "log.jsonl", step)
    return step
