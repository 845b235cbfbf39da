"""The mid-timestep in closed form against the published scan over all timesteps. Goal: 500 times faster.

The scan follows the published rule as written: for each timestep and each pair, the SNR of the noisy and of the LQ
latent from the latents. Both sides run in turns on the same pairs; the best of the repeats counts.

    python benchmarks/midstep.py [--pairs 200] [--shape 4 64 64] [--repeats 2] [--out results/benchmarks]
"""

import argparse
import sys
from pathlib import Path

import torch
from record import best_in_turns, write_record

from omgsr_lib.midstep import SNRStatistics, snr_mid_timestep
from omgsr_lib.priors import PRIORS
from omgsr_lib.priors.latent_space import load_schedule


GOAL = 500


def scan(lq_latents, hq_latents, schedule):
    """The published loop; returns the timestep."""
    best, best_timestep = float("inf"), None
    for timestep in range(len(schedule.alphas)):
        alpha, sigma = float(schedule.alphas[timestep]), float(schedule.sigmas[timestep])
        if sigma == 0:
            continue
        total = 0.0
        for lq, hq in zip(lq_latents, hq_latents, strict=True):
            power = hq.square().mean()
            noisy_snr = alpha**2 * power / sigma**2
            lq_snr = power / (lq - hq).square().mean()
            total += (noisy_snr - lq_snr).abs().item()
        if total < best:
            best, best_timestep = total, timestep
    return best_timestep


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--shape", type=int, nargs=3, default=(4, 64, 64), metavar=("C", "H", "W"))
    parser.add_argument("--repeats", type=int, default=2, help="scans; ten closed forms run with each")
    parser.add_argument("--family", choices=PRIORS, default="ddpm")
    parser.add_argument("--out", type=Path, help="folder for a JSON file of this run")
    args = parser.parse_args()
    torch.set_num_threads(1)

    schedule = load_schedule(args.family)
    generator = torch.Generator().manual_seed(0)
    hq = torch.randn(args.pairs, *args.shape, generator=generator)
    size = torch.randn(args.pairs, 1, 1, 1, generator=generator).mul(0.3).exp()
    lq = hq + size * torch.randn(hq.shape, generator=generator)
    statistics = SNRStatistics().update(lq, hq)

    sides = {
        "scan": lambda: scan(lq, hq, schedule),
        "closed_form": lambda: snr_mid_timestep(lq, hq, schedule).timestep,
        "closed_form_with_interval": lambda: snr_mid_timestep(lq, hq, schedule).interval,
        "closed_form_from_statistics": lambda: statistics.mid_timestep(schedule).timestep,
    }
    best, results = best_in_turns(sides, args.repeats, {name: 10 for name in sides if name != "scan"})

    timesteps = {results[name] for name in ("scan", "closed_form", "closed_form_from_statistics")}
    ratios = {name: best["scan"] / best[name] for name in sides if name != "scan"}
    print(f"{args.pairs} pairs of {'x'.join(map(str, args.shape))}, {args.family}, one thread, best of {args.repeats}")
    print(f"timestep {sorted(timesteps)}, interval {results['closed_form_with_interval']}")
    print(f"{'scan':30s} {best['scan'] * 1e3:10.2f} ms")
    for name, ratio in ratios.items():
        print(f"{name:30s} {best[name] * 1e3:10.2f} ms   {ratio:8.0f} x")
    content = {
        "pairs": args.pairs,
        "shape": list(args.shape),
        "family": args.family,
        "repeats": args.repeats,
        "timestep": sorted(timesteps),
        "seconds": best,
        "ratios": ratios,
        "goal": GOAL,
    }
    write_record(args.out, f"midstep_{args.family}", content)
    if len(timesteps) != 1:
        sys.exit(f"The two must find one timestep: got {sorted(timesteps)}.")
    if ratios["closed_form"] < GOAL:
        sys.exit(f"The goal is {GOAL} x: got {ratios['closed_form']:.0f} x.")


if __name__ == "__main__":
    main()
