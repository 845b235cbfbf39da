"""A study of known scores without a training: what each run scores, and what takes the place of executing it."""

from concurrent.futures import Future
from dataclasses import asdict

import pandas as pd

from omgsr_lib.report.contrasts import DATASETS
from omgsr_lib.study import ablation as study_module
from omgsr_lib.study.plan import study_runs


MIDS = {"s": 273, "f": 244}
IMAGES = ("a", "b", "c", "d")
EVERYTHING = study_runs(MIDS, full=True)


def psnr(run, index):
    """Known scores: 20 dB, plus 1 per image, less 2 for the wrong timestep, less 5 for a random prior, seeds +-0."""
    mid = MIDS[run.variant]
    value = 20 + index - 2 * (run.timestep != mid) - 5 * (run.prior == "random") - 0.25 * (not run.refinement)
    value += 1.5 * (run.images == "own t*") - 0.75 * bool(run.without)
    return value + 0.5 * run.seed


def rows(run, precision="no", crops=10_000):
    scores = [
        {"image": image, "metric": metric, "value": value, "dataset": dataset}
        for index, image in enumerate(IMAGES)
        for metric, value in (("psnr_y", psnr(run, index)), ("gmsd", 0.3 - psnr(run, index) / 100))
        for dataset in (DATASETS if run.images != "fixed" else ["published"])
    ]
    return pd.DataFrame(scores).assign(**asdict(run), precision=precision, crops=crops)


class InThisProcess:
    """In place of the process pool."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def fake_runs(executed, limit=None, fails=()):
    """In place of `execute_run`: writes the known scores; those of `fails` raise."""

    def fake_run(run, data, folder):
        if len(executed) == limit:
            raise KeyboardInterrupt
        executed.append(run)
        if run.name in fails:
            raise FloatingPointError("Losses must stay finite")
        crops = study_module._crops(run, data)
        rows(run, crops=crops).to_csv(study_module._file(folder, run, crops), index=False)
        return 1.0

    return fake_run
