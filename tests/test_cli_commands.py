"""cli: the other commands end to end, with small models and two photographs."""

import re

import pandas as pd
import pytest
from command_case import refused, save_tiny_model, two_photos

from omgsr_lib.cli import main
from omgsr_lib.data.photos import find_photos
from omgsr_lib.model import OMGSR
from omgsr_lib.study.papermill import NotebookFailed
from omgsr_lib.utils.journal import alone


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folder of a saved model."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def photos(tmp_path):
    return two_photos(tmp_path / "photos")


def test_train_writes_adapters_that_restore_takes(photos, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = f"--photos {photos} --preset smoke --variant f --out {run} --batch-size 1".split()
    assert main(["train", *arguments]) == 0
    assert sorted(p.name for p in run.iterdir()) == ["log.jsonl", "smoke-f", "state.pt"]
    assert main(["train", *arguments]) == 0  # nothing left to do
    model = OMGSR.from_base("tiny", "flow", 244).load_adapter(run / "smoke-f")
    assert model.ranks == (8, 16)
    capsys.readouterr()
    assert "seed = 0, got 1" in refused(capsys, "train", *arguments, "--seed", "1")
    with alone(run):
        assert "One run at a time" in refused(capsys, "train", *arguments)


def test_a_manifest_trains_and_finds_a_changed_file(photos, tmp_path, capsys):
    file = tmp_path / "lists" / "photos.csv"
    assert main(["manifest", str(photos), "--first", "1", "--out", str(file)]) == 0
    assert capsys.readouterr().out == f"1 photographs: {file}\n"
    assert [path.resolve() for path in find_photos(file)] == [photos / "a.png"]
    assert main(["manifest", str(file), "--verify"]) == 0
    assert capsys.readouterr().out == "1 photographs are as they were listed\n"
    (photos / "a.png").write_bytes(b"other")
    assert "a.png" in refused(capsys, "manifest", file, "--verify")
    assert "got neither" in refused(capsys, "manifest", file)
    assert "must exist" in refused(capsys, "manifest", tmp_path / "none", "--out", file)
    assert len(find_photos(file)) == 1


def test_a_dry_run_needs_nothing_and_counts_what_is_trained(capsys):
    assert main(["train", "--preset", "smoke", "--variant", "f", "--dry-run", "--learning-rate", "0.125"]) == 0
    out = capsys.readouterr().out
    assert "learning_rate    0.125" in out and "Estimated peak memory per GPU" in out
    model = OMGSR.from_base("tiny", "flow", 244).add_adapters(8, 16)
    adapters = sum(p.numel() for p in model.trainable_parameters().values())
    heads = next(int(line.split()[4].replace(",", "")) for line in out.splitlines() if "discriminator for D" in line)
    total = next(int(line.split()[1].replace(",", "")) for line in out.splitlines() if line.startswith("  sum"))
    assert total == adapters + heads and heads > 0


def test_a_training_needs_photographs_and_a_folder(photos, capsys):
    line = refused(capsys, "train", "--preset", "smoke", "--variant", "s", "--photos", photos)
    assert line == "omgsr train: A training needs --out: got none. Without it only --dry-run is possible.\n"
    line = refused(capsys, "train", "--preset", "release", "--variant", "s", "--resolution", "1024")
    assert "'release' 's-1024'" in line


def test_a_training_refuses_what_it_would_ignore(photos, tmp_path, capsys):
    arguments = ["train", "--preset", "smoke", "--variant", "s", "--photos", photos, "--out", tmp_path / "run"]
    assert "leave --portraits out" in refused(capsys, *arguments, "--portraits", photos)
    assert "must name a folder: 'wieghts' is none" in refused(capsys, *arguments, "--weights", "wieghts")


def test_midstep_names_a_size_that_the_autoencoder_does_not_take(photos, capsys):
    line = refused(capsys, "midstep", "--photos", photos, "--size", 50)
    assert "must measure a multiple of 4 pixels: 'a' is 50x50" in line


def test_midstep_prints_the_timestep(photos, capsys):
    assert main(["midstep", "--photos", str(photos), "--vae", "tiny", "--size", "64"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("mid-timestep ") and out.endswith("2 images)\n")


def test_evaluate_prints_means_and_writes_every_value(photos, tmp_path, capsys):
    out = tmp_path / "scores.csv"
    assert main(["evaluate", str(photos), str(photos), "--metrics", "psnr_y", "gmsd", "--out", str(out)]) == 0
    frame = pd.read_csv(out)
    assert sorted(frame.metric.unique()) == ["gmsd", "psnr_y"] and len(frame) == 4
    assert frame[frame.metric == "gmsd"].value.max() == 0
    assert "psnr_y" in capsys.readouterr().out


def test_evaluate_goes_on_from_its_cache_and_needs_no_reference(photos, tmp_path, capsys, monkeypatch):
    command = ["evaluate", str(photos), "--metrics", "checkerboard", "--cache", str(tmp_path / "cache")]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["a.json", "b.json"]
    monkeypatch.setattr("omgsr_lib.metrics.evaluate._score", lambda *arguments: 1 / 0)  # nothing is measured again
    assert main(command) == 0 and capsys.readouterr().out == first
    assert "needs reference images" in refused(capsys, "evaluate", photos)


def test_evaluate_refuses(photos, tmp_path, capsys):
    assert "A metric must be one of" in refused(capsys, "evaluate", photos, photos, "--metrics", "beauty")
    assert "A photo folder must exist" in refused(capsys, "evaluate", photos, tmp_path / "none")


def test_evaluate_writes_the_table_of_conventions(photos, tmp_path, capsys):
    table = tmp_path / "conventions.csv"
    assert main(["evaluate", str(photos), str(photos), "--conventions", str(table)]) == 0
    assert set(pd.read_csv(table).measure) == {"PSNR", "SSIM"}
    capsys.readouterr()
    line = refused(capsys, "evaluate", photos, "--metrics", "checkerboard", "--conventions", tmp_path / "none.csv")
    assert "--conventions needs references" in line and not (tmp_path / "none.csv").exists()


def test_explore_writes_a_page(tiny, photos, tmp_path, capsys):
    page = tmp_path / "new" / "out.html"
    options = f"--photos {photos} --model {tiny} --first 1 --strengths mild --size 32 --steps 2".split()
    assert main(["explore", "--html", str(page), *options]) == 0
    assert re.fullmatch(rf"{re.escape(str(page))}: 0\.\d MB\n", capsys.readouterr().out)
    text = page.read_text()
    assert text.count('"photo":"a","strength":"mild"') == text.count('"strength":') == 1
    assert '"timesteps":[0,273,999]' in text
    assert "an .html file: got 'out.htm'" in refused(capsys, "explore", "--html", tmp_path / "out.htm")
    assert "A strength must be" in refused(capsys, "explore", "--html", page, "--strengths", "strong")


def test_reproduce_refuses_unknown_presets_and_steps(capsys):
    assert "preset must be one of smoke, mini" in refused(capsys, "reproduce", "--preset", "huge")
    assert "a step must be one of 00_start_here" in refused(capsys, "reproduce", "--only", "99_none")


def test_a_failing_notebook_is_one_line_and_code_1(capsys, monkeypatch):
    from omgsr_lib.study import reproduce

    def fail(*_, **__):
        raise NotebookFailed("01_latent_gap failed at In [3]: NameError: x. See file")

    monkeypatch.setattr(reproduce, "reproduce", fail)
    assert main(["reproduce"]) == 1
    assert capsys.readouterr().err == "omgsr reproduce: 01_latent_gap failed at In [3]: NameError: x. See file\n"
