"""images/profile.py: colours that a file describes without an ICC profile look the same in files of every format."""

import io
import struct

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms
from png_bytes import chunk

from omgsr_lib.images.boxes import unread
from omgsr_lib.images.image_file import FORMATS, Picture
from omgsr_lib.images.profile import CURVES, PRIMARIES, icc_profile


ARRAY = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
SRGB = ImageCms.createProfile("sRGB")
P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
DESCRIBED = {  # chunks, primaries, exponent of the curve or None for that of sRGB
    "cicp-p3": ([(b"cICP", bytes([12, 13, 0, 1]))], 12, None),
    "cicp-2020": ([(b"cICP", bytes([9, 13, 0, 1]))], 9, None),
    "cicp-before-srgb": ([(b"cICP", bytes([12, 13, 0, 1])), (b"sRGB", b"\0")], 12, None),
    "chrm-gama": ([(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", P3)], 12, 2.2),
    "chrm": ([(b"cHRM", P3)], 12, None),
    "linear": ([(b"gAMA", struct.pack(">I", 100000))], 1, 1),
}


def shown(array, primaries, exponent):
    """`array` as sRGB, in the textbook's formulas: both whites are that of D65."""
    x = array / 255
    light = np.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92) if exponent is None else x**exponent
    light = light @ (np.linalg.inv(to_xyz(PRIMARIES[1])) @ to_xyz(PRIMARIES[primaries])).T
    light = light.clip(0, 1)
    return 255 * np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)


def to_xyz(primaries):
    xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in np.reshape(primaries, (4, 2))])
    return xyz[:3].T * np.linalg.solve(xyz[:3].T, xyz[3])


def seen(image):
    """A PIL image as a viewer shows it that knows ICC profiles."""
    icc = image.info.get("icc_profile")
    if not icc:
        return np.asarray(image.convert("RGB")).astype(float)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.HIGHRESPRECALC
    return np.asarray(ImageCms.profileToProfile(image, profile, SRGB, intent, "RGB", flags=flags)).astype(float)


def png(path, chunks, array=ARRAY):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    data = buffer.getvalue()
    path.write_bytes(data[:33] + b"".join(chunk(*pair) for pair in chunks) + data[33:])
    return path


@pytest.mark.parametrize("case", DESCRIBED)
@pytest.mark.parametrize("format", ["jpeg", "webp", "tiff"])
def test_described_colours_look_the_same(tmp_path, case, format):
    chunks, primaries, exponent = DESCRIBED[case]
    flat = np.full((16, 16, 3), (180, 90, 60), np.uint8)  # which lossy formats keep
    for name, array, tolerance in (("flat", flat, 3), ("noise", ARRAY, 1)):
        picture = Picture.open(png(tmp_path / f"{name}.png", chunks, array))
        assert not picture.losses(format)
        picture.save(tmp_path / name, format, quality=100)
        with Image.open(tmp_path / name) as image:
            if name == "flat" or format == "tiff":
                assert np.abs(seen(image) - shown(array, primaries, exponent)).max() <= tolerance


@pytest.mark.parametrize("format", ["jpeg", "webp", "tiff"])
def test_described_grey_looks_the_same(tmp_path, format):
    grey = np.full((16, 16), 100, np.uint8)
    picture = Picture.open(png(tmp_path / "a.png", DESCRIBED["linear"][0], grey))
    picture.save(tmp_path / "b", format)
    with Image.open(tmp_path / "b") as image:
        assert np.abs(seen(image) - shown(np.full(3, 100), 1, 1)).max() <= 2


@pytest.mark.parametrize("chunks", [[], [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45455)), (b"cHRM", P3)],
                                    [(b"cICP", bytes([1, 13, 0, 1]))]])  # fmt: skip
def test_colours_of_srgb_need_no_profile(tmp_path, chunks):
    picture = Picture.open(png(tmp_path / "a.png", chunks))
    picture.save(tmp_path / "b.jpg", "jpeg")
    assert Picture.open(tmp_path / "b.jpg").icc is None and not picture.losses("jpeg")


@pytest.mark.parametrize("chunks", [[(b"cICP", bytes([9, 16, 0, 1]))], [(b"cICP", bytes([12, 13, 0, 0]))],
                                    [(b"gAMA", struct.pack(">I", 1))], [(b"cHRM", bytes(32))]])  # fmt: skip
def test_colours_that_no_profile_shows_are_left_out_and_said(tmp_path, chunks):
    picture = Picture.open(png(tmp_path / "a.png", chunks))
    assert [*picture.losses("jpeg")] == ["colours"] and not picture.losses("png")
    picture.save(tmp_path / "b.jpg", "jpeg")
    assert Picture.open(tmp_path / "b.jpg").icc is None


def avif(path, code, bits=8):
    Image.fromarray(ARRAY).save(path, "AVIF")
    data = bytearray(path.read_bytes())
    struct.pack_into(">HH", data, data.find(b"colrnclx") + 8, *code)
    data[data.find(b"pixi") + 9] = bits
    path.write_bytes(data)
    return path


def test_colours_of_avif(tmp_path):
    picture = Picture.open(avif(tmp_path / "a.avif", (12, 13)))
    assert picture.chunks == ((b"cICP", bytes([12, 13, 0, 1])),) and picture.notes == ()
    picture.save(tmp_path / "b.jpg", "jpeg")
    assert Picture.open(tmp_path / "b.jpg").icc == icc_profile(PRIMARIES[12], CURVES[13])
    assert Picture.open(avif(tmp_path / "a.avif", (2, 2))).chunks == ()


def test_depth_of_avif(tmp_path):
    """Pillow writes 8 bits alone, and does not read a file whose boxes disagree."""
    assert unread(avif(tmp_path / "a.avif", (2, 2), bits=10)) == ((), 10, ())


def test_depth_of_jpeg_2000(tmp_path):
    Image.fromarray(ARRAY).save(tmp_path / "a.jp2")
    assert Picture.open(tmp_path / "a.jp2").notes == ()
    data = bytearray((tmp_path / "a.jp2").read_bytes())
    size = data.find(b"\xff\x4f\xff\x51")
    data[size + 42] = data[size + 45] = data[size + 48] = 11
    data[data.find(b"ihdr") + 14] = 11
    (tmp_path / "b.jp2").write_bytes(data)
    assert Picture.open(tmp_path / "b.jp2").notes == ("its 12 bits are read as 8",)


@pytest.mark.parametrize("format", FORMATS)
def test_adobe_rgb_of_a_camera(tmp_path, format):
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.ColorSpace: 65535, ExifTags.IFD.Interop: {1: "R03", 2: b"0100"}}
    Image.fromarray(np.full((16, 16, 3), (180, 90, 60), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    picture = Picture.open(tmp_path / "a.jpg")
    assert [name for name, _ in picture.chunks] == [b"gAMA", b"cHRM"]
    picture.save(tmp_path / "b", format)
    found = Picture.open(tmp_path / "b")
    if format == "png":
        assert found.chunks == picture.chunks
    else:
        assert ImageCms.ImageCmsProfile(io.BytesIO(found.icc)).profile.green_colorant[1][1] == pytest.approx(
            0.71, abs=0.05
        )
