"""Images larger than the memory: time and peak memory of `restore_array` from a small to a very large image.

A mosaic of photographs in a file, restored by a shipped model with every stage in tiles, into a file. One process per
size, on one thread, its time in seconds of the processor. Goals: the peak does not grow with the image (at most 1.05
times the first size's), nor does the time per pixel (at most 1.35 times). Without options it takes a minute; the
recorded run took --sizes 2048x2048 16384x8192 and half an hour.

    python benchmarks/large_image.py [--model mini-f] [--sizes 1536x1536 2048x1536] [--out results/benchmarks]
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from record import in_a_process, peak_memory, write_record

from omgsr_lib.data.photos import open_photo, packaged_photos, to_pixels
from omgsr_lib.model import OMGSR
from omgsr_lib.restore.out_of_core import restore_array
from omgsr_lib.restore.tensor_file import TensorFile


SCALE = 4
PEAK_GOAL, TIME_GOAL = 1.05, 1.35
TILES = dict(tile=128, vae_tile=512, tile_batch=16)  # pixels of the output; the mini priors know crops of 128


def mosaic(path, width, height):
    """Photographs side by side until the image is full: a file `(height, width, 3)`, uint8."""
    picture, side = TensorFile(path, (height, width, 3), torch.uint8), 256
    photos = [open_photo(photo).resize((side, side)) for photo in packaged_photos("eval")]
    cells = [((to_pixels(photo) + 1) * 127.5).round().byte().permute(1, 2, 0) for photo in photos]
    for row, top in enumerate(range(0, height, side)):
        for column, left in enumerate(range(0, width, side)):
            cell = cells[(row + column) % len(cells)]
            picture[top : top + side, left : left + side] = cell[: height - top, : width - left]
    return picture


def restore_mosaic(name, width, height):
    """Seconds by stage and peak bytes, also those before it, of one restoration to `width` x `height`."""
    torch.set_num_threads(1)
    model = OMGSR.from_pretrained(name).merge()
    seconds, clock, start = {}, [time.process_time()], time.perf_counter()

    def progress(stage, done, total):
        clock.append(time.process_time())
        seconds[stage] = seconds.get(stage, 0.0) + clock[-1] - clock.pop(0)
        if done * 10 // total > (done - 1) * 10 // total:
            print(f"{width}x{height} {stage} {done}/{total}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        picture = mosaic(Path(folder) / "input", width // SCALE, height // SCALE)
        output = TensorFile(Path(folder) / "output", (height, width, 3), torch.uint8)
        idle = peak_memory()
        restore_array(model, picture, output, scale=SCALE, scratch=folder, progress=progress, **TILES)
    return {
        "width": width,
        "height": height,
        "seconds": seconds,
        "wall_seconds": time.perf_counter() - start,
        "seconds_per_megapixel": sum(seconds.values()) / (width * height / 1e6),
        "idle_bytes": idle,
        "peak_bytes": peak_memory(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini-f")
    parser.add_argument("--sizes", nargs="+", default=["1536x1536", "2048x1536"], help="WIDTHxHEIGHT of the output")
    parser.add_argument("--out", type=Path, help="folder for a JSON file of this run")
    args = parser.parse_args()
    sizes = [tuple(map(int, size.split("x"))) for size in args.sizes]

    rows = [in_a_process(restore_mosaic, args.model, *size) for size in sizes]
    print(f"{'':12s} seconds  per megapixel  peak (MiB)   ratio")
    for row in rows:
        row["peak_ratio"] = row["peak_bytes"] / rows[0]["peak_bytes"]
        row["time_ratio"] = row["seconds_per_megapixel"] / rows[0]["seconds_per_megapixel"]
        size, total = f"{row['width']}x{row['height']}", sum(row["seconds"].values())
        ratios = f"{row['peak_bytes'] / 2**20:12.0f}{row['peak_ratio']:8.3f}"
        print(f"{size:12s}{total:8.0f}{row['seconds_per_megapixel']:9.2f}{row['time_ratio']:6.2f}{ratios}")
    goals = {"peak_goal": PEAK_GOAL, "time_goal": TIME_GOAL}
    write_record(args.out, f"large_image_{args.sizes[-1]}", {"model": args.model, **TILES, **goals, "sizes": rows})
    if any(row["peak_ratio"] > PEAK_GOAL or row["time_ratio"] > TIME_GOAL for row in rows):
        sys.exit("Memory or time per pixel grow with the image.")


if __name__ == "__main__":
    main()
