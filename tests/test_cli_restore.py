"""cli: `omgsr restore`, its options, failures and what it prints, and a process of its own end to end."""

import io
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from command_case import MESSAGES, bad, refused, save_tiny_model, two_photos
from PIL import Image

from omgsr_lib.cli import main
from omgsr_lib.images.image_file import Picture
from omgsr_lib.model import OMGSR
from omgsr_lib.restore.pipeline import Restorer, restore
from omgsr_lib.utils.warning_lines import show_warnings


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folder of a saved model."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def photos(tmp_path):
    return two_photos(tmp_path / "photos")


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_restoration_without_photographs(kind, tiny, tmp_path, capsys):
    line = refused(capsys, "restore", bad(tmp_path, kind), "--out", tmp_path / "out", "--model", tiny)
    assert re.search(MESSAGES[kind], line) and not (tmp_path / "out").exists()


def test_bad_photographs_fail_alone(photos, tiny, tmp_path, capsys):
    """A line on stderr for each, code 1 and a summary; the same command again skips what is finished."""
    (photos / "text.png").write_text("not an image")
    Image.new("RGB", (15, 40)).save(photos / "small.png")
    command = ["restore", str(photos), "--out", str(tmp_path / "out"), "--model", str(tiny), "--scale", "1"]
    for summary in ("2 restored, 2 failed", "0 restored, 2 skipped, 2 failed"):
        assert main(command) == 1
        out, err = capsys.readouterr()
        assert re.fullmatch(rf"{summary} in \d+\.\d s: {tmp_path / 'out'}", out.splitlines()[-1])
        small, text = err.splitlines()
        assert re.match("omgsr restore: A photograph must measure at least 16 pixels .*small.png' is 15x40", small)
        assert re.match("omgsr restore: A photograph must be a readable image: .*text.png' is not", text)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["a.png", "b.png"]


def test_options_of_a_restoration(photos, tiny, tmp_path, capsys):
    options = (
        "--scale 1.5 --tile 64 --overlap 16 --window cosine --planner smallest --tile-batch 2 --batch-size 2 --seed 3"
    )
    options += " --format jpeg --quality 80 --max-pixels 19200 --precision no --colour-fix wavelet"
    command = ["restore", str(photos), "--out", str(tmp_path / "out"), "--model", str(tiny), *options.split()]
    assert main(command) == 0
    out, err = capsys.readouterr()
    loading, *files, total = out.splitlines()
    assert loading == f"loading {tiny}" and err == "" and re.fullmatch(r"2 restored in \d+\.\d s: .*/out", total)
    for line, name in zip(files, ("a.png", "b.jpg"), strict=True):
        assert re.fullmatch(rf"{photos / name}: 160x120 -> 240x180, timestep 273, \d+\.\d s", line)
    model = OMGSR.from_pretrained(tiny).merge()
    chosen = dict(tile=64, overlap=16, window="cosine", planner="smallest", seed=3, colour_fix="wavelet")
    expected = restore(model, Image.open(photos / "a.png"), scale=1.5, progress=False, **chosen).images[0]
    expected.save(tmp_path / "expected.jpg", quality=80, subsampling=0)
    with Image.open(tmp_path / "out" / "a.jpg") as found, Image.open(tmp_path / "expected.jpg") as wanted:
        assert found.size == (240, 180) and np.abs(np.asarray(found, int) - np.asarray(wanted, int)).mean() < 0.5
    assert main([*command, "--max-pixels", "19199", "--force"]) == 1
    assert capsys.readouterr().err.count("must not have more pixels than the limit") == 2
    assert main([*command, "--tile", "auto", "--vae-mode", "exact", "--force"]) == 0


def test_bad_photographs_are_found_before_the_model_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(OMGSR, "from_pretrained", None)
    assert "photo folder must exist" in refused(capsys, "restore", tmp_path / "none", "--out", tmp_path / "o")


def test_a_photograph_of_100_megapixels_is_no_bomb(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89)  # instead of 89 million: Pillow warns above it
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        show_warnings("restore")
        Picture.open(tmp_path / "a.png")
    assert capsys.readouterr().err == ""


def test_an_interruption_is_one_line_and_code_130(photos, tiny, tmp_path, capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Restorer, "__call__", interrupt)
    code = main(["restore", str(photos), "--model", str(tiny), "--out", str(tmp_path / "out"), "--scale", "1"])
    assert (code, capsys.readouterr().err) == (130, "omgsr restore: interrupted.\n")


def test_restore_end_to_end(photos, tiny, tmp_path):
    """As a user runs it: a process of its own, PNG files that equal the library's result, nothing on stderr."""
    options = f"restore {photos} --out {tmp_path / 'out'} --model {tiny} --scale 2 --precision no".split()
    command = [sys.executable, "-m", "omgsr_lib.cli", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 4
    assert "Traceback" not in done.stderr and "restore:" not in done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".omgsr.jsonl", "a.png", "b.png"]
    model = OMGSR.from_pretrained(tiny).merge()
    expected = restore(model, Image.open(photos / "a.png"), scale=2, progress=False).images[0]
    found = np.asarray(Image.open(tmp_path / "out" / "a.png"), dtype=int)
    assert found.shape == (240, 320, 3) and np.abs(found - np.asarray(expected, dtype=int)).max() <= 1


def test_names_that_the_terminal_does_not_know_end_no_run(photos, tiny, tmp_path, monkeypatch):
    (photos / "a.png").rename(photos / "Jörg ☃.png")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["restore", str(photos), "--model", str(tiny), "--out", str(tmp_path / "out"), "--scale", "1"]) == 0
    terminal.flush()
    assert b"J\\xf6rg \\u2603.png" in terminal.buffer.getvalue()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_goes_away_does_not_stop_the_work(stream, photos, tiny, tmp_path, capsys, monkeypatch):
    """As with `| head -1`: all files are written, the exit code is that of the work, and nothing is said about it."""
    (photos / "text.png").write_text("not an image")
    reading, writing = os.pipe()
    os.close(reading)
    command = ["restore", str(photos), "--out", str(tmp_path / "out"), "--model", str(tiny), "--scale", "1"]
    with open(writing, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, stream, pipe)
        assert main(command) == 1
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["a.png", "b.png"]
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4 * (stream == "stderr") and err.count("\n") == (stream == "stdout")


def test_an_error_that_nobody_reads_keeps_its_code(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "omgsr_lib.cli", "restore", str(tmp_path / "none"), "--out", str(tmp_path)]
    done = subprocess.run(command, stdout=writing, stderr=writing, cwd=ROOT)
    os.close(writing)
    assert done.returncode == 2
