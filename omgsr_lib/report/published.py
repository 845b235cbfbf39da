"""Published numbers beside ours: other papers' tables as a data frame in the shape of `statistics.summarise`.

The numbers are not part of this project: they are read from a folder that the user names.
"""

from pathlib import Path

import pandas as pd

from ..metrics.specs import SPECS


NAMES = {
    "PSNR": "psnr_y", "SSIM": "ssim_y", "LPIPS": "lpips", "DISTS": "dists", "FID": "fid", "NIQE": "niqe",
    "MUSIQ": "musiq", "MANIQA": "maniqa", "CLIPIQA": "clipiqa",
}  # fmt: skip
PROTOCOL = tuple(NAMES.values())  # the columns of the field's main table, in its order


def read_published(folder, dataset=None):
    """Rows of `published_results.csv` in `folder`, or None where there is no folder.

    The file has the columns dataset, method, steps, metric, value, source. Returns dataset, method, metric (the names
    of `specs.SPECS`), mean, lo and hi (missing), lower_better and source; metrics without a `MetricSpec` are left out.
    With `dataset` only its rows. Raises `FileNotFoundError` or `ValueError` for a folder without such a file.
    """
    if folder is None:
        return None
    frame = _read(Path(folder) / "published_results.csv", {"dataset", "method", "steps", "metric", "value", "source"})
    frame = frame[frame["metric"].isin(NAMES)]
    if dataset is not None:
        frame = frame[frame["dataset"] == dataset]
    metric = frame["metric"].map(NAMES)
    steps = [f", {value} steps" if value not in ("", "1") else "" for value in frame["steps"].fillna("")]
    lower = metric.map(lambda name: SPECS[name].lower_better)
    columns = dict(
        method=frame["method"] + steps, metric=metric, mean=frame["value"], lo=float("nan"), hi=float("nan")
    )
    return frame[["dataset"]].assign(**columns, lower_better=lower, source=frame["source"]).reset_index(drop=True)


def read_published_cost(folder):
    """`published_cost.csv` in `folder` as printed (method, steps, seconds, GPU, params_M, ..., source), or None."""
    if folder is None:
        return None
    return _read(Path(folder) / "published_cost.csv", {"method", "steps", "seconds", "GPU", "params_M", "source"})


def _read(file, columns):
    if not file.is_file():
        raise FileNotFoundError(f"Published numbers are read from a folder with {file.name}: '{file}' is missing.")
    frame = pd.read_csv(file, dtype={"steps": str})
    if missing := columns - set(frame.columns):
        raise ValueError(f"'{file}' must have the columns {sorted(columns)}; it lacks {sorted(missing)}.")
    return frame
