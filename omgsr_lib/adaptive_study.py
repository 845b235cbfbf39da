"""Does a timestep for each picture help? Fixed, true, estimated and random timesteps by strength of degradation."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.nn import functional as F

from .adaptive import shifted_timesteps
from .analysis import load_schedule, score_pairs
from .data.degradation import Degradation
from .data.pairs import EvaluationPair, evaluation_pairs
from .data.photos import open_photo, to_pixels
from .estimator import pixel_statistics
from .priors.latents import encode_latents
from .provenance import atomic_write, start_run
from .schedules import pair_power


BINS = {"mild": 0.0, "medium": 0.5, "extreme": 1.0}  # strength of `Degradation.dial`
SHIFTS = (-1.5, -1.0, -0.5, 0.5, 1.0, 1.5)  # of log2(sigma_t / alpha_t) away from the true timestep
STRENGTHS = (-1.0, -0.5, 0.5, 1.0)  # of the dial, around the estimated timestep
SCALE, NOISE, BLUR = "Scale", "Noise (of 255)", "Blur (pixels)"
RESPONSES = {SCALE: (1.5, 2, 3, 4, 6, 8), NOISE: (2, 5, 10, 20, 35, 50), BLUR: (0.5, 1, 1.5, 2, 3, 4)}
RESPONSE_PHOTOS = 24


@dataclass(frozen=True)
class Case:
    """Pairs of one strength, with the numbers that their timesteps come from."""

    pairs: list  # of `EvaluationPair`
    difference: torch.Tensor  # (N,) true D
    estimate: torch.Tensor  # (N,) estimated D
    deviation: torch.Tensor  # (N,) standard deviation of log D, by the estimator


@torch.no_grad()
def study_cases(photos, vae, estimator, *, size=128, crops_per_photo=1, short_side=256, seed=0):
    """The `Case` of each bin, on the photographs `photos`."""
    cases = {}
    for name, strength in BINS.items():
        settings = Degradation.dial(strength)
        pairs = evaluation_pairs(
            photos, size, seed=seed, scale=settings.scale, settings=settings, crops_per_photo=crops_per_photo,
            short_side=short_side,
        )  # fmt: skip
        cases[name] = as_case(pairs, vae, estimator)
    return cases


@torch.no_grad()
def as_case(pairs, vae, estimator):
    """`Case` of `EvaluationPair`s."""
    parts = []
    for pair in pairs:
        lq_latents, hq_latents = (encode_latents(vae, pixels[None]) for pixels in (pair.lq, pair.hq))
        mean, deviation = estimator(lq_latents)
        parts.append((pair_power(lq_latents, hq_latents)[1], mean.double().exp(), deviation.double()))
    return Case(pairs, *(torch.cat(part) for part in zip(*parts, strict=True)))


def timestep_choices(case, schedule, fixed, *, seed=0):
    """Timesteps `(N,)` by the name of the rule that chooses them.

    "fixed": t* for all. "true", "estimated": of each picture's D. "random": the true ones of other pictures. "true
    +x", "estimated +x": `sigma_t / alpha_t` moved by `2^x` from there.
    """
    true = shifted_timesteps(case.difference, schedule)
    shuffled = torch.from_numpy(np.random.default_rng(seed).permutation(len(true)))
    choices = {
        "fixed": torch.full_like(true, fixed),
        "true": true,
        "estimated": shifted_timesteps(case.estimate, schedule),
        "random": true[shuffled],
    }
    for name, difference, shifts in (("true", case.difference, SHIFTS), ("estimated", case.estimate, STRENGTHS)):
        choices |= {f"{name} {shift:+.1f}": shifted_timesteps(difference, schedule, shift) for shift in shifts}
    return choices


def study_scores(models, cases, *, metrics, weights=None, seed=0, progress=print):
    """Long data frame of all models, bins and choices: variant, arm, bin, choice, image, timestep, metric, value.

    `models` yields `(variant, arm, model)`. An adaptive model runs at every choice, the others at "fixed" and "true".
    """
    frames = []
    for variant, arm, model in models:
        for bin_name, case in cases.items():
            choices = timestep_choices(case, model.prior.schedule, model.timestep, seed=seed)
            for choice, timesteps in choices.items():
                if not model.adaptive and choice not in ("fixed", "true"):
                    continue
                restored = restored_at(model, case.pairs, timesteps)
                scores = score_pairs(restored, case.pairs, method=arm, metrics=metrics, weights=weights)
                chosen = dict(zip([pair.name for pair in case.pairs], timesteps.tolist(), strict=True))
                scores = scores[["image", "metric", "value"]].assign(timestep=scores.image.map(chosen))
                frames.append(scores.assign(variant=variant, arm=arm, bin=bin_name, choice=choice))
            progress(f"{variant} {arm} {bin_name}")
    columns = ["variant", "arm", "bin", "choice", "image", "timestep", "metric", "value"]
    return pd.concat(frames, ignore_index=True)[columns]


@torch.inference_mode()
def restored_at(model, pairs, timesteps, *, batch_size=4):
    """Pictures of `EvaluationPair`s, each at its own timestep; like `analysis.restored_pairs`."""
    lq = torch.stack([pair.lq for pair in pairs])
    parts = zip(lq.split(batch_size), timesteps.split(batch_size), strict=True)
    images = torch.cat([model(pixels, chosen).images.float() for pixels, chosen in parts])
    return list(((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1)


def estimation_table(cases, line, constant, schedule):
    """Error of the estimators in log D and in timesteps: data frame bin, estimator, image, log_difference, estimate,
    deviation, true_timestep, timestep.

    `line`, `constant`: the fitted line of `pixel_statistics` and the median log D of the training pairs.
    """
    frames = []
    for name, case in cases.items():
        statistics = torch.cat([pixel_statistics(pair.lq[None]) for pair in case.pairs]) @ line
        estimates = {
            "network": (case.estimate.log(), case.deviation),
            "sharpness and noise": (statistics, torch.full_like(statistics, torch.nan)),
            "constant": (torch.full_like(statistics, float(constant)), torch.full_like(statistics, torch.nan)),
        }
        for estimator, (estimate, deviation) in estimates.items():
            frames.append(
                pd.DataFrame(
                    {
                        "bin": name,
                        "estimator": estimator,
                        "image": [pair.name for pair in case.pairs],
                        "log_difference": case.difference.log(),
                        "estimate": estimate,
                        "deviation": deviation,
                        "true_timestep": shifted_timesteps(case.difference, schedule),
                        "timestep": shifted_timesteps(estimate.exp(), schedule),
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


@torch.no_grad()
def response_table(spaces, photos, schedule, *, size=128, short_side=256):
    """How the mid-timestep moves with one degradation at a time: data frame space, kind, value, image, timestep.

    `spaces`: functions from pixels `(1, 3, H, W)` to latents, by name. Scales are bicubic reductions and enlargements.
    """
    crops = evaluation_pairs(photos, size, seed=0, short_side=short_side)
    rows = []
    for space, encode in spaces.items():
        for pair in crops:
            hq_latents = encode(pair.hq[None])
            for kind, values in RESPONSES.items():
                for value in values:
                    lq_latents = encode(_degraded(pair.hq, kind, value)[None])
                    difference = pair_power(lq_latents, hq_latents)[1]
                    timestep = int(shifted_timesteps(difference, schedule))
                    rows.append((space, kind, value, pair.name, float(difference), timestep))
    return pd.DataFrame(rows, columns=["space", "kind", "value", "image", "difference", "timestep"])


def _degraded(hq, kind, value):
    """`hq` `(3, H, W)` with one degradation, in `[-1, 1]`; noise depends on nothing but its strength."""
    if kind == SCALE:
        size = hq.shape[1:]
        small = F.interpolate(hq[None], scale_factor=1 / value, mode="bicubic", antialias=True)
        return F.interpolate(small, size=size, mode="bicubic")[0].clamp(-1, 1)
    if kind == NOISE:
        noise = torch.randn(hq.shape, generator=torch.Generator().manual_seed(0))
        return (hq + noise * value / 127.5).clamp(-1, 1)
    kernel = torch.exp(-(torch.arange(-24, 25).float() ** 2) / (2 * value**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = F.pad(hq[None], (24,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)[0]


def adaptive_study(
    photos, folder, models, vae, estimator, baseline, *, metrics, weights=None, realsr=None, extra=None
):
    """Write `scores.csv`, `estimation.csv` and `response.csv` to `folder`; see the functions that make them.

    Args:
        photos: evaluation photographs.
        models: as in `study_scores`.
        baseline: `{"line", "constant"}`, of `pretraining.estimator.train_estimator`.
        realsr: pairs `(name, lq, hq)` of files, which become the bin "RealSR" (centre crops).
        extra: further latent spaces by name, functions from pixels to latents.
    """
    schedule = load_schedule("ddpm")
    cases = study_cases(photos, vae, estimator)
    if realsr:
        cases["RealSR"] = as_case(realsr_pairs(realsr), vae, estimator)
    spaces = {"mini": lambda pixels: encode_latents(vae, pixels)} | (extra or {})
    run = start_run("adaptive_study", {"photographs": len(photos), "realsr": len(realsr or ())}, seed=0, folder=folder)
    tables = {
        "estimation.csv": estimation_table(cases, baseline["line"], baseline["constant"], schedule),
        "response.csv": response_table(spaces, photos[:RESPONSE_PHOTOS], schedule),
        "scores.csv": study_scores(models, cases, metrics=metrics, weights=weights),
    }
    for name, table in tables.items():
        with atomic_write(run.path(name)) as part:
            table.to_csv(part, index=False, float_format="%.5g")
    run.finish()
    return tables


def realsr_pairs(pairs, *, size=128, scale=4):
    """Centre crops `EvaluationPair`s of real pairs `(name, lq, hq)` of files, the LQ picture enlarged bicubically."""
    found = []
    for name, lq_file, hq_file in pairs:
        hq, lq = open_photo(hq_file), open_photo(lq_file)
        left, top = ((side - size) // (2 * scale) * scale for side in hq.size)
        hq = hq.crop((left, top, left + size, top + size))
        small = lq.crop((left // scale, top // scale, (left + size) // scale, (top + size) // scale))
        large = small.resize((size, size), Image.BICUBIC)
        found.append(EvaluationPair(name, to_pixels(large), to_pixels(small), to_pixels(hq)))
    return found
