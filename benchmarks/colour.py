"""Colour fixes against their plain definitions, one thread. Goals for the wavelet fix: 10 times at 1024, 5 at 4096.

The plain definitions are the field's: five levels of detail by 3x3 convolutions of the whole image, and mean and
deviation of the whole channels. Both sides run in turns on the same images; the best of the repeats counts.

    python benchmarks/colour.py [--sizes 1024 4096] [--repeats 3] [--out results/benchmarks]
"""

import argparse
import sys
from pathlib import Path

import torch
from record import best_in_turns, write_record
from torch.nn import functional as F

from omgsr_lib.restore.colour import fix_colour


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


@torch.inference_mode()
def measure(size, repeats):
    """Of both fixes at `size`: seconds of both sides, their ratio and the largest difference."""
    generator = torch.Generator().manual_seed(0)
    pair = [torch.rand(1, 3, size, size, generator=generator) * 2 - 1 for _ in range(2)]
    found = {}
    for name, plain in (("wavelet", plain_wavelet), ("adain", plain_adain)):
        sides = {"plain": lambda plain=plain: plain(*pair), "ours": lambda name=name: fix_colour(*pair, name)}
        seconds, results = best_in_turns(sides, repeats)
        found[name] = {
            "seconds": seconds,
            "ratio": seconds["plain"] / seconds["ours"],
            "largest_difference": (results["plain"] - results["ours"]).abs().max().item(),
            "goal": GOALS.get(size) if name == "wavelet" else None,
        }
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=(1024, 4096))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for a JSON file of this run")
    args = parser.parse_args()
    torch.set_num_threads(1)

    print(f"one thread, best of {args.repeats}")
    print(f"{'':14s}    plain          here    speed  goal  difference")
    sizes, unequal, slow = {}, [], []
    for size in args.sizes:
        sizes[size] = measure(size, args.repeats)
        for name, row in sizes[size].items():
            times = "".join(f"{row['seconds'][side] * 1e3:10.1f} ms" for side in ("plain", "ours"))
            goal = row["goal"] or ""
            print(f"{name:8s}{size:6d}{times}{row['ratio']:7.1f}{goal:>6}{row['largest_difference']:12.1e}")
            unequal += [name] * (row["largest_difference"] > TOLERANCE)
            slow += [f"{name} {size}"] * (row["goal"] is not None and row["ratio"] < row["goal"])
    write_record(args.out, "colour", {"repeats": args.repeats, "sizes": sizes, "tolerance": TOLERANCE})
    if unequal:
        sys.exit(f"The fixes must equal their definitions to {TOLERANCE}: {', '.join(unequal)}.")
    if slow:
        sys.exit(f"Slower than the goal: {', '.join(slow)}.")


if __name__ == "__main__":
    main()
