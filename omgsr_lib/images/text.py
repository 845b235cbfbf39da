"""Texts that come with an image, as text chunks of a PNG file: titles, comments, how it was made, XMP."""

import re
import zlib
from xml.etree import ElementTree


TEXT = (b"tEXt", b"zTXt", b"iTXt")
XMP, COMMENT = "XML:com.adobe.xmp", "Comment"  # keywords
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
    """`(chunks, notes)`: comment and XMP of a PIL image whose file is no PNG."""
    chunks, notes = [], ()
    for keyword, name in ((COMMENT, "comment"), (XMP, "xmp")):
        if text := image.info.get(name):
            text = text.encode() if isinstance(text, str) else bytes(text)
            chunk = b"iTXt", keyword.encode() + bytes(5) + text.strip(b"\0")
            if (content := true_text(*chunk)) is None:
                notes = ("its XMP data is damaged and is left out",)
            elif content:
                chunks.append((b"iTXt", content))
    return tuple(chunks), notes


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
