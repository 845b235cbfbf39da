"""One optimiser step of OMGSR: the generator's losses, the discriminator's, their gradients, one update of both."""

from contextlib import contextmanager, nullcontext
from itertools import chain

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..adaptive.timesteps import own_timesteps
from ..losses.adversarial import discriminator_loss, generator_loss
from ..losses.augment import shifted_views
from ..losses.grid import grid_loss
from ..losses.perceptual import chunked_distance
from ..losses.refinement import refinement_loss
from ..losses.views import view_mean
from ..priors.latents import encode_latents
from ..utils.random import picture_generators
from .distributed import average_gradients


PIXEL_LOSSES = {"mse": F.mse_loss, "l1": F.l1_loss}
# Not cuDNN: its gradients of the FLUX blocks were NaN in bf16 on an H200 (torch 2.11), those of the others finite.
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def train_step(training, micro_batches, *, sharpen):
    """Generator, then discriminator, on each micro-batch `(lq, hq, indices)`; then one update of both.

    The discriminator sees the images made before the generator's update. `sharpen`: whether the perceptual and the
    adversarial loss take part. Returns the weighted losses by name, averaged over the micro-batches.
    """
    means, recipe = {}, training.recipe
    for lq, hq, indices in micro_batches:
        noise = picture_generators(training.options.seed, indices)
        losses, restored = generator_step(training, lq, hq, noise, sharpen=sharpen)
        if sharpen and training.networks.discriminator is not None:
            losses["discriminator"] = discriminator_step(training, restored, hq, noise)
        for name, loss in losses.items():
            means[name] = means.get(name, 0.0) + loss.detach() / recipe.accumulation
    update(training)
    return means


def generator_step(training, lq, hq, noise, *, sharpen=True):
    """Add the gradients of the generator's losses, whose sum is minimised, to those of the adapters.

    Args:
        training: `Training`: the model, its recipe and the loss networks.
        lq, hq: pixels `(B, 3, H, W)` in `[-1, 1]`.
        noise: generators, one per image (`utils.random`).
        sharpen: see `train_step`.

    Returns the weighted losses by name and the restored images, detached. The discriminator's heads are frozen
    meanwhile; `as_released` lets the gradients leak into them.
    """
    model, recipe, (perceptual, discriminator) = training.model, training.recipe, training.networks
    schedule = model.prior.schedule
    with training.autocast(), sdpa_kernel(KERNELS):
        timestep = own_timesteps(model.vae, lq, hq, schedule) if recipe.adaptive else model.timestep
        output = model(lq, timestep, generator=noise)
        restored, lq_latents = output.images.float(), output.lq_latents.float()
        with torch.no_grad():
            hq_latents = encode_latents(model.vae, hq, generator=noise).float()
            target = hq if training.teacher is None else _view_mean(training.teacher, lq, timestep, noise)
        losses = {"pixel": recipe.pixel * PIXEL_LOSSES[recipe.pixel_loss](restored, target)}
        if recipe.refinement:
            loss = refinement_loss(lq_latents, hq_latents, schedule, timestep, generator=noise)
            losses["refinement"] = recipe.refinement * loss
        if sharpen and perceptual is not None:
            views = shifted_views([restored, target], recipe.offset, noise) if recipe.offset else [restored, target]
            loss = chunked_distance(perceptual, *views, recipe.chunk, at_once=recipe.at_once)
            losses["perceptual"] = recipe.perceptual * loss
        if recipe.grid:
            losses["grid"] = recipe.grid * grid_loss(restored, target)
        if sharpen and discriminator is not None:
            with nullcontext() if training.options.as_released else _frozen(discriminator.heads):
                loss = generator_loss(discriminator, restored, noise, at_once=recipe.at_once)
            losses["adversarial"] = recipe.adversarial * loss
    with sdpa_kernel(KERNELS):  # attention may be computed again
        (sum(losses.values()) / recipe.accumulation).backward()
    return losses, restored.detach()


def discriminator_step(training, restored, hq, noise):
    """Add the gradients of the discriminator's loss to those of its heads; returns the weighted loss."""
    recipe, discriminator = training.recipe, training.networks.discriminator
    with training.autocast():
        loss = discriminator_loss(discriminator, hq, restored, noise, at_once=recipe.at_once)
        loss = recipe.adversarial * loss
    (loss / recipe.accumulation).backward()
    return loss


def update(training):
    """Average the gradients over the processes, clip them per network, and take one step of each optimiser."""
    optimizers = training.optimizers.values()
    networks = [[p for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers]
    # Without a gradient, as the discriminator before it takes part, a network has no step, in several processes too.
    taking_part = [parameters for parameters in networks if any(p.grad is not None for p in parameters)]
    average_gradients(training.accelerator, chain(*taking_part))
    for parameters in networks:
        torch.nn.utils.clip_grad_norm_(parameters, training.recipe.clip)
    for optimizer, schedule in zip(optimizers, training.schedules.values(), strict=True):
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()


def _view_mean(teacher, lq, timestep, noise):
    return view_mean(lambda pixels: teacher(pixels, timestep).images.float(), lq, teacher.multiple, noise)


@contextmanager
def _frozen(module):
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
