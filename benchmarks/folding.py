"""Folded denoisers against the priors they are folded from: seconds, operations, parameters.

The shipped priors with their adapters merged, wider random ones, and one whose 512 text tokens are 64 different ones.
Both sides run in turns on the same latents; the best of the repeats counts, in seconds of the processor, so that other
work on the machine matters less. Outputs must be equal to 1e-6 in float64; beside the difference in float32 stands the
rounding error of the unfolded prior, which no reordering of sums can stay below.

    python benchmarks/folding.py [--repeats 20] [--out results/benchmarks]
"""

import argparse
import copy
import sys
import time
from pathlib import Path

import torch
from record import write_record
from torch.utils._python_dispatch import TorchDispatchMode

from omgsr_lib.fold import fold_prior
from omgsr_lib.model import OMGSR
from omgsr_lib.priors import DDPMPrior, FlowPrior


TOLERANCE = 1e-6


def shipped(name):
    model = OMGSR.from_pretrained(name).merge()
    return model.prior, model.timestep


def wide_unet():
    return DDPMPrior.new(4, widths=(64, 128, 256), heads=(1, 2, 4), groups=32, prompt_width=64, seed=0), 273


def flux(heads, head_axes, tokens, different):
    """A random transformer with 2 double and 4 single blocks and a prompt of `tokens` of which some are equal."""
    options = dict(blocks=2, single_blocks=4, heads=heads, head_axes=head_axes, prompt_width=64)
    prior = FlowPrior.new(16, **options, seed=0)
    embeds = torch.randn(1, different, 64, generator=torch.Generator().manual_seed(1))
    prior.prompt_embeds = embeds.repeat(1, tokens // different, 1)
    return prior, 244


# Goal, latents (channels, height, width), prior and timestep.
CASES = {
    "mini-s": (1.10, (24, 16, 16), lambda: shipped("mini-s")),
    "mini-f": (1.13, (24, 16, 16), lambda: shipped("mini-f")),
    "UNet, widths 64-256": (1.10, (4, 32, 32), wide_unet),
    "FLUX, width 512": (1.13, (16, 32, 64), lambda: flux(8, (8, 28, 28), 256, 256)),
    "FLUX, equal tokens": (1.35, (16, 64, 64), lambda: flux(4, (4, 14, 14), 512, 64)),
}


class OperationCounter(TorchDispatchMode):
    """Counts dispatched aten operations."""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations += 1
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def operations(prior, latents, timestep):
    prior(latents, timestep)
    with OperationCounter() as counter:
        prior(latents, timestep)
    return counter.operations


def relative(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


@torch.inference_mode()
def compare(prior, timestep, shape, repeats):
    """Errors, and per side the values and their ratio: unfolded / folded seconds, folded / unfolded others."""
    sides = {"unfolded": prior, "folded": fold_prior(prior, timestep)}
    latents = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    seconds = dict.fromkeys(sides, float("inf"))
    outputs = {name: side(latents, timestep) for name, side in sides.items()}
    for repeat in range(repeats):
        for name in list(sides)[:: 1 if repeat % 2 == 0 else -1]:
            start = time.process_time()
            sides[name](latents, timestep)
            seconds[name] = min(seconds[name], time.process_time() - start)
    counts = {name: operations(side, latents, timestep) for name, side in sides.items()}
    parameters = {name: sum(p.numel() for p in side.parameters()) for name, side in sides.items()}
    wide = copy.deepcopy(prior).double()
    exact = wide(latents.double(), timestep)
    return {
        "latents": list(shape),
        "float64_difference": relative(fold_prior(wide, timestep)(latents.double(), timestep), exact),
        "float32_difference": relative(outputs["folded"], outputs["unfolded"].double()),
        "float32_rounding": relative(outputs["unfolded"], exact),
        "seconds": seconds,
        "speed": seconds["unfolded"] / seconds["folded"],
        "operations": counts,
        "operations_ratio": counts["folded"] / counts["unfolded"],
        "parameters": parameters,
        "parameters_ratio": parameters["folded"] / parameters["unfolded"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, help="folder for a JSON file of this run")
    args = parser.parse_args()
    torch.set_num_threads(1)

    print(f"one thread, best of {args.repeats}")
    print(f"{'':20s}   unfolded     folded  speed  goal   ops  weights  float64  float32  rounding")
    results = {}
    for name, (goal, shape, make) in CASES.items():
        result = results[name] = {"goal": goal} | compare(*make(), shape, args.repeats)
        times = "".join(f"{result['seconds'][side] * 1e3:8.2f} ms" for side in ("unfolded", "folded"))
        ratios = f"{result['speed']:7.2f}{goal:6.2f}{result['operations_ratio']:6.2f}{result['parameters_ratio']:9.2f}"
        errors = [result[key] for key in ("float64_difference", "float32_difference", "float32_rounding")]
        print(f"{name:20s}{times}{ratios}" + "".join(f"{error:9.1e}" for error in errors))
    write_record(args.out, "folding", {"repeats": args.repeats, "cases": results, "tolerance": TOLERANCE})
    unequal = [name for name, result in results.items() if result["float64_difference"] > TOLERANCE]
    slow = [name for name, result in results.items() if result["speed"] < result["goal"]]
    if unequal:
        sys.exit(f"Outputs must be equal to {TOLERANCE} in float64: {', '.join(unequal)}.")
    if slow:
        sys.exit(f"Slower than the goal: {', '.join(slow)}.")


if __name__ == "__main__":
    main()
