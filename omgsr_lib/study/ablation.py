"""`make study`: the ablation of notebook 06, equal trainings that differ in one thing, an hour or two on two cores.

Varied: timestep (late, mid, initial), protocol (the full method, the encoder frozen, no training), prior (trained, or
random as a control), refinement loss (with, without), one other loss left out or taken on whole images, training
seed. Each run writes its own CSV once, so that a stopped study resumes, and runs that `study.csv` holds are not
repeated as long as settings and photographs are the same.
"""

import hashlib
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from ..data.pairs import assert_disjoint
from ..presets import recipe
from ..priors.loading import WEIGHTS
from ..report.contrasts import read_study
from ..training.checkpoint import keep_settings
from ..utils.files import HASHES, atomic_write, sha256
from ..utils.precision import native_precision
from .run_record import start_run


METRICS = ("psnr_y", "ssim_y", "gmsd", "checkerboard")
PARTS = ("mini-autoencoder", "mini-ddpm", "mini-f", "mini-flow", "mini-s")  # shipped weights that a study depends on

# Changes of the recipe by what a run is without; without chunks both losses see whole images.
WITHOUT = {
    "": {},
    "chunks": {"chunk": None, "critic_chunk": None},
    "perceptual": {"perceptual": 0.0},
    "adversarial": {"adversarial": 0.0},
    "grid": {"grid": 0.0},
}


@dataclass(frozen=True)
class StudyRun:
    """One training of the study."""

    variant: str  # "s" or "f"
    protocol: str = "full"  # "full", "frozen_encoder" or "untuned" (the prior as it is, no training)
    timestep: int = 0
    prior: str = "trained"  # "trained" or "random"
    refinement: bool = True
    without: str = ""  # a key of `WITHOUT`
    seed: int = 0

    @property
    def name(self):
        loss = ("" if self.refinement else "_no-ldr") + (f"_no-{self.without}" if self.without else "")
        return f"{self.variant}_{self.protocol}_{self.prior}_t{self.timestep}{loss}_seed{self.seed}"


RUN_COLUMNS = [field.name for field in fields(StudyRun)]


@dataclass(frozen=True, kw_only=True)
class StudyData:
    """What the runs train and measure on."""

    train: tuple  # paths of training photographs
    evaluation: tuple  # paths of evaluation photographs
    synthetic: int = 0  # number of synthetic training images
    weights: str | None = None  # folder of LPIPS-SqueezeNet: then the perceptual loss, and one of the measures
    steps: int = 150
    crops_per_photo: int = 1
    short_side: int = 256


def study_runs(mid_timesteps):
    """All runs; `mid_timesteps`: t* of each variant, `{"s": ..., "f": ...}`."""
    runs = []
    for variant, mid in mid_timesteps.items():
        for timestep in (25, 200, mid, 600, 999):
            runs += [StudyRun(variant, protocol, timestep) for protocol in ("full", "frozen_encoder", "untuned")]
        runs += [StudyRun(variant, protocol, mid, prior="random") for protocol in ("full", "frozen_encoder")]
        runs += [StudyRun(variant, "full", timestep, refinement=False) for timestep in (mid, 999)]
        runs += [StudyRun(variant, "full", mid, without=loss) for loss in WITHOUT]
        runs += [StudyRun(variant, "full", timestep, seed=seed) for seed in (1, 2) for timestep in (mid, 999)]
    return sorted(set(runs), key=lambda run: (run.seed, run.protocol, run.name))


def needed_runs(runs, kept, precision):
    """Those of `runs` that the data frame `kept` has no scores of, with the run at t* that each is compared with.

    A training in another precision is no run to compare with: a t* that is kept in another one is needed again.
    """
    have = kept_runs(kept)
    missing = [run for run in runs if run not in have]
    mids = {run.variant: run.timestep for run in runs if run.prior == "random"}
    compared = [StudyRun(run.variant, run.protocol, mids[run.variant], seed=run.seed) for run in missing]
    again = [run for run in compared if precision not in have.get(run, {precision}) and run.protocol != "untuned"]
    return sorted({*missing, *again}, key=lambda run: (run.seed, run.protocol, run.name))


def kept_runs(frame):
    """`{StudyRun: precisions}` of the rows of a study."""
    have = {}
    for *run, precision in frame[[*RUN_COLUMNS, "precision"]].drop_duplicates().itertuples(index=False, name=None):
        have.setdefault(StudyRun(*run), set()).add(precision)
    return have


def study(folder, data, mid_timesteps, *, jobs=2):
    """Run what is missing of the study in `folder`, `jobs` processes of one thread each; returns all scores.

    Writes `<folder>/runs/<name>.csv` per run and then `<folder>/study.csv`: one row per run, image and metric. Scores
    that a `study.csv` holds stay if its `run.json` names the same settings and images (only the precision may
    differ, which the column precision tells); otherwise it is replaced when all runs are there.
    """
    import pandas as pd

    folder = Path(folder)
    assert_disjoint(data.train, data.evaluation)
    settings, precision = _settings(data), native_precision()
    keep_settings(folder / "runs", settings | {"precision": precision})
    kept = _kept_scores(folder, settings)
    runs = needed_runs(study_runs(mid_timesteps), kept, precision)
    missing = [run for run in runs if not _file(folder, run).exists()]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(execute_run, run, data, folder): run for run in missing}
        for done, future in enumerate(as_completed(futures), start=1):
            print(f"[{done}/{len(missing)}] {futures[future].name}: {future.result():.0f} s", flush=True)
    frame = pd.concat([kept, *(read_study(_file(folder, run)) for run in runs)], ignore_index=True)
    facts = {
        "runs": len(frame[[*RUN_COLUMNS, "precision"]].drop_duplicates()),
        "mid_timesteps": mid_timesteps,
        "training_photographs": len(data.train),
        "evaluation_photographs": len(data.evaluation),
        "precision": sorted(frame["precision"].unique()),
        "settings": settings,
    }
    record = start_run("study", facts, seed=0, folder=folder)
    with atomic_write(record.path("study.csv")) as part:
        frame.to_csv(part, index=False, float_format="%.6g")
    record.finish()
    return frame


def execute_run(run, data, folder):
    """Train and measure one run on one thread; returns its seconds."""
    import torch

    from ..data.pairs import evaluation_pairs
    from ..metrics.evaluate import score_pairs
    from ..model import OMGSR
    from ..priors.loading import randomise
    from ..restore.pairs import restored_pairs

    torch.set_num_threads(1)
    started = time.perf_counter()
    chosen = recipe("mini", run.variant, perceptual_loss="lpips-squeeze" if data.weights else None)
    chosen = replace(chosen, **({} if run.refinement else {"refinement": 0.0}), **WITHOUT[run.without])
    model = OMGSR.from_base(chosen.base, chosen.family, run.timestep)
    if run.prior == "random":
        randomise(model.prior, run.seed)
    if run.protocol != "untuned":
        _train(model, run, chosen, data, Path(folder) / "trainings" / run.name)
    held_out = evaluation_pairs(
        data.evaluation, chosen.resolution, seed=0, scale=chosen.scale, crops_per_photo=data.crops_per_photo,
        short_side=data.short_side,
    )  # fmt: skip
    metrics = (*METRICS, "lpips_squeeze") if data.weights else METRICS
    frame = score_pairs(
        restored_pairs(model, held_out), held_out, method=run.name, metrics=metrics, weights=data.weights
    )
    seconds = round(time.perf_counter() - started)
    frame = frame[["image", "metric", "value"]].assign(**asdict(run), precision=native_precision(), seconds=seconds)
    with atomic_write(_file(folder, run)) as part:
        frame.to_csv(part, index=False, float_format="%.6g")
    return time.perf_counter() - started


def _train(model, run, chosen, data, folder):
    from ..data.pairs import Pairs
    from ..training.loop import train

    model.add_adapters(0 if run.protocol == "frozen_encoder" else chosen.vae_rank, chosen.denoiser_rank, seed=run.seed)
    pairs = Pairs(data.train, chosen.resolution, seed=run.seed, scale=chosen.scale, synthetic=data.synthetic)
    result = train(
        model, pairs, chosen, folder, seed=run.seed, steps=data.steps, weights=data.weights,
        precision=native_precision(), progress=False,
    )  # fmt: skip
    result.discard()


def _settings(data):
    """What all runs of a study share: data, weights and length."""
    photographs = [sha256(path) for path in (*data.train, *data.evaluation)]
    return {
        "steps": data.steps,
        "perceptual_loss": "LPIPS-SqueezeNet" if data.weights else "autoencoder features",
        "synthetic_pictures": data.synthetic,
        "photographs": hashlib.sha256("".join(photographs).encode()).hexdigest(),
        "weights": hashlib.sha256(_hashes_of(PARTS).encode()).hexdigest(),
    }


def _hashes_of(parts):
    """The lines of `parts` in the list of the shipped weights."""
    lines = (WEIGHTS / HASHES).read_text().splitlines(keepends=True)
    return "".join(line for line in lines if line.split("  ")[1].split("/")[0] in parts)


def _kept_scores(folder, settings):
    """Rows of `study.csv` if its record names the same settings, else none."""
    import pandas as pd

    record = folder / "run.json"
    if record.is_file() and json.loads(record.read_text())["config"].get("settings") == settings:
        return read_study(folder / "study.csv")
    return pd.DataFrame(columns=["image", "metric", "value", *RUN_COLUMNS, "precision"])


def _file(folder, run):
    return Path(folder) / "runs" / f"{run.name}.csv"
