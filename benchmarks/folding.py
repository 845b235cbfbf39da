"""Folded denoisers against the priors they are folded from: seconds, operations, parameters. Goals: 1.10, 1.13 x.

The shipped priors with their adapters merged, and wider random ones: a UNet of widths 64 to 256 and a FLUX-type
transformer of width 512 with 256 text tokens. Both sides run in turns on the same latents; the best of the repeats
counts, in seconds of the processor, so that other work on the machine matters less. Outputs must be equal to 1e-6.

    python benchmarks/folding.py [--repeats 20] [--out results/benchmarks]
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from record import write_record
from torch.utils._python_dispatch import TorchDispatchMode

from omgsr_lib.fold import fold_prior
from omgsr_lib.model import OMGSR
from omgsr_lib.priors.tiny import new_ddpm, new_flow


GOALS = {"ddpm": 1.10, "flow": 1.13}
TOLERANCE = 1e-6


def shipped(name):
    model = OMGSR.from_pretrained(name).merge()
    return model.prior, model.timestep


def wide_unet():
    return new_ddpm(4, widths=(64, 128, 256), heads=(1, 2, 4), groups=32, prompt_width=64, seed=0), 273


def wide_flux():
    options = dict(blocks=2, single_blocks=4, heads=8, head_axes=(8, 28, 28), prompt_width=64)
    prior = new_flow(16, **options, seed=0)
    prior.prompt_embeds = torch.randn(1, 256, 64, generator=torch.Generator().manual_seed(1))
    return prior, 244


# Latents (channels, height, width) and the prior they are for.
CASES = {
    "mini-s": ((24, 16, 16), lambda: shipped("mini-s")),
    "mini-f": ((24, 16, 16), lambda: shipped("mini-f")),
    "UNet, widths 64-256": ((4, 32, 32), wide_unet),
    "FLUX, width 512": ((16, 32, 64), wide_flux),
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


@torch.inference_mode()
def compare(prior, timestep, shape, repeats):
    """Unfolded and folded values of one prior, and the ratios: unfolded / folded seconds, folded / unfolded others."""
    sides = {"unfolded": prior, "folded": fold_prior(prior, timestep)}
    latents = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    outputs = {name: side(latents, timestep).double() for name, side in sides.items()}
    seconds = dict.fromkeys(sides, float("inf"))
    for repeat in range(repeats):
        for name in list(sides)[:: 1 if repeat % 2 == 0 else -1]:
            start = time.process_time()
            sides[name](latents, timestep)
            seconds[name] = min(seconds[name], time.process_time() - start)
    counts = {name: operations(side, latents, timestep) for name, side in sides.items()}
    parameters = {name: sum(p.numel() for p in side.parameters()) for name, side in sides.items()}
    error = (outputs["folded"] - outputs["unfolded"]).norm() / outputs["unfolded"].norm()
    return {
        "family": prior.family,
        "latents": list(shape),
        "error": float(error),
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
    print(f"{'':22s}{'unfolded':>12s}{'folded':>12s}{'speed':>8s}{'ops':>7s}{'weights':>9s}{'error':>9s}")
    results = {}
    for name, (shape, make) in CASES.items():
        result = results[name] = compare(*make(), shape, args.repeats)
        unfolded, folded = (f"{result['seconds'][side] * 1e3:9.2f} ms" for side in ("unfolded", "folded"))
        ratios = f"{result['operations_ratio']:7.2f}{result['parameters_ratio']:9.2f}{result['error']:9.1e}"
        print(f"{name:22s}{unfolded}{folded}{result['speed']:8.2f}{ratios}")
    content = {"repeats": args.repeats, "cases": results, "goals": GOALS, "tolerance": TOLERANCE}
    write_record(args.out, "folding", content)
    unequal = [name for name, result in results.items() if result["error"] > TOLERANCE]
    slow = [name for name, result in results.items() if result["speed"] < GOALS[result["family"]]]
    if unequal:
        sys.exit(f"Outputs must be equal to {TOLERANCE}: {', '.join(unequal)}.")
    if slow:
        sys.exit(f"The goal is {GOALS['ddpm']} x (UNet) and {GOALS['flow']} x (FLUX): {', '.join(slow)} fell short.")


if __name__ == "__main__":
    main()
