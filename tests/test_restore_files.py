"""restore_files.py: names, resuming after `kill -9`, batches, stages that overlap, and failures that stop no other."""

import errno
import json
import multiprocessing
import os
import re
import time

import numpy as np
import pytest
import tifffile
import torch
from hostile_inputs import SRGB, picture, png16
from PIL import ExifTags, Image

from omgsr_lib.images.image_file import Picture
from omgsr_lib.model import OMGSR
from omgsr_lib.restore import folder as restore_files
from omgsr_lib.restore import out_of_core
from omgsr_lib.restore.batches import batches
from omgsr_lib.restore.folder import fingerprint, restore_folder
from omgsr_lib.restore.names import output_names
from omgsr_lib.restore.pipeline import Restorer, restore
from omgsr_lib.utils.journal import JOURNAL, alone


@pytest.fixture(scope="module")
def model():
    return OMGSR.from_base("tiny", "ddpm", 273)


@pytest.fixture
def folder(tmp_path):
    """Six images of two sizes at two depths, one with a suffix in capitals, and a file that is none."""
    for seed, name in enumerate(("a.png", "b.jpg", "c.png", "deep/d.PNG", "deep/er/e.webp", "f.png")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(16 + 8 * (seed == 2), 16, seed=seed).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path / "in"


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def pictures_in(folder):
    return {name: data for name, data in contents(folder).items() if name != JOURNAL}


def same(a, b):
    return a.size == b.size and np.array_equal(np.asarray(a), np.asarray(b))


def quiet(model, source, target, **options):
    return restore_folder(model, source, target, progress=False, say=lambda line: None, **options)


def test_a_folder_equals_its_pictures_one_by_one(model, folder, tmp_path):
    before = contents(folder)
    report = quiet(model, folder, tmp_path / "out", scale=2, seed=5)
    names = ["a.png", "b.png", "c.png", "deep/d.png", "deep/er/e.png", "f.png"]
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in report.restored) == names
    assert sorted(pictures_in(tmp_path / "out")) == names and contents(folder) == before
    assert str(report) == "6 restored" and report.skipped == report.failed == []
    for source, name in (("b.jpg", "b.png"), ("deep/er/e.webp", "deep/er/e.png")):
        expected = restore(model, Image.open(folder / source), scale=2, seed=5, progress=False).images[0]
        assert same(Image.open(tmp_path / "out" / name), expected)


def test_a_single_file(model, folder, tmp_path):
    report = quiet(model, folder / "deep" / "d.PNG", tmp_path / "out")
    assert report.restored == [tmp_path / "out" / "d.png"]


def test_profile_and_exif_reach_the_file(model, tmp_path):
    data = Image.Exif()
    data[271], data[ExifTags.Base.Orientation] = "maker", 6
    picture(32, 16).save(tmp_path / "a.jpg", exif=data.tobytes(), icc_profile=SRGB)
    for format, name in (("png", "a.png"), ("jpeg", "a.jpg"), ("webp", "a.webp"), ("tiff", "a.tif")):
        quiet(model, tmp_path / "a.jpg", tmp_path / format, scale=1.5, format=format)
        with Image.open(tmp_path / format / name) as found:
            assert found.format == format.upper() and found.size == (24, 48)
            assert found.info["icc_profile"] == SRGB
            assert found.getexif()[271] == "maker" and found.getexif().get(ExifTags.Base.Orientation, 1) == 1


def test_formats_that_lose_something_say_so(model, tmp_path):
    (tmp_path / "in").mkdir()
    png16(3)(tmp_path / "in" / "deep.png")
    picture(mode="RGBA").save(tmp_path / "in" / "alpha.png")
    lines = []
    report = restore_folder(model, tmp_path / "in", tmp_path / "out", scale=1, format="jpeg", say=lines.append)
    assert str(report) == "1 restored, 1 failed"
    failure, note = lines
    assert re.fullmatch(
        "A JPEG file holds no transparency: '.*alpha.png' has some. Choose png, webp or tiff.", failure
    )
    assert re.fullmatch("'.*deep.png': its 16 bits are written as 8; png and tiff keep them.", note)
    assert list(pictures_in(tmp_path / "out")) == ["deep.jpg"]


def test_16_bits_through_the_model(model, tmp_path):
    """An 8-bit image as 16 bits, and more levels than 8 bits have in what is restored."""
    source = picture(24, 16)
    Picture(np.asarray(source).astype(np.uint16) * 257).save(tmp_path / "a.png", "png")
    quiet(model, tmp_path / "a.png", tmp_path / "png", scale=1)
    quiet(model, tmp_path / "a.png", tmp_path / "tiff", scale=1, format="tiff")
    found = Picture.open(tmp_path / "png" / "a.png").colour
    assert np.array_equal(tifffile.imread(tmp_path / "tiff" / "a.tif"), found)
    flat = np.asarray(restore(model, source, scale=1, progress=False).images[0])
    assert np.abs(found / 257 - flat).max() <= 0.5 + 1 / 257 and np.unique(found % 257).size > 100


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jpg"], ["a.png"]),
        (["a.jpg", "a.png", "b/a.tif"], ["a.jpg.png", "a.png.png", "b/a.png"]),
        (["b.v2.png"], ["b.v2.png"]),
        (["a.bmp", "a.jpg", "a.jpg.tif"], ["a.bmp.png", "a.jpg.png", "a.jpg.tif.png"]),
        (["A.JPG", "a.png"], ["A.JPG.png", "a.png.png"]),
        (["A.png", "a.PNG", "a.png"], ["A.png.png", "a.PNG-2.png", "a.png-3.png"]),
        (["\u00e9.jpg", "e\u0301.png"], ["\u00e9.jpg.png", "e\u0301.png.png"]),
        (["straße.jpg", "STRASSE.jpg"], ["straße.jpg.png", "STRASSE.jpg-2.png"]),
        (["x.jpg", "x.png/1.jpg"], ["x.jpg.png", "x.png/1.png"]),
        (["a.png", "A.png", "a.png-2.tif"], ["a.png.png", "A.png-2.png", "a.png-2.tif.png"]),
    ],
)
def test_names_never_meet(names, expected):
    found = output_names(names, ".png")
    assert found == expected and len({name.casefold() for name in found}) == len(names)


def test_names_that_are_no_text_or_too_long_or_of_two_lines(model, tmp_path):
    source, out, lines = tmp_path / "in", tmp_path / "out", []
    source.mkdir()
    for name in (b"caf\xe9.png", b"n" * 251 + b".png", b"two\nlines.gif"):
        frames = dict(save_all=True, append_images=[picture(seed=1)]) if name.endswith(b".gif") else {}
        picture().save(source / os.fsdecode(name), **frames)
    options = dict(scale=1, format="webp", progress=False, say=lines.append)
    for expected in ("2 restored, 1 failed", "2 skipped, 1 failed"):
        report = restore_folder(model, source, out, **options)
        assert str(report).endswith(expected) and "File name too long" in report.failed[0][1]
    assert sorted(os.listdir(os.fsencode(out)))[1:] == [b"caf\xe9.webp", b"two\nlines.webp"]
    assert sum("only the first of its 2 frames" in line for line in lines) == 1
    assert not any("\n" in line for line in lines)


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


def test_batches_group_equal_keys_and_wait_for_few():
    assert list(batches("aabab", str, 2)) == [["a", "a"], ["b", "b"], ["a"]]
    assert list(batches("abc", str, 1)) == [["a"], ["b"], ["c"]]
    assert list(batches("abcdefghi", str, 2)) == [[x] for x in "abcdefghi"]
    taken = []
    groups = batches((taken.append(x) or x for x in "abcdefghij"), str, 2)
    assert next(groups) == ["a"] and len(taken) == 8


@pytest.mark.parametrize("seed", [None, 3])
def test_batches_change_nothing(model, folder, tmp_path, monkeypatch, seed):
    quiet(model, folder, tmp_path / "alone", scale=2, seed=seed)
    sizes, decode = [], type(model).decode
    monkeypatch.setattr(
        type(model), "decode", lambda self, z, **options: sizes.append(len(z)) or decode(self, z, **options)
    )
    quiet(model, folder, tmp_path / "together", scale=2, seed=seed, batch_size=4)
    assert sizes == [4, 1, 1]
    for path in (tmp_path / "alone").rglob("*.png"):
        together = Image.open(tmp_path / "together" / path.relative_to(tmp_path / "alone"))
        difference = np.asarray(together, int) - np.asarray(Image.open(path), int)
        assert np.abs(difference).max() <= 1


def test_reading_computing_and_writing_overlap(model, folder, tmp_path, monkeypatch):
    seconds = dict.fromkeys(("read", "compute", "write"), 0.0)

    def slower(name, function):
        def slow(*arguments, **options):
            began = time.monotonic()
            time.sleep(0.1)
            result = function(*arguments, **options)
            seconds[name] += time.monotonic() - began
            return result

        return slow

    monkeypatch.setattr(Picture, "open", slower("read", Picture.open))
    monkeypatch.setattr(Restorer, "__call__", slower("compute", Restorer.__call__))
    monkeypatch.setattr(Picture, "save", slower("write", Picture.save))
    began = time.monotonic()
    quiet(model, folder, tmp_path / "out", scale=1)
    wall = time.monotonic() - began
    assert min(seconds.values()) >= 0.6 and wall < 0.75 * sum(seconds.values())


def test_a_picture_too_large_for_the_memory_is_a_line(model, folder, tmp_path, monkeypatch):
    call = Restorer.__call__

    def short(self, pictures):
        if any(picture.size == (24, 16) for picture in pictures):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return call(self, pictures)

    monkeypatch.setattr(Restorer, "__call__", short)
    report = quiet(model, folder, tmp_path / "out", scale=1, batch_size=3)
    assert len(report.restored) == 5
    assert report.failed == [
        (folder / "c.png", f"Out of memory: '{folder / 'c.png'}' could not be restored. Choose smaller tiles.")
    ]


def test_a_scale_beyond_memory_and_disk_is_a_line(model, folder, tmp_path):
    start = re.escape(f"'{folder / 'a.png'}' becomes 16000000x16000000 pixels, more than fit into the memory")
    for options in ({}, dict(tile="auto")):
        report = quiet(model, folder / "a.png", tmp_path / "out", scale=1e6, **options)
        assert re.match(start + ", and takes 4768372 GiB in", report.failed[0][1])


def test_pictures_beyond_the_memory_are_restored_in_files(model, tmp_path, monkeypatch):
    """As in memory with a flat autoencoder, up to a rounding; grey and alpha stay; 16 bits are refused."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name, mode in (("grey.png", "L"), ("alpha.png", "RGBA")):
        picture(20, 33, mode).save(source / name)
    png16(3)(source / "deep.png")
    monkeypatch.setattr(out_of_core, "BYTES", 1e12)
    (out / ".omgsr-scratch").mkdir(parents=True)  # of a run that was killed
    report = quiet(model, source, out, scale=1.5, tile="auto", seed=3, batch_size=2)
    assert len(report.restored) == 2 and not (out / ".omgsr-scratch").exists()
    assert [path.name for path, _ in report.failed] == ["deep.png"]
    assert "and files are for 8 bits only" in report.failed[0][1]
    for name, mode in (("grey.png", "L"), ("alpha.png", "RGBA")):
        found, options = Image.open(out / name), dict(scale=1.5, seed=3, vae_mode="flat", progress=False)
        expected = restore(model, Image.open(source / name), **options).images[0]
        assert found.mode == mode and found.size == expected.size == (30, 50)
        assert np.abs(np.asarray(found, int) - np.asarray(expected, int)).max() <= 1


def test_errors_of_the_program_are_not_taken_for_bad_pictures(model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Restorer, "__call__", lambda self, pictures: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quiet(model, folder, tmp_path / "out", scale=1)


def test_a_full_disk_ends_the_run_and_leaves_nothing_half_written(model, folder, tmp_path, monkeypatch):
    def fail(self, file, *options, **more):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Picture, "save", fail)
    with pytest.raises(OSError, match="cannot write .*a.png .No space left on device.: free some space"):
        quiet(model, folder, tmp_path / "out", scale=1)
    assert pictures_in(tmp_path / "out") == {}


def test_an_output_folder_that_cannot_be_written(model, folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="cannot write .*: free some space, or choose a folder that can be written"):
        quiet(model, folder, tmp_path / "file" / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(model, folder, tmp_path):
    (folder / "a.png").chmod(0)
    report = quiet(model, folder, tmp_path / "out", scale=1)
    assert report.failed == [
        (folder / "a.png", f"Permission denied: '{folder / 'a.png'}'. Check the path and its permissions.")
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_a_folder_that_can_be_listed_only(model, folder, tmp_path):
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o111)
    (folder / "deep" / "er").chmod(0o744)
    os.seteuid(65534)
    try:
        report = quiet(model, folder, tmp_path / "out", scale=1)
    finally:
        os.seteuid(0)
    assert str(report) == "5 restored, 1 failed" and "Permission denied: " in report.failed[0][1]


def test_a_folder_that_cannot_be_read_is_a_line(model, folder, tmp_path, monkeypatch):
    def walk(top, onerror):
        onerror(PermissionError(errno.EACCES, "Permission denied", str(folder / "deep")))
        yield str(folder), [], ["a.png"]

    monkeypatch.setattr(os, "walk", walk)
    report = quiet(model, folder, tmp_path / "out", scale=1)
    assert str(report) == "1 restored, 1 failed" and "Permission denied: " in report.failed[0][1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(format="gif"), "format must be one of png, jpeg, webp, tiff: got 'gif'"),
        (dict(quality=0), r"quality must be an integer in 1 .. 100: got 0"),
        (dict(quality=95.5), r"quality must be an integer in 1 .. 100: got 95.5"),
        (dict(max_pixels="1e6"), "max_pixels must be an integer of at least 1: got '1e6'"),
        (dict(scale=0.9), "scale must be a number, at least 1 and finite: got 0.9"),
        (dict(tile=20), "tile must be a multiple of 8 pixels, at least 8: got 20"),
        (dict(tile=16, overlap=16), "overlap must be less than the tile: got overlap=16 and tile=16"),
        (dict(batch_size=0), "batch_size must be an integer of at least 1: got 0"),
        (dict(window="box"), "window must be one of gaussian"),
        (dict(planner="best"), "planner must be one of smallest, published"),
        (dict(vae_mode="half"), "vae_mode must be one of exact, flat or None: got 'half'"),
        (dict(colour_fix="sepia"), 'colour_fix must be "adain", "wavelet" or None'),
        (dict(timestep=1000), r"must lie in 0 .. 999: got 1000"),
    ],
)
def test_wrong_arguments_are_found_before_anything_is_written(model, folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        quiet(model, folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_line_of_progress_where_there_is_no_terminal(model, folder, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(restore_files, "EVERY", 0)
    restore_folder(model, folder, tmp_path / "out", scale=1, say=lines.append)
    assert len(lines) == 6 and re.fullmatch(r"4 of 6, \d+\.\d\d images/s, \d+ s left\.", lines[3])
    quiet(model, folder, tmp_path / "out", scale=1)


def test_each_restored_file_is_told_with_sizes_timestep_and_seconds(model, folder, tmp_path):
    lines = []
    for options in (dict(batch_size=3), {}, dict(timestep=200)):  # the second finds everything finished
        restore_folder(model, folder, tmp_path / "out", scale=1.5, each=lines.append, progress=False, **options)
    assert len(lines) == 12
    sizes = {line.split(": ")[0]: line.split(": ")[1].split(", ")[:2] for line in lines[:6]}
    assert sizes[str(folder / "c.png")] == ["24x16 -> 36x24", "timestep 273"]
    assert sizes[str(folder / "deep" / "d.PNG")] == ["16x16 -> 24x24", "timestep 273"]
    assert all(re.search(r", timestep 200, \d+\.\d s$", line) for line in lines[6:])


def test_the_rate_does_not_count_what_comes_before_the_first_image(monkeypatch):
    clock, lines = iter([0.0, 100.0, 102.0, 104.0]), []
    monkeypatch.setattr(restore_files, "EVERY", 0)
    monkeypatch.setattr(restore_files.time, "monotonic", lambda: next(clock))
    with restore_files.Progress(10, say=lines.append) as progress:
        for _ in range(3):
            progress.advance()
    assert lines == ["1 of 10.", "2 of 10, 0.50 images/s, 16 s left.", "3 of 10, 0.50 images/s, 14 s left."]


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
