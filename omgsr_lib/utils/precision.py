"""The precision in which this machine computes fastest: measured, since a processor's flags do not tell."""

import copy
import json
import os
import time
from contextlib import suppress
from pathlib import Path

import torch

from .files import write_json


RUNS = 4  # of each precision; the first only warms up


def native_precision():
    """`"bf16"` where the device multiplies bfloat16 in hardware, else `"no"` (float32).

    Elsewhere PyTorch emulates it: on a CPU that has AVX2 alone, a training step then takes some twenty times longer.
    """
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        found = torch.cpu.get_capabilities()
        native = found.get("avx512_bf16") or found.get("amx_bf16")
    return "bf16" if native else "no"


def faster_precision(prior, shape, *, training=False):
    """`"bf16"` or `"no"` (float32), whichever computes a small `prior` faster on this machine.

    On a GPU, and on a CPU without bfloat16 hardware, that is known (`native_precision`). A CPU with it may still be
    slower in bfloat16 (twice, with the small UNet and torch 2.13 on one of them), so both are timed, some tenths of a
    second, and the times are kept for this processor and version of torch in `~/.cache/omgsr/precision.json`.

    Args:
        prior: called as `prior(latents, timestep)`, in float32; it stays as it is.
        shape: of the latents `(B, C, h, w)`.
        training: forward under autocast and backward, instead of forward with weights in the precision.
    """
    if torch.cuda.is_available() or native_precision() == "no":
        return native_precision()
    parameters = sum(p.numel() for p in prior.parameters())
    use = "training" if training else "inference"
    key = f"{_processor()}, torch {torch.__version__}, {type(prior).__name__} {parameters}, {tuple(shape)}, {use}"
    seconds = _kept()
    if key not in seconds:
        seconds[key] = _times(prior, shape, training)
        with suppress(OSError):
            write_json(_file(), seconds)
    return min(seconds[key], key=seconds[key].get)


def _times(prior, shape, training):
    """Seconds of the fastest run in each precision; runs alternate, so that other load meets both."""
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    priors = {"no": prior, "bf16": prior if training else copy.deepcopy(prior).to(torch.bfloat16)}
    runs = {"no": [], "bf16": []}
    for precision in [*runs] * RUNS:
        runs[precision].append(_seconds(priors[precision], latents, precision, training))
    return {precision: round(min(seconds[1:]), 5) for precision, seconds in runs.items()}


def _seconds(prior, latents, precision, training):
    started = time.process_time()
    if training:
        latents = latents.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output = prior(latents, 0)
        wanted = [latents, *(p for p in prior.parameters() if p.requires_grad)]
        torch.autograd.grad(output.float().sum(), wanted, allow_unused=True)
    else:
        with torch.inference_mode():
            prior(latents.to(torch.bfloat16 if precision == "bf16" else torch.float32), 0)
    return time.process_time() - started


def _processor():
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    import platform

    return platform.processor() or platform.machine()


def _file():
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omgsr" / "precision.json"


def _kept():
    """What was measured before; nothing where the file is missing or damaged."""
    with suppress(OSError, ValueError):
        content = json.loads(_file().read_text())
        if isinstance(content, dict):
            return content
    return {}
