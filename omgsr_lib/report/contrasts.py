"""What the study's runs say: the timestep sweep and paired contrasts with intervals, from `study.csv` alone."""

from pathlib import Path

import pandas as pd

from ..metrics.specs import SPECS
from ..metrics.statistics import summarise
from ..metrics.two_level import detectable_effect, two_level_interval


# A contrast: its name, what its first and what its second side changes in the run at the mid-timestep.
CONTRASTS = (
    ("mid - initial (999)", {}, {"timestep": 999}),
    ("mid - initial, both without LDR", {"refinement": False}, {"timestep": 999, "refinement": False}),
    ("mid - 600", {}, {"timestep": 600}),
    ("mid - 200", {}, {"timestep": 200}),
    ("mid - late (25)", {}, {"timestep": 25}),
    ("trained - random prior", {}, {"prior": "random"}),
    ("with - without LDR", {}, {"refinement": False}),
    ("with - without chunks", {}, {"without": "chunks"}),
    ("with - without perceptual loss", {}, {"without": "perceptual"}),
    ("with - without adversarial loss", {}, {"without": "adversarial"}),
    ("with - without grid penalty", {}, {"without": "grid"}),
)
SIDES = ["variant", "protocol", "timestep", "prior", "refinement", "without"]
COLUMNS = {"image", "metric", "value", "seed", "precision", *SIDES}


def read_study(file):
    """The study's data frame, or that of one run; None where there is no `file`: `make study` has not been run.

    Raises `ValueError` for the file of another version, whose columns differ.
    """
    if not Path(file).is_file():
        return None
    frame = pd.read_csv(file, dtype={"without": str})
    if missing := COLUMNS - set(frame.columns):
        raise ValueError(
            f"'{file}' is of another version: it lacks the columns {sorted(missing)}. Move it away and run make study."
        )
    return frame.assign(without=frame["without"].fillna(""))


def study_mids(frame):
    """Mid-timestep of each variant in the study: the one at which the random prior was tried."""
    controls = frame[frame.prior == "random"].groupby("variant", sort=False).timestep.first()
    return controls.sort_index(ascending=False).to_dict()


def sweep_table(frame):
    """Mean and interval by variant, protocol, timestep and metric (`mid`: t*): seed 0 and full loss.

    The control with a random prior is a protocol of its own, such as "full-random". Of two precisions the one with
    more runs is taken, since trainings in different ones are not compared.
    """
    runs = frame[(frame.seed == 0) & frame.refinement & (frame.without == "")]
    runs = runs[runs.precision == runs.precision.mode()[0]]
    tables = []
    for (variant, prior, protocol, timestep), part in runs.groupby(["variant", "prior", "protocol", "timestep"]):
        table = summarise(_scores(part, "run"))
        name = protocol.replace("_", "-") + ("-random" if prior == "random" else "")
        facts = dict(variant=variant, protocol=name, timestep=timestep)
        tables.append(table.assign(**facts, mid=study_mids(frame)[variant]))
    table = pd.concat(tables, ignore_index=True).drop(columns="method")
    return table.sort_values("variant", ascending=False, kind="stable", ignore_index=True)


def contrast_table(frame, mids):
    """Paired differences of the contrasts by variant, protocol and metric, over the trainings both sides have.

    A training of one side is compared with those of the other that have its seed and precision; the interval covers
    images and trainings (`two_level_interval`). A contrast of the full method that was not run is listed with n = 0
    and without values.

    `mids`: mid-timestep of each variant. Columns: contrast, variant, protocol, trainings (of each side), metric, mean,
    lo, hi, n (images), better, detectable (the smallest true difference that would probably have been decided).
    """
    tables = []
    for variant, mid in mids.items():
        for protocol in frame.protocol.unique():
            first = dict(zip(SIDES, (variant, protocol, mid, "trained", True, ""), strict=True))
            for name, *changes in CONTRASTS:
                sides = [_trainings(_select(frame, first | change)) for change in changes]
                shared = [training for training in sides[0] if training in sides[1]]
                if shared:
                    table = _paired(*([side[training] for training in shared] for side in sides), name.split(" - "))
                elif protocol == "full":
                    table = pd.DataFrame({"metric": frame.metric.unique()}).assign(n=0, better="")
                else:
                    continue
                facts = dict(contrast=name, variant=variant, protocol=protocol.replace("_", "-"))
                tables.append(table.assign(**facts, trainings=len(shared)))
    columns = ["contrast", "variant", "protocol", "trainings", "metric", "mean", "lo", "hi", "n", "better"]
    columns += ["detectable"]
    return pd.concat(tables, ignore_index=True)[columns]


def _paired(first, second, names):
    """First minus second side of a contrast, lists of equal trainings, by metric."""
    values = [pd.concat([_by_image(training) for training in side], axis=1).T for side in (first, second)]
    differences, rows = values[0] - values[1], []
    for metric in differences.columns.unique("metric"):
        part = differences[metric].dropna(axis=1).to_numpy()
        mean, lo, hi = two_level_interval(part)
        better = names[int((hi < 0) != SPECS[metric].lower_better)] if lo > 0 or hi < 0 else ""
        spread = part.mean(axis=1).std(ddof=1) if len(part) > 1 else 0.0, part.mean(axis=0).std(ddof=1)
        detectable = detectable_effect(*spread, *part.shape)
        rows.append((metric, mean, lo, hi, part.shape[1], better, detectable))
    return pd.DataFrame(rows, columns=["metric", "mean", "lo", "hi", "n", "better", "detectable"])


def _by_image(training):
    return training.set_index(["metric", "image"])["value"]


def _trainings(frame):
    return dict(list(frame.groupby(["seed", "precision"])))


def _select(frame, wanted):
    keep = pd.Series(True, index=frame.index)
    for column, value in wanted.items():
        keep &= frame[column] == value
    return frame[keep]


def _scores(frame, method):
    """Per-image means over seeds in the shape that `metrics.statistics` takes."""
    scores = frame.groupby(["image", "metric"], as_index=False, sort=False)["value"].mean()
    return scores.assign(method=method, lower_better=scores.metric.map(lambda name: SPECS[name].lower_better))
