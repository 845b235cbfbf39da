"""What the study's runs say: the timestep sweep and paired contrasts with intervals, from `study.csv` alone."""

from pathlib import Path

import pandas as pd

from .metrics.specs import SPECS
from .metrics.statistics import paired_difference, summarise


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


def read_study(file):
    """The study's data frame, or that of one run; None where there is no `file`: `make study` has not been run."""
    if not Path(file).is_file():
        return None
    frame = pd.read_csv(file, dtype={"without": str})
    return frame.assign(without=frame["without"].fillna("") if "without" in frame.columns else "")


def study_mids(frame):
    """Mid-timestep of each variant in the study: the one at which the random prior was tried."""
    return frame[frame.prior == "random"].groupby("variant").timestep.first().to_dict()


def sweep_table(frame):
    """Mean and interval by variant, protocol, timestep and metric (`mid`: t*): seed 0 and full loss.

    The control with a random prior is a protocol of its own, such as "full-random".
    """
    runs = frame[(frame.seed == 0) & frame.refinement & (frame.without == "")]
    tables = []
    for (variant, prior, protocol, timestep), part in runs.groupby(["variant", "prior", "protocol", "timestep"]):
        table = summarise(_scores(part, "run"))
        name = protocol.replace("_", "-") + ("-random" if prior == "random" else "")
        facts = dict(variant=variant, protocol=name, timestep=timestep)
        tables.append(table.assign(**facts, mid=study_mids(frame)[variant]))
    return pd.concat(tables, ignore_index=True).drop(columns="method")


def contrast_table(frame, mids):
    """Paired differences of the contrasts by variant, protocol and metric, over the training seeds both sides have.

    `mids`: mid-timestep of each variant. Columns: contrast, variant, protocol, seeds, metric, mean, lo, hi, n, better.
    """
    tables = []
    for variant, mid in mids.items():
        for protocol in frame.protocol.unique():
            first = dict(zip(SIDES, (variant, protocol, mid, "trained", True, ""), strict=True))
            for name, *changes in CONTRASTS:
                sides = [_select(frame, first | change) for change in changes]
                seeds = sorted(set(sides[0].seed) & set(sides[1].seed))
                if not seeds:
                    continue
                scores = [
                    _scores(side[side.seed.isin(seeds)], method) for side, method in zip(sides, "ab", strict=True)
                ]
                table = paired_difference(pd.concat(scores), "a", "b")
                better = table.better.map(dict(zip("ab", name.split(" - "), strict=True))).fillna("")
                facts = dict(contrast=name, variant=variant, protocol=protocol.replace("_", "-"), seeds=len(seeds))
                tables.append(table.assign(**facts, better=better))
    columns = ["contrast", "variant", "protocol", "seeds", "metric", "mean", "lo", "hi", "n", "better"]
    return pd.concat(tables, ignore_index=True)[columns]


def _select(frame, wanted):
    keep = pd.Series(True, index=frame.index)
    for column, value in wanted.items():
        keep &= frame[column] == value
    return frame[keep]


def _scores(frame, method):
    """Per-image means over seeds in the shape that `metrics.statistics` takes."""
    scores = frame.groupby(["image", "metric"], as_index=False, sort=False)["value"].mean()
    return scores.assign(method=method, lower_better=scores.metric.map(lambda name: SPECS[name].lower_better))
