"""restore/folder.py: what is finished is skipped, after `kill -9` too, and no other file is replaced."""

import json
import multiprocessing
import os
import re
import time

import pytest
from folder_case import contents, pictures_in, quiet, six_images, tiny_model
from hostile_inputs import picture

from omgsr_lib.images.image_file import Picture
from omgsr_lib.model import OMGSR
from omgsr_lib.restore.folder import fingerprint, restore_folder
from omgsr_lib.utils.journal import JOURNAL, alone


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def folder(tmp_path):
    return six_images(tmp_path / "in")


def test_one_run_at_a_time_writes_into_a_folder(model, folder, tmp_path):
    out = tmp_path / "out"
    with alone(out), pytest.raises(OSError, match="One run at a time .* into '.*out'. Wait for its end, or"):
        quiet(model, folder, out, scale=1)
    assert str(quiet(model, folder, out, scale=1)) == "6 restored"


def test_inputs_are_never_replaced(model, tmp_path):
    picture().save(tmp_path / "a.png")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="must not replace an image to restore: .* holds a.png. Choose another"):
        quiet(model, tmp_path / "a.png", tmp_path)
    with pytest.raises(ValueError, match="output folder must not be that of the images: got .* for both"):
        quiet(model, tmp_path, tmp_path)
    (tmp_path / "linked").mkdir()
    os.link(tmp_path / "a.png", tmp_path / "linked" / "a.png")
    with pytest.raises(ValueError, match="must not replace an image to restore"):
        quiet(model, tmp_path / "a.png", tmp_path / "linked", force=True)
    assert (tmp_path / "a.png").read_bytes() == before["a.png"]


def test_an_output_folder_among_the_pictures_is_no_input(model, folder):
    for expected in ("6 restored", "0 restored, 6 skipped"):
        assert str(quiet(model, folder, folder / "deep" / "restored", scale=1)) == expected


def test_what_is_finished_is_skipped_until_something_changes(model, folder, tmp_path):
    out = tmp_path / "out"
    quiet(model, folder, out, scale=1)
    first = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    assert str(quiet(model, folder, out, scale=1.0, tile_batch=3)) == "0 restored, 6 skipped"
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.png")} == first
    picture(seed=9).save(folder / "a.png")
    assert quiet(model, folder, out, scale=1).restored == [out / "a.png"]
    for options in (dict(scale=2), dict(scale=2, seed=1), dict(scale=2, seed=1, colour_fix=None)):
        assert str(quiet(model, folder, out, **options)) == "6 restored"
    assert str(quiet(model, folder, out, force=True, **options)) == "6 restored"
    other = OMGSR.from_base("tiny", "ddpm", 273, seed=1)
    assert str(quiet(other, folder, out, **options)) == "6 restored"
    assert str(quiet(other, folder, out, **options)) == "0 restored, 6 skipped"


def test_a_result_in_the_place_of_another_is_said(model, folder, tmp_path):
    """`omgsr restore 2025/a.png --out restored`, then `2026/a.png`: the first result is gone, not without a word."""
    out, lines = tmp_path / "out", []
    (tmp_path / "2026").mkdir()
    picture(seed=9).save(tmp_path / "2026" / "a.png")
    for source in (folder, tmp_path / "2026"):
        quiet(model, source / "a.png", out, scale=1, each=lines.append)
    first, second = lines
    assert first.endswith(" s") and second.endswith(f" s, in place of an earlier {out / 'a.png'}")


def test_files_of_other_origin_are_replaced_by_force_alone(model, folder, tmp_path):
    out, lines = tmp_path / "out", []
    quiet(model, folder, out, scale=1)
    expected = pictures_in(out)
    (out / "a.png").write_bytes(b"edited")
    report = restore_folder(model, folder, out, scale=2, say=lines.append)
    assert str(report) == "5 restored, 1 failed" and (out / "a.png").read_bytes() == b"edited"
    assert re.fullmatch(
        "A file that is not as a run before wrote it is not replaced: '.*a.png'. Move it away, .*", *lines
    )
    assert str(quiet(model, folder, out, scale=1, force=True)) == "6 restored" and pictures_in(out) == expected


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
@pytest.mark.parametrize("force", [False, True])
def test_a_pipe_in_the_output_folder_is_not_replaced(model, folder, tmp_path, force):
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "a.png")
    report = quiet(model, folder / "a.png", tmp_path / "out", scale=1, force=force)
    assert str(report) == "0 restored, 1 failed" and "must not replace what is no file" in report.failed[0][1]
    assert (tmp_path / "out" / "a.png").is_fifo()


def test_a_torn_journal(model, folder, tmp_path):
    out = tmp_path / "out"
    quiet(model, folder, out, scale=1)
    expected, lines = pictures_in(out), (out / JOURNAL).read_bytes().splitlines(keepends=True)
    journal = b"".join(sorted(lines, key=lambda line: b"f.png" in line))
    (out / "f.png").unlink()
    (out / JOURNAL).write_bytes(journal[:-30])
    assert str(quiet(model, folder, out, scale=1)) == "1 restored, 5 skipped" and pictures_in(out) == expected
    assert str(quiet(model, folder, out, scale=1)) == "0 restored, 6 skipped"
    (out / JOURNAL).write_bytes(b"\xff\xfe no JSON\n[1]\n{}\n" + journal)
    assert str(quiet(model, folder, out, scale=1)) == "0 restored, 6 skipped"


def test_kill_9_and_again(model, folder, tmp_path, monkeypatch):
    """Killed again and again in the midst of writing; the same call goes on, and the bytes are those of one run."""
    quiet(model, folder, tmp_path / "whole", scale=2)
    save = Picture.save

    def slowly(self, file, *options, **more):
        save(self, file, *options, **more)
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])
        time.sleep(0.15)
        file.write_bytes(data)

    def written():
        return [path for path in out.rglob("*.png") if not path.name.startswith(".part-")]

    monkeypatch.setattr(Picture, "save", slowly)
    out, kills = tmp_path / "out", 0
    while (before := len(written())) < 4:
        run = dict(target=quiet, args=(model, folder, out), kwargs=dict(scale=2))
        process = multiprocessing.get_context("fork").Process(**run)
        process.start()
        while len(written()) == before:
            assert process.is_alive()
            time.sleep(0.005)
        process.kill()
        process.join()
        kills += 1
    assert kills >= 2 and list(out.rglob(".part-*"))
    report = quiet(model, folder, out, scale=2)
    assert len(report.skipped) >= 4 and len(report.restored) + len(report.skipped) == 6
    assert pictures_in(out) == pictures_in(tmp_path / "whole")


def test_the_fingerprint_is_that_of_weights_and_timestep(model):
    assert fingerprint(model) == fingerprint(OMGSR.from_base("tiny", "ddpm", 273))
    others = [OMGSR.from_base("tiny", "ddpm", 274), OMGSR.from_base("tiny", "ddpm", 273, seed=1)]
    others.append(OMGSR.from_base("tiny", "ddpm", 273))
    next(others[-1].prior.parameters()).data.view(-1)[0] += 1e-3
    assert len({fingerprint(other) for other in [model, *others]}) == 4


def test_the_journal_names_no_folder_of_the_machine(model, folder, tmp_path):
    quiet(model, folder, tmp_path / "out", scale=1)
    entries = [json.loads(line) for line in (tmp_path / "out" / JOURNAL).read_text().splitlines()]
    assert sorted(entry["file"] for entry in entries) == [
        "a.png",
        "b.png",
        "c.png",
        "deep/d.png",
        "deep/er/e.png",
        "f.png",
    ]
    assert str(tmp_path) not in (tmp_path / "out" / JOURNAL).read_text()
    assert entries[0]["settings"]["scale"] == 1 and entries[0]["settings"]["format"] == "png"
