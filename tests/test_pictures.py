"""data/pictures.py: what an image is made of, and what of it the files of each format keep."""

import io
import struct
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps

from omgsr_lib.data.photos import to_image, to_pixels
from omgsr_lib.images.image_file import FORMATS, Picture


def samples(height, width, channels, dtype=np.uint8, seed=0):
    high = np.iinfo(dtype).max + 1
    return np.random.default_rng(seed).integers(0, high, (height, width, channels), dtype=dtype)


def image(mode="RGB", width=12, height=9):
    return Image.fromarray(samples(height, width, 3)).convert(mode)


@pytest.mark.parametrize(
    ("mode", "restored"),
    [
        ("1", "L"),
        ("L", "L"),
        ("LA", "LA"),
        ("P", "RGB"),
        ("PA", "RGBA"),
        ("RGB", "RGB"),
        ("RGBA", "RGBA"),
        ("RGBa", "RGBA"),
        ("RGBX", "RGB"),
        ("CMYK", "RGB"),
        ("YCbCr", "RGB"),
        ("HSV", "RGB"),
    ],
)
def test_modes(mode, restored):
    source = image("RGBA").convert(mode) if mode in ("RGBa",) else image(mode)
    picture = Picture.from_image(source)
    assert picture.image().mode == restored and picture.size == (12, 9)
    assert np.array_equal(np.asarray(picture.image()), np.asarray(source.convert(restored)))


def test_lab_becomes_the_rgb_it_stands_for():
    source = Image.fromarray(np.full((8, 8, 3), (200, 120, 40), np.uint8))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(source, *profiles, outputMode="LAB")
    found = Picture.from_image(lab).colour[0, 0].astype(int)
    assert np.abs(found - (200, 120, 40)).max() <= 2


@pytest.mark.parametrize("key", [17, (200, 10, 30)])
def test_a_transparent_colour_becomes_alpha(key):
    grey = isinstance(key, int)
    array = samples(6, 5, 1 if grey else 3)
    array[2, 3] = key
    source = Image.fromarray(array[..., 0] if grey else array)
    source.info["transparency"] = key
    alpha = Picture.from_image(source).alpha[..., 0]
    assert np.array_equal(alpha == 0, (array == key).all(-1)) and set(np.unique(alpha)) == {0, 255}


def test_a_transparent_palette_entry_becomes_alpha():
    source = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    source.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    source.info["transparency"] = b"\xff\x00\x80"
    picture = Picture.from_image(source)
    assert picture.alpha[..., 0].tolist() == [[255, 0], [128, 0]]
    assert picture.colour[1, 0].tolist() == [70, 80, 90]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_16_bit_grey(mode):
    array = samples(7, 5, 1, np.uint16)[..., 0]
    if mode.startswith("I;16"):
        source = Image.frombytes(mode, (5, 7), array.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    else:
        source = Image.fromarray(array.astype(np.int32) if mode == "I" else array.astype(np.float32) / 65535)
    assert source.mode == mode
    picture = Picture.from_image(source)
    assert np.array_equal(picture.colour[..., 0], array) and picture.image().mode == "I;16"
    assert np.array_equal(np.asarray(picture.image()), array)


def test_16_bit_grey_that_counts_down_from_white(tmp_path):
    array = samples(7, 5, 1, np.uint16)[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", 65535 - array, photometric="miniswhite")
    assert np.array_equal(Picture.open(tmp_path / "a.tif").colour[..., 0], array)


def test_12_bit_grey_reaches_white(tmp_path):
    fields = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 122, 277: 1, 278: 1, 279: 3}
    ifd = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items())
    header = b"II*\0" + struct.pack("<IH", 8, len(fields)) + ifd + bytes(4)
    (tmp_path / "a.tif").write_bytes(header + bytes.fromhex("fff800"))  # two samples of 12 bits: 0xfff and 0x800
    assert Picture.open(tmp_path / "a.tif").colour[0, :, 0].tolist() == [65535, 32776]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.float32([[0, np.nan]]), "must be finite and lie in 0 .. 1"),
        (np.float32([[0, np.inf]]), "must be finite"),
        (np.float32([[0, 255]]), "must be finite and lie in 0 .. 1"),
        (np.int32([[0, 65536]]), r"must lie in 0 .. 65535: got 0 .. 65536"),
        (np.int32([[-1, 5]]), "must lie in 0 .. 65535: got -1 .. 5"),
    ],
)
def test_samples_without_a_range_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        Picture.from_image(Image.fromarray(array))


def test_8_bit_enlargement_is_that_of_pil():
    for mode in ("RGB", "L"):
        source = image(mode)
        large = Picture.from_image(source).enlarge(31, 20)
        assert np.array_equal(np.asarray(large.image()), np.asarray(source.resize((31, 20), Image.BICUBIC)))


def test_16_bit_enlargement_agrees_with_8_bits_where_both_can_be_had():
    array = samples(9, 12, 3) // 4 + 96  # nothing that PIL would clip between its two 8-bit passes
    deep = Picture(array.astype(np.uint16) * 257).enlarge(31, 20).colour
    flat = Picture(array).enlarge(31, 20).colour
    assert deep.dtype == np.uint16 and np.abs(deep / 257 - flat).max() <= 1.01


def test_opaque_alpha_changes_nothing():
    source = image("RGBA")
    plain, with_alpha = (Picture.from_image(x).enlarge(31, 20) for x in (source.convert("RGB"), source))
    assert np.array_equal(plain.colour, with_alpha.colour) and (with_alpha.alpha == 255).all()


def test_colours_under_transparency_leave_no_fringe():
    """A red disc on transparent black: where anything is to be seen it is red."""
    y, x = np.mgrid[:24, :24]
    inside = (x - 12) ** 2 + (y - 12) ** 2 < 60
    array = np.zeros((24, 24, 4), np.uint8)
    array[inside] = (250, 20, 10, 255)
    for dtype, scale in ((np.uint8, 1), (np.uint16, 257)):
        deep = array.astype(dtype) * dtype(scale)
        large = Picture(deep[..., :3], deep[..., 3:]).enlarge(96, 96)
        seen = large.alpha[..., 0] > 0
        assert 60 * 16 < seen.sum() < 96 * 96 / 2
        assert np.abs(large.colour[seen] / scale - (250, 20, 10)).max() <= 1


def test_what_is_wholly_transparent_keeps_its_colours():
    array = samples(6, 6, 3)
    hidden = Picture(array, np.zeros((6, 6, 1), np.uint8)).enlarge(12, 12)
    assert np.array_equal(hidden.colour, Picture(array).enlarge(12, 12).colour) and not hidden.alpha.any()


def test_pixels_and_back():
    source = image()
    picture = Picture.from_image(source)
    assert torch.equal(picture.to_pixels(), to_pixels(source))
    pixels = torch.rand(3, 9, 12) * 2.4 - 1.2
    assert np.array_equal(np.asarray(picture.with_pixels(pixels).image()), np.asarray(to_image(pixels)))
    for channels, dtype in ((1, np.uint8), (1, np.uint16), (3, np.uint16)):
        picture = Picture(samples(9, 12, channels, dtype))
        assert np.array_equal(picture.with_pixels(picture.to_pixels()).colour, picture.colour)


def test_grey_is_the_luma_of_what_is_restored():
    pixels = torch.tensor([0.5, -0.25, 0.75])[:, None, None].expand(3, 2, 2)
    luma = 0.299 * 0.5 - 0.587 * 0.25 + 0.114 * 0.75
    assert (Picture(samples(2, 2, 1)).with_pixels(pixels).colour == round((luma + 1) * 127.5)).all()


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "tiff"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_8_bit_files(tmp_path, mode, format):
    y, x = np.mgrid[:40, :50]
    smooth = np.stack([x * 5, y * 6, x + y, 255 - y * 3], axis=2).astype(np.uint8)
    source = Image.fromarray(smooth).convert(mode)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source.info["icc_profile"] = icc
    exif = Image.Exif()
    exif[272] = "model"
    source.info["exif"] = exif.tobytes()
    picture = Picture.from_image(source)
    if format == "jpeg" and "A" in mode:
        with pytest.raises(ValueError, match="A JPEG file holds no transparency: 'a' has some. Choose png, webp or"):
            picture.check_format(format, picture.size, "a")
        return
    picture.save(tmp_path / "a", format)
    with Image.open(tmp_path / "a") as found:
        assert found.format.lower() == format and found.getexif()[272] == "model"
        assert found.info.get("icc_profile") == (icc if mode.startswith("RGB") else None)
        difference = np.asarray(found.convert(mode), int) - np.asarray(source, int)
    assert np.abs(difference).max() <= (0 if format in ("png", "tiff") else 16)
    assert format in ("png", "tiff") or np.abs(difference).mean() < 1.5


def test_16_bits_in_a_file_with_8(tmp_path):
    array = samples(20, 20, 3, np.uint16) // 4 + 30000
    picture = Picture(np.broadcast_to(array.mean((0, 1)).astype(np.uint16), (20, 20, 3)))
    picture.save(tmp_path / "a.webp", "webp", quality=100)
    expected = (picture.colour[0, 0] / 257).round()
    assert np.abs(np.asarray(Image.open(tmp_path / "a.webp"))[5, 5] - expected).max() <= 2
    every = Picture(np.arange(65536, dtype=np.uint16).reshape(256, 256, 1))
    assert np.array_equal(every.to_8_bits().colour, (every.colour / 257).round().astype(np.uint8))


def test_files_with_too_long_sides_are_refused():
    picture = Picture(np.zeros((1, 70000, 3), np.uint8))
    for format, side in (("webp", 16383), ("jpeg", 65500)):
        message = f"sides of a {format} file are at most {side} pixels: 'a' restored is 70000x1. Choose png or tiff"
        with pytest.raises(ValueError, match=message):
            picture.check_format(format, picture.size, "a")
    picture.check_format("png", picture.size, "a")
    picture.check_format("tiff", picture.size, "a")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "deep.png", "deep.tif"])
def test_orientation_is_applied_once(tmp_path, orientation, name):
    source, exif = image("RGB", 13, 10), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / name
    if name == "deep.tif":
        deep = np.asarray(source).astype(np.uint16) * 257
        tifffile.imwrite(path, deep, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    elif name == "deep.png":
        Picture(np.asarray(source).astype(np.uint16) * 257, exif=exif.tobytes()).save(path, "png")
    else:
        source.save(path, exif=exif.tobytes(), **(dict(lossless=True) if name == "a.webp" else dict(quality=95)))
    with Image.open(path) as opened:
        if name.startswith("deep"):
            opened = source.copy()
            opened.info["exif"] = exif.tobytes()
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    picture = Picture.open(path)
    assert np.array_equal(picture.to_8_bits().colour, expected)
    assert (picture.size == (10, 13)) == (orientation > 4)
    assert ExifTags.Base.Orientation not in picture.image().getexif()


def test_exif_that_stays_true_is_kept():
    exif = Image.Exif()
    exif[271], exif[272], exif[256] = "maker", "model", 4000
    inner = {ExifTags.Base.ISOSpeedRatings: 100, ExifTags.Base.ExifImageWidth: 4000}
    exif.get_ifd(ExifTags.IFD.Exif).update(inner)
    exif[ExifTags.IFD.Exif] = inner
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (48.0, 30.0, 0.0)}
    source = image()
    source.info["exif"] = exif.tobytes()
    kept = Picture.from_image(source).image().getexif()
    assert kept[271] == "maker" and kept[272] == "model" and 256 not in kept
    assert dict(kept.get_ifd(ExifTags.IFD.Exif)) == {ExifTags.Base.ISOSpeedRatings: 100}
    assert kept.get_ifd(ExifTags.IFD.GPSInfo)[1] == "N"


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_exif_of_a_camera_goes_through_every_format(tmp_path, format, dtype):
    exif, inner = Image.Exif(), {33434: 1 / 125, 33437: 2.8, 34855: 400, 36864: b"0230", 37500: b"\0\1note" * 500}
    exif[271], exif[282], exif[ExifTags.IFD.Exif] = "maker", 72.0, inner
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (48.0, 8.0, 20.25)}
    source = image()
    source.info["exif"] = exif.tobytes()
    picture = Picture.from_image(source)
    replace(picture, colour=picture.colour.astype(dtype)).save(tmp_path / "a", format)
    restored = Picture.open(tmp_path / "a")
    found = restored.image().getexif()
    assert found[271] == "maker" and restored.dpi == pytest.approx((72, 72), rel=1e-3)
    kept = found.get_ifd(ExifTags.IFD.Exif)
    assert kept.keys() == inner.keys() and all(kept[tag] == inner[tag] for tag in (34855, 36864, 37500))
    assert float(kept[33434]) == pytest.approx(1 / 125) and float(kept[33437]) == pytest.approx(2.8)
    assert found.get_ifd(ExifTags.IFD.GPSInfo)[2] == (48, 8, 20.25)


def test_damaged_exif_is_left_out_and_said(tmp_path):
    image().save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    source = image()
    source.info["exif"] = b"Exif\0\0nonsense"
    picture = Picture.from_image(source)
    damaged = ("its EXIF data is damaged and is left out",)
    assert picture.exif is None and picture.notes == damaged
    Picture(samples(8, 8, 3, np.uint16), exif=b"Exif\0\0nonsense").save(tmp_path / "b.png", "png")
    picture = Picture.open(tmp_path / "b.png")
    assert picture.exif is None and picture.notes == damaged and picture.levels == 65535
    assert Picture.open(tmp_path / "a.jpg").size == (12, 9)


def test_a_profile_is_kept_where_it_fits():
    rgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode, kept in (("RGB", True), ("P", True), ("RGBA", True), ("L", False), ("CMYK", False)):
        source = image(mode)
        source.info["icc_profile"] = rgb
        picture = Picture.from_image(source)
        assert (picture.icc == rgb) is kept and len(picture.notes) == (not kept)


def test_what_a_format_does_not_hold_is_left_out_and_said(tmp_path):
    picture = Picture(
        np.zeros((9, 9, 1), np.uint8), icc=bytes(16) + b"GRAY" + bytes(200), exif=b"Exif\0\0" + bytes(70000)
    )
    lost = {name: list(picture.losses(name)) for name in FORMATS}
    assert lost == dict(png=[], jpeg=["exif"], webp=["icc"], tiff=[])
    for name, (icc, exif) in dict(png=(True, True), jpeg=(True, False), webp=(False, True)).items():
        picture.save(tmp_path / "a", name)
        with Image.open(tmp_path / "a") as found:
            assert ("icc_profile" in found.info, "exif" in found.info) == (icc, exif), name


def cmyk_profile(lab):
    """An ICC profile that takes CMYK for 8-bit `lab` without K and for black with it: two points along each axis."""
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = (
        b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + identity * 4 + bytes([*lab, 0, 128, 128]) * 8 + identity * 3
    )
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    start = 128 + 4 + 2 * 12
    tags = struct.pack(">I4sII4sII", 2, b"A2B0", start, len(table), b"wtpt", start + len(table), len(white))
    kind = struct.pack(">II4s4s4s", 0, 0x02400000, b"prtr", b"CMYK", b"Lab ") + bytes(12) + b"acsp" + bytes(28)
    header = struct.pack(">I", start + len(table + white)) + kind + white[8:] + bytes(48)
    return header + tags + table + white


def test_cmyk_goes_through_its_profile(tmp_path):
    """L* = 50.2 (128 of 255) is 119.4 in sRGB: 255 (1.055 Y^(1/2.4) - 0.055) with Y = ((L* + 16) / 116)^3."""
    source = Image.merge("CMYK", [*image().split(), Image.new("L", (12, 9), 0)])
    source.save(tmp_path / "a.tif", icc_profile=cmyk_profile((128, 128, 128)))
    picture = Picture.open(tmp_path / "a.tif")
    grey = 255 * (1.055 * (((12800 / 255 + 16) / 116) ** 3) ** (1 / 2.4) - 0.055)
    assert np.abs(picture.colour - grey).max() <= 1.5 and picture.icc is None and picture.notes == ()


def test_cmyk_without_and_with_a_damaged_profile():
    source = image("CMYK")
    expected = np.asarray(source.convert("RGB"))
    assert np.array_equal(Picture.from_image(source).colour, expected)
    source.info["icc_profile"] = b"no profile"
    picture = Picture.from_image(source)
    assert np.array_equal(picture.colour, expected) and picture.icc is None
    assert picture.notes == ("its CMYK profile is damaged: converted without it",)


def test_the_first_of_several_frames(tmp_path):
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 200, 250)]
    for name in ("a.gif", "a.webp", "a.tif"):
        options = dict(lossless=True) if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        picture = Picture.open(tmp_path / name)
        assert picture.notes == ("only the first of its 3 frames is taken",)
        assert (picture.colour == 10).all()


def test_too_many_pixels(tmp_path, monkeypatch):
    image("RGB", 20, 10).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="more pixels than the limit: .*20x10, limit 199.*raise the limit"):
        Picture.open(tmp_path / "a.png", max_pixels=199)
    assert Picture.open(tmp_path / "a.png", max_pixels=200).size == (20, 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90)
    with pytest.raises(ValueError, match="more pixels than the limit: .*exceeds limit of 180 pixels"):
        Picture.open(tmp_path / "a.png")
    assert Picture.open(tmp_path / "a.png", max_pixels=200).size == (20, 10) and Image.MAX_IMAGE_PIXELS == 90


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        Picture.open(tmp_path / "none.png")
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(ValueError, match="must be a readable image: '.*a.png' is not. Remove or replace it"):
        Picture.open(tmp_path / "a.png")
    buffer = io.BytesIO()
    image("RGB", 60, 60).save(buffer, "JPEG")
    (tmp_path / "b.jpg").write_bytes(buffer.getvalue()[:-200])
    with pytest.raises(ValueError, match="b.jpg' is not .image file is truncated"):
        Picture.open(tmp_path / "b.jpg")
