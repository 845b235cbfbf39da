"""Train the estimator of the mini preset on pairs that have lost hardly anything up to nearly everything."""

import random
from functools import partial
from pathlib import Path

import torch

from ..checkpoint import load_state, save_state
from ..data.degradation import random_dial
from ..data.pairs import Pairs
from ..data.single import degrade_by, random_kind
from ..estimator import DifferenceEstimator, calibrate, log_likelihood_loss, pixel_statistics
from ..priors.latents import encode_latents
from ..schedules import pair_power
from .loop import cosine_with_warmup, run_steps


PAIRS = 16_000
HELD_OUT = 0.1  # of the photographs, for the calibration
LEAST = 1e-3  # D below which a picture counts as clean
BATCH = 16  # pairs that are encoded at once


class MixedPairs(torch.utils.data.Dataset):
    """Random crops, by turns degraded by the chain at a random strength (`random_dial`) and by one kind alone.

    What `random_kind` draws reaches down to pictures that have hardly lost anything, which the chain never leaves.
    Items as those of `Pairs`; they depend on `(seed, index)` alone.
    """

    def __init__(self, paths, size, *, seed, length):
        self.seed, self.length = seed, length
        self.chain = Pairs(paths, size, seed=seed, settings=partial(random_dial, seed=seed), length=length)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index % 2 == 0:
            return self.chain[index]
        hq = self.chain.crops.batch(index, 1)[0]
        return {"lq": degrade_by(hq, *random_kind(index, seed=self.seed), seed=index), "hq": hq}


@torch.no_grad()
def difference_data(vae, paths, count, *, seed, size=128, workers=2):
    """`{"latents", "log_difference", "statistics"}` of `count` pairs of `MixedPairs`; `workers` make the pictures."""
    pairs = MixedPairs(paths, size, seed=seed, length=count)
    latents, differences, statistics = [], [], []
    for batch in torch.utils.data.DataLoader(pairs, batch_size=BATCH, num_workers=workers):
        lq_latents = encode_latents(vae, batch["lq"])
        latents.append(lq_latents.half())
        difference = pair_power(lq_latents, encode_latents(vae, batch["hq"]))[1]
        differences.append(difference.clamp(min=LEAST).log().float())
        statistics.append(pixel_statistics(batch["lq"]))
    names = ("latents", "log_difference", "statistics")
    return {name: torch.cat(parts) for name, parts in zip(names, (latents, differences, statistics), strict=True)}


def train_estimator(vae, paths, folder, *, steps, batch_size=64, learning_rate=1e-3, seed=0):
    """Train on photographs `paths`, calibrate on a tenth of them that is left out; returns the `DifferenceEstimator`.

    The pairs are computed once, into `<folder>/pairs.pt`; `statistics.pt` there holds the fitted line of the baseline.
    """
    file = Path(folder) / "pairs.pt"
    if (data := load_state(file)) is None:
        shuffled = random.Random(seed).sample(sorted(paths), len(paths))
        split = max(1, round(HELD_OUT * len(paths)))
        data = {
            "fit": difference_data(vae, shuffled[split:], PAIRS, seed=seed),
            "held_out": difference_data(vae, shuffled[:split], PAIRS // 10, seed=seed + 1),
        }
        save_state(file, data)
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
