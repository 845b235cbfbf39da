"""plan.py, ablation.py and contrasts.py: known differences come out, every run is made once, costs are told first."""

import shutil
from dataclasses import asdict, replace

import pandas as pd
import pytest
import torch
from study_case import EVERYTHING, IMAGES, MIDS, InThisProcess, fake_runs, rows

from omgsr_lib.cli import main
from omgsr_lib.data.pairs import Pairs
from omgsr_lib.presets import recipe
from omgsr_lib.report.contrasts import (
    CONTRASTS,
    contrast_table,
    growth_table,
    power_table,
    read_study,
    wide,
)
from omgsr_lib.report.sweep import optimum_of, sweep_table
from omgsr_lib.study import ablation as study_module
from omgsr_lib.study.ablation import StudyData, execute_run, study
from omgsr_lib.study.plan import LARGE, StudyRun, core_hours, kind, study_runs


@pytest.fixture(scope="module")
def frame():
    return pd.concat([rows(run) for run in EVERYTHING], ignore_index=True)


@pytest.fixture(scope="module")
def table(frame):
    return contrast_table(frame, MIDS).set_index(["contrast", "variant", "protocol", "metric"])


def named(name):
    return [contrast for contrast in CONTRASTS if contrast[0] == name]


def test_runs_are_unique_and_complete():
    runs = study_runs(MIDS)
    # per variant: 3 seeds of t*, 999 and t* without LDR, 2 further timesteps; 8 timesteps without a training
    assert len(runs) == 2 * (9 + 2 + 8) == len({run.name for run in runs}) and set(runs) < set(EVERYTHING)
    assert len(EVERYTHING) == len({run.name for run in EVERYTHING})
    for change in (
        {"timestep": 999},
        {"refinement": False},
        {"prior": "random"},
        {"timestep": 999, "refinement": False},
    ):
        assert {
            seed for seed in range(5) if StudyRun("s", "full", **{"timestep": 273, **change}, seed=seed) in EVERYTHING
        } == {0, 1, 2}
    large = [run for run in EVERYTHING if run.resolution == LARGE]
    assert {(run.without, run.seed) for run in large} == {
        (loss, seed) for loss in ("", "chunks") for seed in (0, 1, 2)
    }
    assert StudyRun("s", "full", 273, refinement=False).name == "s_full_trained_t273_no-ldr_seed0"
    assert (
        StudyRun("f", "full", 244, without="chunks", resolution=256).name
        == "f_full_trained_t244_no-chunks_256px_seed0"
    )
    assert len(study_runs({"s": 400})) == len(runs) // 2 - 2  # a mid-timestep that is on the sweep is trained once


def test_core_hours_are_those_of_steps_and_evaluations():
    curve, plain = StudyRun("s", "full", 273), StudyRun("s", "full", 273, without="grid")
    assert (len(curve.marks), len(plain.marks)) == (4, 1)
    hours = core_hours({curve: (600, 4), plain: (600, 1)}, {kind(curve): (0.5, 10.0)})
    assert hours == pytest.approx((1200 * 0.5 + 5 * 10) / 3600)
    data = StudyData(train=(), evaluation=("a",) * 50, realsr="RealSR")
    assert study_module._evaluations(curve, data) == 4
    assert study_module._evaluations(replace(plain, images="dial"), data) == 3 + 4 * 100 / 50


def test_contrasts_find_the_known_differences(table):
    expected = {"trained - random prior": 5.0, "with - without LDR": 0.25}
    expected |= {name: 0.75 for name, *_ in CONTRASTS if name.startswith("with - ") and "LDR" not in name}
    expected |= {name: 1.5 for name, *_ in CONTRASTS if name.startswith("own t*")}
    for contrast, *_ in CONTRASTS:
        protocol = "frozen-encoder" if contrast.startswith("own t*") else "full"
        for variant in MIDS:
            row = table.loc[(contrast, variant, protocol, "psnr_y")]
            wanted = expected.get(contrast, 2.0)
            assert (row["mean"], row.n, row.crops) == (pytest.approx(wanted), 4, 10_000)
            assert row.trainings in (1, 3) and row.covers == "images, trainings"
            if row.trainings == 3:  # no spread beyond that of the seeds, which both sides share
                assert (row.lo, row.hi) == pytest.approx((wanted, wanted))
                assert row.better == contrast.split(",")[0].split(" - ")[0]
            gmsd = table.loc[(contrast, variant, protocol, "gmsd")]
            assert gmsd["mean"] == pytest.approx(-wanted / 100)
    assert table.loc[("mid - initial (999)", "s", "full", "psnr_y")].trainings == 3
    assert table.loc[("mid - 600", "s", "full", "psnr_y")].trainings == 1
    assert ("with - without LDR", "s", "frozen-encoder", "psnr_y") not in table.index


def test_a_single_training_has_the_spread_of_those_at_the_mid_timestep(frame, table):
    """Seeds lie 0.5 dB apart: sd 0.5, that of a difference sqrt(2) as much, Student's t with 2 degrees 4.30."""
    row = table.loc[("mid - 600", "s", "full", "psnr_y")]
    assert row.hi - row["mean"] == pytest.approx(4.303 * 0.5 * 2**0.5, rel=0.1)
    one = contrast_table(frame[frame.seed == 0], MIDS, named("mid - 600"))
    assert set(one.covers) == {"images"}
    assert row.detectable > row.hi - row["mean"]  # else it would not have been decided


def test_a_protocol_of_one_training_has_the_spread_of_the_full_method(frame):
    """Else two trainings would differ "beyond doubt" because their images are many; the prior is not trained."""
    few = frame[(frame.protocol == "full") | (frame.seed == 0)]
    table = contrast_table(few, MIDS, named("own t* - t*, mild") + named("mid - 600"))
    table = table[table.metric == "psnr_y"].set_index(["contrast", "variant", "protocol"])
    row = table.loc["own t* - t*, mild", "s", "frozen-encoder"]
    assert row.hi - row["mean"] == pytest.approx(4.303 * 0.5 * 2**0.5, rel=0.1) and row.covers == "images, trainings"
    assert table.loc["mid - 600", "s", "untuned"].covers == "images"


def test_the_sweep_keeps_seed_0_of_the_full_recipe(frame):
    table = sweep_table(frame, MIDS).set_index(["variant", "protocol", "timestep", "metric"])
    assert len(table) == 2 * (3 * 8 + 2) * 2
    assert table.loc[("f", "full-random", 244, "psnr_y")]["mean"] == pytest.approx(16.5)
    assert set(table.loc["s"].mid) == {273}
    row = table.loc[("s", "frozen-encoder", 273, "psnr_y")]
    assert row["mean"] == pytest.approx(21.5) and row.n == 4 and row.lo < 21.5 < row.hi
    assert table.loc[("f", "full", 25, "psnr_y")]["mean"] == pytest.approx(19.5)


def test_the_best_timestep_lies_where_it_was_put():
    """Scores fall with the square of the distance from t 330, which is no timestep of the sweep."""
    frame = pd.concat([rows(run) for run in EVERYTHING if run.seed == 0], ignore_index=True)
    frame["value"] = -((frame["timestep"] - 330) / 100).pow(2) * frame["metric"].map({"psnr_y": 1, "gmsd": -1})
    table = optimum_of(frame, MIDS)
    assert table[["optimum", "lo", "hi"]].to_numpy() == pytest.approx(330)
    assert set(table["mid"]) == set(MIDS.values()) and set(table["most"]) == {999}
    more = frame[frame["timestep"] == 999].assign(seed=1, value=lambda rows: -100 * rows["value"])
    table = optimum_of(pd.concat([frame, more]), MIDS)  # a second training of one timestep alone
    assert table["optimum"].to_numpy() == pytest.approx(330)


def test_growth_is_the_contrast_after_each_number_of_crops(frame):
    early = frame[frame.timestep.isin([*MIDS.values(), 999])].assign(crops=1250)
    early["value"] -= 1.0 * (early.timestep == 999)
    table = growth_table(pd.concat([frame, early]), MIDS)
    table = table[(table.metric == "psnr_y") & (table.contrast == "mid - initial (999)") & (table.protocol == "full")]
    assert table.groupby("crops")["mean"].first().to_dict() == pytest.approx({1250: 3.0, 10_000: 2.0})


def test_power_says_how_many_trainings_decide(frame):
    table = power_table(frame, MIDS).set_index(["contrast", "variant", "protocol", "metric"])
    row = table.loc[("mid - initial (999)", "s", "full", "psnr_y")]
    assert row.sd_trainings == pytest.approx(0, abs=1e-9) and row.images == 4 and row.needed == 2


def test_contrasts_compare_within_one_precision(frame):
    """A t* in another precision, 7 dB off, is not compared with; two of one precision are."""
    extra = rows(StudyRun("s", "full", 273), "bf16").eval("value = value - 7")
    other = rows(StudyRun("s", "full", 600), "bf16").eval("value = value - 10")  # there t* - 600 is 2 + 10 - 7
    both = contrast_table(pd.concat([frame, extra, other]), MIDS, named("mid - 600"))
    table = both.set_index(["contrast", "variant", "protocol"])
    row = table[table.metric == "psnr_y"].loc[("mid - 600", "s", "full")]
    assert row.trainings == 2 and row["mean"] == pytest.approx((2 + 5) / 2)
    assert set(sweep_table(pd.concat([frame, extra]), MIDS).groupby(["variant", "protocol"]).n.unique().explode()) == {
        4
    }


def test_contrasts_of_the_full_method_that_were_not_run_are_listed(frame):
    name = "with - without grid penalty"
    table = contrast_table(frame[frame.without != "grid"], MIDS, named(name) + named("mid - 600"))
    absent = table[table.n == 0]
    assert set(absent.contrast) == {"with - without grid penalty"} and set(absent.protocol) == {"full"}
    assert absent[["mean", "lo", "hi"]].isna().all(axis=None) and set(absent.better) == {""}
    assert len(absent) == 2 * 2


def test_a_study_that_was_not_run_is_none(frame, tmp_path):
    assert read_study(tmp_path / "study.csv") is None
    frame.to_csv(tmp_path / "study.csv", index=False)
    pd.testing.assert_frame_equal(read_study(tmp_path / "study.csv")[frame.columns], frame, check_dtype=False)
    wide(frame).to_csv(tmp_path / "study.csv", index=False)
    order, again = [name for name in frame if name != "value"], read_study(tmp_path / "study.csv")[frame.columns]
    sort = dict(by=order, ignore_index=True)
    pd.testing.assert_frame_equal(again.sort_values(**sort), frame.sort_values(**sort), check_dtype=False)
    frame.drop(columns=["resolution", "crops"]).to_csv(tmp_path / "study.csv", index=False)
    assert set(read_study(tmp_path / "study.csv")["crops"]) == {400}  # of the former study, which did not say
    frame.drop(columns="without").to_csv(tmp_path / "study.csv", index=False)
    with pytest.raises(ValueError, match="another version: it lacks the columns .'without'."):
        read_study(tmp_path / "study.csv")


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(study_module, "_measured", lambda run, data: (0.36, 0.0))
    monkeypatch.setattr(study_module, "_latents", lambda *arguments: None)
    pictures = []
    for name in ("train.png", "eval.png"):
        (tmp_path / name).write_bytes(name.encode())  # never opened, only hashed
        pictures.append(tmp_path / name)
    return StudyData(train=(pictures[0],), evaluation=(pictures[1],), crops=1600)


def test_a_stopped_study_resumes_and_says_what_it_costs(data, tmp_path, monkeypatch, capsys):
    executed, runs = [], study_runs(MIDS)
    monkeypatch.setattr(study_module, "execute_run", fake_runs(executed, limit=5))
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "study", data, MIDS)
    # 22 trainings of 100 steps of 0.36 s, shared by two
    assert "38 runs, 38 to do: 0.2 core-hours, 0.1 hours with 2 jobs" in capsys.readouterr().out
    assert not (tmp_path / "study" / "study.csv").exists() and executed == runs[:5]

    monkeypatch.setattr(study_module, "execute_run", fake_runs(executed))
    frame = study(tmp_path / "study", data, MIDS)
    assert executed == runs and "38 runs, 33 to do" in capsys.readouterr().out
    assert len(frame) == len(read_study(tmp_path / "study" / "study.csv")) == 38 * len(IMAGES) * 2
    study(tmp_path / "study", data, MIDS)
    assert executed == runs
    study(tmp_path / "study", data, MIDS, full=True, only="no-chunks")
    assert {run.name for run in executed[38:]} == {run.name for run in EVERYTHING if run.without == "chunks"}
    with pytest.raises(ValueError, match="runs' has crops = 1600, got 7"):
        study(tmp_path / "study", replace(data, crops=7), MIDS)
    with pytest.raises(ValueError, match="got 'nothing'"):
        study(tmp_path / "study", data, MIDS, only="nothing")


def test_a_plan_is_printed_and_nothing_run(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study_module, "execute_run", None)
    assert study(tmp_path / "study", data, MIDS, full=True, only="f_frozen", plan=True) is None
    printed = capsys.readouterr().out
    assert "f_frozen_encoder_trained_t244_own-t_seed2" in printed and not (tmp_path / "study").exists()


def test_what_failed_or_was_not_run_is_listed_with_its_reason(data, tmp_path, monkeypatch):
    executed, name = [], "s_full_trained_t999_seed0"
    monkeypatch.setattr(study_module, "execute_run", fake_runs(executed, fails=(name,)))
    study(tmp_path / "study", data, MIDS)
    reasons = pd.read_csv(tmp_path / "study" / "skipped.csv").set_index("run")["reason"]
    assert reasons[name] == "failed: FloatingPointError: Losses must stay finite"
    assert "no checkpoint" in reasons["half-trained prior"]
    assert len(reasons) == 2 + len(EVERYTHING) - 38 and reasons["s_full_trained_t200_seed0"].startswith("not run")
    executed.clear()
    monkeypatch.setattr(study_module, "execute_run", fake_runs(executed))
    study(tmp_path / "study", data, MIDS)  # tried again
    assert [run.name for run in executed] == [name]
    monkeypatch.setattr(study_module, "execute_run", fake_runs([], fails={run.name for run in EVERYTHING}))
    with pytest.raises(ValueError, match="all 38 failed"):
        study(tmp_path / "other", data, MIDS)


def test_the_command_lists_failed_runs_and_ends_with_1(data, tmp_path, monkeypatch, capsys):
    runs = [run.name for run in study_runs({variant: recipe("mini", variant).timestep for variant in "sf"})]
    monkeypatch.setattr("omgsr_lib.study.spaces.write_latent_spaces", lambda *_, **__: None)
    command = ["study", "--photos", str(data.train[0].parent / "train"), "--results"]
    for photo in (*data.train, *data.evaluation):
        (photo.parent / photo.stem).mkdir()
        shutil.copy(photo, photo.parent / photo.stem)
    command[3:3] = ["--evaluation", str(tmp_path / "eval")]

    def outcome(folder, *fails):
        monkeypatch.setattr(study_module, "execute_run", fake_runs([], fails=fails))
        code = main([*command, str(tmp_path / folder)])
        return code, capsys.readouterr().err.splitlines()

    code, lines = outcome("study", runs[3], runs[5])
    reason = "failed: FloatingPointError: Losses must stay finite"
    assert code == 1 and lines[:-1] == [f"omgsr study: {name} {reason}" for name in (runs[3], runs[5])]
    assert "failed runs: 2. The same command repeats them" in lines[-1]
    assert outcome("study") == (0, [])
    code, lines = outcome("other", *runs)
    assert code == 1 and lines[:-1] == [f"omgsr study: {name} {reason}" for name in runs]


def test_only_what_the_committed_scores_lack_is_run(data, tmp_path, monkeypatch):
    executed, folder = [], tmp_path / "study"
    monkeypatch.setattr(study_module, "execute_run", fake_runs(executed))
    study(folder, data, MIDS)
    committed = pd.read_csv(folder / "study.csv")
    committed = committed[committed.refinement]
    committed.to_csv(folder / "study.csv", index=False)
    shutil.rmtree(folder / "runs")
    executed.clear()
    frame = study(folder, data, MIDS)
    assert set(executed) == {run for run in study_runs(MIDS) if not run.refinement} and len(frame) == 38 * 8
    executed.clear()
    shutil.rmtree(folder / "runs")
    study(folder, replace(data, crops=16), MIDS)  # other settings: nothing is kept
    assert executed == study_runs(MIDS)


@pytest.fixture
def smoke(monkeypatch):
    """The tiny models in place of the small ones."""
    recipes = {variant: recipe("smoke", variant) for variant in "sf"}
    monkeypatch.setattr(study_module, "recipe", lambda preset, variant, **changes: recipes[variant])


def small_data(**changes):
    from omgsr_lib.data.photos import packaged_photos

    photos = dict(train=tuple(packaged_photos("train")[4:]), evaluation=tuple(packaged_photos("eval")[1:2]))
    return StudyData(**photos, short_side=128, **changes)


def test_execute_run_writes_the_scores_of_its_training(tmp_path, smoke, monkeypatch):
    """A run of two steps on the tiny models, scored after each."""
    monkeypatch.setattr(study_module, "BATCH", {64: 1, 256: 1})
    run = StudyRun("f", "full", 600, prior="random", seed=1)
    assert execute_run(run, small_data(crops=2), tmp_path) > 0
    names = [f"{run.name}@{crops:06d}.csv" for crops in (1, 2)]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names
    frame = read_study(tmp_path / "runs" / names[1])
    assert list(frame.metric) == list(study_module.METRICS) and frame.value.notna().all()
    facts = asdict(run) | {"crops": 2, "dataset": "published"}
    assert {name: frame[name].unique().tolist() for name in facts} == {name: [value] for name, value in facts.items()}
    assert not (tmp_path / "trainings" / run.name).exists()


def test_a_frozen_encoder_trains_on_latents_that_are_computed_once(tmp_path, smoke, monkeypatch):
    monkeypatch.setattr(study_module, "BATCH", {64: 2, 256: 1})
    data, run = small_data(crops=4), StudyRun("s", "frozen_encoder", 273)
    execute_run(run, data, tmp_path)
    latents = tmp_path / "runs" / "latents_fixed_64.pt"
    stored = torch.load(latents, weights_only=True)
    assert stored["lq"].shape == stored["hq"].shape == (4, *stored["lq"].shape[1:])
    before = latents.stat().st_mtime_ns
    execute_run(replace(run, timestep=999), data, tmp_path)
    assert latents.stat().st_mtime_ns == before
    assert len(list((tmp_path / "runs").glob("s_frozen_encoder_trained_t999_seed0@*.csv"))) == 2


def test_the_cost_of_a_kind_is_measured_on_this_machine(smoke, monkeypatch):
    monkeypatch.setattr(study_module, "BATCH", {64: 1, 256: 1})
    of_step, of_evaluation = study_module._measured(StudyRun("s", "frozen_encoder", 273), small_data())
    assert of_step > 0 and of_evaluation > 0
    assert study_module._measured(StudyRun("s", "untuned", 273), small_data())[0] == 0


def test_photographs_under_another_seed_are_those_of_pairs_with_that_seed():
    photos = small_data().train[:1]
    first, second = (Pairs(photos, 64, seed=seed) for seed in (0, 1))
    again = first.with_seed(1)
    assert again.crops.levels is first.crops.levels
    for index in range(2):
        assert torch.equal(again[index]["lq"], second[index]["lq"])
        assert not torch.equal(again[index]["hq"], first[index]["hq"])


def test_training_on_latents_lowers_their_error_and_repeats_exactly():
    from omgsr_lib.model import OMGSR
    from omgsr_lib.presets import recipe
    from omgsr_lib.study.latent_training import train_on_latents

    chosen = recipe("smoke", "s", batch_size=2)
    hq = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    lq, weights, errors = 0.5 * hq, [], []
    for _ in range(2):
        model = OMGSR.from_recipe(chosen).add_adapters(0, 8)
        with torch.no_grad():
            errors.append(float((model.predict_clean(lq) - hq).square().mean()))
        train_on_latents(model, chosen, lq, hq, seed=0, steps=20, precision="no", after_step=lambda step: None)
        with torch.no_grad():
            errors.append(float((model.predict_clean(lq) - hq).square().mean()))
        weights.append(torch.cat([p.detach().flatten() for p in model.trainable_parameters().values()]))
    assert errors[1] < 0.9 * errors[0] and torch.equal(*weights)
