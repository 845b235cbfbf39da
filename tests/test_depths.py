"""data/photos.py and data/pictures.py: every mode and depth gives the same image, compared with numpy."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from png_bytes import png

from omgsr_lib.data.photos import open_photo, to_pixels, to_rgb
from omgsr_lib.images.image_file import Picture


Y, X = np.mgrid[:24, :32]
GREY = (X * 7 + Y).astype(np.uint8)  # 0 .. 240
RGB = np.stack([X * 8, Y * 10, 255 - X * 7], axis=2).astype(np.uint8)
PLANES = RGB.transpose(2, 0, 1)
DEEP = GREY.astype(np.uint16) * 257


def saved(image, **options):
    return lambda path: image.save(path, **options)


def tiff(samples, **options):
    return lambda path: tifffile.imwrite(path, samples, **options)


def written(content):
    return lambda path: path.write_bytes(content)


def grey_png(bits, samples):
    """A grey PNG of 2 or 4 bits."""
    rows = np.pad(samples, ((0, 0), (0, -samples.shape[1] % (8 // bits))))
    packed = sum(rows[:, i :: 8 // bits].astype(int) << (8 - bits * (i + 1)) for i in range(8 // bits))
    raw = b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", *samples.shape[::-1], bits, 0, 0, 0, 0)
    return written(png((b"IHDR", header), (b"IDAT", zlib.compress(raw))))


UNIT = GREY / np.float32(255)
# file, how it is written, the 8-bit image in it and how far off a sample may be
FILES = [
    ("1.png", saved(Image.fromarray(GREY > 127)), (GREY > 127) * 255, 0),
    ("2.png", grey_png(2, GREY // 64), GREY // 64 * 85, 0),
    ("4.png", grey_png(4, GREY // 16), GREY // 16 * 17, 0),
    ("8.png", saved(Image.fromarray(GREY)), GREY, 0),
    ("16.png", saved(Image.fromarray(DEEP)), GREY, 0),
    ("16.jp2", saved(Image.fromarray(DEEP)), GREY, 0),
    ("8.jp2", saved(Image.fromarray(GREY)), GREY, 0),
    ("16.pgm", written(b"P5 32 24 65535\n" + DEEP.astype(">u2").tobytes()), GREY, 0),
    ("10.pgm", written(b"P5 32 24 1023\n" + (UNIT * 1023).round().astype(">u2").tobytes()), GREY, 1),
    ("text.pgm", written(b"P2 32 24 65535\n" + " ".join(map(str, DEEP.ravel())).encode()), GREY, 0),
    ("16.ppm", written(b"P6 32 24 65535\n" + (RGB * np.uint16(257)).astype(">u2").tobytes()), RGB, 0),
    ("float.pfm", written(b"Pf\n32 24\n-1.0\n" + UNIT[::-1].astype("<f4").tobytes()), GREY, 0),
    ("8.tif", tiff(GREY), GREY, 0),
    ("16.tif", tiff(DEEP), GREY, 0),
    ("16-big-endian.tif", tiff(DEEP, byteorder=">"), GREY, 0),
    ("16-deflated.tif", tiff(DEEP, compression="zlib", predictor=True), GREY, 0),
    ("16-white-is-zero.tif", tiff(65535 - DEEP, photometric="miniswhite"), GREY, 0),
    ("u32.tif", tiff(DEEP.astype(np.uint32)), GREY, 0),
    ("i32.tif", tiff(DEEP.astype(np.int32)), GREY, 0),
    ("f32.tif", tiff(UNIT.astype(np.float32)), GREY, 0),
    ("f16.tif", tiff(UNIT.astype(np.float16)), GREY, 1),
    ("f64.tif", tiff(UNIT.astype(np.float64)), GREY, 0),
    ("f16-big.tif", tiff(UNIT.astype(np.float16), bigtiff=True), GREY, 1),
    ("f64-white-is-zero.tif", tiff(1 - UNIT.astype(np.float64), photometric="miniswhite"), GREY, 0),
    ("f32-rgb.tif", tiff(RGB / np.float32(255), photometric="rgb"), RGB, 0),
    ("f32-rgb-planes.tif", tiff(PLANES / np.float32(255), photometric="rgb", planarconfig="separate"), RGB, 0),
    ("u32-rgb.tif", tiff(RGB * np.uint32(257), photometric="rgb"), RGB, 0),
    ("i32-rgb-deflated.tif", tiff(RGB * np.int32(257), photometric="rgb", compression="zlib"), RGB, 0),
    ("16-rgb.tif", tiff(RGB * np.uint16(257), photometric="rgb"), RGB, 0),
    ("8-rgb-planes.tif", tiff(PLANES, photometric="rgb", planarconfig="separate"), RGB, 0),
    ("16-rgb-planes.tif", tiff(PLANES * np.uint16(257), photometric="rgb", planarconfig="separate"), RGB, 0),
    ("rgb.png", saved(Image.fromarray(RGB)), RGB, 0),
    ("rgb.bmp", saved(Image.fromarray(RGB)), RGB, 0),
    ("rgb.webp", saved(Image.fromarray(RGB), lossless=True), RGB, 0),
    ("alpha.png", saved(Image.fromarray(np.dstack([RGB, GREY]))), RGB, 0),
    ("grey-alpha.png", saved(Image.fromarray(np.dstack([GREY, GREY]))), GREY, 0),
    ("cmyk.tif", saved(Image.fromarray(RGB).convert("CMYK")), RGB, 0),
]


@pytest.mark.parametrize(("name", "write", "expected", "off"), FILES, ids=[row[0] for row in FILES])
def test_every_depth_is_the_same_picture(tmp_path, name, write, expected, off):
    write(tmp_path / name)
    photo = open_photo(tmp_path / name)
    expected = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
    assert photo.mode == "RGB"
    assert np.abs(np.asarray(photo).astype(int) - expected.astype(int)).max() <= off
    whole = Picture.open(tmp_path / name)
    assert np.abs(np.asarray(to_rgb(whole.image())).astype(int) - expected.astype(int)).max() <= off


@pytest.mark.parametrize(
    ("samples", "options"),
    [
        (DEEP.astype(np.uint32) * 65536, {}),
        (DEEP.astype(np.int32) - 5, {}),
        (GREY.astype(np.float32), {}),
        (np.float32(UNIT - 0.5), {}),
        (UNIT.astype(np.float16) + 1, {}),
        (-UNIT.astype(np.float64), {}),
        (np.full((24, 32), np.nan, np.float32), {}),
        (RGB.astype(np.float32), dict(photometric="rgb")),
        (RGB.astype(np.float64) * np.nan, dict(photometric="rgb")),
        (RGB.astype(np.uint32) * 65536, dict(photometric="rgb")),
        (RGB.astype(np.int16) - 5, dict(photometric="rgb")),
        (RGB * np.uint16(257), dict(photometric="cielab")),
        (np.dstack([RGB, GREY]) * np.uint16(257), dict(photometric="separated")),
    ],
)
def test_samples_without_a_known_range_are_refused(tmp_path, samples, options):
    tifffile.imwrite(tmp_path / "a.tif", samples, **options)
    with pytest.raises(ValueError, match="must be a readable image: '.*a.tif' is not"):
        open_photo(tmp_path / "a.tif")


@pytest.mark.parametrize(
    "image", [Image.fromarray(DEEP), Image.fromarray(UNIT), Image.fromarray(DEEP.astype(np.int32))]
)
def test_deep_grey_images_as_pixels(image):
    assert torch.equal(to_pixels(image), to_pixels(Image.fromarray(GREY)))


def test_the_same_photograph_in_every_depth(reference):
    folder = reference / "cases" / "deep_grey_photos"
    if not folder.exists():
        pytest.skip(f"{folder} is missing")
    eight = np.asarray(open_photo(folder / "eight.png")).astype(int)
    for path in folder.iterdir():
        assert np.abs(np.asarray(open_photo(path)) - eight).max() <= 1, path.name
