"""Fine-tune OMGSR: one loop for both variants and any number of processes, which resumes exactly."""

import importlib.util
import math
import shutil
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from ..losses.build import LossNetworks, build_losses
from ..presets import Recipe
from ..restore.pairs import restored_pairs
from ..restore.prepare import is_quantised
from ..utils.copying import copied_with
from ..utils.recompute import recompute_activations
from .batches import StepBatches
from .checkpoint import Checkpoint, Tensors, append_log, read_checkpoint, read_log
from .distributed import held, shard_frozen
from .step import train_step


PRECISIONS = ("no", "bf16")
OPTIMIZERS = ("adamw", "adamw8bit")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of `train`, beside the recipe."""

    seed: int = 0  # of the noise, the augmentation and the discriminator's heads
    steps: int | None = None  # optimiser steps; None takes the recipe's
    weights: str | None = None  # folder of the loss networks' weights, see `losses.build.build_losses`
    pretrained: bool = True  # False leaves the loss networks random, for benchmarks
    precision: str = "no"  # "bf16": forward passes under autocast; adapters, gradients and losses stay float32
    optimizer: str = "adamw"  # or "adamw8bit" of bitsandbytes
    as_released: bool = False  # the authors' defects: G's loss leaks into D's gradients, LPIPS is given [0, 1]
    every: int | None = None  # steps between checkpoints; None takes the recipe's
    export_every: int | None = None  # steps between adapters in the official layout, `weight-<step>/`; None: none
    previews: tuple = ()  # `EvaluationPair`s restored at every checkpoint, `previews/step-<step>.png`
    tracker: str | None = None  # "tensorboard" logs through Accelerate
    workers: int = 0  # processes that load data
    progress: bool = True  # a progress bar in a terminal and a line at every checkpoint

    def __post_init__(self):
        for name, value, known in (
            ("precision", self.precision, PRECISIONS),
            ("optimizer", self.optimizer, OPTIMIZERS),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}: got {value!r}.")
        if self.tracker == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
            raise ImportError("The tracker tensorboard needs its package: pip install tensorboard.")


@dataclass
class Training:
    """A training that is set up: what its steps read and change."""

    model: torch.nn.Module  # `OMGSR` with adapters, on the device
    pairs: torch.utils.data.Dataset
    recipe: Recipe
    options: TrainOptions  # steps and every filled in
    accelerator: object  # of Accelerate: device and processes
    networks: LossNetworks  # perceptual, discriminator; each may be None
    teacher: torch.nn.Module | None  # the model as it starts, where its mean over views is the target
    optimizers: dict  # "generator", "discriminator"
    schedules: dict  # of their learning rates
    checkpoint: Checkpoint

    def autocast(self):
        enabled = self.options.precision == "bf16"
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=enabled)


@dataclass
class TrainResult:
    """What `train` leaves: the folder with `state.pt` and `log.jsonl`, the log's lines, the seconds of this call."""

    folder: Path
    log: list
    seconds: float

    def discard(self):
        """Remove the folder with all that it holds: a later call with it starts from the beginning."""
        shutil.rmtree(self.folder)


def train(model, pairs, recipe, folder, **options):
    """Train the adapters of `model` in place and return a `TrainResult`.

    Args:
        model: `OMGSR` with adapters (`add_adapters`).
        pairs: dataset whose item `i` is `{"lq", "hq"}` `(3, H, W)` in `[-1, 1]` and depends on `i` alone; its
            `describe()` returns a string that a resumed run must share. On a GPU `DegradedCrops` hand out HQ crops,
            which are degraded there in batches.
        recipe: `presets.Recipe`: losses and their weights, learning rate, batch of one process.
        folder: of checkpoint and log, held against a second run. A run that finds its checkpoint resumes from it; its
            log and adapters are those of an uninterrupted run to the last bit.
        options: keywords, the fields of `TrainOptions`.

    What is drawn for an image depends on the seed and the image's number in the run alone, so two processes equal one
    with the double batch. The views of `recipe.offset` and of the target "mean" are an exception: the first image of a
    batch draws those of all.

    Runs as it is under `accelerate launch`: gradients are averaged over the processes, and where Accelerate is
    configured for FSDP the denoiser's frozen weights are sharded. Frozen weights keep the precision they were loaded
    in. Raises `ValueError` if the folder holds a run with other settings or photographs, or for a wrong option,
    `OSError` if another run trains in it, `FloatingPointError` if a loss is not finite (the last checkpoint stays).
    """
    training = set_up(model, pairs, recipe, folder, TrainOptions(**options))
    with held(folder):
        result = run(training)
    training.accelerator.end_training()
    return result


def set_up(model, pairs, recipe, folder, options, *, origins=None):
    """The `Training` of `train`'s arguments; `options` are `TrainOptions`. Moves the model to the device.

    `origins`: further settings that a resumed run must share, `checkpoint.ORIGINS`.
    """
    from accelerate import Accelerator, DistributedType

    steps = recipe.steps if options.steps is None else options.steps
    options = replace(options, steps=steps, every=recipe.save_every if options.every is None else options.every)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), log_with=options.tracker, project_dir=str(folder))
    torch.manual_seed(options.seed)  # of the discriminator's heads
    networks = build_losses(
        recipe, model.vae, weights=options.weights, pretrained=options.pretrained, as_released=options.as_released
    )
    networks = LossNetworks(*(None if network is None else network.to(accelerator.device) for network in networks))
    heads = torch.nn.ModuleList() if networks.discriminator is None else networks.discriminator.heads
    teacher = teacher_of(model).to(accelerator.device) if recipe.target == "mean" else None
    if recipe.checkpointing:
        for part in (model.prior.denoiser, model.lq_vae, model.vae):
            recompute_activations(part)
    if accelerator.distributed_type == DistributedType.FSDP:
        if is_quantised(model.prior.denoiser):
            raise ValueError("Quantised weights are not sharded (FSDP): each process holds all. Launch with ddp.yaml.")
        shard_frozen(model.prior.denoiser)
    model.to(accelerator.device)

    adapters = model.trainable_parameters()
    trained = {"generator": list(adapters.values()), "discriminator": list(heads.parameters())}
    optimizers = {name: _optimizer(options.optimizer, group, recipe) for name, group in trained.items() if group}
    schedules = {
        name: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(recipe, step, steps))
        for name, optimizer in optimizers.items()
    }
    parts = {"adapters": Tensors(adapters), "heads": heads, **optimizers}
    parts |= {f"{name}_schedule": schedule for name, schedule in schedules.items()}
    settings = {**describe(recipe), "seed": options.seed, "steps": steps, "timestep": model.timestep}
    settings |= {name: getattr(options, name) for name in ("precision", "optimizer", "as_released")}
    settings |= {"processes": accelerator.num_processes, "data": pairs.describe(), **(origins or {})}
    checkpoint = Checkpoint(folder, parts, settings)
    return Training(model, pairs, recipe, options, accelerator, networks, teacher, optimizers, schedules, checkpoint)


def run(training, *, until=None):
    """Run the steps of a `Training` that its checkpoint does not hold, all or those up to step `until`, which leaves a
    checkpoint; the caller holds its folder and ends Accelerate's training, with which the processes part."""
    started, options, folder = time.perf_counter(), training.options, training.checkpoint.folder
    accelerator, main = training.accelerator, training.accelerator.is_main_process
    step, last = training.checkpoint.resume(accelerator.device, trim=main), until or options.steps
    accelerator.wait_for_everyone()
    accelerator.init_trackers("omgsr")

    loader = StepBatches(
        training.pairs, training.recipe, accelerator, first_step=step, steps=last, workers=options.workers
    )
    bar = _bar(options.steps, step, loader.images_per_step, shown=options.progress and main)
    for micro_batches in loader:
        losses = train_step(training, micro_batches, sharpen=step >= training.recipe.sharpen_from * options.steps)
        step += 1
        line = _line(step, accelerator, losses)
        if main:
            append_log(folder / "log.jsonl", line)
        accelerator.log({name: value for name, value in line.items() if name != "step"}, step=step)
        bar.update(loader.images_per_step)
        if step % options.every == 0 or step == last:
            if main:
                training.checkpoint.save(step)
                if options.progress:
                    bar.write(" ".join(f"{name} {value:.4g}" for name, value in line.items()))
            _preview(folder / "previews" / f"step-{step:06d}.png", training.model, options.previews, write=main)
            accelerator.wait_for_everyone()
        if main and options.export_every and step % options.export_every == 0:
            training.model.save_adapter(folder / f"weight-{step}")
    bar.close()
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
    Tensors(model.trainable_parameters()).load_state_dict(_watched(folder)["adapters"])
    return read_log(Path(folder) / "log.jsonl")


def learning_rate_factor(recipe, step, steps):
    """Linear warm-up over `recipe.warmup` steps, then 1; linear decay to zero over the last share `recipe.decay`."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    left = (steps - step) / steps
    return min(1.0, left / recipe.decay) if recipe.decay else 1.0


def teacher_of(model):
    """The model as it is, adapters merged, frozen; it shares the frozen autoencoder with `model`."""
    return copied_with(model, {model.vae: model.vae}).merge().requires_grad_(False)


def describe(recipe):
    """The recipe as a flat dictionary for logs and manifests."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(recipe).items()}


def _optimizer(name, parameters, recipe):
    options = dict(lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(parameters, **options)
    try:
        import bitsandbytes
    except ImportError as err:
        raise ImportError("The optimizer adamw8bit needs bitsandbytes: pip install bitsandbytes.") from err
    return bitsandbytes.optim.AdamW8bit(parameters, **options)


def _watched(folder):
    state = read_checkpoint(folder, ("step", "settings", "adapters"))
    if state is None:
        raise FileNotFoundError(f"A training to watch has a checkpoint: '{folder}' has no state.pt yet.")
    return state


def _line(step, accelerator, losses):
    """The log's line of a step: losses averaged over the processes; the only wait for the device."""
    values = accelerator.reduce(torch.stack(list(losses.values())), reduction="mean").tolist()
    if not all(map(math.isfinite, values)):
        shown = ", ".join(f"{name} {value:g}" for name, value in zip(losses, values, strict=True))
        raise FloatingPointError(f"Losses must stay finite: step {step} has {shown}. Lower the learning rate.")
    return {"step": step, **dict(zip(losses, values, strict=True))}


def _preview(file, model, pairs, *, write):
    if not pairs:
        return
    from ..data.photos import to_image
    from ..report.plots import save_figure
    from ..report.plots_images import compare_crops

    restored = restored_pairs(model, pairs)  # in every process: sharded weights need all of them
    if write:
        rows = [[to_image(p) for p in (pair.lq, mine, pair.hq)] for pair, mine in zip(pairs, restored, strict=True)]
        save_figure(compare_crops(rows, ["LQ, enlarged", "restored", "photograph"]), file)


def _bar(steps, done, images_per_step, *, shown):
    from tqdm.auto import tqdm

    total, initial = steps * images_per_step, done * images_per_step
    return tqdm(total=total, initial=initial, unit="img", desc="train", disable=None if shown else True)
