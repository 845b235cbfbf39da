"""One training micro-step of OMGSR-S at 512 and OMGSR-F at 1024 pixels, full size with random weights, in bf16.

Per variant, with and without recomputing the denoiser's activations: milliseconds, images per second, peak memory, and
the share of the time that the counted operations need at the rate of a large matrix product measured in the same run.

    python benchmarks/gpu_training.py [--size full|mini] [--presets NAME ...] [--steps 6] [--out results/benchmarks]

`full` needs a GPU with 80 GB (OMGSR-F without recomputing may need more: then it is recorded as out of memory).
`mini` runs the same code on a CPU with the small priors. The record is written after each row, and a row that fails
stops no other.
"""

import argparse
import gc
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path

import torch
from record import record_name, write_record

from omgsr_lib.losses.build import build_losses
from omgsr_lib.model import OMGSR
from omgsr_lib.presets import recipe
from omgsr_lib.study.costs import training_costs
from omgsr_lib.training.loop import train


CASES = {"full": (("paper", "s-512"), ("paper", "f-1024"), ("release", "s-512"), ("release", "f-1024"))}
CASES["mini"] = (("mini", "s"), ("mini", "f"))
WARM_UP = 2


class Clock(torch.utils.data.Dataset):
    """Random images; notes when each is asked for, which is after the previous step's losses were read."""

    def __init__(self, side):
        self.pictures = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
        self.times = []

    def __getitem__(self, index):
        self.times.append(time.perf_counter())
        return {"lq": self.pictures[0], "hq": self.pictures[1]}

    def describe(self):
        return "random"


def new_model(size, chosen):
    if size == "mini":
        return OMGSR.from_base(chosen.base, chosen.family, chosen.timestep)
    return OMGSR.full_size(chosen.family, chosen.timestep, device="cuda")


def measure(size, chosen, steps, device):
    """Milliseconds per micro-step and GiB at the peak, or why there are none."""
    gc.collect()  # the model before, whose parts refer to each other
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    clock = Clock(chosen.resolution)
    try:
        model = new_model(size, chosen).add_adapters(chosen.vae_rank, chosen.denoiser_rank)
        options = dict(steps=WARM_UP + steps + 1, precision="bf16", every=10**9, progress=False)
        with tempfile.TemporaryDirectory() as folder:
            train(model, clock, chosen, folder, pretrained=False, **options)
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    except Exception as err:
        traceback.print_exc()
        return {"failed": repr(err)}
    times = clock.times[:: chosen.batch_size]
    seconds = (times[WARM_UP + steps] - times[WARM_UP]) / steps
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
    return {"ms": seconds * 1e3, "images_per_second": chosen.batch_size / seconds, "peak_GiB": peak}


def matmul_rate(device):
    """Operations per second of a large product in bf16."""
    side = 8192 if device == "cuda" else 1024
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(CASES), default="full" if device == "cuda" else "mini")
    parser.add_argument("--presets", nargs="+", help="presets to run; all by default")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--out", type=Path, help="folder for a JSON file of this run")
    args = parser.parse_args()
    known = list(dict.fromkeys(preset for preset, _ in CASES[args.size]))
    if not set(args.presets or ()) <= set(known):
        parser.error(f"--size {args.size} knows {', '.join(known)}: got {', '.join(args.presets)}.")
    if args.size == "full" and device == "cpu":
        parser.error("--size full needs a CUDA device: run it with --size mini here.")

    if device == "cpu":
        torch.set_num_threads(1)
    rate, rows = matmul_rate(device), []
    print(f"matrix product {rate / 1e12:.2f} TFLOP/s")
    name = record_name("gpu_training", args.size, *(args.presets or ()))
    content = {"steps": args.steps, "matmul_FLOPs": rate, "rows": rows}
    for preset, variant in CASES[args.size]:
        if args.presets is not None and preset not in args.presets:
            continue
        for checkpointing in (True, False):
            chosen = replace(recipe(preset, variant), checkpointing=checkpointing, accumulation=1)
            row = {"preset": preset, "variant": variant, "checkpointing": checkpointing}
            row |= measure(args.size, chosen, args.steps, device)
            if args.size == "full":
                with torch.device("meta"):
                    networks = build_losses(chosen, None, pretrained=False)
                flops = training_costs(chosen, **networks._asdict()).flops
                row |= {
                    "TFLOP": flops / 1e12,
                    "share_of_limit": flops / rate / (row["ms"] / 1e3) if "ms" in row else None,
                }
            rows.append(row)
            print(row, flush=True)
            write_record(args.out, name, content, quiet=True)
    write_record(args.out, name, content)
    if any("failed" in row for row in rows):
        sys.exit("Some rows failed.")


if __name__ == "__main__":
    main()
