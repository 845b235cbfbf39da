from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from omgsr_lib.metrics.comparisons import compare_methods
from omgsr_lib.metrics.statistics import summarise
from omgsr_lib.report import render as paper
from omgsr_lib.report.published import PROTOCOL, read_published, read_published_cost
from omgsr_lib.report.tables import (
    Table,
    convention_notes,
    difference_table,
    frame_table,
    metric_table,
    to_html,
    to_latex,
    to_markdown,
    write_table,
)


def scores_of(values, metric, lower_better=False, dataset=None):
    """Long frame of `{method: values}`, images numbered."""
    rows = [
        (method, image, metric, value, lower_better)
        for method, scores in values.items()
        for image, value in enumerate(scores)
    ]
    frame = pd.DataFrame(rows, columns=["method", "image", "metric", "value", "lower_better"])
    return frame if dataset is None else frame.assign(dataset=dataset)


@pytest.fixture
def scores():
    """`clear` beats both others in PSNR by a constant; in GMSD it leads by noise alone."""
    generator = np.random.default_rng(0)
    base, noise = generator.normal(22, 3, 40), generator.normal(0, 0.05, (3, 40))
    psnr = {"bicubic_x4": base, "close": base + 0.1, "clear": base + 1}
    gmsd = {"bicubic_x4": 0.25 + noise[0], "close": 0.2 + noise[1], "clear": 0.2 + noise[2] - noise[2].mean() - 0.001}
    return pd.concat([scores_of(psnr, "psnr_y"), scores_of(gmsd, "gmsd", True)], ignore_index=True)


SUMMARY = pd.DataFrame(
    [
        ("bicubic", "psnr_y", 22.456, 22.1, 22.9, 60, False),
        ("omgsr-s", "psnr_y", 23.456, 23.1, 23.9, 60, False),
        ("omgsr-s", "lpips_squeeze", 0.21, 0.2, 0.22, 60, True),
    ],
    columns=["method", "metric", "mean", "lo", "hi", "n", "lower_better"],
)


def test_cells_hold_means_and_intervals_and_nothing_is_bold_without_pairs():
    assert to_markdown(metric_table(SUMMARY.replace("omgsr-s", "OMGSR-S"))) == (
        "| Method | PSNR-Y (dB) ↑ | LPIPS-Squeeze ↓ |\n"
        "| :-- | --: | --: |\n"
        "| bicubic | 22.46 [22.10, 22.90] | – |\n"
        "| OMGSR-S | 23.46 [23.10, 23.90] | 0.2100 [0.2000, 0.2200] |\n"
    )


def test_bold_is_only_what_paired_intervals_decide(scores):
    table = metric_table(summarise(scores), compare_methods(scores))
    assert table.headings == ("Method", "PSNR-Y (dB) ↑", "GMSD ↓")
    assert table.bold == {(2, 1)}  # clear in PSNR, although its unpaired interval holds the others' means
    assert "| clear | **" in to_markdown(table) and to_markdown(table).count("**") == 2
    two = scores[scores.method != "close"]
    assert metric_table(summarise(two), compare_methods(two)).bold == {(1, 1), (1, 2)}


def test_datasets_are_decided_apart(scores):
    worse = scores.assign(dataset="y", value=scores.value.where(scores.method != "clear", scores.value - 5))
    both = pd.concat([scores.assign(dataset="x"), worse])
    both = both[both.metric == "psnr_y"]
    table = metric_table(summarise(both), compare_methods(both), intervals=False)
    names = [row[:2] for row in table.rows]
    assert table.left == 2 and names[2] == ("x", "clear") and names[4] == ("y", "close")
    assert table.bold == {(2, 2), (4, 2)}


def test_published_rows_stand_apart_with_their_source(scores, tmp_path):
    (tmp_path / "published_results.csv").write_text(
        "dataset,method,steps,metric,value,source\n"
        "RealSR,SinSR,1,PSNR,26.28,paper A\nRealSR,SinSR,1,LPIPS,0.3188,paper A\n"
        "RealSR,SeeSR,50,PSNR,99.9,paper B\nRealSR,SeeSR,50,QALIGN,3.9,paper B\nDRealSR,SinSR,,PSNR,28.36,paper A\n"
    )
    published = read_published(tmp_path, "RealSR")
    assert published.metric.tolist() == ["psnr_y", "lpips", "psnr_y"] and set(published.dataset) == {"RealSR"}
    ours = scores.assign(dataset="RealSR")
    table = metric_table(
        summarise(ours), compare_methods(ours), published=published, metrics=PROTOCOL[:3], intervals=False
    )
    assert table.rules == (3,) and table.bold == {(2, 2)}  # 99.9 is published and not marked
    assert table.rows[3] == ("RealSR", "SinSR [a]", "26.28", "–", "0.3188")
    assert table.rows[4] == ("RealSR", "SeeSR, 50 steps [b]", "99.90", "–", "–")
    assert table.headings[2:] == ("PSNR-Y (dB) ↑", "SSIM-Y ↑", "LPIPS ↓")
    assert table.notes[-2:] == ("[a] paper A.", "[b] paper B.")
    assert read_published(tmp_path).method.tolist()[-1] == "SinSR"  # no step count is no suffix
    assert read_published(None) is None and read_published_cost(None) is None
    with pytest.raises(FileNotFoundError, match="published_cost.csv: .* is missing"):
        read_published_cost(tmp_path)
    (tmp_path / "published_results.csv").write_text("dataset,method\n")
    with pytest.raises(ValueError, match="lacks \\['metric', 'source', 'steps', 'value'\\]"):
        read_published(tmp_path)


def test_differences_are_signed_and_marked(scores):
    compared = compare_methods(scores, "bicubic_x4")
    table = difference_table(compared, ["method", "against"])
    assert table.rows[0] == ("close", "bicubic_x4", "+0.10 [+0.10, +0.10]*", table.rows[0][3])
    assert table.rows[0][3].startswith("-0.0") and table.bold == {(0, 2), (0, 3), (1, 2), (1, 3)}
    level = compare_methods(scores[(scores.metric == "gmsd") & (scores.method != "bicubic_x4")])
    assert difference_table(level, ["method"]).bold == frozenset()
    assert any("Holm" in note for note in table.notes)


def test_latex_is_booktabs_and_escaped(scores, tmp_path):
    ours = scores[scores.metric == "psnr_y"].assign(value=scores.value.round(0))
    table = metric_table(summarise(ours), compare_methods(ours), intervals=False, notes=["50 % of a_b & $x"])
    text = write_table(table, tmp_path / "table.tex").read_text()
    means = ours.groupby("method").value.mean().map("{:.2f}".format)
    assert text.split("\n")[:8] == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"Method & PSNR-Y (dB) $\uparrow$ \\",
        r"\midrule",
        rf"bicubic\_x4 & {means['bicubic_x4']} \\",
        rf"close & {means['close']} \\",
        rf"clear & \bfseries {means['clear']} \\",
        r"\bottomrule",
    ]
    assert text.endswith("\\par\\smallskip{\\footnotesize 50 \\% of a\\_b \\& \\$x}\n")
    ruled = Table(("a", "b"), (("1", "2"), ("3", "4")), rules=(1,))
    assert to_latex(ruled).count(r"\midrule") == 2


class Cells(HTMLParser):
    """Rows of cell texts, and those in bold."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.bold, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data
            self.bold += [data] * ("b" in self.open)


def test_html_holds_the_same_cells(scores):
    named = scores.replace("close", "<close & so>")
    table = metric_table(summarise(named), compare_methods(named))
    parsed = Cells(to_html(table))
    assert parsed.rows == [list(table.headings), *map(list, table.rows)] and not parsed.open
    assert parsed.bold == [table.rows[row][column] for row, column in table.bold]


def test_frames_are_shown_as_they_are():
    frame = pd.DataFrame({"stage": ["encode", "decode"], "MACs (G)": [12.34567, np.nan], "n": [3, 4]})
    assert frame_table(frame).rows == (("encode", "12.35", "3"), ("decode", "–", "4"))
    assert "PSNR-Y (dB): Y of YCbCr" in convention_notes(["psnr_y", "other"])[0]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="written as .md, .tex or .html: got 'table.txt'"):
        write_table(Table(("a",), (("1",),)), tmp_path / "table.txt")
    with pytest.raises(ValueError, match="this summary has several"):
        metric_table(pd.concat([SUMMARY, SUMMARY]))
    assert not list(tmp_path.iterdir())


def test_equal_scores_give_equal_bytes(scores, tmp_path):
    for run in ("first", "second"):
        table = metric_table(summarise(scores), compare_methods(scores), notes=convention_notes(["psnr_y"]))
        for suffix in (".md", ".tex", ".html"):
            write_table(table, tmp_path / f"{run}{suffix}")
    for suffix in (".md", ".tex", ".html"):
        assert (tmp_path / f"first{suffix}").read_bytes() == (tmp_path / f"second{suffix}").read_bytes()


def test_costs_add_up_but_for_activations_which_are_not_alive_at_once():
    costs = pd.DataFrame({
        "method": "a", "stage": ["encode", "denoiser", "decode"], "GMAC": [1.0, 2.0, 3.0],
        "activations (MiB)": [5.0, 7.0, 6.0], "seconds": [1.0, np.nan, 1.0],
    })  # fmt: skip
    assert paper.cost_table(costs).rows[-1] == ("a", "all", "6", "7", "–")
