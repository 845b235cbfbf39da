import errno
import hashlib
import io
import json
import os
import random
import subprocess
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from omgsr_lib.report.plots import plot_losses
from omgsr_lib.study import run_record as provenance
from omgsr_lib.study.run_record import git_state, seed_everything, start_run, versions
from omgsr_lib.utils.files import atomic_write, remove_parts, sha256, write_json


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_sha256_of_known_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_atomic_write_replaces_only_on_success(tmp_path):
    target = tmp_path / "deep" / "table.csv"
    with atomic_write(target) as part:
        part.write_text("first")
        assert part.suffix == ".csv" and not target.exists()
    with pytest.raises(ZeroDivisionError), atomic_write(target) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "first"
    assert os.listdir(target.parent) == ["table.csv"]


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path):
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "table.csv") as part:
        part.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    message = str(caught.value)
    assert "table.csv (No space left on device): free some space" in message and "\n" not in message
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device /dev/full of Linux")
def test_a_disk_that_fills_while_writing(tmp_path):
    with pytest.raises(OSError, match="No space left on device"), atomic_write(tmp_path / "table.csv"):
        with open("/dev/full", "w") as full:
            full.write("x" * 100)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write .*run.json .* choose a folder that can be written"):
        start_run("step", {}, seed=0, folder=tmp_path / "file" / "step")
    assert os.listdir(tmp_path) == ["file"]


def test_json_refuses_numbers_that_are_not_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "run.json", {"loss": float("nan")})
    assert os.listdir(tmp_path) == []


def test_seed_everything_repeats_every_generator():
    def draw():
        seed_everything(5)
        return random.random(), np.random.rand(), torch.rand(3).tolist()

    assert draw() == draw()
    assert draw()[2] == torch.rand(3, generator=torch.Generator().manual_seed(5)).tolist()


def test_run_json_holds_what_went_in_and_what_came_out(here):
    @dataclass
    class Config:
        preset: str
        sizes: tuple

    (here / "photos").mkdir()
    (here / "photos" / "b.txt").write_bytes(b"b")
    (here / "photos" / "a.txt").write_bytes(b"abc")
    folder = here / "results" / "mini" / "01_gap"
    run = start_run("01_gap", Config("mini", (64, 128)), seed=3, folder="results/mini/01_gap")
    assert torch.initial_seed() == 3
    run.add_input("photos")
    run.path("gap.csv").write_text("t,gap\n")
    run.path("images/0.png").write_bytes(b"0")
    run.add_output(folder / "images").joinpath("1.png").write_bytes(b"1")
    assert run.finish() == ["gap.csv", "images/0.png", "images/1.png"]

    content = json.loads((folder / "run.json").read_text())
    assert content["config"] == {"preset": "mini", "sizes": [64, 128]} and content["seed"] == 3
    assert content["inputs"] == [
        {"path": "photos/a.txt", "sha256": hashlib.sha256(b"abc").hexdigest()},
        {"path": "photos/b.txt", "sha256": hashlib.sha256(b"b").hexdigest()},
    ]
    assert content["outputs"][0] == {"path": "gap.csv", "sha256": hashlib.sha256(b"t,gap\n").hexdigest()}
    assert content["versions"]["torch"] == torch.__version__ and content["versions"]["numpy"] == np.__version__
    assert 0 <= content["seconds"] < 60
    assert 50 < content["peak_memory_mib"] < 24_000
    assert content["device"] == (torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu, 1 thread(s)")
    assert str(here) not in (folder / "run.json").read_text()


def test_a_notebook_writes_below_the_project_root_wherever_it_was_opened(here, monkeypatch):
    (here / "notebooks").mkdir()
    monkeypatch.chdir(here / "notebooks")
    monkeypatch.setattr(provenance, "PROJECT_ROOT", here)
    run = start_run("01_gap", {"preset": "mini"}, seed=0, results="results/mini")
    assert os.getcwd() == str(here.resolve())
    run.save("gap.csv", pd.DataFrame({"t": [1]}))
    assert run.finish() == ["gap.csv"]
    assert (here / "results/mini/01_gap/run.json").exists()


def test_saved_files_are_outputs_and_come_back_as_what_shows_them(here):
    run = start_run("step", {}, seed=0, folder="step")
    frame = pd.DataFrame({"t": [1, 2], "gap": [1 / 3, 2e-9]})
    assert run.save("gap.csv", frame) is frame
    assert (here / "step/gap.csv").read_text() == "t,gap\n1,0.333333\n2,2e-09\n"
    shown = run.save("figures/losses.png", plot_losses(pd.DataFrame({"step": [1, 2], "pixel": [2.0, 1.0]})))
    assert shown.data == (here / "step/figures/losses.png").read_bytes() and shown.format == "png"
    photo = Image.fromarray(astronaut())
    sizes = {}
    for name in ("photo.jpg", "photo.png"):
        data = run.save(name, photo).data
        sizes[name] = len(data)
        difference = np.asarray(Image.open(io.BytesIO(data)), dtype=float) - np.asarray(photo)
        assert np.sqrt(np.mean(difference**2)) < 3  # of 255 levels
    assert sizes["photo.jpg"] < sizes["photo.png"] / 2
    assert run.save("sheet.png", data).data == data
    assert run.finish() == ["figures/losses.png", "gap.csv", "photo.jpg", "photo.png", "sheet.png"]


def test_what_cannot_be_saved_leaves_no_file(here, monkeypatch):
    run = start_run("step", {}, seed=0, folder="step")

    def fail(part, **_):
        open(part, "w").close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    frame = pd.DataFrame({"t": [1]})
    monkeypatch.setattr(frame, "to_csv", fail)
    with pytest.raises(OSError, match="gap.csv"):
        run.save("gap.csv", frame)
    with pytest.raises(ValueError, match="'a.gif'"):
        run.save("a.gif", plot_losses(pd.DataFrame({"step": [1, 2], "pixel": [2.0, 1.0]})))
    assert os.listdir("step") == []


def test_inputs_from_elsewhere_are_named_without_their_folder(here, tmp_path_factory):
    outside = tmp_path_factory.mktemp("private") / "photo.png"
    outside.write_bytes(b"abc")
    run = start_run("step", {}, seed=0, folder="step")
    run.add_input(outside)
    run.finish()
    assert [item["path"] for item in json.loads((here / "step" / "run.json").read_text())["inputs"]] == [
        "<elsewhere>/photo.png"
    ]


def test_a_run_that_stops_leaves_no_record(here):
    start_run("step", {}, seed=0, folder="step").finish()
    assert os.listdir("step") == ["run.json"]
    run = start_run("step", {}, seed=0, folder="step")
    assert os.listdir("step") == []
    run.path("never.csv")
    with pytest.raises(FileNotFoundError, match="never.csv"):
        run.finish()
    assert os.listdir("step") == []


def test_paths_are_refused_where_they_would_not_travel(here):
    with pytest.raises(ValueError, match="relative paths only, got config.data.photos: /home/me"):
        start_run("step", {"data": {"photos": "/home/me"}}, seed=0, folder="step")
    run = start_run("step", {}, seed=0, folder="step")
    with pytest.raises(ValueError, match="outputs of a run lie in its folder step, got elsewhere.csv"):
        run.add_output("elsewhere.csv")


def test_versions_are_those_installed():
    from importlib.metadata import version

    assert versions()["diffusers"] == version("diffusers")
    assert all(found is None or found[0].isdigit() for found in versions().values())


def test_git_state(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True)

    monkeypatch.setattr(provenance, "PROJECT_ROOT", tmp_path)
    assert git_state() == (None, None)
    git("init")
    assert git_state() == (None, None)
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    commit, dirty = git_state()
    assert len(commit) == 40 and dirty is False
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "table.csv").write_text("1")
    assert git_state() == (commit, False)
    (tmp_path / "code.py").write_text("2")
    assert git_state() == (commit, True)
    monkeypatch.setenv("PATH", "")
    assert git_state() == (None, None)


def test_parts_of_killed_processes_are_removed_for_one_file_alone(tmp_path):
    long = "n" * 251 + ".csv"
    for name in ("a.csv", "[1].csv", long):
        with atomic_write(tmp_path / name) as part:
            part.write_text("whole")
            stale = part.with_name(part.name.replace(str(os.getpid()), "1"))
            stale.write_text("half")
        assert stale.exists() and (tmp_path / name).read_text() == "whole"
    remove_parts(tmp_path / "[1].csv")
    remove_parts(tmp_path / long)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".part-1-a.csv", "[1].csv", "a.csv", long]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_a_pipe_is_written_into_and_stays_one(tmp_path):
    pipe = tmp_path / "out.csv"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_write(pipe) as part:
        assert part.suffix == ".csv" and part.parent != tmp_path
        part.write_text("a,b\n")
    write_json(pipe, [1])
    assert os.read(reader, 100) == b"a,b\n[\n  1\n]\n"
    os.close(reader)
    assert pipe.is_fifo() and os.listdir(tmp_path) == ["out.csv"]
