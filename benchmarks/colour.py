"""Colour fixes against their plain definitions, one thread. Goals for the wavelet fix: 10 times at 1024, 5 at 4096.

The plain definitions are the field's: five levels of detail by 3x3 convolutions of the whole picture, and mean and
deviation of the whole channels. Both sides run in turns on the same pictures; the best of the repeats counts.

    python benchmarks/colour.py [--sizes 1024 4096] [--repeats 3] [--out results/bench]
"""

import argparse
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch.nn import functional as F

from omgsr_lib.colour import adain, wavelet


GOALS = {1024: 10, 4096: 5}  # of the wavelet fix
TOLERANCE = 1e-6


def plain_wavelet(restored, reference):
    row = torch.tensor([1.0, 2.0, 1.0])
    kernel = (row[:, None] * row / 16).expand(3, 1, 3, 3)

    def decompose(pixels):
        detail = torch.zeros_like(pixels)
        for level in range(5):
            padded = F.pad(pixels, (2**level,) * 4, mode="replicate")
            blurred = F.conv2d(padded, kernel, groups=3, dilation=2**level)
            detail, pixels = detail + pixels - blurred, blurred
        return detail, pixels

    return decompose(restored)[0] + decompose(reference)[1]


def plain_adain(restored, reference):
    def statistics(pixels):
        channels = pixels.flatten(2)
        return channels.mean(2)[..., None, None], (channels.var(2) + 4e-5).sqrt()[..., None, None]

    (mean, scale), (mean_reference, scale_reference) = statistics(restored), statistics(reference)
    return (restored - mean) / scale * scale_reference + mean_reference


def seconds(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


@torch.inference_mode()
def measure(size, repeats):
    """Rows of the fixes at `size`: seconds of both sides, their ratio and the largest difference."""
    generator = torch.Generator().manual_seed(0)
    pair = [torch.rand(1, 3, size, size, generator=generator) * 2 - 1 for _ in range(2)]
    rows = []
    for name, plain, ours in (("wavelet", plain_wavelet, wavelet), ("adain", plain_adain, adain)):
        best, results = dict.fromkeys((plain, ours), float("inf")), {}
        for repeat in range(repeats):
            for function in (plain, ours)[:: 1 if repeat % 2 == 0 else -1]:
                elapsed, results[function] = seconds(function, *pair)
                best[function] = min(best[function], elapsed)
        rows.append(
            {
                "size": size,
                "fix": name,
                "seconds_plain": best[plain],
                "seconds": best[ours],
                "ratio": best[plain] / best[ours],
                "max_difference": (results[plain] - results[ours]).abs().max().item(),
                "goal": GOALS.get(size) if name == "wavelet" else None,
            }
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=(1024, 4096))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for a JSON file of this run")
    args = parser.parse_args()
    torch.set_num_threads(1)

    rows = [row for size in args.sizes for row in measure(size, args.repeats)]
    for row in rows:
        print(
            f"{row['fix']:8s} {row['size']:5d}   plain {row['seconds_plain'] * 1e3:9.1f} ms   here "
            f"{row['seconds'] * 1e3:8.1f} ms   {row['ratio']:5.1f} x   difference {row['max_difference']:.1e}"
        )
    if args.out is not None:
        record = {
            "benchmark": "colour",
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "repeats": args.repeats,
            "threads": 1,
            "torch": torch.__version__,
            "machine": platform.machine(),
            "rows": rows,
            "tolerance": TOLERANCE,
        }
        args.out.mkdir(parents=True, exist_ok=True)
        path = args.out / f"colour-{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(record, indent=2) + "\n")
        os.replace(aside, path)
        print(f"written to {path}")
    if max(row["max_difference"] for row in rows) > TOLERANCE:
        sys.exit(f"The fixes must equal their definitions to {TOLERANCE}.")
    slow = [row for row in rows if row["goal"] and row["ratio"] < row["goal"]]
    if slow:
        sys.exit("\n".join(f"The goal at {row['size']} is {row['goal']} x: got {row['ratio']:.1f} x." for row in slow))


if __name__ == "__main__":
    main()
