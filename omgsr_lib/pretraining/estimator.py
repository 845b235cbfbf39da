"""Train the estimator of the mini preset on pairs from mild to extreme degradations."""

import random
from functools import partial
from pathlib import Path

import torch

from ..adaptive.estimator import DifferenceEstimator, calibrate, log_likelihood_loss, pixel_statistics
from ..data.degradation import random_dial
from ..data.pairs import Pairs
from ..priors.latents import encode_latents
from ..schedules import pair_power
from ..training.checkpoint import cached, save_state
from .loop import cosine_with_warmup, run_steps


PAIRS = 6000
HELD_OUT = 0.1  # of the photographs, for the calibration


@torch.no_grad()
def difference_data(vae, paths, count, *, seed, size=128):
    """`{"latents", "log_difference", "statistics"}` of `count` pairs of random crops and random strengths."""
    pairs = Pairs(paths, size, seed=seed, settings=partial(random_dial, seed=seed), length=count)
    latents, differences, statistics = [], [], []
    for first in range(0, count, 16):
        items = [pairs[i] for i in range(first, min(first + 16, count))]
        lq, hq = (torch.stack([item[name] for item in items]) for name in ("lq", "hq"))
        lq_latents = encode_latents(vae, lq)
        latents.append(lq_latents.half())
        differences.append(pair_power(lq_latents, encode_latents(vae, hq))[1].log().float())
        statistics.append(pixel_statistics(lq))
    names = ("latents", "log_difference", "statistics")
    return {name: torch.cat(parts) for name, parts in zip(names, (latents, differences, statistics), strict=True)}


def train_estimator(vae, paths, folder, *, steps, batch_size=64, learning_rate=1e-3, seed=0):
    """Train on photographs `paths`, calibrate on a tenth of them that is left out; returns the `DifferenceEstimator`.

    The pairs are computed once, into `<folder>/pairs.pt`; `statistics.pt` there holds the fitted line of the baseline.
    """
    shuffled = random.Random(seed).sample(sorted(paths), len(paths))
    split = max(1, round(HELD_OUT * len(paths)))
    data = cached(
        folder,
        "pairs",
        lambda: {
            "fit": difference_data(vae, shuffled[split:], PAIRS, seed=seed),
            "held_out": difference_data(vae, shuffled[:split], PAIRS // 10, seed=seed + 1),
        },
    )
    fit, held_out = data["fit"], data["held_out"]
    torch.manual_seed(seed)
    estimator = DifferenceEstimator(fit["latents"].shape[1])
    optimizer = torch.optim.AdamW(estimator.parameters(), lr=learning_rate, weight_decay=1e-2)
    schedule = cosine_with_warmup(optimizer, steps, warmup=50)

    def step_losses(step):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        drawn = torch.randint(len(fit["latents"]), (batch_size,), generator=generator)
        mean, deviation = estimator(fit["latents"][drawn].float())
        return {"likelihood": log_likelihood_loss(mean, deviation, fit["log_difference"][drawn])}

    run_steps(folder, steps, step_losses, modules={"estimator": estimator}, optimizer=optimizer, schedule=schedule)
    calibrate(estimator.eval(), held_out["latents"].float(), held_out["log_difference"])
    line = torch.linalg.lstsq(fit["statistics"], fit["log_difference"].double()[:, None]).solution[:, 0]
    save_state(Path(folder) / "statistics.pt", {"line": line, "constant": fit["log_difference"].median()})
    return estimator
