"""restore/folder.py: a folder in, files out: formats, names, batches, stages that overlap, lines of progress."""

import os
import re
import time

import numpy as np
import pytest
import tifffile
from folder_case import contents, pictures_in, quiet, same, six_images, tiny_model
from hostile_inputs import SRGB, picture, png16
from PIL import ExifTags, Image

from omgsr_lib.images.image_file import Picture
from omgsr_lib.restore import folder as restore_files
from omgsr_lib.restore.batches import batches
from omgsr_lib.restore.folder import restore_folder
from omgsr_lib.restore.names import output_names
from omgsr_lib.restore.pipeline import Restorer, restore


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def folder(tmp_path):
    return six_images(tmp_path / "in")


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
    assert all(
        re.search(r", timestep 200, \d+\.\d s, in place of an earlier .*/out/.*\.png$", line) for line in lines[6:]
    )


def test_the_rate_does_not_count_what_comes_before_the_first_image(monkeypatch):
    clock, lines = iter([0.0, 100.0, 102.0, 104.0]), []
    monkeypatch.setattr(restore_files, "EVERY", 0)
    monkeypatch.setattr(restore_files.time, "monotonic", lambda: next(clock))
    with restore_files.Progress(10, say=lines.append) as progress:
        for _ in range(3):
            progress.advance()
    assert lines == ["1 of 10.", "2 of 10, 0.50 images/s, 16 s left.", "3 of 10, 0.50 images/s, 14 s left."]
