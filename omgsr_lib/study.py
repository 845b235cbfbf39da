"""`make study`: the ablation of notebook 06, equal trainings that differ in one thing, an hour or two on two cores.

Varied: timestep (late, mid, initial), protocol (the full method, or the encoder frozen), prior (trained, or random as
a control), refinement loss (with, without), training seed. Each run writes its own CSV once, so that a stopped study
goes on.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .presets import recipe
from .provenance import atomic_write, start_run


METRICS = ("psnr_y", "ssim_y", "gmsd", "checkerboard")


@dataclass(frozen=True)
class StudyRun:
    """One training of the study."""

    variant: str  # "s" or "f"
    protocol: str = "full"  # "full" or "frozen_encoder"
    timestep: int = 0
    prior: str = "trained"  # "trained" or "random"
    refinement: bool = True
    seed: int = 0

    @property
    def name(self):
        loss = "" if self.refinement else "_no-ldr"
        return f"{self.variant}_{self.protocol}_{self.prior}_t{self.timestep}{loss}_seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class StudyData:
    """What the runs train and measure on."""

    train: tuple  # paths of training photographs
    evaluation: tuple  # paths of evaluation photographs
    synthetic: int = 0  # number of synthetic training pictures
    weights: str | None = None  # folder of LPIPS-SqueezeNet: then the perceptual loss, and one of the measures
    steps: int = 150
    crops_per_photo: int = 1
    short_side: int = 256


def study_runs(mid_timesteps):
    """All runs; `mid_timesteps`: t* of each variant, `{"s": ..., "f": ...}`."""
    runs = []
    for variant, mid in mid_timesteps.items():
        for timestep in (25, 200, mid, 600, 999):
            runs += [StudyRun(variant, "full", timestep), StudyRun(variant, "frozen_encoder", timestep)]
        runs += [StudyRun(variant, protocol, mid, prior="random") for protocol in ("full", "frozen_encoder")]
        runs += [StudyRun(variant, "full", mid, refinement=False)]
        runs += [StudyRun(variant, "full", timestep, seed=seed) for seed in (1, 2) for timestep in (mid, 999)]
    return sorted(set(runs), key=lambda run: (run.seed, run.protocol, run.name))


def study(folder, data, mid_timesteps, *, jobs=2):
    """Run what is missing of the study in `folder`, `jobs` processes of one thread each; returns all scores.

    Writes `<folder>/runs/<name>.csv` per run and then `<folder>/study.csv`: one row per run, image and metric.
    """
    import pandas as pd

    folder = Path(folder)
    runs = study_runs(mid_timesteps)
    facts = {
        "steps": data.steps,
        "runs": len(runs),
        "mid_timesteps": mid_timesteps,
        "perceptual_loss": "LPIPS-SqueezeNet" if data.weights else "autoencoder features",
        "training_photographs": len(data.train),
        "synthetic_pictures": data.synthetic,
        "evaluation_photographs": len(data.evaluation),
    }
    record = start_run("study", facts, seed=0, folder=folder)
    missing = [run for run in runs if not _file(folder, run).exists()]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(execute_run, run, data, folder): run for run in missing}
        for done, future in enumerate(as_completed(futures), start=1):
            print(f"[{done}/{len(missing)}] {futures[future].name}: {future.result():.0f} s", flush=True)
    frame = pd.concat([pd.read_csv(_file(folder, run)) for run in runs], ignore_index=True)
    with atomic_write(record.path("study.csv")) as part:
        frame.to_csv(part, index=False, float_format="%.6g")
    record.finish()
    return frame


def execute_run(run, data, folder):
    """Train and measure one run on one thread; returns its seconds."""
    import torch

    from .analysis import restored_pairs, score_pairs
    from .data.pairs import Pairs, evaluation_pairs
    from .losses.perceptual import lpips_squeeze
    from .model import OMGSR
    from .priors.loading import randomise
    from .train import train

    torch.set_num_threads(1)
    chosen = recipe("mini", run.variant)
    if not run.refinement:
        chosen = replace(chosen, refinement=0.0)
    model = OMGSR.from_base(chosen.base, chosen.family, run.timestep)
    if run.prior == "random":
        randomise(model.prior, run.seed)
    model.add_adapters(0 if run.protocol == "frozen_encoder" else chosen.vae_rank, chosen.denoiser_rank, seed=run.seed)
    pairs = Pairs(data.train, chosen.resolution, seed=run.seed, scale=chosen.scale, synthetic=data.synthetic)
    perceptual = lpips_squeeze(data.weights) if data.weights else None
    result = train(
        model, pairs, chosen, Path(folder) / "trainings" / run.name, seed=run.seed, steps=data.steps,
        perceptual=perceptual, precision="bf16", progress=False,
    )  # fmt: skip
    held_out = evaluation_pairs(
        data.evaluation, chosen.resolution, seed=0, scale=chosen.scale, crops_per_photo=data.crops_per_photo,
        short_side=data.short_side,
    )  # fmt: skip
    metrics = (*METRICS, "lpips_squeeze") if data.weights else METRICS
    frame = score_pairs(
        restored_pairs(model, held_out), held_out, method=run.name, metrics=metrics, weights=data.weights
    )
    frame = frame[["image", "metric", "value"]].assign(**asdict(run))
    with atomic_write(_file(folder, run)) as part:
        frame.to_csv(part, index=False, float_format="%.6g")
    return result.seconds


def _file(folder, run):
    return Path(folder) / "runs" / f"{run.name}.csv"
