"""Chunks of PNG files beside the pixels: what the colours mean and text, and which are too large to be read."""

import io
import struct
import zlib

from PIL import PngImagePlugin


SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR = (b"cICP", b"cHRM", b"gAMA", b"sRGB")  # what the colours mean where there is no ICC profile
TEXT = (b"tEXt", b"zTXt", b"iTXt")
LARGEST = PngImagePlugin.MAX_TEXT_CHUNK  # bytes of a text or a profile, unpacked, that Pillow reads
LARGEST_PROFILE = 2**24 - 2**16  # bytes of a profile; about what a JPEG file holds
MOST_TEXT = PngImagePlugin.MAX_TEXT_MEMORY  # bytes of all texts


def png_source(path):
    """`(file, colour, notes)` of an image file: what to open, its chunks of `COLOUR` by name, what was left out.

    The file is `path` itself, or its bytes without the texts and the ICC profile that are too large for Pillow. Such a
    profile is then, unpacked, `colour[b"iCCP"]`.
    """
    with open(path, "rb") as file:
        if file.read(8) != SIGNATURE:
            return path, {}, ()
        colour, dropped, texts = {}, [], 0
        for name, start, length in _chunks(file):
            if name in COLOUR:
                colour[name] = file.read(length)
            elif name == b"iCCP" or name in TEXT:
                limit = LARGEST if name in TEXT else LARGEST_PROFILE
                content = _unpacked(name, file.read(length), limit + 1)
                texts += len(content) if name in TEXT else 0
                if len(content) > LARGEST or texts > MOST_TEXT:
                    dropped.append((name, start - 8, start + length + 4))
                    if name == b"iCCP" and len(content) <= limit:
                        colour[name] = content
        if not dropped:
            return path, colour, ()
        kept, at = io.BytesIO(), 0
        for _, begin, end in dropped:
            file.seek(at)
            kept.write(file.read(begin - at))
            at = end
        file.seek(at)
        kept.write(file.read())
    kept.seek(0)
    lost = dict.fromkeys(name.decode() for name, *_ in dropped if name not in colour)
    notes = (f"chunks of more than {LARGEST // 2**20} MiB are left out: {', '.join(lost)}",) if lost else ()
    return kept, colour, notes


def _chunks(file):
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        start = file.tell()
        yield name, start, length
        file.seek(start + length + 4)


def _unpacked(name, content, limit):
    """A text or profile; of a packed one at most `limit` bytes."""
    keyword, _, rest = content.partition(b"\0")
    if name == b"tEXt" or (name == b"iTXt" and rest[:1] == b"\0"):
        return content
    packed = rest[1:] if name != b"iTXt" else rest[2:].split(b"\0", 2)[-1]
    try:
        return zlib.decompressobj().decompress(packed, limit)
    except zlib.error:
        return b""  # Pillow passes over it
