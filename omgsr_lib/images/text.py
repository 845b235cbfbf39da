"""Texts that come with an image, as text chunks of a PNG file: titles, comments, how it was made, XMP."""

import re
import struct
import zlib
from xml.etree import ElementTree


TEXT = (b"tEXt", b"zTXt", b"iTXt")
XMP, COMMENT, IPTC = "XML:com.adobe.xmp", "Comment", "Raw profile type iptc"  # keywords
FILES = {"jpeg": (COMMENT, XMP), "webp": (XMP,), "tiff": (XMP,)}  # what is kept in files of other formats
LONGEST = 65502  # bytes of a comment or of XMP in a JPEG file
UNTRUE = re.compile("Raw profile type (exif|APP1|icc|icm|xmp)$|exif:|png:|Thumb::")  # of the old size
# Of XMP: sizes, the orientation, thumbnails, and what describes further images in the same file.
NAMES = (
    rb"(?:tiff:(?:Orientation|ImageWidth|ImageLength|[XY]Resolution|ResolutionUnit)|exif:Pixel[XY]Dimension"
    rb"|xmp:Thumbnails|(?:hdrgm|HDRGainMap|GCamera|GPano|GDepth|GImage|GContainer|Container|xmpNote):\w+)"
)
ATTRIBUTES = re.compile(rb"\s" + NAMES + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')")
ELEMENTS = re.compile(rb"<(" + NAMES + rb")\b(?:[^>]*/>|.*?</\1\s*>)", re.DOTALL)


def image_texts(image):
    """`(chunks, notes)`: comment, XMP and IPTC data of a PIL image whose file is no PNG."""
    chunks, notes = [], ()
    if iptc := _iptc(image):
        chunks.append((b"tEXt", IPTC.encode() + b"\0" + iptc))
    for keyword, name in ((COMMENT, "comment"), (XMP, "xmp")):
        if text := image.info.get(name):
            text = text.encode() if isinstance(text, str) else bytes(text)
            kind = b"iTXt" if keyword == XMP or _is_utf8(text) else b"tEXt"  # of Latin-1
            content = true_text(kind, keyword.encode() + bytes(5 if kind == b"iTXt" else 1) + text.strip(b"\0"))
            if content is None:
                notes = ("its XMP data is damaged and is left out",)
            elif content:
                chunks.append((kind, content))
    return tuple(chunks), notes


def _is_utf8(text):
    try:
        return bool(text.decode())
    except UnicodeDecodeError:
        return False


def _iptc(image):
    """The IPTC data (caption, keywords, credit) of a JPEG or TIFF file in the form in which ImageMagick keeps them."""
    if image.format == "TIFF":
        data = image.tag_v2._tagdata.get(33723)  # the bytes, which Photoshop calls integers
    else:
        data = (image.info.get("photoshop") or {}).get(0x0404)
    if not data:
        return b""
    block = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(data)) + data + bytes(len(data) % 2)
    lines = [block[start : start + 36].hex().encode() for start in range(0, len(block), 36)]
    return b"\n".join([b"\niptc", b"%8d" % len(block), *lines, b""])


def true_text(name, content):
    """The content of a text chunk as it is true of the restored image, empty if nothing is; None: it is damaged."""
    keyword, text = keyword_and_text(name, content)
    if keyword != XMP:
        return b"" if UNTRUE.match(keyword) else content
    text = ELEMENTS.sub(b"", ATTRIBUTES.sub(b"", text))
    try:
        ElementTree.fromstring(text.strip())
    except (ElementTree.ParseError, ValueError):
        return None
    return XMP.encode() + bytes(5) + text


def texts(chunks):
    """The texts of `(name, content)` chunks, by keyword."""
    return dict(keyword_and_text(*chunk) for chunk in chunks if chunk[0] in TEXT)


def keyword_and_text(name, content):
    """The keyword and the bytes of the text of a chunk that `png.png_source` found whole."""
    keyword, _, text = content.partition(b"\0")
    packed = name == b"zTXt"
    if name == b"iTXt":
        packed, text = text[:1] == b"\1", text[1:2] + text[2:].split(b"\0", 2)[-1]
    if packed:
        text = zlib.decompress(text[1:])
    elif name == b"iTXt":
        text = text[1:]
    return keyword.decode("latin-1"), text
