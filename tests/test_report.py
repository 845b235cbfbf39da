"""claims.py and document.py: verdicts follow from intervals, absent runs say so, other versions are refused."""

import json
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
from omgsr_lib.report import document
from omgsr_lib.report import render as paper
from omgsr_lib.report.claims import (
    CONTRADICTED,
    CONTRAST_CLAIMS,
    KEYS,
    MIXED,
    NOT_TESTABLE,
    SHOWN,
    UNDECIDED,
    VERDICTS,
    claim_table,
    judged,
    measured,
    read_claims,
    verdict_of,
    weights_of,
    write_claims,
)
from omgsr_lib.report.contrasts import CONTRASTS, contrast_table
from omgsr_lib.report.document import in_sides, write_report
from omgsr_lib.report.sweep import optimum_of, sweep_table
from omgsr_lib.report.tables import to_html, to_latex, to_markdown
from omgsr_lib.study.plan import study_runs
from omgsr_lib.utils.files import part_hashes


MIDS = {"s": 300, "f": 200}


def rows(**values):
    """Paired differences by metric: `metric=(mean, lo, hi)`."""
    return pd.DataFrame([dict(metric=name, mean=m, lo=lo, hi=hi) for name, (m, lo, hi) in values.items()])


def test_a_measure_speaks_for_or_against_a_claim_where_its_interval_excludes_0():
    better, worse, unclear = (0.5, 0.1, 0.9), (-0.5, -0.9, -0.1), (0.5, -0.1, 1.1)

    def sides(own=False, **values):
        return [row["side"] for row in judged(rows(**values), own=own)]

    assert sides(psnr_y=better, ssim_y=unclear, niqe=worse) == ["for", "undecided", "for"]
    assert sides(psnr_y=worse, gmsd=better) == ["against", "against"]  # GMSD: lower is better
    assert sides(psnr_y=better, checkerboard=better) == ["for", ""]  # the grid is this project's own measure
    assert sides(own=True, psnr_y=better, checkerboard=better) == ["for", "against"]


def test_the_verdict_of_a_claim_is_that_of_all_its_measures():
    verdicts = {("for", "undecided"): SHOWN, ("against", "undecided"): CONTRADICTED, ("for", "against"): MIXED}
    verdicts |= {("undecided", ""): UNDECIDED, ("",): NOT_TESTABLE}
    assert {sides: verdict_of(sides) for sides in verdicts} == verdicts


def test_an_undecided_measure_says_what_would_have_been_seen():
    frame = pd.DataFrame(judged(rows(psnr_y=(0.5, -0.1, 1.1)))).assign(claim="", variant="", notebook="")
    assert frame["detectable"].iloc[0] == pytest.approx(0.6 * (1 + 0.8416 / 1.9600), rel=1e-4)
    text = measured(next(frame.itertuples(index=False)))
    assert text == "PSNR-Y (dB) +0.50 [-0.10, +1.10]: undecided (seen from 0.86)"


def study_frame(effect, without=()):
    """A study of 12 images in which what `effect` names changes PSNR-Y by its value, with some noise."""
    generator = np.random.default_rng(0)
    parts = []
    for run in study_runs(MIDS, full=True):
        if run.without in without or run.protocol == "frozen_encoder" or run.images != "fixed":
            continue
        psnr = 20 + np.arange(12) + generator.normal(0, 0.01, 12)
        psnr += effect.get(run.without, 0) + effect.get("initial", 0) * (run.timestep == 999)
        values = {"psnr_y": psnr, "checkerboard": generator.normal(0, 1, 12)}
        for metric, value in values.items():
            part = pd.DataFrame({"image": [f"p{i}" for i in range(12)], "metric": metric, "value": value})
            parts.append(part.assign(**asdict(run), dataset="published", crops=10_000, precision="no"))
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
        "06b_ablation/contrasts.csv": contrast_table(study, MIDS), "06b_ablation/sweep.csv": sweep_table(study, MIDS),
        "06b_ablation/optimum.csv": optimum_of(study, MIDS),
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


def verdicts(folder):
    return claim_table(folder).drop_duplicates(KEYS).set_index(KEYS)["verdict"]


def test_verdicts_are_those_of_the_numbers(results):
    found = verdicts(results)
    claims = list(found.index.get_level_values("claim").unique())

    def verdict(start, variant):
        (claim,) = [c for c in claims if c.startswith(start) and "frozen" not in c]
        return found[claim, f"OMGSR-{variant}"]

    assert verdict("LQ latents lie closer", "S") == SHOWN and verdict("LQ latents lie closer", "F") == MIXED
    assert verdict("The mid-timestep is computed", "S") == SHOWN
    assert verdict("Injecting at the mid-timestep", "F") == SHOWN
    assert verdict("The mid-timestep beats t 600", "S") == UNDECIDED
    assert verdict("Losses on overlapping chunks", "S") == CONTRADICTED  # whole images are 0.5 dB better
    assert verdict("One recipe serves", "S") == SHOWN and verdict("One recipe serves", "F") == CONTRADICTED
    assert verdict("Real images are restored", "S") == SHOWN and verdict("Real images are", "F") == CONTRADICTED
    assert verdict("OMGSR-F is ahead", "F") == CONTRADICTED
    assert verdict("The refinement loss brings", "S") == SHOWN
    few = claim_table(results).query("measure == 'GMAC'").iloc[0]
    assert few.verdict == SHOWN and few.note.startswith("900 GMAC at 512 pixels; published 5000 to 5000")
    assert {contrast for contrast, *_ in CONTRAST_CLAIMS} <= {contrast for contrast, *_ in CONTRASTS}


def test_claims_are_read_back_as_they_were_written(results):
    frame = write_claims(results)
    assert set(frame["verdict"]) <= set(VERDICTS) and not frame[["claim", "notebook", "verdict"]].eq("").any(axis=None)
    pd.testing.assert_frame_equal(read_claims(results / "claims.csv"), frame)
    row = frame[frame["claim"].str.startswith("Injecting") & (frame["measure"] == "psnr_y")].iloc[0]
    assert (row.seeds, row.crops) == (3, 10_000) and row.effect == pytest.approx(2, abs=0.02)


def test_numbers_of_other_weights_are_marked(results):
    weights = part_hashes(document.SUMMARY.parents[1] / "weights")
    assert weights_of({"weights": weights}) == "shipped" and weights_of({}) == "not recorded"
    changed = weights | {"mini-s": "0"}
    assert weights_of({"weights": changed}) == "other" and weights_of({"weights": changed}, ["mini-ddpm"]) == "shipped"
    (results / "study").mkdir()
    for recorded, marked in (
        ({"weights": changed}, False),
        ({"weights": weights | {"mini-ddpm": "0"}}, True),
        ({}, True),
    ):
        (results / "study" / "run.json").write_text(json.dumps({"name": "study", **recorded}))
        text = write_report(results)[0].read_text()
        assert ("(OMGSR-S) † |" in text, "†: measured with other weights" in text) == (marked, marked)


def test_what_was_not_run_says_so_and_nothing_fails(results):
    study = contrast_table(study_frame({}, without=("chunks",)), MIDS)
    study.to_csv(results / "06b_ablation" / "contrasts.csv", index=False)
    row = claim_table(results).query("claim.str.startswith('Losses on overlapping chunks')").iloc[0]
    assert row.verdict == NOT_TESTABLE and row.note.startswith("not run")
    table = paper.ablation_tables(paper.read_results(results / "06b_ablation" / "contrasts.csv"))["ablation_chunks"]
    assert [cells[-1] for cells in table.rows] == ["not run", "not run"] and not table.bold
    (results / "study").mkdir()
    (results / "study" / "skipped.csv").write_text("run,reason\ns_a,failed: ValueError: nan\nf_b,not in the preset\n")
    text = write_report(results)[0].read_text()
    waiting = claim_table(results).query("note.str.startswith('not run')").drop_duplicates(KEYS)
    assert f"not testable here, {len(waiting)} of them only not run." in text and 2 <= len(waiting) < 21
    assert "artefacts included (OMGSR-S, OMGSR-F): not run: `make study FULL=1` trains it." in text
    assert "- Study, 1 run, failed: ValueError: nan: s_a." in text
    for path in results.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    assert set(verdicts(results)) == {NOT_TESTABLE}


def test_a_contrast_that_was_run_with_the_encoder_frozen_alone_is_not_listed_as_not_run(results):
    table = contrast_table(study_frame({}), MIDS)
    run = (table.contrast == "mid - 400") & (table.variant == "s") & (table.n > 0)
    assert set(table[run].protocol) == {"full", "untuned"}
    table.loc[run & (table.protocol == "full"), "protocol"] = "frozen-encoder"
    table.to_csv(results / "06b_ablation" / "contrasts.csv", index=False)
    about = "claim.str.startswith('The mid-timestep beats t 400') and variant == 'OMGSR-S'"
    rows = claim_table(results).query(about)
    assert set(rows.claim) == {"The mid-timestep beats t 400 (encoder frozen, loss on latents)"}
    write_report(results)
    assert (results / rows.figure.iloc[0]).is_file()  # a figure of these rows, not that of the full method
    table[~run | (table.protocol == "untuned")].to_csv(results / "06b_ablation" / "contrasts.csv", index=False)
    (row,) = claim_table(results).query(about).itertuples()
    assert row.note.startswith("not run")


def test_the_report_has_a_line_and_links_for_every_claim(results, capsys):
    assert main(["report", "--results", str(results.parent)]) == 0
    claims = read_claims(results / "claims.csv")
    found = claims.drop_duplicates(KEYS)
    text, page = ((results / f"report.{suffix}").read_text() for suffix in ("md", "html"))
    first = [(results / f"report.{suffix}").read_bytes() for suffix in ("md", "html")]
    assert len(re.findall(r"^\| .* \| \*\*", text, flags=re.M)) == len(found) == page.count("<tr>") - 1
    for row in found.itertuples():
        assert row.claim in text and f"notebooks/{row.notebook}.ipynb" in page
    for verdict in VERDICTS:
        assert f"{sum(found.verdict == verdict)} {verdict}" in text
    for heading in ("Scope", "Method", "What was easy", "What was hard", "What differs from the authors"):
        assert f"## {heading}" in text
    mixed = (
        claims[(claims.verdict == MIXED)].groupby(KEYS).get_group(tuple(found[found.verdict == MIXED].iloc[0][KEYS]))
    )
    assert f"**mixed**: {in_sides(mixed)}" in text and "against" in in_sides(mixed)
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
    starts = sum(paper.ABLATIONS.values(), ())
    assert all(sum(contrast.startswith(start) for start in starts) == 1 for contrast, *_ in CONTRASTS)


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
        assert document._name(f"figures/{stem}.png") == name
    assert (
        document._name("tables/ablation_ldr.html") == "ablation ldr" and document._name("tables/costs.html") == "costs"
    )
