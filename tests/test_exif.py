"""data/exif.py: orientation first, then tag by tag what can be written again; text and resolution as they were."""

import struct

import numpy as np
import pytest
from PIL import ExifTags, Image

from omgsr_lib.data.photo_pairs import PhotoPairs
from omgsr_lib.data.photos import open_photo
from omgsr_lib.images.image_file import Picture


FORMATS = ["png", "jpeg", "webp", "tiff"]
ARRAY = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)


def exif(*entries):
    """EXIF data of `(tag, type, count, 4 bytes or more)`, whatever these say."""
    head, tail = b"II*\0" + struct.pack("<IH", 8, len(entries)), b""
    start = 8 + 2 + 12 * len(entries) + 4
    for tag, kind, count, content in entries:
        if len(content) > 4:
            content, tail = struct.pack("<I", start + len(tail)), tail + content
        head += struct.pack("<HHI", tag, kind, count) + content.ljust(4, b"\0")
    return b"Exif\0\0" + head + bytes(4) + tail


TURNED = (274, 3, 1, struct.pack("<H", 6))
MAKER = (271, 2, 6, b"maker\0")
DAMAGED = {
    "rational-unit": exif(MAKER, TURNED, (296, 5, 1, struct.pack("<II", 2, 1))),
    "text-resolution": exif(MAKER, TURNED, (282, 2, 3, b"72\0")),
    "numeric-maker": exif((272, 2, 6, b"model\0"), (271, 11, 1, struct.pack("<f", 1.5)), TURNED),
    "integer-date": exif(MAKER, TURNED, (306, 12, 2, struct.pack("<dd", 1.5, 2.5))),
    "lost-ifd": exif(MAKER, TURNED, (34665, 4, 1, struct.pack("<I", 10**8))),
}


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_tag_does_not_lay_a_photograph_on_its_side(tmp_path, case, format):
    options = {} if format == "PNG" else dict(quality=95)
    Image.fromarray(ARRAY).save(tmp_path / "a", format, exif=DAMAGED[case], **options)
    with Image.open(tmp_path / "a") as image:
        expected = np.rot90(np.asarray(image.convert("RGB")), -1)
    assert np.array_equal(np.asarray(open_photo(tmp_path / "a")), expected)
    picture = Picture.open(tmp_path / "a")
    assert np.array_equal(picture.colour, expected)
    kept = picture.image().getexif()
    assert kept.get(271) == "maker" or kept[272] == "model"
    assert ExifTags.Base.Orientation not in kept
    for name in FORMATS:
        picture.save(tmp_path / name, name)
        assert Picture.open(tmp_path / name).size == (48, 64)


def test_a_damaged_tag_alone_is_left_out_and_said():
    source = Image.fromarray(ARRAY)
    source.info["exif"] = DAMAGED["numeric-maker"]
    picture = Picture.from_image(source)
    assert picture.notes == ("damaged EXIF tags are left out: Make",)
    assert dict(picture.image().getexif()) == {272: "model"}


def test_photo_pairs_go_on_with_damaged_exif(tmp_path):
    paths = []
    for case, data in DAMAGED.items():
        paths.append(tmp_path / f"{case}.jpg")
        Image.fromarray(ARRAY).save(paths[-1], exif=data)
    pairs = PhotoPairs(paths, 16, seed=0)
    assert [pairs[i]["hq"].shape for i in range(8)] == [(3, 16, 16)] * 8


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_text_beyond_ascii_keeps_its_bytes(tmp_path, format, dtype, encoding):
    text = "© Jörg".encode(encoding) + b"\0"
    lens = exif((42036, 2, len(text), text))[14:]  # an IFD of its own, moved behind the first
    data = bytearray(exif((33432, 2, len(text), text), (34665, 4, 1, bytes(4))))
    struct.pack_into("<I", data, 6 + 8 + 2 + 12 + 8, len(data) - 6)
    moved = bytearray(lens)
    struct.pack_into("<I", moved, 2 + 8, len(data) - 6 + 2 + 12 + 4)
    source = Image.fromarray(ARRAY)
    source.info["exif"] = bytes(data + moved)
    picture = Picture.from_image(source)
    assert picture.notes == ()
    Picture(ARRAY.astype(dtype), exif=picture.exif, dpi=(72, 72)).save(tmp_path / "a", format)
    found = Picture.open(tmp_path / "a")
    kept = found.image().getexif()
    assert kept[33432].encode("latin-1") == text[:-1]
    assert kept.get_ifd(ExifTags.IFD.Exif)[42036].encode("latin-1") == text[:-1]


@pytest.mark.parametrize("source", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_resolution_grows_with_the_picture(tmp_path, source, format, dtype):
    Image.fromarray(ARRAY).save(tmp_path / "a", source, dpi=(300, 150))
    picture = Picture.open(tmp_path / "a").enlarge(128, 96)
    Picture(picture.colour.astype(dtype), exif=picture.exif, dpi=picture.dpi).save(tmp_path / "b", format)
    assert Picture.open(tmp_path / "b").dpi == pytest.approx((600, 300), rel=1e-3)
    if format != "webp":
        with Image.open(tmp_path / "b") as found:
            assert found.info["dpi"] == pytest.approx((600, 300), rel=1e-3)


def test_resolution_follows_the_orientation(tmp_path):
    Image.fromarray(ARRAY).save(tmp_path / "a.jpg", dpi=(300, 150), exif=exif(TURNED))
    assert Picture.open(tmp_path / "a.jpg").dpi == (150, 300)


def test_resolution_that_is_not_said_stays_unsaid(tmp_path):
    for name in ("a.png", "a.jpg", "a.webp", "a.tif"):
        Image.fromarray(ARRAY).save(tmp_path / name)
        assert Picture.open(tmp_path / name).dpi is None
    Image.fromarray(ARRAY).save(tmp_path / "b.jpg", exif=DAMAGED["text-resolution"])
    assert Picture.open(tmp_path / "b.jpg").dpi == (72, 72)  # text that is a number


def test_the_damaged_cases(reference):
    folder = reference / "cases" / "exif_damaged"
    if not folder.exists():
        pytest.skip(f"{folder} is missing")
    for path in folder.iterdir():
        assert Picture.open(path).size == open_photo(path).size == (48, 64), path.name
