"""The resumable loop that all pre-training shares: losses in, log line and checkpoint out."""

import math
import time
from pathlib import Path

import torch

from ..training.checkpoint import Checkpoint, append_log


def cosine_with_warmup(optimizer, steps, *, warmup, flat=0.3):
    """Learning-rate schedule: linear warm-up, flat until `flat` of all steps, cosine to zero."""

    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        done = max(0.0, (step / steps - flat) / (1 - flat))
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def pretraining_autocast(device, *, on_cpu=False):
    """bfloat16 on a GPU, and float32 on a CPU unless `on_cpu`."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda" or on_cpu)


def run_steps(folder, steps, step_losses, *, modules, optimizer, schedule, every=100, clip=1.0, after_step=None):
    """Run `step_losses(step) -> {name: loss}` from the last checkpoint in `folder` to `steps`.

    The state (modules, optimiser, schedule, step) is saved every `every` steps. Data and noise must depend on the step
    number alone; a resumed run then equals an uninterrupted one. `log.jsonl` gets one line per `every` steps: mean
    losses and seconds per step.
    """
    parts = {"modules": modules, "optimizer": optimizer, "schedule": schedule}
    checkpoint = Checkpoint(folder, parts, settings={})
    step = checkpoint.resume()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sums, counted, started = {}, 0, time.perf_counter()
    while step < steps:
        losses = step_losses(step)
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        schedule.step()
        step += 1
        if after_step is not None:
            after_step(step)
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + float(loss.detach())
        counted += 1
        if step % every == 0 or step == steps:
            line = {"step": step, **{name: value / counted for name, value in sums.items()}}
            line["seconds_per_step"] = (time.perf_counter() - started) / counted
            append_log(Path(folder) / "log.jsonl", line)
            print(
                " ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()), flush=True
            )
            checkpoint.save(step)
            sums, counted, started = {}, 0, time.perf_counter()
