"""Fine-tune OMGSR: one loop for both variants and any number of processes, that resumes exactly."""

import contextlib
import hashlib
import importlib.util
import math
import shutil
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..adaptive.timesteps import own_timesteps
from ..losses.adversarial import SOFT_LABEL
from ..losses.augment import shifted_views
from ..losses.build import build_losses
from ..losses.grid import grid_loss
from ..losses.perceptual import chunked_distance
from ..losses.refinement import refinement_loss
from ..presets import Recipe
from ..priors.latents import encode_latents
from ..restore.pairs import restored_pairs
from ..utils.journal import alone
from ..utils.random import picture_generators
from .batches import StepBatches
from .checkpoint import append_log, load_state, read_log, save_state, trim_log
from .distributed import average_gradients, shard_frozen


PRECISIONS = ("no", "bf16")
OPTIMIZERS = ("adamw", "adamw8bit")
# Not cuDNN: its gradients of the FLUX blocks were NaN in bf16 on an H200 (torch 2.11), those of the others finite.
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


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
    model,
    pairs,
    recipe,
    folder,
    *,
    seed=0,
    steps=None,
    weights=None,
    pretrained=True,
    precision="no",
    optimizer="adamw",
    as_released=False,
    every=None,
    export_every=None,
    previews=(),
    tracker=None,
    workers=0,
    progress=True,
    held=False,
):
    """Train the adapters of `model` in place and return a `TrainResult`.

    Args:
        model: `OMGSR` with adapters (`add_adapters`).
        pairs: dataset whose item `i` is `{"lq", "hq"}` `(3, H, W)` in `[-1, 1]` and depends on `i` alone.
        recipe: `presets.Recipe`: losses and their weights, learning rate, batch of one process.
        folder: checkpoint and log; a run that finds its checkpoint goes on from it, and its log and adapters are those
            of an uninterrupted run to the last bit.
        seed: of the noise, the augmentation and the discriminator. What is drawn for a picture depends on the seed and
            the picture's number in the run alone, so two processes equal one with the double batch.
        steps: optimiser steps; the recipe's by default.
        weights: folder of the loss networks' weights, see `losses.build.build_losses`; `pretrained=False` leaves
            them random, for benchmarks.
        precision: "no", or "bf16" for forward passes under autocast; adapters, their gradients and the losses are
            float32 in both, frozen weights keep the precision they were loaded in.
        optimizer: "adamw", or "adamw8bit" of bitsandbytes.
        as_released: the defects of the authors' code: the generator's loss leaks into the discriminator's gradients,
            and LPIPS is given `[0, 1]`.
        every: steps between checkpoints, the recipe's by default; `export_every`: between adapters in the official
            layout, `weight-<step>/`.
        previews: `EvaluationPair`s restored at every checkpoint, `previews/step-<step>.png`.
        tracker: "tensorboard" logs through Accelerate.
        workers: processes that load data.
        progress: show a progress bar in a terminal and a line at every checkpoint.
        held: the caller holds `folder` (`utils.journal.alone`); else it is held here, against a second run.

    Order of a step: generator, then discriminator, which sees the picture made before the generator's update. The
    discriminator's heads are frozen in the generator's pass. Runs as it is under `accelerate launch`: gradients are
    averaged over the processes, and where Accelerate is configured for FSDP the denoiser's frozen weights are shared
    out. Raises `ValueError` if the folder holds a run with other settings or photographs, or for a wrong argument,
    `OSError` if another run trains in it, `FloatingPointError` if a loss is not finite (the last checkpoint stays).
    """
    from accelerate import Accelerator, DistributedType

    _check("precision", precision, PRECISIONS)
    _check("optimizer", optimizer, OPTIMIZERS)
    if tracker == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
        raise ImportError("The tracker tensorboard needs its package: pip install tensorboard.")
    started = time.perf_counter()
    steps = recipe.steps if steps is None else steps
    every = recipe.save_every if every is None else every
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), log_with=tracker, project_dir=str(folder))
    device, main = accelerator.device, accelerator.is_main_process

    torch.manual_seed(seed)  # of the discriminator's heads
    networks = build_losses(recipe, model.vae, weights=weights, pretrained=pretrained, as_released=as_released)
    perceptual, critic = (None if network is None else network.to(device) for network in networks)
    heads = torch.nn.ModuleList() if critic is None else critic.heads
    if recipe.checkpointing:
        model.prior.denoiser.enable_gradient_checkpointing()
    if accelerator.distributed_type == DistributedType.FSDP:
        shard_frozen(model.prior.denoiser)
    model.to(device)

    groups = {"generator": list(model.trainable_parameters().values()), "discriminator": list(heads.parameters())}
    optimizers = {name: _optimizer(optimizer, group, recipe) for name, group in groups.items() if group}
    schedules = {
        name: torch.optim.lr_scheduler.LambdaLR(one, lambda step: learning_rate_factor(recipe, step, steps))
        for name, one in optimizers.items()
    }
    stateful = {"heads": heads, **optimizers, **{f"{name}_schedule": one for name, one in schedules.items()}}
    settings = {**describe(recipe), "seed": seed, "steps": steps, "timestep": model.timestep, "precision": precision}
    settings |= {"optimizer": optimizer, "as_released": as_released, "processes": accelerator.num_processes}
    settings["data"] = _describe_data(pairs)
    folder = Path(folder)
    with alone(folder) if main and not held else contextlib.nullcontext():
        step = _resume(folder, settings, model, stateful, device, trim=main)
        accelerator.wait_for_everyone()
        accelerator.init_trackers("omgsr")

        loader = StepBatches(pairs, recipe, accelerator, first_step=step, steps=steps, workers=workers)
        bar = _bar(steps, step, loader.images_per_step, shown=progress and main)
        for batches in loader:
            sums, sharpen = {}, step >= recipe.sharpen_from * steps
            for lq, hq, indices in batches:
                noise = picture_generators(seed, indices)
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"), sdpa_kernel(KERNELS):
                    losses, predicted = _generator_losses(
                        model, *((perceptual, critic) if sharpen else (None, None)), lq, hq,
                        recipe=recipe, noise=noise, frozen_heads=not as_released,
                    )  # fmt: skip
                (sum(losses.values()) / recipe.accumulation).backward()
                if critic is not None and sharpen:
                    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                        pictures = (hq, SOFT_LABEL), (predicted.detach(), 0.0)
                        loss = sum(critic.loss(p, noise, label, at_once=recipe.at_once) for p, label in pictures)
                        losses["discriminator"] = recipe.adversarial * loss
                    (losses["discriminator"] / recipe.accumulation).backward()
                for name, loss in losses.items():
                    sums[name] = sums.get(name, 0.0) + loss.detach() / recipe.accumulation
            average_gradients(accelerator, (p for group in groups.values() for p in group))
            for group in groups.values():
                torch.nn.utils.clip_grad_norm_(group, recipe.clip)
            for one, schedule in zip(optimizers.values(), schedules.values(), strict=True):
                one.step()
                one.zero_grad(set_to_none=True)
                schedule.step()
            step += 1
            line = _line(step, accelerator, sums)
            if main:
                append_log(folder / "log.jsonl", line)
            accelerator.log({name: value for name, value in line.items() if name != "step"}, step=step)
            bar.update(loader.images_per_step)
            if step % every == 0 or step == steps:
                if main:
                    _checkpoint(folder, step, settings, model, stateful)
                    bar.write(" ".join(f"{name} {value:.4g}" for name, value in line.items()))
                _preview(folder / "previews" / f"step-{step:06d}.png", model, previews, write=main)
                accelerator.wait_for_everyone()
            if main and export_every and step % export_every == 0:
                model.save_adapter(folder / f"weight-{step}")
        bar.close()
        accelerator.end_training()
        return TrainResult(folder, read_log(folder / "log.jsonl"), time.perf_counter() - started)


def watched_recipe(folder):
    """The `Recipe` of the run in `folder`, with the timestep it trains at.

    Raises `FileNotFoundError` if the folder has no checkpoint.
    """
    settings = _watched(folder)["settings"]
    values = {field.name: settings[field.name] for field in fields(Recipe)}
    return Recipe(**values | {"betas": tuple(values["betas"])})


def watch(model, folder):
    """Give `model` the adapters of the last checkpoint of a run in `folder`, finished or not; returns the run's log.

    `model` is on the base of `watched_recipe` and has adapters of its ranks. Raises as `watched_recipe`.
    """
    _copy_adapters(model, _watched(folder))
    return read_log(Path(folder) / "log.jsonl")


def learning_rate_factor(recipe, step, steps):
    """Linear warm-up over `recipe.warmup` steps, then 1; linear decay to zero over the last share `recipe.decay`."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    left = (steps - step) / steps
    return min(1.0, left / recipe.decay) if recipe.decay else 1.0


def describe(recipe):
    """The recipe as a flat dictionary for logs and manifests."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(recipe).items()}


def _describe_data(pairs):
    """How many photographs a dataset has, and a hash of their names and sizes; None if it names no files."""
    paths = getattr(pairs, "paths", None)
    if paths is None:
        return None
    about = [f"{Path(path).name} {Path(path).stat().st_size}" for path in paths]
    about += [str(getattr(pairs, name, "")) for name in ("synthetic", "first_portrait")]
    return f"{len(paths)} photographs, {hashlib.sha256(chr(10).join(about).encode()).hexdigest()[:12]}"


def _generator_losses(model, perceptual, critic, lq, hq, *, recipe, noise, frozen_heads):
    timestep = own_timesteps(model.vae, lq, hq, model.prior.schedule) if recipe.adaptive else model.timestep
    output = model(lq, timestep, generator=noise)
    predicted, lq_latents = output.images.float(), output.lq_latents.float()
    with torch.no_grad():
        hq_latents = encode_latents(model.vae, hq, generator=noise).float()
    pixel = {"mse": F.mse_loss, "l1": F.l1_loss}[recipe.pixel_loss]
    losses = {"pixel": recipe.pixel * pixel(predicted, hq)}
    if recipe.refinement:
        loss = refinement_loss(lq_latents, hq_latents, model.prior.schedule, timestep, generator=noise)
        losses["refinement"] = recipe.refinement * loss
    if perceptual is not None:
        views = shifted_views([predicted, hq], recipe.offset, noise) if recipe.offset else [predicted, hq]
        loss = chunked_distance(perceptual, *views, recipe.chunk, at_once=recipe.at_once)
        losses["perceptual"] = recipe.perceptual * loss
    if recipe.grid:
        losses["grid"] = recipe.grid * grid_loss(predicted, hq)
    if critic is not None:
        with _frozen(critic.heads) if frozen_heads else contextlib.nullcontext():
            loss = critic.loss(predicted, noise, SOFT_LABEL, at_once=recipe.at_once)
            losses["adversarial"] = recipe.adversarial * loss
    return losses, predicted


@contextlib.contextmanager
def _frozen(module):
    module.requires_grad_(False)
    yield
    module.requires_grad_(True)


def _optimizer(name, parameters, recipe):
    options = dict(lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(parameters, **options)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as err:
        raise ImportError("The optimizer adamw8bit needs bitsandbytes: pip install bitsandbytes.") from err
    return AdamW8bit(parameters, **options)


def _line(step, accelerator, sums):
    """The log's line of a step: losses averaged over micro-batches and processes; the only wait for the device."""
    values = accelerator.reduce(torch.stack(list(sums.values())), reduction="mean").tolist()
    if not all(map(math.isfinite, values)):
        shown = ", ".join(f"{name} {value:g}" for name, value in zip(sums, values, strict=True))
        raise FloatingPointError(f"Losses must stay finite: step {step} has {shown}. Lower the learning rate.")
    return {"step": step, **dict(zip(sums, values, strict=True))}


def _preview(file, model, pairs, *, write):
    if not pairs:
        return
    from ..data.photos import to_image
    from ..report.plots import compare_crops, save_figure

    restored = restored_pairs(model, pairs)  # in every process: sharded weights need all of them
    if write:
        rows = [[to_image(p) for p in (pair.lq, mine, pair.hq)] for pair, mine in zip(pairs, restored, strict=True)]
        save_figure(compare_crops(rows, ["LQ, enlarged", "restored", "photograph"]), file)


def _bar(steps, done, images_per_step, *, shown):
    from tqdm.auto import tqdm

    total, initial = steps * images_per_step, done * images_per_step
    return tqdm(total=total, initial=initial, unit="img", desc="train", disable=None if shown else True)


def _checkpoint(folder, step, settings, model, stateful):
    adapters = {name: p.detach() for name, p in model.trainable_parameters().items()}
    parts = {name: part.state_dict() for name, part in stateful.items()}
    save_state(folder / "state.pt", {"step": step, "settings": settings, "adapters": adapters, **parts})


def _resume(folder, settings, model, stateful, device, *, trim):
    state = load_state(folder / "state.pt", device)
    step = 0 if state is None else state["step"]
    if state is not None:
        _check_state(folder, state)
        changed = [name for name in settings if settings[name] != state["settings"].get(name)]
        if changed:
            before = state["settings"].get(changed[0])
            raise ValueError(
                f"A run goes on with the settings it began with: '{folder}' has {changed[0]} = "
                f"{before!r}, got {settings[changed[0]]!r}. Choose another folder or delete it."
            )
        _copy_adapters(model, state)
        for name, part in stateful.items():
            part.load_state_dict(state[name])
    if trim:
        trim_log(folder / "log.jsonl", step)
    return step


def _watched(folder):
    state = load_state(Path(folder) / "state.pt")
    if state is None:
        raise FileNotFoundError(f"A training to watch has a checkpoint: '{folder}' has no state.pt yet.")
    _check_state(folder, state)
    return state


def _check_state(folder, state):
    if not isinstance(state, dict) or not {"step", "settings", "adapters"} <= set(state):
        raise ValueError(
            f"A training's state.pt holds step, settings and adapters: that in '{folder}' does not. Delete it."
        )


@torch.no_grad()
def _copy_adapters(model, state):
    for name, parameter in model.trainable_parameters().items():
        parameter.copy_(state["adapters"][name])


def _check(name, value, known):
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}: got {value!r}.")
