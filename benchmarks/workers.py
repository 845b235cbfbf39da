"""Two workers against one on a CPU, alone and beside a program that keeps one of the two cores busy.

`restore()` of one picture in tiles and of several that take one tile each, by the shipped models, prepared as the
command does it, in seconds of the clock on the wall: one worker, two, and two of which one shares its core with an
endless loop, in turns, the median of the repeats. The images must be the same bytes.

    python benchmarks/workers.py [--repeats 5] [--out results/benchmarks]
"""

import argparse
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from record import write_record

from omgsr_lib.data.photos import open_photo, packaged_photos
from omgsr_lib.model import OMGSR
from omgsr_lib.restore.pipeline import restore
from omgsr_lib.restore.prepare import prepare


CASES = {"mini-f": ((128, 1), (32, 32)), "mini-s": ((256, 1), (128, 8))}  # side of the inputs, how many
SPEED, BUSY = 1.8, 1.5  # goals


@contextmanager
def busy_core():
    """An endless loop on one of the cores of this process."""
    core = min(os.sched_getaffinity(0))
    loop = subprocess.Popen(
        [sys.executable, "-c", f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"]
    )
    try:
        time.sleep(0.2)
        yield
    finally:
        loop.kill()
        loop.wait()


def compare(model, side, count, repeats):
    photo = open_photo(packaged_photos("eval")[0]).resize((2 * side, 2 * side), Image.BICUBIC)
    pictures = [photo.crop((shift, shift, shift + side, shift + side)) for shift in range(count)]
    images, seconds = {}, {"one worker": [], "two workers": [], "two, one core busy": []}

    def run(row, threads):
        torch.set_num_threads(threads)
        start = time.perf_counter()
        images[row] = b"".join(
            image.tobytes() for image in restore(model, pictures, tile=model.tile, progress=False).images
        )
        seconds[row].append(time.perf_counter() - start)

    for _ in range(repeats + 1):
        run("one worker", 1)
        run("two workers", 2)
        with busy_core():
            run("two, one core busy", 2)
    seconds = {row: median(times[1:]) for row, times in seconds.items()}  # the first warms up
    one, two, busy = seconds.values()
    return {"pixels": 4 * side, "pictures": count, "seconds": seconds, "speed": one / two, "busy": busy / two,
            "equal": len(set(images.values())) == 1}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=list(CASES))
    parser.add_argument("--out", type=Path, help="folder for a JSON file of this run")
    args = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("Two workers need two cores.")

    print(f"{'':24s}{'one':>9s}{'two':>9s}{'busy':>9s}  speed (goal {SPEED})  busy/two (goal {BUSY})  equal bytes")
    results, failed = {}, []
    for name in args.models:
        model = prepare(OMGSR.from_pretrained(name), fold=True)
        for side, count in CASES[name]:
            case = f"{name}, {count} of {4 * side} pixels"
            row = results[case] = compare(model, side, count, args.repeats)
            times = "".join(f"{seconds:7.2f} s" for seconds in row["seconds"].values())
            print(f"{case:24s}{times}{row['speed']:7.2f}{row['busy']:20.2f}{str(row['equal']):>25s}", flush=True)
            failed += [f"{case}: speed"] * (row["speed"] < SPEED) + [f"{case}: busy"] * (row["busy"] > BUSY)
            failed += [f"{case}: bytes differ"] * (not row["equal"])
    write_record(args.out, "workers", {"repeats": args.repeats, "cases": results, "goals": [SPEED, BUSY]})
    if failed:
        sys.exit(f"Goals missed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
