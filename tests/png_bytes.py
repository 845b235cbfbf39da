"""PNG files chunk by chunk."""

import struct
import zlib


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(*chunks):
    """The bytes of a PNG of these `(name, content)` and the closing IEND."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*pair) for pair in (*chunks, (b"IEND", b"")))
