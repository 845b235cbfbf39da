"""data/png.py: chunks of PNG files that are too large to be read, and those that say what the colours mean."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from png_bytes import chunk

from omgsr_lib.data.photos import open_photo
from omgsr_lib.images.image_file import Picture


ARRAY = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)


def with_chunks(path, *chunks, deep=False):
    """`ARRAY` as a PNG, with `(name, content)` chunks before its pixels."""
    if deep:
        Picture(ARRAY.astype(np.uint16) * 257).save(path, "png")
        data = path.read_bytes()
    else:
        buffer = io.BytesIO()
        Image.fromarray(ARRAY).save(buffer, "PNG")
        data = buffer.getvalue()
    path.write_bytes(data[:33] + b"".join(chunk(*pair) for pair in chunks) + data[33:])
    return path


LONG = bytes(range(32, 127)) * 20000
TOO_LARGE = {
    "iCCP": b"profile\0\0" + zlib.compress(LONG * 10),
    "zTXt": b"Comment\0\0" + zlib.compress(LONG),
    "iTXt": b"Comment\0\1\0\0\0" + zlib.compress(LONG),
}


@pytest.mark.parametrize("name", TOO_LARGE)
@pytest.mark.parametrize("deep", [False, True])
def test_a_chunk_too_large_to_read_is_left_out_and_said(tmp_path, name, deep):
    path = with_chunks(tmp_path / "a.png", (name.encode(), TOO_LARGE[name]), deep=deep)
    picture = Picture.open(path)
    assert np.array_equal(picture.to_8_bits().colour, ARRAY) and picture.icc is None
    assert picture.notes == (f"chunks of more than 1 MiB are left out: {name}",)
    assert np.array_equal(np.asarray(open_photo(path)), ARRAY)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "tiff"])
def test_a_profile_that_pillow_does_not_read_is_kept(tmp_path, deep, format):
    profile = LONG[:16] + b"RGB " + LONG[20:1_200_000]
    path = with_chunks(tmp_path / "a.png", (b"iCCP", b"profile\0\0" + zlib.compress(profile)), deep=deep)
    picture = Picture.open(path)
    assert np.array_equal(picture.to_8_bits().colour, ARRAY) and picture.icc == profile and picture.notes == ()
    picture.save(tmp_path / "b", format)
    assert Picture.open(tmp_path / "b").icc == profile


def test_many_texts_that_are_too_large_together(tmp_path):
    path = with_chunks(tmp_path / "a.png", *[(b"tEXt", b"Comment\0" + LONG[:1_000_000])] * 70)
    picture = Picture.open(path)
    assert np.array_equal(picture.colour, ARRAY) and len(picture.notes) == 1


P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
COLOURS = {
    "p3": [(b"cICP", bytes([12, 13, 0, 1]))],
    "pq": [(b"cICP", bytes([9, 16, 0, 1]))],
    "primaries": [(b"cHRM", P3), (b"gAMA", struct.pack(">I", 45455))],
    "linear": [(b"gAMA", struct.pack(">I", 100000))],
    "srgb": [(b"sRGB", b"\0")],
}


@pytest.mark.parametrize("case", COLOURS)
@pytest.mark.parametrize("deep", [False, True])
def test_what_the_colours_mean_is_written_again(tmp_path, case, deep):
    picture = Picture.open(with_chunks(tmp_path / "a.png", *COLOURS[case], deep=deep)).enlarge(48, 40)
    picture.save(tmp_path / "b.png", "png")
    assert [*Picture.open(tmp_path / "b.png").chunks] == COLOURS[case]
    for format in ("jpeg", "webp", "tiff"):
        assert ("colours" in picture.losses(format)) == (case == "pq")
    assert "colours" not in picture.losses("png")


DAMAGED = {
    "iCCP": (b"iCCP", b"profile\0\0" + zlib.compress(LONG[:1000]), True),
    "pHYs": (b"pHYs", struct.pack(">IIB", 2835, 2835, 1), True),
    "tEXt": (b"tEXt", b"Comment\0text", True),
    "short": (b"pHYs", bytes(4), False),
    "packed": (b"zTXt", b"Comment\0\0no deflate", False),
    "method": (b"iCCP", b"profile\0\x07" + zlib.compress(LONG[:1000]), False),
}


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.parametrize("deep", [False, True])
def test_a_damaged_chunk_beside_the_pixels_is_left_out_and_said(tmp_path, case, deep):
    name, content, wrong_sum = DAMAGED[case]
    path = with_chunks(tmp_path / "a.png", (name, content), deep=deep)
    if wrong_sum:
        path.write_bytes(path.read_bytes().replace(chunk(name, content), chunk(name, content)[:-1] + b"?"))
    picture = Picture.open(path)
    assert np.array_equal(picture.to_8_bits().colour, ARRAY)
    assert picture.notes == (f"damaged chunks are left out: {name.decode()}",) and picture.dpi is None
    assert np.array_equal(np.asarray(open_photo(path)), ARRAY)
