"""Tiles against one piece: overdraw of the plans, error and time of tiled autoencoders, peak memory of the flat mode.

Overdraw: the area of all tiles over that of the image, smallest tiles against the published half overlap, the worst
of all sizes up to the next. Autoencoders: the shipped one and a random one in Stable Diffusion's layout, interleaved
on the same image, in seconds of the processor on one thread; the exact mode must equal one piece in float64, and its
time has a goal from 2048 pixels on. Peak memory: encode and decode from file to file, one process per size.

    python benchmarks/tiling.py [--side 768] [--sizes 1024 1536] [--repeats 2] [--out results/benchmarks]
"""

import argparse
import copy
import math
import sys
import tempfile
import time
from pathlib import Path

import torch
from record import in_a_process, peak_memory, write_record

from omgsr_lib.data.photos import open_photo, packaged_photos, to_pixels
from omgsr_lib.priors.latents import compression, decode_latents, encode_latents, posterior_latents, unscale_latents
from omgsr_lib.priors.loading import WEIGHTS, load_autoencoder
from omgsr_lib.priors.tiny import tiny_autoencoder
from omgsr_lib.restore.tensor_file import TensorFile
from omgsr_lib.tiling.grid import plan_tiles
from omgsr_lib.tiling.vae import FlatPass, decode_tiled, encode_tiled
from omgsr_lib.tiling.vae_layers import decoder_layers, encoder_layers


OVERDRAW_GOAL, ERROR_GOAL, DECIBEL_GOAL, TIME_GOAL, PEAK_GOAL = 1.30, 1e-5, 45, 1.25, 1.05
TILE = 32  # latents, of the flat mode
AUTOENCODERS = {
    "mini": lambda: load_autoencoder(WEIGHTS / "mini-autoencoder"),
    "SD layout": lambda: tiny_autoencoder().requires_grad_(False),
}


def overdraw(tile):
    """Rows of `(multiple, smallest, published)`: the worst overdraw of sides from a multiple of `tile` to the next."""

    def worst(multiple, planner):
        sides = range(multiple * tile, min((multiple + 1) * tile, 16 * tile + 1))
        return max(plan_tiles(side, side, tile, planner=planner).overdraw for side in sides)

    return [{"sides": k, "smallest": worst(k, "smallest"), "published": worst(k, "published")} for k in range(2, 17)]


def photo(side):
    return to_pixels(open_photo(packaged_photos("eval")[0]).resize((side, side)))[None]


@torch.inference_mode()
def compare(vae, side, repeats):
    """Of encoder and decoder: seconds of one piece and both modes, ratios to one piece, errors."""
    pixels = photo(side)
    latents = encode_latents(vae, pixels)
    wide = copy.deepcopy(vae).double()
    stages = {
        "encode": (encode_tiled, encode_latents(wide, pixels.double()), encode_latents, pixels),
        "decode": (decode_tiled, decode_latents(wide, latents.double()), decode_latents, latents),
    }
    found = {}
    for stage, (tiled, reference, whole, x) in stages.items():
        sides = {
            "one piece": lambda whole=whole, x=x: whole(vae, x),
            "exact": lambda tiled=tiled, x=x: tiled(vae, x, mode="exact"),
            "flat": lambda tiled=tiled, x=x: tiled(vae, x, mode="flat", tile=TILE),
        }
        seconds, results = dict.fromkeys(sides, float("inf")), {}
        for repeat in range(repeats):
            for name in list(sides)[:: 1 if repeat % 2 == 0 else -1]:
                start = time.process_time()
                results[name] = sides[name]()
                seconds[name] = min(seconds[name], time.process_time() - start)
        exact = tiled(wide, x.double(), mode="exact")
        rounding = {name: (results[name].double() - reference).abs().max().item() for name in ("one piece", "exact")}
        off = (results["flat"] - results["one piece"]).square().mean().sqrt().item()
        span = (reference.max() - reference.min()).item()
        found[stage] = {
            "seconds": seconds,
            "time_ratio": {name: seconds[name] / seconds["one piece"] for name in ("exact", "flat")},
            "float64_difference": (exact - reference).abs().max().item(),
            "float32_rounding": rounding,
            "flat_decibels": 20 * math.log10(span / off),
        }
    return found


@torch.inference_mode()
def flat_from_file_to_file(name, side):
    """Encode and decode `side` x `side` pixels in flat mode; peak bytes before and after."""
    torch.set_num_threads(1)
    vae = AUTOENCODERS[name]()
    factor = compression(vae)
    with tempfile.TemporaryDirectory() as folder:
        source, target = (TensorFile(Path(folder) / part, (1, 3, side, side), torch.uint8) for part in ("in", "out"))
        cell = ((photo(512) + 1) * 127.5).round()
        for top in range(0, side, 512):
            for left in range(0, side, 512):
                source[..., top : top + 512, left : left + 512] = cell[..., : side - top, : side - left]
        latents = TensorFile(Path(folder) / "latents", (1, vae.config.latent_channels, side // factor, side // factor))
        idle = peak_memory()
        encoder = FlatPass(
            encoder_layers(vae), lambda y, x: source[..., y, x].float() / 127.5 - 1, side, side, tile=TILE
        )
        for rows, columns, tile in encoder.tiles():
            latents[..., rows, columns] = posterior_latents(vae, tile)
        decoder = FlatPass(
            decoder_layers(vae), lambda y, x: unscale_latents(vae, latents[..., y, x]), *latents.shape[2:], tile=TILE
        )
        for rows, columns, tile in decoder.tiles():
            target[..., rows, columns] = ((tile.clamp(-1, 1) + 1) * 127.5).round()
    return {"idle_bytes": idle, "peak_bytes": peak_memory(), "seconds": time.process_time()}


def report_overdraw(failed):
    print("worst overdraw           smallest  published  ratio")
    plans = {tile: overdraw(tile) for tile in (64, 128)}
    for tile, rows in plans.items():
        for row in rows:
            row["ratio"] = row["published"] / row["smallest"]
            values = f"{row['smallest']:9.3f}{row['published']:11.3f}{row['ratio']:7.2f}"
            print(f"tile {tile:3d}, side {row['sides']:2d} tiles {values}")
            failed += [f"overdraw {tile} x {row['sides']}"] * (row["smallest"] > OVERDRAW_GOAL)
    return plans


def report_autoencoders(side, repeats, failed):
    print(f"\n{side} x {side}, best of {repeats}")
    print(f"{'':20s} one piece  exact   flat  float64 error      flat")
    found = {name: compare(make(), side, repeats) for name, make in AUTOENCODERS.items()}
    for name, stages in found.items():
        for stage, row in stages.items():
            exact, error = row["time_ratio"]["exact"], row["float64_difference"]
            times = f"{row['seconds']['one piece']:8.2f} s{exact:7.2f}{row['time_ratio']['flat']:7.2f}"
            print(f"{name:12s}{stage:8s}{times}{error:16.1e}{row['flat_decibels']:7.1f} dB")
            failed += [f"error of exact {stage}, {name}"] * (error > ERROR_GOAL)
            failed += [f"time of exact {stage}, {name}"] * (side >= 2048 and exact > TIME_GOAL)
            failed += [f"flat {stage}, {name}"] * (row["flat_decibels"] < DECIBEL_GOAL)
    return found


def report_peaks(sizes, failed):
    print("\npeak memory of flat encoding and decoding")
    peaks = {}
    for name in AUTOENCODERS:
        peaks[name] = {side: in_a_process(flat_from_file_to_file, name, side) for side in sizes}
        first = peaks[name][sizes[0]]["peak_bytes"]
        for side, row in peaks[name].items():
            row["ratio"] = row["peak_bytes"] / first
            mebibytes = f"{row['peak_bytes'] / 2**20:7.0f} MiB, {row['idle_bytes'] / 2**20:.0f} before"
            print(f"{name:12s}{side:6d}{mebibytes}{row['ratio']:8.3f}")
            failed += [f"peak memory at {side}, {name}"] * (row["ratio"] > PEAK_GOAL)
    return peaks


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=768, help="pixels of the image for error and time")
    parser.add_argument("--sizes", type=int, nargs="+", default=(1024, 1536), help="sides for the peak memory")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for a JSON file of this run")
    args = parser.parse_args()
    torch.set_num_threads(1)

    failed = []
    content = {
        "overdraw": report_overdraw(failed),
        "side": args.side,
        "autoencoders": report_autoencoders(args.side, args.repeats, failed),
        "peaks": report_peaks(args.sizes, failed),
    }
    goals = {"overdraw": OVERDRAW_GOAL, "exact_error": ERROR_GOAL, "flat_decibels": DECIBEL_GOAL}
    goals |= {"exact_time_ratio": TIME_GOAL, "peak_ratio": PEAK_GOAL}
    write_record(args.out, "tiling", {**content, "goals": goals})
    if failed:
        sys.exit(f"Missed goals: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
