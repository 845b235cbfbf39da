"""`make study`: the trainings of notebook 06b, shared out to processes; it says what they cost before it begins.

Each training writes a CSV after every mark of its curve, so that a stopped study resumes, and trainings that
`study.csv` holds are not repeated as long as settings and photographs are the same. One that fails is listed with its
reason in `skipped.csv` and tried again the next time.
"""

import hashlib
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

from ..data.pairs import Pairs, assert_disjoint
from ..presets import recipe
from ..priors.loading import WEIGHTS
from ..report.claims import BASES, NOT_RUN
from ..report.contrasts import LARGE, read_study, wide
from ..training.checkpoint import keep_settings
from ..utils.files import atomic_write, part_hashes, sha256
from ..utils.precision import native_precision
from ..utils.warning_lines import show_warnings
from .plan import BATCH, CHUNK, IMPOSSIBLE, RUN_COLUMNS, WITHOUT, StudyRun, core_hours, kind, study_runs
from .run_record import start_run


METRICS = ("psnr_y", "ssim_y", "gmsd", "checkerboard")
STRENGTHS = {"mild": 0.125, "medium": 0.5, "extreme": 0.875}  # of `Degradation.dial`
SIDE = 128  # in pixels, of an evaluation crop
REAL_PAIRS = 100  # of RealSR
TIMED_STEPS = 2
SKIPPED = "skipped.csv"  # runs without scores, each with its reason
FAILED = "failed: "  # how the reason of a run begins that raised an error


class StudyFailed(ValueError):
    """Every run of a study failed; `failed_runs` names the reasons."""


@dataclass(frozen=True, kw_only=True)
class StudyData:
    """What the runs train and measure on."""

    train: tuple  # paths of training photographs
    evaluation: tuple  # paths of evaluation photographs
    synthetic: int = 0  # number of synthetic training images
    weights: str | None = None  # folder of LPIPS-SqueezeNet: then the perceptual loss, and one of the measures
    realsr: str | None = None  # folder of RealSR, on which runs on images of all strengths are scored too
    crops: int = 10_000  # that a training sees; a quarter of it where they are large
    crops_per_photo: int = 1
    short_side: int = 256


def study(folder, data, mid_timesteps, *, full=False, only=None, jobs=2, plan=False):
    """Run what is missing of the study in `folder`, `jobs` processes of one thread each; returns all scores.

    Prints how many core-hours that takes, measured from a few steps of each kind on this machine. Writes
    `<folder>/runs/<name>@<crops>.csv`, then `<folder>/study.csv`, one row per run, crops seen and image, and
    `<folder>/skipped.csv`. Scores that a `study.csv` holds stay if its `run.json` names the same settings and images;
    others are replaced.

    Args:
        mid_timesteps: t* of each variant.
        full: all runs instead of the default preset (`plan.study_runs`).
        only: part of the names of the runs to take, such as "s_full" or "no-ldr".
        plan: print the runs and their cost and do nothing; returns None.

    Raises `ValueError` if no run's name holds `only`, a photograph is trained and evaluated on, or the folder's runs
    have other settings, and `StudyFailed` if every run failed.
    """
    import pandas as pd

    folder = Path(folder)
    assert_disjoint(data.train, data.evaluation)
    everything, runs = study_runs(mid_timesteps, full=True), study_runs(mid_timesteps, full=full)
    runs = [run for run in runs if only is None or only in run.name]
    if not runs:
        known = ", ".join(run.name for run in everything)
        raise ValueError(f"--only takes a part of a run's name: got {only!r}, the names are {known}.")
    settings = _settings(data)
    if not plan:
        keep_settings(folder / "runs", settings)
    kept = _kept_scores(folder, settings)
    have = _runs_in(kept)
    missing = [run for run in runs if run not in have and not _file(folder, run, _crops(run, data)).exists()]
    if missing:
        print(_cost(missing, len(runs), data, jobs), flush=True)
    if plan:
        return print("\n".join(run.name for run in missing))
    failed = _execute(missing, data, folder, jobs)
    files = [file for run in everything if run not in have for file in _files(folder, run, data)]
    if not files and kept.empty:
        _write_reasons(folder / SKIPPED, failed)
        raise StudyFailed(
            f"A study needs one run that succeeds: all {len(failed)} failed. {next(iter(failed.values()))}"
        )
    frame = pd.concat([kept, *map(read_study, files)], ignore_index=True)
    done = _runs_in(frame)
    reasons = IMPOSSIBLE | {run.name: failed.get(run.name, NOT_RUN) for run in everything if run not in done}
    facts = {
        "runs": len(done),
        "mid_timesteps": mid_timesteps,
        "training_photographs": len(data.train),
        "evaluation_photographs": len(data.evaluation),
        "settings": settings,
    }
    record = start_run("study", facts, seed=0, folder=folder)
    with atomic_write(record.path("study.csv")) as part:
        wide(frame).to_csv(part, index=False, float_format="%.6g")
    _write_reasons(record.path(SKIPPED), reasons)
    record.finish()
    return frame


def failed_runs(folder):
    """`{name: reason}` of the runs that failed when `study` last ran in `folder`; the next time they are repeated."""
    import pandas as pd

    skipped = pd.read_csv(Path(folder) / SKIPPED)
    failed = skipped[skipped["reason"].str.startswith(FAILED)]
    return dict(zip(failed["run"], failed["reason"].str.removeprefix(FAILED), strict=True))


def _execute(runs, data, folder, jobs):
    """Execute `runs` in processes; returns `{name: reason}` of those that failed."""
    failed = {}
    for run in {run.images != "fixed": run for run in runs if run.protocol == "frozen_encoder"}.values():
        _latents(_model(run, data), run, data, folder)  # once, before the processes need them
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, show_warnings, ("study",)) as pool:
        futures = {pool.submit(execute_run, run, data, folder): run for run in runs}
        for done, future in enumerate(as_completed(futures), start=1):
            name, error = futures[future].name, future.exception()
            if error is not None:
                failed[name] = f"{FAILED}{type(error).__name__}: {error}".splitlines()[0]
            print(f"[{done}/{len(runs)}] {name}: {failed.get(name) or f'{future.result():.0f} s'}", flush=True)
    return {run.name: failed[run.name] for run in runs if run.name in failed}  # in order, not as they ended


def execute_run(run, data, folder):
    """Train and score one run on one thread (or the GPU); returns its seconds."""
    import torch

    torch.set_num_threads(1)
    started = time.perf_counter()
    model, steps, batch = _model(run, data), _steps(run, data), BATCH[run.resolution]

    def score(step):
        if not _file(folder, run, step * batch).exists():
            _score(model, run, data, folder, step * batch)

    if run.protocol == "untuned":
        score(0)
    else:
        _train(model, run, data, Path(folder), sorted({max(1, round(share * steps)) for share in run.marks}), score)
    return time.perf_counter() - started


def _recipe(run, data):
    chosen = recipe("mini", run.variant, perceptual_loss="lpips-squeeze" if data.weights else None)
    chunk = CHUNK if run.resolution == LARGE else None  # a small crop is one chunk
    changes = dict(resolution=run.resolution, batch_size=BATCH[run.resolution], chunk=chunk, critic_chunk=chunk)
    changes |= {} if run.refinement else {"refinement": 0.0}
    changes |= dict(dial=run.images != "fixed", adaptive=run.images == "own t*")
    return replace(chosen, **(changes | WITHOUT[run.without]))


def _model(run, data):
    import torch

    from ..model import OMGSR
    from ..priors.loading import randomise

    chosen = replace(_recipe(run, data), timestep=run.timestep)
    model = OMGSR.from_recipe(chosen)
    if run.prior == "random":
        randomise(model.prior, run.seed)
    if chosen.adaptive:
        model.load_estimator(WEIGHTS / "mini-estimator")
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _train(model, run, data, folder, marks, after):
    """Train `model`; `after(step)` is called after each of the steps `marks`, where a stopped training resumes."""
    from ..data.degradation import random_dial
    from ..training.distributed import held
    from ..training.loop import TrainOptions, set_up
    from ..training.loop import run as run_training
    from .latent_training import train_on_latents

    chosen, frozen = _recipe(run, data), run.protocol == "frozen_encoder"
    options = dict(seed=run.seed, steps=_steps(run, data), precision=native_precision())
    model.add_adapters(0 if frozen else chosen.vae_rank, chosen.denoiser_rank, seed=run.seed)
    if frozen:
        latents = _latents(model, run, data, folder)
        train_on_latents(model, chosen, *latents, **options, after_step=lambda step: step in marks and after(step))
        return
    pairs = _pairs(data, run.resolution, chosen.scale).with_seed(run.seed)
    if chosen.dial:
        pairs.settings = partial(random_dial, seed=run.seed)
    work = folder / "trainings" / run.name
    training = set_up(model, pairs, chosen, work, TrainOptions(**options, weights=data.weights, progress=False))
    with held(work):
        for mark in marks:
            result = run_training(training, until=mark)
            after(mark)
    result.discard()


@lru_cache(maxsize=1)
def _pairs(data, resolution, scale):
    """Training pairs, whose photographs a process opens once for all its runs."""
    return Pairs(data.train, resolution, seed=0, scale=scale, synthetic=data.synthetic)


def _latents(model, run, data, folder):
    from .latent_training import crop_latents

    chosen = _recipe(run, data)
    return crop_latents(folder / "runs", model.vae, data, run.resolution, dial=chosen.dial, scale=chosen.scale)


def _score(model, run, data, folder, crops):
    """Write the scores of `model` on every set of the run after `crops` crops."""
    import pandas as pd
    import torch

    from ..adaptive.timesteps import difference_map, shifted_timesteps
    from ..metrics.evaluate import score_pairs
    from ..priors.latents import encode_latents
    from ..restore.pairs import restored_pairs
    from ..utils.device import to_device

    metrics, frames = (*METRICS, "lpips_squeeze") if data.weights else METRICS, []
    for dataset, pairs in _evaluation(data, run.images != "fixed").items():
        timesteps = None
        if run.images == "own t*":
            device = next(model.parameters()).device
            latents = (encode_latents(model.vae, to_device(pair.lq[None], device)) for pair in pairs)
            differences = [float(difference_map(model.estimator, z.cpu()).mean()) for z in latents]
            timesteps = shifted_timesteps(torch.tensor(differences), model.prior.schedule)
        images = restored_pairs(model, pairs, timestep=timesteps)
        scores = score_pairs(images, pairs, method=run.name, metrics=metrics, weights=data.weights)
        frames.append(scores[["image", "metric", "value"]].assign(dataset=dataset))
    frame = pd.concat(frames, ignore_index=True).assign(**asdict(run), crops=crops, precision=native_precision())
    with atomic_write(_file(folder, run, crops)) as part:
        frame.to_csv(part, index=False, float_format="%.6g")


@lru_cache(maxsize=2)
def _evaluation(data, dial):
    """`{dataset: pairs}` to score on: photographs degraded as published, or from mild to extreme and RealSR."""
    from ..data.degradation import Degradation
    from ..data.pairs import evaluation_pairs
    from .adaptive import real_pairs

    cut = partial(evaluation_pairs, data.evaluation, SIDE, seed=0, crops_per_photo=data.crops_per_photo,
                  short_side=data.short_side)  # fmt: skip
    if not dial:
        return {"published": cut()}
    sets = {name: cut(scale=None, settings=Degradation.dial(strength)) for name, strength in STRENGTHS.items()}
    return sets | ({"RealSR": real_pairs(data.realsr)} if data.realsr else {})


def _cost(missing, total, data, jobs):
    """The line that says what the missing runs cost, measured."""
    kinds = {kind(run): run for run in missing}
    seconds = {name: _measured(run, data) for name, run in kinds.items()}
    hours = core_hours({run: (_steps(run, data), _evaluations(run, data)) for run in missing}, seconds)
    return (
        f"{total} runs, {len(missing)} to do: {hours:.1f} core-hours, {hours / jobs:.1f} hours with {jobs} jobs "
        "(measured from a few steps of each kind on this machine)"
    )


def _evaluations(run, data):
    """How often a run is scored, in sets of the evaluation photographs; a crop of RealSR counts four times."""
    real = 4 * REAL_PAIRS / (len(data.evaluation) * data.crops_per_photo) if data.realsr else 0
    return len(run.marks) * (1 if run.images == "fixed" else len(STRENGTHS) + real)


def _measured(run, data):
    """Seconds of one step and of scoring all photographs once, of a run like this one, from a few of both.

    Of processor time, which other processes of the machine do not lengthen; with a GPU of wall time.
    """
    import torch

    torch.set_num_threads(1)
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    few = dict(train=data.train[:2], evaluation=data.evaluation[:2], synthetic=data.synthetic and 2)
    few, times = replace(data, **few, crops=(1 + TIMED_STEPS) * BATCH[min(BATCH)]), []
    plain = replace(run, images="fixed")
    model = _model(plain, few)
    with TemporaryDirectory() as folder:
        folder = Path(folder)
        if run.protocol != "untuned":
            _train(model, plain, few, folder, (1, 1 + TIMED_STEPS), lambda step: times.append(clock()))
        for crops in range(2):  # the first loads what scoring needs
            started = clock()
            _score(model, plain, few, folder, crops)
            of_few = clock() - started
    of_step = (times[1] - times[0]) / TIMED_STEPS if times else 0.0
    return of_step, of_few * len(data.evaluation) / len(few.evaluation)


def _write_reasons(path, reasons):
    import pandas as pd

    with atomic_write(path) as part:
        pd.DataFrame(reasons.items(), columns=["run", "reason"]).to_csv(part, index=False)


def _settings(data):
    """What all runs of a study share: data, weights, length and precision."""
    photographs = [sha256(path) for path in (*data.train, *data.evaluation)]
    hashes = part_hashes(WEIGHTS)
    return {
        "crops": data.crops,
        "perceptual_loss": "LPIPS-SqueezeNet" if data.weights else "autoencoder features",
        "synthetic_pictures": data.synthetic,
        "photographs": hashlib.sha256("".join(photographs).encode()).hexdigest(),
        "weights": {part: hashes[part] for part in BASES},
        "precision": native_precision(),
    }


def _kept_scores(folder, settings):
    """Rows of `study.csv` if its record names the same settings, else none."""
    import pandas as pd

    record = folder / "run.json"
    if record.is_file() and json.loads(record.read_text())["config"].get("settings") == settings:
        return read_study(folder / "study.csv")
    return pd.DataFrame(columns=["image", "metric", "value", "dataset", *RUN_COLUMNS, "crops", "precision"])


def _runs_in(frame):
    return {StudyRun(*row) for row in frame[RUN_COLUMNS].drop_duplicates().itertuples(index=False, name=None)}


def _steps(run, data):
    """Optimiser steps: large crops are as many steps of fewer crops."""
    return 0 if run.protocol == "untuned" else max(1, data.crops // BATCH[min(BATCH)])


def _crops(run, data):
    """How many crops a finished run has seen."""
    return _steps(run, data) * BATCH[run.resolution]


def _files(folder, run, data):
    """The scores of a finished run, in the order of the crops seen; none of one that has not finished."""
    if not _file(folder, run, _crops(run, data)).exists():
        return []
    return sorted((Path(folder) / "runs").glob(f"{run.name}@*.csv"))


def _file(folder, run, crops):
    return Path(folder) / "runs" / f"{run.name}@{crops:06d}.csv"
