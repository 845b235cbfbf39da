"""What the study's runs say: paired contrasts with intervals over images and trainings, from `study.csv` alone."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from ..metrics.specs import SPECS
from ..metrics.two_level import detectable_effect, two_level_interval


INITIAL = 999
TIMESTEPS = (25, 100, 200, 400, 600, 800, INITIAL)  # of the sweep, beside t*
DATASETS = ("mild", "medium", "extreme", "RealSR")  # that runs on images of several strengths are scored on
LARGE = 256  # side in pixels of the crops that hold chunks

# A contrast: its name, what its first and what its second side changes in the run at the mid-timestep.
CONTRASTS = (
    ("mid - initial (999)", {}, {"timestep": INITIAL}),
    ("mid - initial, both without LDR", {"refinement": False}, {"timestep": INITIAL, "refinement": False}),
    *((f"mid - {t}", {}, {"timestep": t}) for t in reversed(TIMESTEPS[:-1])),
    ("trained - random prior", {}, {"prior": "random"}),
    ("with - without LDR", {}, {"refinement": False}),
    ("with - without chunks", {"resolution": LARGE}, {"resolution": LARGE, "without": "chunks"}),
    ("with - without perceptual loss", {}, {"without": "perceptual"}),
    ("with - without adversarial loss", {}, {"without": "adversarial"}),
    ("with - without grid penalty", {}, {"without": "grid"}),
    *((f"own t* - t*, {name}", {"images": "own t*", "dataset": name}, {"images": "dial", "dataset": name})
      for name in DATASETS),
)  # fmt: skip
SIDES = ["variant", "protocol", "timestep", "prior", "refinement", "without", "resolution", "images", "dataset"]
RUN = [*SIDES, "seed", "precision"]
DEFAULTS = {"resolution": 128, "images": "fixed", "dataset": "published", "crops": 400}  # of a file without them
TARGETS = {"lpips_squeeze": 0.01, "psnr_y": 0.1, "gmsd": 0.002}  # differences that a study should decide
MOST_SEEDS = 20
POWER = stats.norm.ppf(0.8)  # standard errors beyond an interval's half-width that are decided four times in five


def read_study(file):
    """The study's data frame, or that of one run; None where there is no `file`: `make study` has not been run.

    Raises `ValueError` for the file of another version, whose columns differ.
    """
    if not Path(file).is_file():
        return None
    frame = pd.read_csv(file, dtype={"without": str})
    if "metric" not in frame:
        frame = _long(frame)
    frame = frame.assign(**{name: value for name, value in DEFAULTS.items() if name not in frame})
    if missing := {"image", "metric", "value", *RUN} - set(frame.columns):
        raise ValueError(
            f"'{file}' comes from another version: it lacks the columns {sorted(missing)}. Move it away and run "
            "make study."
        )
    return frame.assign(without=frame["without"].fillna(""))


def wide(frame):
    """The study's data frame with a column per metric, as `study.csv` holds it: a third of the size."""
    keys = [name for name in frame if name not in ("metric", "value")]
    return frame.set_index([*keys, "metric"])["value"].unstack(sort=False).reset_index()


def _long(frame):
    metrics = [name for name in frame if name in SPECS]
    keys = [name for name in frame if name not in metrics]
    return frame.melt(keys, metrics, var_name="metric").dropna(subset="value")


def trained_to_the_end(frame):
    """The rows of each run after the last crop that it saw."""
    return frame[frame["crops"] == frame.groupby(RUN)["crops"].transform("max")]


def usual(frame):
    """What all runs share but for the one thing that differs: side of a crop and images."""
    return {"resolution": frame["resolution"].mode()[0], "images": "fixed", "dataset": "published"}


def contrast_table(frame, mids, contrasts=CONTRASTS):
    """Paired differences of the contrasts by variant, protocol and metric, over the trainings both sides have.

    A training of one side is compared with those of the other that have its seed and precision; the interval covers
    images and trainings (`two_level_interval`). Where there is one training a side, the spread between trainings is
    that of two trainings at t* of the same protocol, or of the full method where that has one alone; without several
    of either, and for the prior as it is, the interval covers images alone. A contrast of the full method that was not
    run is listed with n = 0 and without values.

    `mids`: mid-timestep of each variant. Columns: contrast, variant, protocol, trainings (of each side), crops (that
    each saw), metric, mean, lo, hi, n (images), covers ("images" or "images, trainings"), better, detectable (the
    smallest true difference that would probably have been decided).
    """
    metrics, tables = frame["metric"].unique(), []
    for (variant, protocol, name), (crops, found, spreads) in _all_differences(frame, mids, contrasts).items():
        rows = [(metric, *_interval(part, spreads.get(metric), metric, name)) for metric, part in found.items()]
        if not rows and protocol == "full":
            rows = [(metric, *[np.nan] * 3, 0, "", "", np.nan) for metric in metrics]
        table = pd.DataFrame(rows, columns=["metric", "mean", "lo", "hi", "n", "covers", "better", "detectable"])
        facts = dict(contrast=name, variant=variant, protocol=protocol, crops=crops)
        tables.append(table.assign(**facts, trainings=max(map(len, found.values()), default=0)))
    columns = ["contrast", "variant", "protocol", "trainings", "crops", "metric", "mean", "lo", "hi", "n", "covers"]
    return pd.concat([table for table in tables if len(table)], ignore_index=True)[[*columns, "better", "detectable"]]


def growth_table(frame, mids):
    """`contrast_table` of mid against initial at each number of crops that both sides were scored after."""
    trained = frame[frame["protocol"] != "untuned"]
    tables = [contrast_table(part, mids, CONTRASTS[:2]) for _, part in trained.groupby("crops")]
    table = pd.concat(tables, ignore_index=True)
    return table[table["n"] > 0].reset_index(drop=True)


def power_table(frame, mids):
    """What decides the differences of `TARGETS`, from the contrasts with several trainings.

    Columns: contrast, variant, protocol, metric, target, sd_trainings, sd_images (standard deviations of the
    difference), images, three (detectable with three trainings a side), needed (how many decide the target; missing if
    more than `MOST_SEEDS`).
    """
    rows = []
    for key, (_, found, _) in _all_differences(frame, mids, CONTRASTS).items():
        for metric, part in found.items():
            if len(part) < 2 or metric not in TARGETS:
                continue
            spread, images, target = _standard_deviations(part), part.shape[1], TARGETS[metric]
            enough = (n for n in range(2, MOST_SEEDS + 1) if detectable_effect(*spread, n, images) <= target)
            three = detectable_effect(*spread, 3, images)
            variant, protocol, name = key
            rows.append((name, variant, protocol, metric, target, *spread, images, three, next(enough, np.nan)))
    columns = ["contrast", "variant", "protocol", "metric", "target", "sd_trainings", "sd_images", "images", "three"]
    return pd.DataFrame(rows, columns=[*columns, "needed"])


def _all_differences(frame, mids, contrasts):
    """`{(variant, protocol, contrast): (crops, {metric: (trainings, images)}, spreads)}`; see `_differences`."""
    ended, found, of_full = trained_to_the_end(frame), {}, {}
    for variant, mid in mids.items():
        for protocol in dict.fromkeys(["full", *ended["protocol"]]):
            at_mid = dict(
                variant=variant, protocol=protocol, timestep=mid, prior="trained", refinement=True, without=""
            )
            at_mid |= usual(ended)
            spreads = _spreads(list(_trainings(_select(ended, at_mid)).values()))
            of_full = spreads if protocol == "full" else of_full
            spreads = {} if protocol == "untuned" else spreads or of_full
            for name, *changes in contrasts:
                sides = [_trainings(_select(ended, at_mid | change)) for change in changes]
                found[variant, protocol.replace("_", "-"), name] = (*_differences(*sides), spreads)
    return found


def _differences(first, second):
    """`(crops, {metric: (trainings, images)})`, first minus second side, over the trainings that both have."""
    shared = [training for training in first if training in second]
    if not shared:
        return np.nan, {}
    values = [pd.concat([_by_image(side[training]) for training in shared], axis=1).T for side in (first, second)]
    table = values[0] - values[1]
    crops = min(int(side[training]["crops"].iloc[0]) for training in shared for side in (first, second))
    return crops, {metric: table[metric].dropna(axis=1).to_numpy() for metric in table.columns.unique("metric")}


def _spreads(trainings):
    """`{metric: (sd, degrees of freedom)}` of the difference between the means of two equal trainings."""
    if len(trainings) < 2:
        return {}
    means = pd.concat([_by_image(training).groupby("metric").mean() for training in trainings], axis=1)
    return {metric: (2**0.5 * sd, len(trainings) - 1) for metric, sd in means.std(axis=1, ddof=1).items()}


def _interval(part, spread, metric, name):
    """mean, lo, hi, n, covers, better, detectable of differences `(trainings, images)`."""
    mean, lo, hi = two_level_interval(part, spread=spread)
    names = name.split(", ")[0].split(" - ")
    better = names[int((hi < 0) != SPECS[metric].lower_better)] if lo > 0 or hi < 0 else ""
    of_trainings, of_images = _standard_deviations(part)
    detectable = detectable_effect(of_trainings, of_images, *part.shape)
    if len(part) == 1 and spread:  # the half-width of this interval, since the spread is that of other trainings
        detectable = (hi - lo) / 2 + POWER * np.hypot(spread[0], of_images / part.shape[1] ** 0.5)
    covers = "images, trainings" if len(part) > 1 or spread else "images"
    return mean, lo, hi, part.shape[1], covers, better, detectable


def _standard_deviations(part):
    """Of differences `(trainings, images)`: between trainings (0 for one), and between images."""
    return part.mean(axis=1).std(ddof=1) if len(part) > 1 else 0.0, part.mean(axis=0).std(ddof=1)


def _by_image(training):
    return training.set_index(["metric", "image"])["value"]


def _trainings(frame):
    return dict(list(frame.groupby(["seed", "precision"])))


def _select(frame, wanted):
    keep = pd.Series(True, index=frame.index)
    for column, value in wanted.items():
        keep &= frame[column] == value
    return frame[keep]
