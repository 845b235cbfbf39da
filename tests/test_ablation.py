"""ablation.py and study.py: known differences come out, every run is made once."""

import shutil
from concurrent.futures import Future
from dataclasses import asdict, replace

import pandas as pd
import pytest

from omgsr_lib.report.contrasts import CONTRASTS, contrast_table, read_study, sweep_table
from omgsr_lib.study import ablation as study_module
from omgsr_lib.study.ablation import StudyData, StudyRun, execute_run, study, study_runs


MIDS = {"s": 273, "f": 244}
IMAGES = ("a", "b", "c", "d")


def psnr(run, index):
    """Known scores: 20 dB, plus 1 per image, less 2 for the wrong timestep, less 5 for a random prior, seeds +-0."""
    mid = MIDS[run.variant]
    value = 20 + index - 2 * (run.timestep != mid) - 5 * (run.prior == "random") - 0.25 * (not run.refinement)
    value -= 0.75 * bool(run.without)
    return value + 0.5 * run.seed


def rows(run, precision="no"):
    scores = [
        {"image": image, "metric": metric, "value": value}
        for index, image in enumerate(IMAGES)
        for metric, value in (("psnr_y", psnr(run, index)), ("gmsd", 0.3 - psnr(run, index) / 100))
    ]
    return pd.DataFrame(scores).assign(**asdict(run), precision=precision)


@pytest.fixture(scope="module")
def frame():
    return pd.concat([rows(run) for run in study_runs(MIDS)], ignore_index=True)


def test_runs_are_unique_and_complete():
    runs = study_runs(MIDS)
    # per variant: 5 timesteps x 3 protocols, 2 random priors, 2 without LDR, 4 other losses, 2 seeds x 2 timesteps
    assert len(runs) == 2 * (15 + 2 + 2 + 4 + 4) == len({run.name for run in runs})
    assert {run.seed for run in runs[:46]} == {0}  # the first seed is complete before the others start
    assert StudyRun("s", "full", 273, refinement=False).name == "s_full_trained_t273_no-ldr_seed0"
    assert StudyRun("f", "full", 244, without="grid").name == "f_full_trained_t244_no-grid_seed0"
    assert len(study_runs({"s": 200})) == 24  # a mid-timestep that is on the sweep is trained once


def test_contrasts_find_the_known_differences(frame):
    table = contrast_table(frame, MIDS).set_index(["contrast", "variant", "protocol", "metric"])
    expected = {"trained - random prior": 5.0, "with - without LDR": 0.25}
    expected |= {contrast: 0.75 for contrast, *_ in CONTRASTS[-4:]}
    for contrast, *_ in CONTRASTS:
        for variant in MIDS:
            row = table.loc[(contrast, variant, "full", "psnr_y")]
            wanted = expected.get(contrast, 2.0)
            assert (row["mean"], row.lo, row.hi, row.n) == pytest.approx((wanted, wanted, wanted, 4))
            assert row.better == contrast.split(" - ")[0]
            gmsd = table.loc[(contrast, variant, "full", "gmsd")]
            assert gmsd["mean"] == pytest.approx(-wanted / 100) and gmsd.better == contrast.split(" - ")[0]
    assert table.loc[("mid - initial (999)", "s", "full", "psnr_y")].trainings == 3
    assert table.loc[("mid - 600", "s", "full", "psnr_y")].trainings == 1
    assert ("with - without LDR", "s", "frozen-encoder", "psnr_y") not in table.index


def test_the_sweep_keeps_seed_0_of_the_full_recipe(frame):
    table = sweep_table(frame).set_index(["variant", "protocol", "timestep", "metric"])
    assert len(table) == 2 * (3 * 5 + 2) * 2
    assert table.loc[("f", "full-random", 244, "psnr_y")]["mean"] == pytest.approx(16.5)
    assert set(table.loc["s"].mid) == {273}
    row = table.loc[("s", "frozen-encoder", 273, "psnr_y")]
    assert row["mean"] == pytest.approx(21.5) and row.n == 4 and row.lo < 21.5 < row.hi
    assert table.loc[("f", "full", 25, "psnr_y")]["mean"] == pytest.approx(19.5)


def test_contrasts_compare_within_one_precision(frame):
    """A t* in another precision, 7 dB off, is not compared with; two of one precision are."""
    extra = rows(StudyRun("s", "full", 273), "bf16").eval("value = value - 7")
    again = contrast_table(pd.concat([frame, extra]), MIDS)
    pd.testing.assert_frame_equal(again, contrast_table(frame, MIDS))
    other = rows(StudyRun("s", "full", 600), "bf16").eval("value = value - 10")  # there t* - 600 is 2 + 10 - 7
    table = contrast_table(pd.concat([frame, extra, other]), MIDS).set_index(["contrast", "variant", "protocol"])
    row = table[table.metric == "psnr_y"].loc[("mid - 600", "s", "full")]
    assert row.trainings == 2 and row["mean"] == pytest.approx((2 + 5) / 2)
    assert set(sweep_table(pd.concat([frame, extra])).groupby(["variant", "protocol"]).n.unique().explode()) == {4}


def test_contrasts_of_the_full_method_that_were_not_run_are_listed(frame):
    table = contrast_table(frame[frame.without != "grid"], MIDS)
    absent = table[table.n == 0]
    assert set(absent.contrast) == {"with - without grid penalty"} and set(absent.protocol) == {"full"}
    assert absent[["mean", "lo", "hi"]].isna().all(axis=None) and set(absent.better) == {""}
    assert len(absent) == 2 * 2


def test_a_study_that_was_not_run_is_none(frame, tmp_path):
    assert read_study(tmp_path / "study.csv") is None
    frame.to_csv(tmp_path / "study.csv", index=False)
    read = contrast_table(read_study(tmp_path / "study.csv"), MIDS)
    pd.testing.assert_frame_equal(read, contrast_table(frame, MIDS), check_dtype=False)
    frame.drop(columns="without").to_csv(tmp_path / "study.csv", index=False)
    with pytest.raises(ValueError, match="another version: it lacks the columns .'without'."):
        read_study(tmp_path / "study.csv")


class InThisProcess:
    """In place of the process pool."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future


@pytest.fixture
def data(tmp_path):
    pictures = []
    for name in ("train.png", "eval.png"):
        (tmp_path / name).write_bytes(name.encode())  # never opened, only hashed
        pictures.append(tmp_path / name)
    return StudyData(train=(pictures[0],), evaluation=(pictures[1],))


def test_a_stopped_study_resumes(data, tmp_path, monkeypatch):
    executed = []

    def fake_run(run, data, folder, limit=5):
        if len(executed) == limit:
            raise RuntimeError("power cut")
        executed.append(run)
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        rows(run).to_csv(folder / "runs" / f"{run.name}.csv", index=False)
        return 1.0

    monkeypatch.setattr(study_module, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(study_module, "execute_run", fake_run)
    with pytest.raises(RuntimeError, match="power cut"):
        study(tmp_path / "study", data, MIDS)
    assert not (tmp_path / "study" / "study.csv").exists() and len(executed) == 5

    monkeypatch.setattr(study_module, "execute_run", lambda *arguments: fake_run(*arguments, limit=None))
    frame = study(tmp_path / "study", data, MIDS)
    assert executed == study_runs(MIDS)
    assert len(frame) == len(pd.read_csv(tmp_path / "study" / "study.csv")) == 54 * len(IMAGES) * 2
    assert (tmp_path / "study" / "run.json").exists()
    study(tmp_path / "study", data, MIDS)
    assert len(executed) == 54
    with pytest.raises(ValueError, match="runs' has steps = 150, got 7"):
        study(tmp_path / "study", replace(data, steps=7), MIDS)


def test_only_what_the_committed_scores_lack_is_run(data, tmp_path, monkeypatch):
    """The chunks were never left out: those runs, and t* in this precision to compare them with."""
    executed = []

    def fake_run(run, data, folder):
        executed.append(run)
        rows(run, "no").to_csv(folder / "runs" / f"{run.name}.csv", index=False)
        return 1.0

    monkeypatch.setattr(study_module, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(study_module, "execute_run", fake_run)
    monkeypatch.setattr(study_module, "native_precision", lambda: "bf16")
    folder = tmp_path / "study"
    study(folder, data, MIDS)
    committed = pd.read_csv(folder / "study.csv")
    committed = committed[committed.without != "chunks"].assign(precision="bf16")
    shutil.rmtree(folder / "runs")
    chunks = [StudyRun(variant, "full", mid, without="chunks") for variant, mid in MIDS.items()]
    mids = [StudyRun(variant, "full", mid) for variant, mid in MIDS.items()]
    for precision, expected in (("bf16", chunks), ("no", chunks + mids)):
        committed.to_csv(folder / "study.csv", index=False)
        executed.clear()
        monkeypatch.setattr(study_module, "native_precision", lambda value=precision: value)
        frame = study(folder, data, MIDS)
        assert set(executed) == set(expected) and len(executed) == len(expected)
        shutil.rmtree(folder / "runs")
    assert len(frame) == len(committed) + 4 * len(IMAGES) * 2
    table = contrast_table(read_study(folder / "study.csv"), MIDS)
    assert (table[table.contrast == "with - without chunks"].trainings == 1).all() and not (table.n == 0).any()
    executed.clear()
    study(folder, replace(data, steps=7), MIDS)  # other settings: nothing is kept
    assert len(executed) == len(study_runs(MIDS))


def test_a_clone_can_run_its_own_study(data, tmp_path, monkeypatch):
    """What git keeps of a study, made from other photographs, does not stand in the way."""

    def fake_run(run, data, folder):
        rows(run).to_csv(folder / "runs" / f"{run.name}.csv", index=False)
        return 1.0

    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "run.json").write_text('{"config": {"settings": {"photographs": "others"}}}')
    pd.concat([rows(run) for run in study_runs(MIDS)[:3]]).to_csv(folder / "study.csv", index=False)
    monkeypatch.setattr(study_module, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(study_module, "execute_run", fake_run)
    assert len(study(folder, data, MIDS)) == len(pd.read_csv(folder / "study.csv"))


def test_execute_run_writes_the_scores_of_its_training(tmp_path, monkeypatch):
    """A run of one step on the tiny models, from photographs of the dependencies to the CSV."""
    from omgsr_lib.data.photos import packaged_photos
    from omgsr_lib.presets import recipe

    smoke = {variant: recipe("smoke", variant, batch_size=1, resolution=80) for variant in "sf"}
    monkeypatch.setattr(study_module, "recipe", lambda preset, variant, **changes: smoke[variant])
    data = StudyData(
        train=tuple(packaged_photos("train")[4:]),
        evaluation=tuple(packaged_photos("eval")[1:2]),
        steps=1,
        short_side=128,
    )
    run = StudyRun("f", "frozen_encoder", 600, prior="random", refinement=False, seed=1)
    assert execute_run(run, data, tmp_path) > 0
    frame = read_study(tmp_path / "runs" / f"{run.name}.csv")
    assert list(frame.metric) == list(study_module.METRICS) and frame.value.notna().all()
    assert {name: frame[name].unique().tolist() for name in asdict(run)} == {n: [v] for n, v in asdict(run).items()}
