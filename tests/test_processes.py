"""Several processes restore one folder: the bytes of one process, whoever is killed, and one run at a time."""

import multiprocessing
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from hostile_inputs import picture

from omgsr_lib.images.image_file import Picture
from omgsr_lib.model import OMGSR
from omgsr_lib.restore.folder import restore_folder
from omgsr_lib.utils import processes
from omgsr_lib.utils.journal import JOURNAL, alone, joined
from omgsr_lib.utils.memory import free_memory


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes of these tests are forked")


@pytest.fixture(scope="module")
def model():
    return OMGSR.from_base("tiny", "ddpm", 273)


@pytest.fixture
def folder(tmp_path):
    """Seven images in two folders, and two files that are none."""
    for seed, name in enumerate(("a.png", "a.jpg", "b.png", "c/d.png", "c/e.webp", "f.png", "g.png")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(16, 16, seed=seed).save(tmp_path / "in" / name)
    for name in ("empty.png", "c/text.jpg"):
        (tmp_path / "in" / name).write_text("no image"[: 8 * (name != "empty.png")])
    return tmp_path / "in"


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def quiet(model, source, target):
    return restore_folder(model, source, target, scale=1, progress=False, say=lambda line: None)


def launch(count, function, *arguments):
    """Forked processes that call `function`, started as by a launcher; their results come through `outcome`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    launched = []
    for rank in range(count):
        found, result = context.Pipe(duplex=False)
        variables = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=count, LOCAL_WORLD_SIZE=count)
        variables |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        process = context.Process(target=_call, args=(result, variables, function, arguments))
        process.start()
        result.close()
        launched.append((process, found))
    return launched


def _call(result, variables, function, arguments):
    os.environ.update({name: str(value) for name, value in variables.items()})
    try:
        result.send(function(*arguments))
    except (OSError, ValueError) as error:
        result.send(error)


def outcome(launched):
    """What each process returned or raised; None of one that was killed."""
    results = []
    for process, found in launched:
        try:
            results.append(found.recv())
        except EOFError:
            results.append(None)
        process.join()
    return results


def test_two_processes_leave_what_one_leaves(model, folder, tmp_path):
    expected = quiet(model, folder, tmp_path / "one")
    assert str(expected) == "7 restored, 2 failed"
    reports = outcome(launch(2, quiet, model, folder, tmp_path / "two"))
    assert contents(tmp_path / "two") == contents(tmp_path / "one") and JOURNAL in contents(tmp_path / "one")
    for report in reports:
        assert [path.relative_to(tmp_path / "two") for path in report.restored] == [
            path.relative_to(tmp_path / "one") for path in expected.restored
        ]
        assert report.failed == expected.failed and report.skipped == []
    for report in outcome(launch(3, quiet, model, folder, tmp_path / "two")):
        assert str(report) == "0 restored, 7 skipped, 2 failed"


def test_an_output_folder_among_the_images_is_no_input_of_any_process(model, folder):
    for expected in ("7 restored, 2 failed", "0 restored, 7 skipped, 2 failed"):
        reports = outcome(launch(2, quiet, model, folder, folder / "c" / "restored"))
        assert [str(report) for report in reports] == [expected, expected]


def test_one_is_killed_and_another_number_of_processes_goes_on(model, folder, tmp_path, monkeypatch):
    """Nothing is restored twice, and the killed process takes the others with it, in words."""
    quiet(model, folder, tmp_path / "one")
    out, save = tmp_path / "out", Picture.save

    def slowly(self, file, *options, **more):
        save(self, file, *options, **more)
        time.sleep(0.3)

    monkeypatch.setattr(Picture, "save", slowly)
    launched = launch(2, quiet, model, folder, out)
    while not list(out.glob("*.png")):
        assert launched[1][0].is_alive()
        time.sleep(0.005)
    launched[1][0].kill()
    first, second = outcome(launched)
    assert isinstance(first, OSError) and "do not reach each other" in str(first) and second is None
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    finished = {path for path in before if not path.name.startswith(".part-")}
    assert 0 < len(finished) < 7

    reports = outcome(launch(3, quiet, model, folder, out))
    assert all(set(report.skipped) == finished and len(report.restored) == 7 - len(finished) for report in reports)
    assert {path: path.stat().st_mtime_ns for path in finished} == {path: before[path] for path in finished}
    assert contents(out) == contents(tmp_path / "one")


def test_another_run_waits_for_the_last_process(tmp_path):
    first, second = ExitStack(), ExitStack()
    first.enter_context(alone(tmp_path, company=True))
    second.enter_context(joined(tmp_path))
    for leave in (first, second):
        with pytest.raises(OSError, match="One run at a time"), alone(tmp_path):
            pass
        leave.close()
    with alone(tmp_path):
        pass


def test_an_error_of_the_first_process_is_that_of_all(model, folder, tmp_path):
    with alone(tmp_path / "out"):
        errors = outcome(launch(2, quiet, model, folder, tmp_path / "out"))
    assert [type(error) for error in errors] == [OSError, OSError]
    assert all("One run at a time writes into a folder" in str(error) for error in errors)


def test_processes_that_cannot_meet_say_so(monkeypatch):
    for name, value in dict(RANK="1", WORLD_SIZE="2", MASTER_ADDR="", MASTER_PORT="").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OSError, match="do not reach each other .*Start all of them again"):
        processes.gather([1])


def test_each_process_takes_its_own_gpu_and_its_part_of_the_memory(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert processes.process_device() == torch.device("cuda") and chosen == []
    for name, value in dict(RANK="7", WORLD_SIZE="8", LOCAL_RANK="3", LOCAL_WORLD_SIZE="4").items():
        monkeypatch.setenv(name, value)
    assert processes.process_device() == torch.device("cuda", 1) and chosen == [1]
    assert processes.process_device("cpu") == torch.device("cpu")
    assert processes.share([*range(20)]) == [7, 15] and not processes.first_process()
    for name, value in dict(mem_get_info=(600, 1000), memory_reserved=50, memory_allocated=20).items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory(torch.device("cuda", 1)) == 600 // 2 + 30


@pytest.mark.slow
def test_the_command_under_torchrun(model, folder, tmp_path):
    """One summary, one exit code, no word twice."""
    OMGSR.from_base("tiny", "ddpm", 273).add_adapters(2, 2).save_pretrained(tmp_path / "tiny")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    options = ["--model", tmp_path / "tiny", "--scale", "1", "--precision", "no"]
    command = [*launcher, "-m", "omgsr_lib.cli", "restore", folder, "--out", tmp_path / "two", *options]
    root = Path(processes.__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode != 0  # of the two files that are none
    lines = done.stdout.splitlines()
    assert sum(line.startswith("loading") for line in lines) == 1
    assert sum(": 16x16 -> 16x16, timestep 273, " in line for line in lines) == 7
    assert sum(bool(re.match(r"7 restored, 2 failed in \d+\.\d s: ", line)) for line in lines) == 1
    quiet(model, folder, tmp_path / "one")
    assert contents(tmp_path / "two").keys() == contents(tmp_path / "one").keys()
