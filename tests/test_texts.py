"""images/text.py: texts and XMP of an image stay as far as they are true of another size."""

import io
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from png_bytes import chunk

from omgsr_lib.images.image_file import FORMATS, Picture
from omgsr_lib.images.text import texts


ARRAY = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
XMP = b"""<?xpacket begin='\xef\xbb\xbf' id='W5M0MpCehiHzreSzNTczkc9d'?>
<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>
<rdf:Description rdf:about='' xmlns:tiff='http://ns.adobe.com/tiff/1.0/' xmlns:exif='http://ns.adobe.com/exif/1.0/'
 xmlns:xmp='http://ns.adobe.com/xap/1.0/' xmlns:Container='http://ns.google.com/photos/1.0/container/'
 xmp:Rating='5' tiff:Orientation="6" tiff:ImageWidth = '24'><exif:PixelXDimension>24</exif:PixelXDimension>
<Container:Directory><rdf:Seq><rdf:li Container:Length='9'/></rdf:Seq></Container:Directory></rdf:Description>
</rdf:RDF></x:xmpmeta><?xpacket end='w'?>"""


def png(path, *chunks):
    buffer = io.BytesIO()
    Image.fromarray(ARRAY).save(buffer, "PNG")
    data = buffer.getvalue()
    path.write_bytes(data[:33] + b"".join(chunk(*pair) for pair in chunks) + data[33:])
    return path


TEXTS = (
    (b"tEXt", b"parameters\0a photograph, steps: 20"),
    (b"zTXt", b"workflow\0\0" + zlib.compress(b'{"nodes": []}')),
    (b"iTXt", "Title\0\0\0de\0Titel\0Jörg".encode()),
)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_texts_of_a_png_are_written_again(tmp_path, dtype):
    picture = Picture.open(png(tmp_path / "a.png", *TEXTS, (b"tEXt", b"exif:ExifImageWidth\x0024")))
    assert picture.chunks == TEXTS and picture.notes == ()
    assert texts(TEXTS) == {"parameters": b"a photograph, steps: 20", "workflow": b'{"nodes": []}',
                            "Title": "Jörg".encode()}  # fmt: skip
    Picture(picture.colour.astype(dtype), chunks=picture.chunks).save(tmp_path / "b.png", "png")
    assert Picture.open(tmp_path / "b.png").chunks == TEXTS
    assert picture.losses("png") == {}
    for format in ("jpeg", "webp", "tiff"):
        assert "parameters, workflow, Title" in picture.losses(format)["texts"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_comment_is_kept_or_said(tmp_path, format):
    Image.fromarray(ARRAY).save(tmp_path / "a.jpg", comment="© Jörg".encode())
    picture = Picture.open(tmp_path / "a.jpg")
    picture.save(tmp_path / "b", format)
    kept = texts(Picture.open(tmp_path / "b").chunks)
    assert kept == ({"Comment": "© Jörg".encode()} if format in ("png", "jpeg") else {})
    assert ("texts" in picture.losses(format)) == (not kept)


@pytest.mark.parametrize("source", ["JPEG", "WEBP", "TIFF", "PNG", "tifffile"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_xmp_is_kept_without_sizes_and_further_images(tmp_path, source, format, dtype):
    if source == "tifffile":
        planes = np.moveaxis(ARRAY.astype(np.uint16), 2, 0)
        extra = [(700, 1, len(XMP), XMP, True)]
        tifffile.imwrite(tmp_path / "a", planes, photometric="rgb", planarconfig="separate", extratags=extra)
    elif source == "PNG":
        png(tmp_path / "a", (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP))
    else:
        Image.fromarray(ARRAY).save(tmp_path / "a", source, **{} if source == "TIFF" else {"xmp": XMP},
                                    tiffinfo={700: XMP} if source == "TIFF" else {})  # fmt: skip
    picture = Picture.open(tmp_path / "a")
    assert picture.notes == ()
    Picture(picture.colour.astype(dtype), chunks=picture.chunks).save(tmp_path / "b", format)
    with Image.open(tmp_path / "b") as image:
        about = image.getxmp()["xmpmeta"]["RDF"]["Description"]
    assert {*about} - {"about", "text"} == {"Rating"} and about["Rating"] == "5"


@pytest.mark.parametrize("source", ["JPEG", "PNG"])
def test_damaged_xmp_is_left_out_and_said(tmp_path, source):
    if source == "PNG":
        png(tmp_path / "a", (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x"))
    else:
        Image.fromarray(ARRAY).save(tmp_path / "a", source, xmp=b"<x")
    picture = Picture.open(tmp_path / "a")
    assert picture.chunks == () and len(picture.notes) == 1 and "damaged" in picture.notes[0]


def test_what_is_too_long_for_a_jpeg_file(tmp_path):
    long = b"x" * 70000
    picture = Picture.open(png(tmp_path / "a.png", (b"tEXt", b"Comment\0" + long)))
    assert "Comment" in picture.losses("jpeg")["texts"]
    picture.save(tmp_path / "b.jpg", "jpeg")
    assert Picture.open(tmp_path / "b.jpg").chunks == ()
