"""`omgsr check`: the numbers of one's own run of the study against the committed ones, table by table.

A number agrees if it lies in the committed interval, where its table states one, and otherwise if it equals the
committed number after rounding. What a clock measured is not compared.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd


INTERVALS = {"mean": ("lo", "hi"), "timestep": ("low", "high")}  # a number and the bounds of its committed interval
CLOCKED = ("seconds", "encode", "predict", "decode", "colour", "enlarge")  # columns of seconds
RELATIVE, ABSOLUTE = 0.01, 0.001  # rounding: one percent, or the third decimal


@dataclass
class Check:
    """How many numbers were compared, a line for each that differs, and one for each table that cannot be compared."""

    compared: int
    numbers: list
    tables: list

    @property
    def passed(self):
        return not (self.numbers or self.tables)

    def __str__(self):
        agreeing = self.compared - len(self.numbers)
        return "\n".join([*self.tables, *self.numbers, f"{agreeing} of {self.compared} numbers agree"])


def check_results(own, committed, *, leave_out=()):
    """Compare every CSV table below the folder `committed` with that of the same path below `own`.

    Folders named in `leave_out` (relative to `committed`) are not compared. Returns a `Check`. Raises
    `FileNotFoundError` if a folder is missing or `committed` holds no table.
    """
    own, committed = Path(own), Path(committed)
    for folder in (own, committed):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"A check compares two folders of results: '{folder}' is not a folder. Run omgsr reproduce."
            )
    tables = sorted(path.relative_to(committed) for path in committed.rglob("*.csv"))
    tables = [path for path in tables if not any(path.is_relative_to(folder) for folder in leave_out)]
    if not tables:
        raise FileNotFoundError(
            f"A check needs committed tables: '{committed}' holds no CSV file. Restore it with git."
        )
    check = Check(0, [], [])
    for path in tables:
        if not (own / path).is_file():
            check.tables.append(f"{path.as_posix()}: missing")
            continue
        _compare(pd.read_csv(own / path), pd.read_csv(committed / path), path.as_posix(), check)
    return check


def _compare(own, committed, name, check):
    texts = [column for column in committed if not pd.api.types.is_numeric_dtype(committed[column])]
    if list(own) != list(committed) or not own[texts].fillna("").equals(committed[texts].fillna("")):
        check.tables.append(f"{name}: other rows or columns")
        return
    for column in committed:
        if column in texts or column in CLOCKED or any(column in bounds for bounds in INTERVALS.values()):
            continue
        mine, theirs = (frame[column].to_numpy(float) for frame in (own, committed))
        low, high = _allowed(committed, column, theirs)
        same = (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))  # infinite ones have no bounds
        agree = same | ((mine >= low) & (mine <= high))
        check.compared += len(agree)
        for row in np.flatnonzero(~agree):
            label = " ".join(str(committed[text].iloc[row]) for text in texts[:4])
            check.numbers.append(
                f"{name}, row {row + 1} ({label}): {column} is {mine[row]:.6g}, committed {theirs[row]:.6g} "
                f"({low[row]:.6g} to {high[row]:.6g})"
            )


def _allowed(frame, column, values):
    rounding = np.maximum(RELATIVE * np.abs(values), ABSOLUTE)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        low, high = values - rounding, values + rounding
    bounds = INTERVALS.get(column, ())
    if bounds and set(bounds) <= set(frame):
        low, high = np.fmin(low, frame[bounds[0]]), np.fmax(high, frame[bounds[1]])
    return low, high
