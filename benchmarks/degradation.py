"""The degradation against the same chain with direct filters of zero-padded kernels. Goals: 2.2 x (512), 5.5 x (1024).

The direct side filters as BasicSR's `filter2D` does for one image: kernels zero-padded to 21x21 or 41x41, reflected
borders, channels as a batch of `conv2d`. `grouped` is the form which that function keeps for batches of images,
channels as groups; on some machines it is much faster. All other steps and all draws are the same. One thread; the
sides run in turns on each image and the best processor time of the repeats counts.

Equal filters: in each blur of a chain all sides get one and the same image. Their results must agree to 5e-6. The
chains' own results, before the last rounding, are reported beside: there JPEG and the shot noise turn a difference of
1e-7 on a rounding tie into a quantisation step.

    python benchmarks/degradation.py [--sizes 512 1024] [--pictures 12] [--repeats 2] [--out results/benchmarks]
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from record import write_record

from omgsr_lib.data.degradation import Degradation, blur, draw_chain
from omgsr_lib.data.filters import filter2d
from omgsr_lib.data.photos import open_photo, packaged_photos, to_pixels


GOALS = {512: 2.2, 1024: 5.5}
TOLERANCE = 5e-6


def direct(image, kernel, size):
    return F.conv2d(*_padded(image[:, None], kernel, size))[:, 0]


def grouped(image, kernel, size):
    image, kernel = _padded(image[None], kernel, size)
    return F.conv2d(image, kernel.expand(3, 1, -1, -1), groups=3)[0]


def _padded(image, kernel, size):
    kernel = F.pad(kernel, ((size - len(kernel)) // 2,) * 4).to(image)
    return F.pad(image, (size // 2,) * 4, mode="reflect"), kernel[None, None]


def chain(picture, settings, index, apply):
    """The degraded image before the last rounding, `apply(image, kernel)` being the filter."""
    image = (picture + 1) / 2
    for step in draw_chain(settings, *picture.shape[1:], np.random.default_rng([0, index])):
        image = apply(image, step.keywords["kernel"]()) if step.func is blur else step(image)
    return image


def difference_of_filters(picture, settings, index, sides):
    """Largest difference from our filter, all given the same image in each blur."""
    found = []

    def compare(image, kernel):
        results = {name: apply(image, kernel) for name, apply in sides.items()}
        found.extend(float((result - results["ours"]).abs().max()) for result in results.values())
        return results["ours"]

    chain(picture, settings, index, compare)
    return max(found)


def seconds(function, *arguments):
    start = time.process_time()
    result = function(*arguments)
    return time.process_time() - start, result


def measure(size, count, repeats):
    settings = Degradation.for_size(size)
    largest = max(settings.kernel_sizes)
    sides = {"direct": partial(direct, size=largest), "grouped": partial(grouped, size=largest), "ours": filter2d}
    photos = [to_pixels(open_photo(path).resize((size, size), Image.LANCZOS)) for path in packaged_photos("eval")]
    best = {name: [float("inf")] * count for name in sides}
    filters, chains, shares = 0.0, 0.0, []
    for index in range(count):
        picture, results = photos[index % len(photos)].contiguous(), {}
        filters = max(filters, difference_of_filters(picture, settings, index, sides))
        for repeat in range(repeats):
            for name in list(sides)[:: 1 if repeat % 2 == 0 else -1]:
                elapsed, results[name] = seconds(chain, picture, settings, index, sides[name])
                best[name][index] = min(best[name][index], elapsed)
        for name in ("direct", "grouped"):
            error = (results[name] - results["ours"]).abs()
            chains = max(chains, float(error.max()))
            shares.append(float((error > TOLERANCE).float().mean()))
    rates = {name: count / sum(times) for name, times in best.items()}
    return {
        "images_per_second_and_core": rates,
        "ratios": {name: rates["ours"] / rates[name] for name in ("direct", "grouped")},
        "largest_difference_of_the_filters": filters,
        "largest_difference_of_the_chains": chains,
        "share_of_the_chains_values_above_tolerance": sum(shares) / len(shares),
        "goal": GOALS[size],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", choices=tuple(GOALS), default=tuple(GOALS))
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for a JSON file of this run")
    args = parser.parse_args()
    torch.set_num_threads(1)

    results = {}
    for size in args.sizes:
        results[size] = result = measure(size, args.pictures, args.repeats)
        rates = result["images_per_second_and_core"]
        print(f"{size} pixels, x{Degradation.for_size(size).scale}, {args.pictures} chains, one thread")
        print(f"{'ours':10s} {rates['ours']:8.2f} images/s")
        for name, ratio in result["ratios"].items():
            print(f"{name:10s} {rates[name]:8.2f} images/s   {ratio:6.2f} x")
        print(
            f"filters agree to {result['largest_difference_of_the_filters']:.1e}; "
            f"{result['share_of_the_chains_values_above_tolerance']:.3%} of the chains' values differ by more than "
            f"{TOLERANCE:.0e}, at most by {result['largest_difference_of_the_chains']:.1e}"
        )
    content = {"pictures": args.pictures, "repeats": args.repeats, "tolerance": TOLERANCE, "sizes": results}
    write_record(args.out, "degradation", content)
    for size, result in results.items():
        if result["largest_difference_of_the_filters"] > TOLERANCE:
            sys.exit(f"Filters must agree to {TOLERANCE}: got {result['largest_difference_of_the_filters']:.1e}.")
        if result["ratios"]["direct"] < result["goal"]:
            sys.exit(f"The goal at {size} is {result['goal']} x: got {result['ratios']['direct']:.2f} x.")


if __name__ == "__main__":
    main()
