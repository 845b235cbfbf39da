"""Tables for the README and for papers: Markdown, LaTeX and HTML of one `Table` of texts.

Bold is a claim: a method that every other one of its column is decided against, or a difference whose paired interval
excludes 0. Published numbers have no images to pair and are never marked.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from ..metrics.specs import SPECS
from ..utils.files import atomic_write


DECIDED = "Bold: better than every other method of ours here, each paired 95 % interval excluding 0."
EXCLUDES_ZERO = "Bold: the paired 95 % interval excludes 0."
HOLM = "*: p < 0.05 by the sign-flip test after Holm's correction over the differences of the column."
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--", "×": r"$\times$",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Texts of a table: `headings`, and `rows` of as many cells, the first `left` of them names.

    `bold` holds (row, column) of cells, `rules` the rows that a line is drawn above, `notes` the lines below.
    """

    headings: tuple
    rows: tuple
    left: int = 1
    bold: frozenset = frozenset()
    rules: tuple = ()
    notes: tuple = ()


def metric_table(summary, comparisons=None, *, published=None, metrics=None, labels=None, intervals=True, notes=()):
    """One row per (dataset and) method, one column per metric with the arrow of its better direction.

    Args:
        summary: `statistics.summarise`: method, metric, mean, lo, hi, lower_better, and dataset if there are several.
            Rows and columns keep its order; a method without a value shows "–".
        comparisons: `comparisons.compare_methods` of the same scores; without it nothing is bold.
        published: `published.read_published`; its rows stand below a line with the letter of their source.
        metrics: names of the columns, by default those of `summary`.
        labels: method to printed name.
        intervals: print `mean [lo, hi]`.
        notes: further lines below the table.
    """
    keys = [key for key in ("dataset", "method") if key in summary.columns]
    if summary.duplicated([*keys, "metric"]).any():
        raise ValueError("A table needs one row per method and metric: this summary has several. Select rows first.")
    metrics = list(summary["metric"].unique()) if metrics is None else list(metrics)
    wins = set() if comparisons is None else _decided(summary, comparisons, keys)
    cells = _cells(summary, keys, intervals)
    rows, bold = [], set()
    for key in summary[keys].drop_duplicates().itertuples(index=False, name=None):
        bold |= {(len(rows), len(keys) + place) for place, metric in enumerate(metrics) if (key, metric) in wins}
        rows.append((*(_label(name, labels) for name in key), *(cells.get((key, m), "–") for m in metrics)))
    notes, rules = [DECIDED] * (comparisons is not None) + list(notes), ()
    if published is not None and len(published):
        rules = (len(rows),)
        sources = {source: chr(ord("a") + place) for place, source in enumerate(published["source"].unique())}
        cells = _cells(published, [*keys, "source"], False)
        for key in published[[*keys, "source"]].drop_duplicates().itertuples(index=False, name=None):
            name = f"{key[-2]} [{sources[key[-1]]}]"
            rows.append((*key[:-2], name, *(cells.get((key, m), "–") for m in metrics)))
        notes.append("Below the line: as published, on the same images with other library versions; not ours.")
        notes += [f"[{letter}] {source}." for source, letter in sources.items()]
    headings = [key.capitalize() for key in keys] + [_heading(m, summary, published) for m in metrics]
    return Table(tuple(headings), tuple(rows), len(keys), frozenset(bold), rules, tuple(notes))


def difference_table(differences, keys, *, labels=None, notes=()):
    """One row per combination of the columns `keys`, one column per metric, cells `+mean [lo, hi]`.

    `differences`: `keys`, metric, mean (missing: "not run"), lo, hi, and p_holm if there is a test. Bold where the
    interval excludes 0; the arrow of the heading says which sign is the better.
    """
    metrics = list(differences["metric"].unique())
    cells, bold, rows = {}, set(), []
    for row in differences.to_dict("records"):
        star = "*" if row.get("p_holm", 1) < 0.05 else ""
        key = tuple(row[name] for name in keys), row["metric"]
        cells[key] = (_text(row, signed=True) + star, row["lo"] > 0 or row["hi"] < 0)
    for key in differences[keys].drop_duplicates().itertuples(index=False, name=None):
        found = [cells.get((key, metric), ("–", False)) for metric in metrics]
        bold |= {(len(rows), len(keys) + place) for place, (_, strong) in enumerate(found) if strong}
        rows.append((*(_label(name, labels) for name in key), *(text for text, _ in found)))
    headings = [name.capitalize() for name in keys] + [_heading(metric, differences, None) for metric in metrics]
    notes = [EXCLUDES_ZERO, *([HOLM] if "p_holm" in differences.columns else []), *notes]
    return Table(tuple(headings), tuple(rows), len(keys), frozenset(bold), notes=tuple(notes))


def frame_table(frame, *, left=1, digits=4, notes=()):
    """The data frame as it is: numbers with `digits` significant digits or all those before the point, missing "–"."""

    def text(value):
        if pd.isna(value):
            return "–"
        if not isinstance(value, float):
            return str(value)
        return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"

    rows = tuple(tuple(map(text, row)) for row in frame.itertuples(index=False, name=None))
    return Table(tuple(map(str, frame.columns)), rows, left, notes=tuple(notes))


def convention_notes(metrics):
    """One line that states the convention of each of `metrics`."""
    specs = [SPECS[metric] for metric in metrics if metric in SPECS]
    return ["Conventions. " + " ".join(f"{spec.label}: {spec.convention} ({spec.version})." for spec in specs)]


def to_markdown(table):
    """The table in Markdown (GitHub), ending with a newline; notes are paragraphs below it."""
    rows = [table.headings, [":--"] * table.left + ["--:"] * (len(table.headings) - table.left)]
    for number, row in enumerate(table.rows):
        rows.append([f"**{text}**" if (number, place) in table.bold else text for place, text in enumerate(row)])
    text = "".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in row) + " |\n" for row in rows)
    return text + "".join(f"\n{note}\n" for note in table.notes)


def to_latex(table):
    """The table in LaTeX (package booktabs), notes in a small font below."""
    lines = [rf"\begin{{tabular}}{{{'l' * table.left}{'r' * (len(table.headings) - table.left)}}}", r"\toprule"]
    lines += [" & ".join(map(_latex, table.headings)) + r" \\", r"\midrule"]
    for number, row in enumerate(table.rows):
        lines += [r"\midrule"] * (number in table.rules)
        cells = [(r"\bfseries " if (number, place) in table.bold else "") + _latex(t) for place, t in enumerate(row)]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\smallskip{{\footnotesize {_latex(note)}}}" for note in table.notes]
    return "\n".join(lines) + "\n"


def to_html(table):
    """The table as an HTML fragment (`<table>` and a `<p class="notes">` per note), all text escaped."""
    head = "".join(f"<th>{escape(text)}</th>" for text in table.headings)
    lines = ["<table>", f"<thead><tr>{head}</tr></thead>", "<tbody>"]
    for number, row in enumerate(table.rows):
        cells = ""
        for place, text in enumerate(row):
            shown = f"<b>{escape(str(text))}</b>" if (number, place) in table.bold else escape(str(text))
            cells += f"<th>{shown}</th>" if place < table.left else f"<td>{shown}</td>"
        lines.append(f'<tr class="rule">{cells}</tr>' if number in table.rules else f"<tr>{cells}</tr>")
    lines += ["</tbody>", "</table>", *(f'<p class="notes">{escape(note)}</p>' for note in table.notes)]
    return "\n".join(lines) + "\n"


def write_table(table, path):
    """Write the table to `path`, whole or not at all: `.md`, `.tex` or `.html`, else `ValueError`."""
    path = Path(path)
    writers = {".md": to_markdown, ".tex": to_latex, ".html": to_html}
    if path.suffix not in writers:
        raise ValueError(f"Tables are written as .md, .tex or .html: got '{path.name}'. Change the suffix.")
    with atomic_write(path) as part:
        part.write_text(writers[path.suffix](table), encoding="utf-8")
    return path


def _decided(summary, comparisons, keys):
    """`{(key, metric)}` of the methods that every other method of the same column (and dataset) is decided against."""
    beaten = {}
    for row in comparisons.to_dict("records"):
        if row["better"]:
            place = (*(row[key] for key in keys[:-1]), row["better"])
            beaten[place, row["metric"]] = beaten.get((place, row["metric"]), 0) + 1
    sizes = summary.groupby([*keys[:-1], "metric"])["method"].nunique()
    return {
        (place, metric)
        for (place, metric), count in beaten.items()
        if count == sizes[(*place[:-1], metric) if len(keys) > 1 else metric] - 1
    }


def _cells(frame, keys, intervals):
    return {
        (tuple(row[key] for key in keys), row["metric"]): _text(row, intervals=intervals)
        for row in frame.to_dict("records")
    }


def _text(row, *, intervals=True, signed=False):
    spec = SPECS.get(row["metric"])
    if pd.isna(row["mean"]):
        return "not run"
    digits, sign = 4 if spec is None else spec.digits, "+" if signed else ""
    mean = f"{row['mean']:{sign}.{digits}f}"
    if not intervals or pd.isna(row.get("lo")):
        return mean
    return f"{mean} [{row['lo']:{sign}.{digits}f}, {row['hi']:{sign}.{digits}f}]"


def _heading(metric, *frames):
    if metric in SPECS:
        return f"{SPECS[metric].label} {'↓' if SPECS[metric].lower_better else '↑'}"
    rows = next(f[f["metric"] == metric] for f in frames if f is not None and (f["metric"] == metric).any())
    return f"{metric} {'↓' if rows['lower_better'].iloc[0] else '↑'}"


def _label(name, labels):
    return str((labels or {}).get(name, name))


def _latex(text):
    return "".join(LATEX.get(letter, letter) for letter in str(text))
