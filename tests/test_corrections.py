"""images/corrections.py, text as 16-bit PPM, and what else Pillow alone would read wrongly or drop without a word."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from hostile_inputs import encoded, picture
from PIL import Image
from png_bytes import png

from omgsr_lib.images import image_file
from omgsr_lib.images.boxes import unread
from omgsr_lib.images.image_file import FORMATS, Picture
from omgsr_lib.images.text import IPTC, texts


GAIN_MAP = ("its gain map, for displays of a high dynamic range, is left out",)
GREY = np.asarray(picture(mode="L"))


def transparent_png(path, bits, key):
    """A grey PNG whose level `key` is transparent; returns its levels."""
    levels = GREY >> (8 - bits)
    rows = np.unpackbits(levels[..., None], axis=2)[..., 8 - bits :].reshape(16, -1)
    raw = np.pad(np.packbits(rows, axis=1), ((0, 0), (1, 0))).tobytes()
    header = struct.pack(">IIBBBBB", 16, 16, bits, 0, 0, 0, 0)
    path.write_bytes(png((b"IHDR", header), (b"tRNS", struct.pack(">H", key)), (b"IDAT", zlib.compress(raw))))
    return levels


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_level_of_a_png_is_one_of_its_own_depth(tmp_path, bits):
    key = int(GREY[3, 5] >> (8 - bits))
    levels = transparent_png(tmp_path / "a.png", bits, key)
    with Image.open(tmp_path / "a.png") as image:
        found = [Picture.open(tmp_path / "a.png"), Picture.from_image(image), Picture.from_image(image)]
    for read in found:
        assert np.array_equal(read.colour[..., 0], levels * (255 // (2**bits - 1)))
        assert np.array_equal(read.alpha[..., 0], (levels != key) * 255)


@pytest.mark.parametrize("factor", [1, 257])
def test_a_colour_map_of_8_bits_is_not_black(tmp_path, factor):
    colours = np.random.default_rng(0).integers(0, 256, (3, 256), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="palette", colormap=(colours * factor).astype(np.uint16))
    assert np.array_equal(Picture.open(tmp_path / "a.tif").colour, np.moveaxis(colours, 0, 1)[GREY])


@pytest.mark.parametrize("alpha", [0, 128])
def test_an_empty_alpha_of_a_bmp_file_does_not_blank_it(tmp_path, alpha):
    """As programs for Windows write it, which shows such images without transparency."""
    colours, masks = np.asarray(picture()), struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    pixels = np.dstack([colours[..., ::-1], np.full((16, 16), alpha, np.uint8)]).tobytes()
    header = struct.pack("<IiiHHIIiiII", 124, 16, -16, 1, 32, 3, 1024, 2835, 2835, 0, 0) + masks.ljust(84, b"\0")
    (tmp_path / "a.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 138 + len(pixels), 0, 0, 138) + header + pixels)
    read = Picture.open(tmp_path / "a.bmp")
    assert np.array_equal(read.colour, colours) and read.dpi == pytest.approx((72, 72), abs=0.1)
    assert read.alpha is None if alpha == 0 else (read.alpha == alpha).all()


def test_a_thumbnail_before_the_photograph_is_said(tmp_path):
    """As in raw files of cameras that are called .tif, where the photograph is no page."""
    tifffile.imwrite(tmp_path / "a.tif", GREY, subfiletype=1)
    assert "small copy" in Picture.open(tmp_path / "a.tif").notes[0]


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 3)])
def test_signed_samples_of_8_bits_are_refused(tmp_path, shape):
    photometric = "rgb" if len(shape) == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", np.full(shape, -1, np.int8), photometric=photometric)
    with pytest.raises(ValueError, match="signed samples of 8 bits|must lie in 0 .. 65535: got -1"):
        Picture.open(tmp_path / "a.tif")


def test_the_gain_map_of_an_avif_file_is_said(tmp_path, monkeypatch):
    """Pillow writes no gain map, and libavif refuses a file that has its brand alone: the brand comes after both."""
    data = encoded(picture(), "AVIF")
    (tmp_path / "a.avif").write_bytes(data)
    assert Picture.open(tmp_path / "a.avif").notes == ()
    (tmp_path / "b.avif").write_bytes(data[:28] + b"tmap" + data[32:])
    monkeypatch.setattr(image_file, "unread", lambda path: unread(tmp_path / "b.avif"))
    assert Picture.open(tmp_path / "a.avif").notes == GAIN_MAP


@pytest.mark.parametrize("maxval", [255, 1023, 65535])
def test_a_ppm_file_of_text_keeps_its_16_bits(tmp_path, maxval):
    samples = np.random.default_rng(0).integers(0, maxval + 1, (4, 5, 3))
    text = f"P3 # a comment\n5 4\n{maxval}\n" + " # another\n".join(map(str, samples.ravel()))
    (tmp_path / "a.ppm").write_text(text)
    found = Picture.open(tmp_path / "a.ppm").colour
    levels = 255 if maxval == 255 else 65535
    assert np.iinfo(found.dtype).max == levels and np.array_equal(found, np.rint(samples * (levels / maxval)))
    (tmp_path / "a.ppm").write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match="must be a readable image"):
        Picture.open(tmp_path / "a.ppm")


# Texts


CAPTION = b"\x1c\x02\x78\x00\x09A caption"  # an even number of bytes


def with_iptc(path, kind):
    if kind == "JPEG":
        block = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(CAPTION)) + CAPTION
        data = encoded(picture(), "JPEG")
        path.write_bytes(data[:2] + b"\xff\xed" + struct.pack(">H", len(block) + 2) + block + data[2:])
        return CAPTION
    content = CAPTION.ljust(16, b"\0")
    tag = (33723, 4, 4, struct.unpack(f"{kind}4I", content)) if kind in "<>" else (33723, 7, 16, content)
    tifffile.imwrite(path, np.asarray(picture()), photometric="rgb", byteorder=kind.strip("b") or "<",
                     extratags=[(*tag, True)])  # fmt: skip
    return content


@pytest.mark.parametrize("kind", ["JPEG", "<", ">", "b<"])
def test_iptc_data_is_kept_or_said(tmp_path, kind):
    content = with_iptc(tmp_path / "a", kind)
    read = Picture.open(tmp_path / "a")
    for format in FORMATS:
        read.save(tmp_path / format, format)
        kept = texts(Picture.open(tmp_path / format).chunks)
        assert (IPTC in kept) == (format == "png") != (IPTC in read.losses(format).get("texts", ""))
    block = bytes.fromhex(texts(Picture.open(tmp_path / "png").chunks)[IPTC].split(b"\n", 3)[3].decode())
    assert block.startswith(b"8BIM\x04\x04") and block[12 : 12 + len(content)] == content


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("dpi", "formats"),
    [(1e-10, ()), (0.01, ("webp", "tiff")), (300, FORMATS), (65536, ("png", "webp", "tiff")), (1.7e10, ())],
)
def test_a_resolution_is_kept_or_said(tmp_path, format, dpi, formats, dtype):
    """No format writes another one or fails."""
    read = Picture(np.zeros((16, 16, 3), dtype), dpi=(dpi, dpi))
    read.save(tmp_path / "a", format)
    found = Picture.open(tmp_path / "a").dpi
    assert found == pytest.approx((dpi, dpi), rel=0.01) if format in formats else found is None
    assert ("dpi" in read.losses(format)) == (format not in formats)


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_a_comment_in_latin_1_is_one_of_a_png_file(tmp_path, format):
    picture().save(tmp_path / "a.jpg", comment="Größe".encode("latin-1"))
    Picture.open(tmp_path / "a.jpg").save(tmp_path / "b", format)
    with Image.open(tmp_path / "b") as image:
        image.load()
        assert image.info.get("Comment", image.info.get("comment")) in ("Größe", "Größe".encode("latin-1"))


@pytest.mark.parametrize("kind", ["ome", "imagej", "shaped", "plain"])
def test_a_description_of_another_size_is_left_out_and_said(tmp_path, kind):
    """With it microscopy programs read pages and pixels that the restored file does not have."""
    stack = np.random.default_rng(0).integers(0, 65536, (3, 16, 20), dtype=np.uint16)
    options = {"description": "a cell", "metadata": None} if kind == "plain" else {kind: True}
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", **options if kind != "shaped" else {})
    read = Picture.open(tmp_path / "a.tif")
    assert any("description" in note for note in read.notes) == (kind in ("ome", "imagej"))
    read.enlarge(40, 32).save(tmp_path / "b.tif", "tiff")
    with tifffile.TiffFile(tmp_path / "b.tif") as written:
        assert written.asarray().shape == (32, 40) and written.pages[0].description == "a cell" * (kind == "plain")


@pytest.mark.parametrize("format", FORMATS)
def test_titles_keywords_and_ratings_of_windows_are_kept(tmp_path, format):
    exif = Image.Exif()
    exif.update({269: "name", 18246: 5, 40091: "Größe".encode("utf-16-le"), 40094: "a;b".encode("utf-16-le")})
    picture().save(tmp_path / "a.jpg", exif=exif.tobytes(), dpi=(300, 300))
    Picture.open(tmp_path / "a.jpg").save(tmp_path / "b", format)
    with Image.open(tmp_path / "b") as image:
        kept = image.getexif()
    assert {tag: kept[tag] for tag in exif} == dict(exif)
