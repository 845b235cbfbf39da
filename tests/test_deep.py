"""data/deep.py: 16-bit files, written and read back by other readers and writers."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms
from png_bytes import png

from omgsr_lib.images.image_file import Picture


def samples(height, width, channels, dtype=np.uint8, seed=0):
    high = np.iinfo(dtype).max + 1
    return np.random.default_rng(seed).integers(0, high, (height, width, channels), dtype=dtype)


def independent_png(path):
    """Samples `(h, w, c)` and chunks of a PNG that is not interlaced, by the specification's own formulas."""
    data, at, chunks = path.read_bytes(), 8, {}
    while at < len(data):
        (length,), name = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        content = data[at + 8 : at + 8 + length]
        assert zlib.crc32(name + content) == struct.unpack_from(">I", data, at + 8 + length)[0]
        chunks[name] = chunks.get(name, b"") + content
        at += 12 + length
    width, height, depth, colour = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    pixel = channels * depth // 8
    raw = zlib.decompress(chunks[b"IDAT"])
    rows, before = [], [0] * (width * pixel)
    for y in range(height):
        line = raw[y * (width * pixel + 1) : (y + 1) * (width * pixel + 1)]
        assert line[0] == 4
        row = []
        for i, value in enumerate(line[1:]):
            a, b, c = (row[i - pixel], before[i], before[i - pixel]) if i >= pixel else (0, before[i], 0)
            nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            row.append((value + nearest) % 256)
        rows.append(row)
        before = row
    array = np.array(rows, np.uint8).reshape(height, width, pixel)
    return (array.view(">u2") if depth == 16 else array), chunks


def png16(path, array, *, interlace=0, key=None):
    """A 16-bit PNG without filters, in seven passes if `interlace`."""
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[array.shape[2]]
    passes = [(0, 0, 1, 1)]
    if interlace:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = b""
    for x, y, dx, dy in passes:
        part = array[y::dy, x::dx]
        raw += b"".join(b"\0" + row.astype(">u2").tobytes() for row in part if row.size)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *array.shape[1::-1], 16, colour, 0, 0, interlace))]
    chunks += [(b"tRNS", struct.pack(f">{len(key)}H", *key))] if key else []
    path.write_bytes(png(*chunks, (b"IDAT", zlib.compress(raw))))
    return path


def whole(picture):
    return picture.colour if picture.alpha is None else np.concatenate([picture.colour, picture.alpha], axis=2)


@pytest.mark.parametrize(("maxval", "factor"), [(65535, 1), (1023, 65535 / 1023)])
def test_16_bit_ppm(tmp_path, maxval, factor):
    array = samples(7, 5, 3, np.uint16) // (65536 // (maxval + 1))
    array.flat[0] = maxval
    (tmp_path / "a.ppm").write_bytes(b"P6 # a comment\n5 7 %d\n" % maxval + array.astype(">u2").tobytes())
    found = Picture.open(tmp_path / "a.ppm")
    assert found.levels == 65535 and found.colour.max() == 65535
    assert np.abs(found.colour - array * factor).max() <= 0.5


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("interlace", [0, 1])
def test_16_bit_png_is_read_exactly(tmp_path, channels, interlace):
    array = samples(11, 13, channels, np.uint16)
    picture = Picture.open(png16(tmp_path / "a.png", array, interlace=interlace))
    assert whole(picture).dtype == np.uint16 and np.array_equal(whole(picture), array)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_colour_of_a_16_bit_png(tmp_path, channels):
    array = samples(5, 6, channels, np.uint16)
    picture = Picture.open(png16(tmp_path / "a.png", array, key=tuple(map(int, array[2, 3]))))
    assert np.array_equal(picture.colour, array)
    assert np.argwhere(picture.alpha[..., 0] == 0).tolist() == [[2, 3]]


@pytest.mark.parametrize(
    "options",
    [{}, dict(compression="zlib"), dict(byteorder=">"), dict(tile=(16, 16)), dict(predictor=True, compression="zlib")],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_tiff_is_read_exactly(tmp_path, channels, options):
    array = samples(20, 33, channels, np.uint16)
    extra = dict(extrasamples=["unassalpha"]) if channels == 4 else {}
    photometric = "minisblack" if channels == 1 else "rgb"
    stored = array[..., 0] if channels == 1 else array
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric=photometric, **extra, **options)
    assert np.array_equal(whole(Picture.open(tmp_path / "a.tif")), array)


def test_alpha_that_is_multiplied_into_a_16_bit_tiff(tmp_path):
    alpha = np.array([[0, 1000, 32768, 65535]], np.uint16)
    colour = np.full((1, 4, 3), (60000, 30000, 7), np.uint16)
    multiplied = (colour * (alpha[..., None] / 65535)).round().astype(np.uint16)
    stored = np.concatenate([multiplied, alpha[..., None]], axis=2)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    picture = Picture.open(tmp_path / "a.tif")
    assert np.array_equal(picture.alpha[..., 0], alpha)
    assert np.abs(picture.colour[0, 1:].astype(int) - colour[0, 1:]).max(axis=1).tolist() == pytest.approx(
        [0, 0, 0], abs=65535 / 1000 / 2
    )


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_channels_one_after_the_other_are_read_exactly(tmp_path, channels, compression):
    array = samples(20, 33, channels, np.uint16)
    options = dict(photometric="rgb", planarconfig="separate", compression=compression)
    extra = dict(extrasamples=["unassalpha"]) if channels == 4 else {}
    tifffile.imwrite(tmp_path / "a.tif", array.transpose(2, 0, 1), **options, **extra)
    assert np.array_equal(whole(Picture.open(tmp_path / "a.tif")), array)


def test_a_tiff_that_pillow_does_not_read_keeps_its_metadata(tmp_path):
    """Alpha that is multiplied into the colours, turned by a quarter, with a profile, a resolution and a maker."""
    array = np.linspace(0, 1, 6 * 4).reshape(6, 4, 1) * (1.0, 0.5, 0.25, 0.5)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags = [(274, "H", 1, 6, True), (271, "s", 0, "maker", True)]
    options = dict(resolution=(100, 200), resolutionunit="inch", iccprofile=profile, extratags=tags)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for _ in range(2):
            file.write(array, photometric="rgb", extrasamples=["assocalpha"], **options)
    picture = Picture.open(tmp_path / "a.tif")
    assert picture.notes == ("only the first of its 2 frames is taken",)
    assert picture.icc == profile and picture.dpi == (200, 100) and picture.image().getexif()[271] == "maker"
    straight = np.rot90(array[..., :3] / np.maximum(array[..., 3:], 1e-9), -1).clip(0, 1)
    visible = picture.alpha[..., 0] > 0
    assert np.abs(picture.colour[visible] / 65535 - straight[visible]).max() < 1e-3 and picture.size == (6, 4)
    with pytest.raises(ValueError, match="a.tif.*4x6, limit 10"):
        Picture.open(tmp_path / "a.tif", max_pixels=10)


@pytest.mark.parametrize("height", [1, 40])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_is_written_exactly(tmp_path, channels, height, monkeypatch):
    monkeypatch.setattr("omgsr_lib.images.sixteen_bit.STRIP", 1000)
    array = samples(height, 29, channels, np.uint16)
    array[:, 5:20] = np.arange(15, dtype=np.uint16)[:, None] * 300  # smooth, as photographs are
    split = 1 if channels < 3 else 3
    icc, exif = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), Image.Exif()
    exif[271] = "maker"
    picture = Picture(array[..., :split], array[..., split:] if channels > split else None, icc, exif.tobytes())
    picture.save(tmp_path / "a.png", "png")
    found, chunks = independent_png(tmp_path / "a.png")
    assert np.array_equal(found, array)
    name, profile = chunks[b"iCCP"].split(b"\0\0", 1)
    assert zlib.decompress(profile) == icc and chunks[b"eXIf"] == exif.tobytes().removeprefix(b"Exif\0\0")
    with Image.open(tmp_path / "a.png") as opened:
        opened.load()
        assert opened.info["icc_profile"] == icc and opened.getexif()[271] == "maker"
    assert np.array_equal(whole(Picture.open(tmp_path / "a.png")), array)


@pytest.mark.parametrize("height", [1, 40])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_tiff_is_written_exactly(tmp_path, channels, height, monkeypatch):
    monkeypatch.setattr("omgsr_lib.images.sixteen_bit.STRIP", 1000)
    array, exif = samples(height, 29, channels, np.uint16), Image.Exif()
    exif[271] = "maker"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 400
    exif[ExifTags.IFD.Exif] = exif.get_ifd(ExifTags.IFD.Exif)
    split = 1 if channels < 3 else 3
    profile = b"\0" * 16 + (b"GRAY" if channels < 3 else b"RGB ") + b"\0" * 8
    alpha = array[..., split:] if channels > split else None
    Picture(array[..., :split], alpha, profile, exif.tobytes()).save(tmp_path / "a.tif", "tiff")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages[0]
        assert np.array_equal(page.asarray().reshape(array.shape), array)
        assert page.tags[34675].value == profile and page.tags[271].value == "maker"
        assert page.tags[34665].value["ISOSpeedRatings"] == 400
        assert [int(x) for x in page.extrasamples] == ([2] if alpha is not None else [])


@pytest.mark.parametrize("height", [1, 40])
def test_a_tiff_beyond_4_gib_is_a_bigtiff(tmp_path, height, monkeypatch):
    monkeypatch.setattr("omgsr_lib.images.sixteen_bit.CLASSIC", 0)
    monkeypatch.setattr("omgsr_lib.images.sixteen_bit.STRIP", 1000)
    exif = Image.Exif()
    exif[271] = "maker"
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.ISOSpeedRatings: 400}
    array = samples(height, 50, 3, np.uint16)
    Picture(array, exif=exif.tobytes()).save(tmp_path / "a.tif", "tiff")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff and np.array_equal(file.asarray().reshape(array.shape), array)
        assert file.pages[0].tags[34665].value["ISOSpeedRatings"] == 400
    found = Picture.open(tmp_path / "a.tif")
    assert np.array_equal(found.colour, array) and found.exif
