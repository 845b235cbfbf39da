"""paper.py and report.py: verdicts follow from intervals, absent runs say so, files of another version are refused."""

import re
import shutil
from dataclasses import asdict
from itertools import product

import numpy as np
import pandas as pd
import pytest

from omgsr_lib.cli import main
from omgsr_lib.metrics.comparisons import compare_methods
from omgsr_lib.metrics.specs import SPECS
from omgsr_lib.metrics.statistics import summarise
from omgsr_lib.report import claims as report
from omgsr_lib.report import render as paper
from omgsr_lib.report.claims import (
    CONTRAST_CLAIMS,
    NOT_SHOWN,
    NOT_TESTABLE,
    SHOWN,
    findings,
    judge,
    write_report,
)
from omgsr_lib.report.contrasts import CONTRASTS, contrast_table, sweep_table
from omgsr_lib.report.tables import to_html, to_latex, to_markdown
from omgsr_lib.study.ablation import study_runs


MIDS = {"s": 300, "f": 200}


def rows(**values):
    """Paired differences by metric: `metric=(mean, lo, hi)`."""
    return pd.DataFrame([dict(metric=name, mean=m, lo=lo, hi=hi) for name, (m, lo, hi) in values.items()])


def test_a_claim_is_shown_if_something_is_decided_for_it_and_nothing_against():
    better, worse, open_ = (0.5, 0.1, 0.9), (-0.5, -0.9, -0.1), (0.5, -0.1, 1.1)
    assert judge(rows(psnr_y=better, ssim_y=open_))[1] == SHOWN
    assert judge(rows(psnr_y=better, ssim_y=worse))[1] == NOT_SHOWN
    assert judge(rows(psnr_y=open_))[1] == NOT_SHOWN
    assert judge(rows(gmsd=worse))[1] == SHOWN  # lower is better
    assert judge(rows(gmsd=better))[1] == NOT_SHOWN
    assert judge(rows(psnr_y=better, checkerboard=better))[1] == SHOWN  # the grid meter is this project's own
    text, verdict = judge(rows(psnr_y=better, checkerboard=better), own=True)
    assert verdict == NOT_SHOWN
    assert text == "PSNR-Y (dB) +0.50 [+0.10, +0.90] better; Checkerboard (dB) +0.50 [+0.10, +0.90] worse"


def study_frame(effect, without=()):
    """A study of 12 images in which what `effect` names changes PSNR-Y by its value, with some noise."""
    generator = np.random.default_rng(0)
    parts = []
    for run in study_runs(MIDS):
        if run.without in without or run.protocol == "frozen_encoder":
            continue
        psnr = 20 + np.arange(12) + generator.normal(0, 0.01, 12)
        psnr += effect.get(run.without, 0) + effect.get("initial", 0) * (run.timestep == 999)
        values = {"psnr_y": psnr, "checkerboard": generator.normal(0, 1, 12)}
        for metric, value in values.items():
            part = pd.DataFrame({"image": [f"p{i}" for i in range(12)], "metric": metric, "value": value})
            parts.append(part.assign(**asdict(run), precision="no"))
    return pd.concat(parts, ignore_index=True)


def scores_frame(methods):
    """Scores of 30 images: `methods` maps a name to its shift in PSNR-Y (dB); LPIPS-Squeeze moves the other way."""
    generator, parts = np.random.default_rng(1), []
    base = generator.normal(24, 2, 30)
    for method, shift in methods.items():
        for metric, value in {"psnr_y": base + shift, "niqe": 5 - shift + base / 100}.items():
            value = value + generator.normal(0, 0.01, 30)
            frame = pd.DataFrame({"method": method, "image": [f"p{i}" for i in range(30)], "metric": metric})
            parts.append(frame.assign(value=value, lower_better=SPECS[metric].lower_better))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def files():
    """The CSV files of a preset, as small as the report can read."""
    gap = [dict(distance=d, timestep=300, value=0.5, clean_value=1.0, noisy_value=0.8, variant=v)
           for d, v in product(("sliced_wasserstein", "frechet", "power_spectrum"), "sf")]  # fmt: skip
    gap[-1]["value"] = 0.799  # of flow matching the last is flat
    mids = [dict(variant=v, rule="snr", timestep=t, low=t - 9, high=t + 9, sigma=0.5) for v, t in MIDS.items()]
    curve = [dict(variant=v, timestep=t, objective=abs(t - MIDS[v])) for v, t in product("sf", range(0, 1000, 10))]
    study = study_frame({"initial": -2, "chunks": 0.5, "perceptual": 0.0}, without=("grid",))
    scores = scores_frame({"prior-s": 0, "omgsr-s": 1, "prior-f": 0, "omgsr-f": -1})
    costs = [
        dict(method="SD2.1-base, counted", stage=s, GMAC=g, seconds=None)
        for s, g in (("encode", 500), ("denoiser", 400))
    ]
    cost_rows = [dict(method="Many", steps="50", seconds=4, GPU="A", params_M=1, MACs_G="5000-6000", source="x"),
                 dict(method="One", steps="1", seconds=1, GPU="A", params_M=1, MACs_G="10", source="x")]  # fmt: skip
    log = pd.DataFrame({"step": range(1, 61), "pixel": 1.0, "refinement": np.linspace(4, 1, 60)})
    real = scores_frame({"bicubic": 0, "mini-s": 1, "mini-f": -0.5}).assign(dataset="RealSR")
    published = [
        dict(dataset="RealSR", method="Other", metric=name, mean=value, lower_better=False, source="a paper")
        for name, value in (("psnr_y", 25.5), ("niqe", 6.0), ("musiq", 60.0))
    ]
    return {
        "01_latent_gap/minima.csv": gap, "02_mid_timestep/midstep.csv": mids, "02_mid_timestep/curve.csv": curve,
        "03_train_omgsr_s/log.csv": log, "04_train_omgsr_f/log.csv": log,
        "06b_ablation/contrasts.csv": contrast_table(study, MIDS), "06b_ablation/sweep.csv": sweep_table(study),
        "06_evaluate/scores.csv": scores, "06_evaluate/costs.csv": costs, "benchmarks/RealSR/scores.csv": real,
        "benchmarks/RealSR/published.csv": published, "benchmarks/RealSR/published_cost.csv": cost_rows,
    }  # fmt: skip


@pytest.fixture
def results(files, tmp_path):
    folder = tmp_path / "mini"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(content).to_csv(folder / name, index=False)
    return folder


def test_verdicts_are_those_of_the_numbers(results):
    rows = findings(results)
    found = {row.claim: row for row in rows}
    assert len(found) == len(rows)

    def verdict(start, variant):
        rows = [row for claim, row in found.items() if claim.startswith(start) and claim.endswith(f"({variant})")]
        assert len(rows) == 1, rows
        return rows[0].verdict

    assert (
        verdict("LQ latents lie closer", "OMGSR-S") == SHOWN
        and verdict("LQ latents lie closer", "OMGSR-F") == NOT_SHOWN
    )
    assert verdict("The mid-timestep is computed", "OMGSR-S") == SHOWN
    assert verdict("Injecting at the mid-timestep", "OMGSR-F") == SHOWN
    assert verdict("The mid-timestep beats t 600", "OMGSR-S") == NOT_SHOWN
    assert verdict("Losses on overlapping chunks", "OMGSR-S") == NOT_SHOWN  # whole images are 0.5 dB better
    assert verdict("One recipe serves", "OMGSR-S") == SHOWN and verdict("One recipe serves", "OMGSR-F") == NOT_SHOWN
    few = next(row for claim, row in found.items() if claim.startswith("One step needs fewer operations"))
    assert few.verdict == SHOWN and few.measured.startswith("900 GMAC at 512 pixels; published 5000 to 5000")
    assert (
        found["OMGSR-S restores real images better than bicubic enlargement (RealSR, small priors)"].verdict == SHOWN
    )
    assert (
        found["OMGSR-F is ahead of OMGSR-S in the measures with reference (RealSR, small priors)"].verdict == NOT_SHOWN
    )
    assert (
        found["The refinement loss brings LQ latents towards the noisy latents of the mid-timestep"].verdict == SHOWN
    )
    assert {contrast for contrast, *_ in CONTRAST_CLAIMS} <= {contrast for contrast, *_ in CONTRASTS}


def test_what_was_not_run_says_so_and_nothing_fails(results):
    study = contrast_table(study_frame({}, without=("chunks",)), MIDS)
    study.to_csv(results / "06b_ablation" / "contrasts.csv", index=False)
    row = next(row for row in findings(results) if row.claim.startswith("Losses on overlapping chunks"))
    assert row.verdict == NOT_TESTABLE and row.measured.startswith("not run")
    table = paper.ablation_tables(paper.read_results(results / "06b_ablation" / "contrasts.csv"))["ablation_chunks"]
    assert [cells[-1] for cells in table.rows] == ["not run", "not run"] and not table.bold
    assert "with - without chunks (OMGSR-S)" in write_report(results)[0].read_text()
    for path in results.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    assert {row.verdict for row in findings(results)} == {NOT_TESTABLE}


def test_the_report_has_a_line_and_links_for_every_claim(results, capsys):
    assert main(["report", "--results", str(results.parent)]) == 0
    found = findings(results)
    text, page = ((results / f"report.{suffix}").read_text() for suffix in ("md", "html"))
    first = [(results / f"report.{suffix}").read_bytes() for suffix in ("md", "html")]
    assert len(re.findall(r"^\| .* \| \*\*", text, flags=re.M)) == len(found) == page.count("<tr>") - 1
    for row in found:
        assert row.claim in text and f"notebooks/{row.notebook}.ipynb" in page
    for verdict in (SHOWN, NOT_SHOWN, NOT_TESTABLE):
        assert f"{sum(row.verdict == verdict for row in found)} {verdict}" in text
    write_report(results)
    assert first == [(results / f"report.{suffix}").read_bytes() for suffix in ("md", "html")]
    assert main(["report", "--results", str(results / "none")]) == 2
    assert "Run omgsr reproduce first" in capsys.readouterr().err


def test_files_of_another_version_are_refused_and_stay(results):
    file = results / "06b_ablation" / "contrasts.csv"
    pd.read_csv(file).drop(columns="trainings").to_csv(file, index=False)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="another version: it lacks the columns .'trainings'."):
        write_report(results)
    assert file.read_bytes() == before and not (results / "report.md").exists()


def test_benchmark_tables_keep_published_rows_apart(results):
    scores, published = paper.benchmark_results(results / "benchmarks")["RealSR"]
    table = paper.benchmark_table(scores, published)
    assert [row[0] for row in table.rows] == [
        "Bicubic",
        "OMGSR-S (mini)",
        "OMGSR-F (mini)",
        "Other [a]",
    ] and table.rules == (3,)
    assert table.rows[3][1:] == ("25.50", "6.00", "60.00") and table.rows[0][3] == "–"
    assert {row for row, _ in table.bold} == {1}  # mini-s, decided against both; a published row never
    assert "[a] a paper." in table.notes
    means = scores.groupby(["method", "metric"]).value.mean()
    assert table.rows[1][1].startswith(f"{means['mini-s', 'psnr_y']:.2f} [")


def test_one_picture_has_no_interval_and_the_table_says_so(results):
    scores = scores_frame({"a": 0, "b": 1})
    one = scores[scores.image == "p0"]
    table = paper.evaluation_table(summarise(one), compare_methods(one))
    assert table.notes[1] == "One image: there is no interval, and nothing is decided." and not table.bold
    assert table.rows[0][1] == f"{one.value.iloc[0]:.2f}"


def test_tables_are_written_in_three_formats_byte_for_byte(results, tmp_path):
    sweep = paper.read_results(results / "06b_ablation" / "sweep.csv")
    contrasts = paper.read_results(results / "06b_ablation" / "contrasts.csv")
    tables = {"sweep": paper.sweep_table(sweep), **paper.ablation_tables(contrasts)}
    tables["gap"] = paper.gap_table(paper.read_results(results / "01_latent_gap" / "minima.csv"))
    tables["mids"] = paper.mid_timestep_table(paper.read_results(results / "02_mid_timestep" / "midstep.csv"))
    tables["costs"] = paper.cost_table(paper.read_results(results / "06_evaluate" / "costs.csv"))
    assert tables["costs"].rows[-1] == ("SD2.1-base, counted", "all", "900", "–")
    scores, published = paper.benchmark_results(results / "benchmarks")["RealSR"]
    figures = paper.benchmark_figures("RealSR", scores, published)
    assert set(figures) == {"ranks_RealSR", "published_RealSR"}
    contents = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        written = paper.write_tables(folder, tables)
        contents.append([path.read_bytes() for path in written])
    assert contents[0] == contents[1] and len(written) == 3 * len(tables)
    for table in tables.values():
        assert to_markdown(table) and "\\toprule" in to_latex(table) and "<table>" in to_html(table)
    assert set(paper.ABLATIONS["ablation_losses"]) <= {contrast for contrast, *_ in CONTRASTS}
    assert sorted(sum(paper.ABLATIONS.values(), ())) == sorted(contrast for contrast, *_ in CONTRASTS)


def test_paired_differences_in_words():
    frame = rows(psnr_y=(0.5, 0.1, 0.9), gmsd=(0.5, 0.1, 0.9), niqe=(0.5, -0.1, 1.1)).assign(method="mini-s")
    assert paper.in_words(frame, ["method"]) == (
        "- OMGSR-S (mini): better in PSNR-Y; worse in GMSD; undecided in NIQE."
    )
    table = paper.named(pd.DataFrame({"psnr_y": [1.0]}, index=["mini-s"]))
    assert list(table.columns) == ["PSNR-Y (dB) ↑"] and list(table.index) == ["OMGSR-S (mini)"]
    levels = paper.named(frame.pivot(index=["method", "lo"], columns="metric", values="hi"))
    assert levels.index[0][0] == "OMGSR-S (mini)" and set(levels.index.names) == {None}


def test_pdf_is_drawn_on_request_alone(results):
    write_report(results)
    figures = results / paper.FIGURES
    assert {path.name for path in figures.iterdir()} == {"ranks_RealSR.png"}  # the others are those of notebooks
    write_report(results, pdf=True)
    drawn = {path.stem for path in figures.glob("*.pdf")}
    assert drawn == {"losses_s", "losses_f", "sweep", "contrasts", "ranks_RealSR", "published_RealSR"}


def test_figures_are_called_by_what_they_show():
    names = {"gap_s": "Distance between LQ latents and noisy latents, OMGSR-S", "ranks": "Ranks and how sure they are"}
    names |= {"per_image": "Mid-timestep of each image", "ranks_RealSR": "Ranks and how sure they are, RealSR"}
    for stem, name in names.items():
        assert report._name(f"figures/{stem}.png") == name
    assert report._name("tables/ablation_ldr.html") == "ablation ldr" and report._name("tables/costs.html") == "costs"
