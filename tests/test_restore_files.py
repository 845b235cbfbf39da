"""restore_files.py: a table of hostile inputs, names, resuming after `kill -9`, batches, and stages that overlap."""

import errno
import io
import json
import multiprocessing
import os
import re
import signal
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image, ImageCms

from omgsr_lib import restore_files
from omgsr_lib.data.folders import output_names
from omgsr_lib.data.pictures import Picture
from omgsr_lib.model import OMGSR
from omgsr_lib.restore import Restorer, batches, restore
from omgsr_lib.restore_files import JOURNAL, fingerprint, restore_folder


@pytest.fixture(scope="module")
def model():
    return OMGSR.from_base("tiny", "ddpm", 273)


def picture(width=16, height=16, mode="RGB", seed=0):
    """A smooth random picture, with an alpha channel that varies too."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 4), dtype=np.uint8)
    image = Image.fromarray(small[..., :3]).resize((width, height), Image.BICUBIC).convert(mode)
    if "A" in image.getbands() and mode != "LAB":
        image.putalpha(Image.fromarray(small[..., 3]).resize((width, height), Image.BICUBIC))
    return image


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def exif(orientation):
    data = Image.Exif()
    data[ExifTags.Base.Orientation] = orientation
    return data.tobytes()


def deep(channels, height=16, width=16):
    return np.random.default_rng(1).integers(0, 65536, (height, width, channels), dtype=np.uint16)


def png16(channels):
    def make(path):
        samples = deep(channels)
        split = 1 if channels < 3 else 3
        Picture(samples[..., :split], samples[..., split:] if channels > split else None).save(path, "png")

    return make


def tiff(samples, **options):
    return lambda path: tifffile.imwrite(path, samples, **options)


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def bomb(width, height):
    """A PNG of a few bytes that claims to be large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def text_bomb():
    """A PNG whose compressed text is 200 MB long."""
    data = encoded(picture(), "PNG")
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9))
    return data[:33] + text + data[33:]


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def interlaced():
    """An 8-bit RGB PNG in Adam7's seven passes."""
    array, raw = np.asarray(picture()), b""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    for x, y, dx, dy in passes:
        raw += b"".join(b"\0" + row.tobytes() for row in array[y::dy, x::dx])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def lab():
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(picture(), *profiles, outputMode="LAB")


def indexed(**options):
    image = picture().quantize(8)
    return encoded(image, "PNG", **options)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
JPEG, PNG = encoded(picture(48, 40), "JPEG"), encoded(picture(48, 40), "PNG")
WEBP = encoded(picture(48, 40), "WEBP")
TIFF = encoded(picture(48, 40), "TIFF", compression="tiff_lzw")
FRAMES = dict(save_all=True, append_images=[picture(seed=1), picture(seed=2)])
UNREADABLE = "must be a readable picture"

# name, bytes or a function that writes the file, and what becomes of it at scale 1: mode and size, or the failure
TABLE = [
    # sizes and aspects
    ("smallest.png", encoded(picture(16, 16), "PNG"), ("RGB", (16, 16))),
    ("odd.png", encoded(picture(17, 19), "PNG"), ("RGB", (17, 19))),
    ("prime.jpg", encoded(picture(101, 37), "JPEG"), ("RGB", (101, 37))),
    ("wide.png", encoded(picture(400, 16), "PNG"), ("RGB", (400, 16))),
    ("tall.png", encoded(picture(16, 400), "PNG"), ("RGB", (16, 400))),
    ("short.png", encoded(picture(16, 15), "PNG"), "at least 16 pixels on each side: '.*' is 16x15"),
    ("line.png", encoded(picture(1, 90), "PNG"), "at least 16 pixels on each side: '.*' is 1x90"),
    ("dot.png", encoded(picture(1, 1), "PNG"), "at least 16 pixels on each side: '.*' is 1x1"),
    # colour modes and bit depths
    ("grey.png", encoded(picture(mode="L"), "PNG"), ("L", (16, 16))),
    ("grey.jpg", encoded(picture(mode="L"), "JPEG"), ("L", (16, 16))),
    ("grey-alpha.png", encoded(picture(mode="LA"), "PNG"), ("LA", (16, 16))),
    ("alpha.png", encoded(picture(mode="RGBA"), "PNG"), ("RGBA", (16, 16))),
    ("alpha.webp", encoded(picture(mode="RGBA"), "WEBP"), ("RGBA", (16, 16))),
    ("alpha.tif", encoded(picture(mode="RGBA"), "TIFF"), ("RGBA", (16, 16))),
    ("palette.png", indexed(), ("RGB", (16, 16))),
    ("palette-2-bits.png", indexed(bits=3), ("RGB", (16, 16))),
    ("palette-transparent.png", indexed(transparency=3), ("RGBA", (16, 16))),
    ("palette-alpha.png", indexed(transparency=bytes(range(8))), ("RGBA", (16, 16))),
    ("palette.gif", encoded(picture(), "GIF"), ("RGB", (16, 16))),
    ("key.png", encoded(picture(), "PNG", transparency=(1, 2, 3)), ("RGBA", (16, 16))),
    ("bilevel.png", encoded(picture(mode="1"), "PNG"), ("L", (16, 16))),
    ("bilevel-fax.tif", encoded(picture(mode="1"), "TIFF", compression="group4"), ("L", (16, 16))),
    ("cmyk.jpg", encoded(picture(mode="CMYK"), "JPEG"), ("RGB", (16, 16))),
    ("cmyk.tif", encoded(picture(mode="CMYK"), "TIFF"), ("RGB", (16, 16))),
    ("ycbcr.tif", encoded(picture(mode="YCbCr"), "TIFF"), ("RGB", (16, 16))),
    ("lab.tif", encoded(lab(), "TIFF"), ("RGB", (16, 16))),
    ("16-grey.png", png16(1), ("L;16", (16, 16))),
    ("16-grey-alpha.png", png16(2), ("LA;16", (16, 16))),
    ("16-rgb.png", png16(3), ("RGB;16", (16, 16))),
    ("16-rgba.png", png16(4), ("RGBA;16", (16, 16))),
    ("16-grey.tif", tiff(deep(1)[..., 0]), ("L;16", (16, 16))),
    ("16-rgb.tif", tiff(deep(3), photometric="rgb"), ("RGB;16", (16, 16))),
    ("16-rgb-big-endian.tif", tiff(deep(3), photometric="rgb", byteorder=">"), ("RGB;16", (16, 16))),
    ("16-rgb-deflate.tif", tiff(deep(3), photometric="rgb", compression="zlib", predictor=True), ("RGB;16", (16, 16))),
    ("16-rgb-tiles.tif", tiff(deep(3, 40, 40), photometric="rgb", tile=(16, 16)), ("RGB;16", (40, 40))),
    ("16-rgba.tif", tiff(deep(4), photometric="rgb", extrasamples=["unassalpha"]), ("RGBA;16", (16, 16))),
    ("16-planes.tif", tiff(deep(16, 3), photometric="rgb", planarconfig="separate"), "one after the other"),
    ("big.tif", tiff(deep(3), photometric="rgb", bigtiff=True), ("RGB;16", (16, 16))),
    ("32-integer.tif", tiff(deep(1)[..., 0].astype(np.int32) * 9), "integer samples must lie in 0 .. 65535"),
    ("32-in-range.tif", tiff(deep(1)[..., 0].astype(np.int32)), ("L;16", (16, 16))),
    ("float.tif", tiff(deep(1)[..., 0].astype(np.float32) / 65535), ("L;16", (16, 16))),
    ("float-255.tif", tiff(deep(1)[..., 0].astype(np.float32)), "floating-point samples must be finite and lie in 0"),
    ("float-nan.tif", tiff(np.full((16, 16), np.nan, np.float32)), "floating-point samples must be finite"),
    ("float-rgb.tif", tiff(deep(3).astype(np.float32) / 65535, photometric="rgb"), UNREADABLE),
    # orientation, profiles, kinds of a format
    *((f"turned-{n}.jpg", encoded(picture(32, 16), "JPEG", exif=exif(n)), ("RGB", (32, 16))) for n in range(1, 5)),
    *((f"turned-{n}.jpg", encoded(picture(32, 16), "JPEG", exif=exif(n)), ("RGB", (16, 32))) for n in range(5, 9)),
    ("turned-99.jpg", encoded(picture(32, 16), "JPEG", exif=exif(99)), ("RGB", (32, 16))),
    ("turned.png", encoded(picture(32, 16), "PNG", exif=exif(6)), ("RGB", (16, 32))),
    ("turned.tif", encoded(picture(32, 16), "TIFF", exif=exif(6)), ("RGB", (16, 32))),
    ("turned-alpha.webp", encoded(picture(32, 16, "RGBA"), "WEBP", exif=exif(6)), ("RGBA", (16, 32))),
    ("damaged-exif.jpg", encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), ("RGB", (16, 16))),
    ("profile.jpg", encoded(picture(), "JPEG", icc_profile=SRGB), ("RGB", (16, 16))),
    ("damaged-profile.jpg", encoded(picture(), "JPEG", icc_profile=b"none"), ("RGB", (16, 16))),
    ("damaged-profile-cmyk.jpg", encoded(picture(mode="CMYK"), "JPEG", icc_profile=b"none"), ("RGB", (16, 16))),
    ("interlaced.png", interlaced(), ("RGB", (16, 16))),
    ("progressive.jpg", encoded(picture(), "JPEG", progressive=True), ("RGB", (16, 16))),
    ("lossless.webp", encoded(picture(), "WEBP", lossless=True), ("RGB", (16, 16))),
    ("lzw.tif", encoded(picture(), "TIFF", compression="tiff_lzw"), ("RGB", (16, 16))),
    ("jpeg.tif", encoded(picture(), "TIFF", compression="jpeg"), ("RGB", (16, 16))),
    ("plain.bmp", encoded(picture(), "BMP"), ("RGB", (16, 16))),
    ("two.mpo.jpg", encoded(picture(), "MPO", **FRAMES), ("RGB", (16, 16))),
    ("animated.gif", encoded(picture(), "GIF", **FRAMES), ("RGB", (16, 16))),
    ("animated.webp", encoded(picture(), "WEBP", **FRAMES), ("RGB", (16, 16))),
    ("animated.png", encoded(picture(), "PNG", **FRAMES), ("RGB", (16, 16))),
    ("pages.tif", tiff(np.stack([np.asarray(picture())] * 3), photometric="rgb"), ("RGB", (16, 16))),
    ("tail.jpg", JPEG + b"more bytes behind the end", ("RGB", (48, 40))),
    # names
    ("jpeg-called.png", JPEG, ("RGB", (48, 40))),
    ("png-called.jpg", PNG, ("RGB", (48, 40))),
    ("with spaces & 'quotes'.png", PNG, ("RGB", (48, 40))),
    ("-leading-dash.png", PNG, ("RGB", (48, 40))),
    ("Größe 写真 🏞.png", PNG, ("RGB", (48, 40))),
    ("[brackets]*.png", PNG, ("RGB", (48, 40))),
    (".hidden.png", PNG, ("RGB", (48, 40))),
    ("SHOUTED.PNG", PNG, ("RGB", (48, 40))),
    ("n" * 240 + ".png", PNG, ("RGB", (48, 40))),
    ("link.png", lambda path: path.symlink_to("/dev/zero"), "must be a file"),
    # what is no picture, and damage
    ("empty.png", b"", UNREADABLE),
    ("text.png", b"not a picture", UNREADABLE),
    ("zeros.jpg", bytes(5000), UNREADABLE),
    ("header-only.png", PNG[:8], UNREADABLE),
    ("postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\nshowpage\n", UNREADABLE),
    ("vectors.png", b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"/>', UNREADABLE),
    ("truncated.jpg", JPEG[: len(JPEG) // 2], UNREADABLE),
    ("truncated.png", PNG[: len(PNG) // 2], UNREADABLE),
    ("truncated.webp", WEBP[: len(WEBP) // 2], UNREADABLE),
    ("truncated.tif", TIFF[: len(TIFF) // 2], UNREADABLE),
    ("bad-checksum.png", flipped(PNG, 40), UNREADABLE),
    ("bad-header.png", flipped(PNG, 20), UNREADABLE),
    ("no-pixels.png", bomb(16, 16), UNREADABLE),
    ("bomb.png", bomb(60000, 60000), "must not have more pixels than the limit.*--max-pixels"),
    ("giant.png", bomb(2**31 - 1, 2**31 - 1), "must not have more pixels than the limit"),
    ("text-bomb.png", text_bomb(), UNREADABLE),
    ("broken-link.png", lambda path: path.symlink_to("nowhere"), "No such file or directory: '.*broken-link.png'"),
    ("loop.png", lambda path: path.symlink_to(path.name), "symbolic links: '.*loop.png'"),
    ("pipe.png", lambda path: os.mkfifo(path), "must be a file: '.*pipe.png' is none"),
]


@pytest.fixture(scope="module")
def table_run(model, tmp_path_factory):
    """The whole table restored as one folder: `{name: path of the result, or line of the failure}`."""
    folder = tmp_path_factory.mktemp("table")
    source, out, lines = folder / "in", folder / "out", []
    (source / "folder.png").mkdir(parents=True)
    for name, content, _ in TABLE:
        path = source / name
        path.write_bytes(content) if isinstance(content, bytes) else content(path)
    report = restore_folder(model, source, out, scale=1, progress=False, say=lines.append)
    names = sorted(source / name for name, *_ in TABLE)
    outputs = dict(zip(names, output_names([path.relative_to(source) for path in names], ".png"), strict=True))
    outcome = {path.name: out / name for path, name in outputs.items() if out / name in report.restored}
    assert len(report.restored) + len(report.failed) == len(TABLE) and report.skipped == []
    assert sorted([*out.rglob("*")]) == sorted([*report.restored, out / JOURNAL])
    assert all(line in lines and "\n" not in line for _, line in report.failed)
    return outcome | {path.name: line for path, line in report.failed}


def test_the_table_is_long_enough():
    assert len(TABLE) >= 100 and len({name for name, *_ in TABLE}) == len(TABLE)


@pytest.mark.parametrize(("name", "expected"), [row[::2] for row in TABLE], ids=[row[0][:40] for row in TABLE])
def test_hostile_inputs(table_run, name, expected):
    """Mode and size of what is restored, or one line that names the file, all from one run over the folder."""
    found = table_run[name]
    if isinstance(expected, str):
        assert isinstance(found, str) and re.search(expected, found) and name in found, found
        return
    assert not isinstance(found, str), found
    restored = Picture.open(found)
    mode = ("L" if restored.is_grey else "RGB") + ("" if restored.alpha is None else "A")
    assert (mode + (";16" if restored.levels > 255 else ""), restored.size) == expected


@pytest.fixture
def folder(tmp_path):
    """Six pictures of two sizes at two depths, one with a suffix in capitals, and a file that is none."""
    for seed, name in enumerate(("a.png", "b.jpg", "c.png", "deep/d.PNG", "deep/er/e.webp", "f.png")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(16 + 8 * (seed == 2), 16, seed=seed).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
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
    """An 8-bit picture as 16 bits, and more levels than 8 bits have in what is restored."""
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
    found = [name.as_posix() for name in output_names([Path(name) for name in names], ".png")]
    assert found == expected and len({name.casefold() for name in found}) == len(names)


def test_inputs_are_never_replaced(model, tmp_path):
    picture().save(tmp_path / "a.png")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="must not replace a picture to restore: .* holds a.png. Choose another"):
        quiet(model, tmp_path / "a.png", tmp_path)
    with pytest.raises(ValueError, match="output folder must not be that of the pictures: got .* for both"):
        quiet(model, tmp_path, tmp_path)
    (tmp_path / "linked").mkdir()
    os.link(tmp_path / "a.png", tmp_path / "linked" / "a.png")
    with pytest.raises(ValueError, match="must not replace a picture to restore"):
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


def test_a_torn_journal(model, folder, tmp_path):
    out = tmp_path / "out"
    quiet(model, folder, out, scale=1)
    expected, journal = pictures_in(out), (out / JOURNAL).read_bytes()
    (out / "f.png").unlink()
    (out / JOURNAL).write_bytes(journal[:-30])  # f is the last
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

    monkeypatch.setattr(Picture, "save", slowly)
    out, kills = tmp_path / "out", 0
    while len(finished := pictures_in(out) if out.exists() else {}) < 5:
        process = multiprocessing.get_context("fork").Process(
            target=quiet, args=(model, folder, out), kwargs=dict(scale=2)
        )
        process.start()
        wanted = sum(".part-" not in name for name in finished) + 1
        while sum(".part-" not in name for name in pictures_in(out) if out.exists()) < wanted:
            time.sleep(0.005)
        time.sleep(0.07)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    assert kills >= 3 and any(".part-" in name for name in pictures_in(out))
    report = quiet(model, folder, out, scale=2)
    assert len(report.skipped) >= 3 and len(report.restored) + len(report.skipped) == 6
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
        (folder / "c.png", f"Out of memory: '{folder / 'c.png'}' restored is 24x16. Choose smaller tiles.")
    ]


def test_a_scale_beyond_all_memory_is_a_line(model, folder, tmp_path):
    report = quiet(model, folder / "a.png", tmp_path / "out", scale=1e6)
    path = re.escape(str(folder / "a.png"))
    expected = (
        f"A restored picture must fit into the memory: '{path}' becomes 16000000x16000000 and takes 9536743 GiB, "
    )
    assert re.match(expected, report.failed[0][1])


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
        (dict(quality=0), r"quality must lie in 1 .. 100: got 0"),
        (dict(scale=0.9), "scale must be at least 1 and finite: got 0.9"),
        (dict(tile=20), "tile must be a multiple of 8 pixels: got 20"),
        (dict(tile=16, overlap=16), "0 <= overlap < tile"),
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
    assert len(lines) == 6 and re.fullmatch(r"4 of 6, \d+\.\d\d pictures/s, \d+ s left\.", lines[3])
    quiet(model, folder, tmp_path / "out", scale=1)


def test_the_fingerprint_is_that_of_weights_and_timestep(model):
    assert fingerprint(model) == fingerprint(OMGSR.from_base("tiny", "ddpm", 273))
    others = [OMGSR.from_base("tiny", "ddpm", 274), OMGSR.from_base("tiny", "ddpm", 273, seed=1)]
    others.append(OMGSR.from_base("tiny", "ddpm", 273))
    next(others[-1].prior.parameters()).data.view(-1)[0] += 1e-3
    assert len({fingerprint(other) for other in [model, *others]}) == 4


def test_the_journal_names_no_folder_of_the_machine(model, folder, tmp_path):
    quiet(model, folder, tmp_path / "out", scale=1)
    entries = [json.loads(line) for line in (tmp_path / "out" / JOURNAL).read_text().splitlines()]
    assert [entry["file"] for entry in entries] == ["a.png", "b.png", "c.png", "deep/d.png", "deep/er/e.png", "f.png"]
    assert str(tmp_path) not in (tmp_path / "out" / JOURNAL).read_text()
    assert entries[0]["settings"]["scale"] == 1 and entries[0]["settings"]["format"] == "png"
