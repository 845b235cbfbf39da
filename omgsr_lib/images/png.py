"""Chunks of PNG files beside the pixels: what the colours mean, texts, and those that keep Pillow from the pixels."""

import io
import struct
import zlib

from PIL import PngImagePlugin

from .text import TEXT, true_text


SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR = {b"cICP": 4, b"cHRM": 32, b"gAMA": 4, b"sRGB": 1}  # what the colours mean without a profile, and their sizes
SIZES = COLOUR | {b"pHYs": 9}
LARGEST = PngImagePlugin.MAX_TEXT_CHUNK  # bytes of a text or a profile, unpacked, that Pillow reads
LARGEST_PROFILE = 2**24 - 2**16  # bytes of a profile; about what a JPEG file holds
MOST_TEXT = PngImagePlugin.MAX_TEXT_MEMORY  # bytes of all texts


def png_source(path):
    """`(file, chunks, icc, notes)` of an image file: what to open, `(name, bytes)` of colours and texts, what is lost.

    The file is `path` itself, or its bytes without the chunks for which Pillow would refuse the image: those that are
    damaged, and texts and an ICC profile that are too large. Such a profile is then, unpacked, `icc`, else None.
    """
    with open(path, "rb") as file:
        if file.read(8) != SIGNATURE:
            return path, (), None, ()
        kept, icc, dropped, large, damaged, memory = [], None, [], [], [], 0
        for name, start, length in _chunks(file):
            if not name[0] & 32:  # critical
                continue
            content = file.read(length)
            whole = zlib.crc32(name + content) == int.from_bytes(file.read(4))
            text = _unpacked(name, content) if whole else None
            if name in TEXT and text is not None:
                memory += len(text)
                content = true_text(name, content) if len(text) <= LARGEST else content
            if text is None or content is None:
                damaged.append(name.decode("latin-1"))
            elif len(text) <= LARGEST and memory <= MOST_TEXT:
                if content and name in (*COLOUR, *TEXT):
                    kept.append((name, content))
                continue
            elif name == b"iCCP" and len(text) <= LARGEST_PROFILE:
                icc = text
            else:
                large.append(name.decode())
            dropped.append((start - 8, start + length + 4))
        lost = {f"chunks of more than {LARGEST // 2**20} MiB": large, "damaged chunks": damaged}
        notes = [f"{what} are left out: {', '.join(dict.fromkeys(names))}" for what, names in lost.items() if names]
        return _without(file, dropped) if dropped else path, tuple(kept), icc, tuple(notes)


def _chunks(file):
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name == b"IEND":
            break
        start = file.tell()
        yield name, start, length
        file.seek(start + length + 4)


def _without(file, dropped):
    kept, at = io.BytesIO(), 0
    for begin, end in dropped:
        file.seek(at)
        kept.write(file.read(begin - at))
        at = end
    file.seek(at)
    kept.write(file.read())
    kept.seek(0)
    return kept


def _unpacked(name, content):
    """The content of a chunk; of a packed profile or text about as much as can be kept. None: it is damaged."""
    if name in SIZES and len(content) != SIZES[name]:
        return None
    if name not in (b"iCCP", b"zTXt", b"iTXt"):
        return content if name in (b"tEXt", *SIZES) else b""
    _, _, rest = content.partition(b"\0")
    if name == b"iTXt":
        if rest[:1] == b"\0":
            return content
        rest = rest[1:2] + rest[2:].split(b"\0", 2)[-1]
    if rest[:1] != b"\0":
        return None
    try:
        return zlib.decompressobj().decompress(rest[1:], (LARGEST if name in TEXT else LARGEST_PROFILE) + 1)
    except zlib.error:
        return None
