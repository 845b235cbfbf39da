"""Tables for the README and for papers, from the long frame of `metrics.statistics.summarise`.

One row per method, one column per metric with the arrow of its better direction, cells `mean [lo, hi]`, the best mean
of each column (and dataset) in bold.
"""

from pathlib import Path

import pandas as pd

from .metrics.specs import SPECS
from .provenance import atomic_write


LATEX = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--"}


def metric_table(summary, *, labels=None, intervals=True):
    """Wide frames `(cells, best)`: the text of each cell, and whether it is its column's best.

    `summary` has the columns method, metric, mean, lo, hi, lower_better, and dataset if there are several; rows and
    columns keep its order. `labels` maps methods to printed names. A method without a value shows "–".
    """
    keys = [key for key in ("dataset", "method") if key in summary.columns]
    if summary.duplicated([*keys, "metric"]).any():
        raise ValueError("A table needs one row per method and metric: this summary has several. Select rows first.")
    index = pd.MultiIndex.from_frame(summary[keys].drop_duplicates())
    cells, best = pd.DataFrame(index=index, dtype=object), pd.DataFrame(index=index)
    for metric, rows in summary.groupby("metric", sort=False):
        rows = rows.set_index(keys)
        lower_better = bool(rows["lower_better"].iloc[0])
        spec = SPECS.get(metric)
        digits = 4 if spec is None else spec.digits
        heading = f"{metric if spec is None else spec.label} {'↓' if lower_better else '↑'}"
        texts = [_cell(row, digits, intervals) for row in rows.itertuples()]
        means = rows["mean"].round(digits)
        groups = means.groupby(level="dataset") if "dataset" in keys else means.groupby(lambda _: 0)
        rows.index = pd.MultiIndex.from_tuples([key if isinstance(key, tuple) else (key,) for key in rows.index])
        cells[heading] = pd.Series(texts, rows.index).reindex(index)
        is_best = means.eq(groups.transform("min" if lower_better else "max"))
        best[heading] = pd.Series(is_best.to_numpy(), rows.index).reindex(index, fill_value=False)
    names = [[(labels or {}).get(name, name) for name in index.get_level_values(key)] for key in keys]
    cells.index = best.index = pd.MultiIndex.from_arrays(names, names=[key.capitalize() for key in keys])
    return cells.fillna("–"), best


def to_markdown(summary, *, labels=None, intervals=True):
    """The table in Markdown, ending with a newline."""
    cells, best = metric_table(summary, labels=labels, intervals=intervals)
    rows = [[*cells.index.names, *cells.columns], [":--"] * cells.index.nlevels + ["--:"] * cells.shape[1]]
    for key, texts, bold in zip(cells.index, cells.to_numpy(), best.to_numpy(), strict=True):
        rows.append([*key, *(f"**{text}**" if strong else text for text, strong in zip(texts, bold, strict=True))])
    return "".join("| " + " | ".join(str(text).replace("|", r"\|") for text in row) + " |\n" for row in rows)


def to_latex(summary, *, labels=None, intervals=True):
    """The table in LaTeX (booktabs)."""
    cells, best = metric_table(summary, labels=labels, intervals=intervals)
    if cells.index.nlevels == 1:
        cells.index = best.index = cells.index.get_level_values(0).rename(None)
    styler = cells.style.format(escape="latex").format_index(escape="latex").format_index(escape="latex", axis=1)
    styler = styler.apply(lambda _: best.map(lambda strong: "font-weight: bold" if strong else ""), axis=None)
    text = styler.to_latex(
        hrules=True, convert_css=True, column_format="l" * cells.index.nlevels + "r" * cells.shape[1]
    )
    for symbol, command in LATEX.items():
        text = text.replace(symbol, command)
    return text


def write_table(summary, path, *, labels=None, intervals=True):
    """Write the table to `path`, whole or not at all: Markdown for `.md`, LaTeX for `.tex`, else `ValueError`."""
    path = Path(path)
    writers = {".md": to_markdown, ".tex": to_latex}
    if path.suffix not in writers:
        raise ValueError(f"Tables are written as .md or .tex: got '{path.name}'. Change the suffix.")
    text = writers[path.suffix](summary, labels=labels, intervals=intervals)
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def _cell(row, digits, intervals):
    mean = f"{row.mean:.{digits}f}"
    return mean if not intervals or pd.isna(row.lo) else f"{mean} [{row.lo:.{digits}f}, {row.hi:.{digits}f}]"
