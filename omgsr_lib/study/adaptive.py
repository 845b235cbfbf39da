"""`omgsr adaptive`: does a timestep for each image help? The numbers of notebook 08, one process per variant.

Sets of pairs: photographs degraded from mild to extreme, and real ones. Models: the one that ships ("shipped"), one
trained longer with the same degradations at t* ("control"), and one trained as long with each image at its own
timestep ("adaptive"). Timesteps: t* ("fixed"), of the true D ("oracle"), of the estimator ("estimated"), the estimates
of other images ("random").
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import torch
from PIL import Image

from ..adaptive.estimator import load_estimator, pixel_statistics
from ..adaptive.timesteps import difference_map, shifted_timesteps
from ..data.degradation import Degradation
from ..data.pairs import EvaluationPair, evaluation_pairs
from ..data.photos import open_photo, to_pixels
from ..data.single import KINDS, degrade_by
from ..data.test_sets import open_test_set
from ..metrics.evaluate import score_pairs
from ..model import OMGSR
from ..presets import recipe
from ..priors.latents import encode_latents
from ..priors.loading import WEIGHTS, load_autoencoder
from ..priors.taef2 import load_encoder
from ..restore.pairs import restored_pairs
from ..schedules import pair_power
from ..training.checkpoint import load_state
from ..utils.files import atomic_write
from ..utils.warning_lines import show_warnings
from .run_record import start_run


BINS = {"mild": (0.05, 0.2), "medium": (0.4, 0.6), "extreme": (0.8, 0.95)}  # strengths of `Degradation.dial`
SHIFTS = (-2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0)  # of the dial, beside 0
METRICS = ("psnr_y", "ssim_y", "gmsd")
SIZE, REAL_SIZE = 128, 256  # sides in pixels of the crops
SHORT_SIDE = 256  # to which photographs are reduced, as in training


def adaptive_study(folder, photos, *, controls=None, statistics=None, realsr=None, weights=None, taef2=None, jobs=2):
    """Write `timesteps.csv`, `scores.csv`, `kinds.csv` and `run.json` to `folder`.

    Args:
        photos: paths of evaluation photographs.
        controls: folder with the adapters `mini-s-dial` and `mini-f-dial`; without it there is no control.
        statistics: `statistics.pt` that the training of the estimator left, the baselines of its errors.
        realsr: folder of RealSR; weights: folder with LPIPS-SqueezeNet; taef2: folder with the tiny autoencoder of
            FLUX.2, the second latent space of `kinds.csv`. What is not given is left out.
        jobs: processes of one thread each.
    """
    folder, tasks = Path(folder), []
    config = {"photographs": len(photos), "control": bool(controls), "realsr": bool(realsr), "taef2": bool(taef2)}
    config |= {"bins": BINS, "shifts": SHIFTS, "size": SIZE, "real_size": REAL_SIZE, "perceptual": bool(weights)}
    record = start_run("adaptive", config, seed=0, folder=folder)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, show_warnings, ("adaptive",)) as pool:
        for variant in ("s", "f"):
            tasks.append(("scores", pool.submit(variant_scores, variant, photos, controls, realsr, weights)))
        tasks.append(("timesteps", pool.submit(estimator_errors, photos, statistics)))
        tasks.append(("kinds", pool.submit(kind_differences, photos, taef2)))
        frames = {}
        for name, task in tasks:
            frames.setdefault(name, []).append(task.result())
    for name, parts in frames.items():
        with atomic_write(record.path(f"{name}.csv")) as part:
            frame = pd.concat(parts, ignore_index=True)
            if "timestep" in frame:
                frame["timestep"] = frame["timestep"].astype("Int64")
            frame.round(4).to_csv(part, index=False)
    record.finish()


def dial_pairs(photos):
    """`{(set, strength): pairs}` of all strengths of `BINS`."""
    return {
        (name, strength): evaluation_pairs(
            photos, SIZE, seed=0, short_side=SHORT_SIDE, scale=None, settings=Degradation.dial(strength)
        )
        for name, strengths in BINS.items()
        for strength in strengths
    }


def real_pairs(folder):
    """The centres of RealSR's 100 pairs, the low-quality one enlarged (bicubic)."""
    pairs = []
    for name, (lq, hq) in open_test_set("RealSR", folder).items():
        small, large = open_photo(lq), open_photo(hq)
        left, top = ((side - REAL_SIZE) // 2 for side in large.size)
        box = left, top, left + REAL_SIZE, top + REAL_SIZE
        enlarged = small.resize(large.size, Image.BICUBIC).crop(box)
        pairs.append(EvaluationPair(name, to_pixels(enlarged), to_pixels(small), to_pixels(large.crop(box))))
    return pairs


def variant_scores(variant, photos, controls=None, realsr=None, weights=None):
    """A row for each model, choice of the timestep, shift and image, with a column per metric."""
    torch.set_num_threads(1)
    models = {
        "shipped": OMGSR.from_pretrained(f"mini-{variant}").merge(),
        "adaptive": OMGSR.from_pretrained(f"mini-{variant}-adaptive").merge(),
    }
    if controls is not None:
        control = OMGSR.from_recipe(recipe("mini", f"{variant}-dial"))
        models["control"] = control.load_adapter(Path(controls) / f"mini-{variant}-dial").merge()
    sets = dial_pairs(photos) | ({("RealSR", None): real_pairs(realsr)} if realsr else {})
    differences = {key: pair_differences(models["adaptive"], pairs) for key, pairs in sets.items()}
    schedule = models["adaptive"].prior.schedule
    estimates = torch.cat([estimated for _, estimated in differences.values()])
    order = torch.randperm(len(estimates), generator=torch.Generator().manual_seed(0))
    strangers = iter(estimates[order].split([len(pairs) for pairs in sets.values()]))
    rows = []
    for (name, strength), pairs in sets.items():
        true, estimated = differences[name, strength]
        choices = {("oracle", 0.0): true, ("estimated", 0.0): estimated, ("random", 0.0): next(strangers)}
        plans = [(model, "fixed", 0.0, torch.full((len(pairs),), models[model].timestep)) for model in models]
        plans += [("adaptive", *choice, shifted_timesteps(d, schedule)) for choice, d in choices.items()]
        plans += [("adaptive", "estimated", s, shifted_timesteps(estimated, schedule, s)) for s in SHIFTS]
        about = dict(variant=variant, set=name, strength=strength)
        for model, choice, shift, timesteps in plans:
            scores = _wide(restored_pairs(models[model], pairs, timestep=timesteps), pairs, weights)
            rows.append(scores.assign(**about, model=model, choice=choice, shift=shift, timestep=timesteps.tolist()))
        enlarged = _wide([pair.lq for pair in pairs], pairs, weights)
        rows.append(enlarged.assign(**about, model="lq", choice="none", shift=0.0))
    return pd.concat(rows, ignore_index=True)


@torch.inference_mode()
def pair_differences(model, pairs):
    """The true and the estimated D of each pair, two tensors `(n,)` float64."""
    found = []
    for pair in pairs:
        lq, hq = (encode_latents(model.vae, pixels[None]) for pixels in (pair.lq, pair.hq))
        found.append((float(pair_power(lq, hq)[1]), float(difference_map(model.estimator, lq).mean())))
    return torch.tensor(found, dtype=torch.float64).unbind(1)


def _wide(images, pairs, weights):
    metrics = (*METRICS, "lpips_squeeze") if weights else METRICS
    frame = score_pairs(images, pairs, method="", metrics=metrics, weights=weights)
    return frame.pivot(index="image", columns="metric", values="value").loc[[p.name for p in pairs]].reset_index()


@torch.inference_mode()
def estimator_errors(photos, statistics=None):
    """True and estimated log D of photographs in the mix of degradations and in each kind alone.

    Columns: image, kind ("mix" or one of `KINDS`), level, true, estimated, deviation and, with the baselines in the
    file `statistics`, constant and line.
    """
    torch.set_num_threads(1)
    vae, estimator = load_autoencoder(WEIGHTS / "mini-autoencoder"), load_estimator(WEIGHTS / "mini-estimator")
    baselines = load_state(Path(statistics)) if statistics else None
    rows = []
    for kind, level, pairs in [*(("mix", s, pairs) for (_, s), pairs in dial_pairs(photos).items()), *_single(photos)]:
        for pair in pairs:
            latents, hq = (encode_latents(vae, pixels[None]) for pixels in (pair.lq, pair.hq))
            mean, deviation = estimator(latents)
            row = {"image": pair.name, "kind": kind, "level": level, "true": float(pair_power(latents, hq)[1].log())}
            row |= {"estimated": float(mean), "deviation": float(deviation)}
            if baselines is not None:
                line = float(pixel_statistics(pair.lq[None])[0] @ baselines["line"])
                row |= {"constant": float(baselines["constant"]), "line": line}
            rows.append(row)
    return pd.DataFrame(rows)


@torch.inference_mode()
def kind_differences(photos, taef2=None):
    """E[z_H^2] and D of photographs by kind and level of one degradation, in one or two latent spaces.

    Columns: space, image, kind, level, power, difference.
    """
    torch.set_num_threads(1)
    vae = load_autoencoder(WEIGHTS / "mini-autoencoder")
    spaces = {"mini": lambda pixels: encode_latents(vae, pixels)}
    if taef2:
        encoder = load_encoder(Path(taef2))
        spaces["FLUX.2 tiny"] = lambda pixels: encoder((pixels + 1) / 2)
    rows = []
    for kind, level, pairs in _single(photos):
        for space, encode in spaces.items():
            for pair in pairs:
                power, difference = map(float, pair_power(encode(pair.lq[None]), encode(pair.hq[None])))
                about = {"space": space, "image": pair.name, "kind": kind, "level": level}
                rows.append(about | {"power": power, "difference": difference})
    return pd.DataFrame(rows)


def _single(photos):
    """`(kind, level, pairs)` of every level of every single degradation."""
    plain = evaluation_pairs(photos, SIZE, seed=0, short_side=SHORT_SIDE, scale=1, settings=Degradation.dial(0))
    for kind, levels in KINDS.items():
        for level in levels:
            lq = (degrade_by(pair.hq, kind, level, seed=number) for number, pair in enumerate(plain))
            yield kind, level, [EvaluationPair(p.name, x, x, p.hq) for p, x in zip(plain, lq, strict=True)]
