"""What AVIF and JPEG 2000 files say and Pillow does not pass on."""

import struct


def unread(path):
    """`(chunks, bits, notes)` of an image file: colours that it describes, as chunks of a PNG file (cICP), its depth,
    and what neither Pillow nor the others tell of it.

    (), 8 and () for files of other formats.
    """
    with open(path, "rb") as file:
        head = file.read(2**16).ljust(2**16, b"\0")
    brands = head[8 : int.from_bytes(head[:4])] if head[4:8] == b"ftyp" else b""
    notes = ("its gain map, for displays of a high dynamic range, is left out",) if b"tmap" in brands else ()
    if brands and (colours := head.find(b"colrnclx") + 8) >= 8:
        code, depth = struct.unpack_from(">HH", head, colours), head.find(b"pixi") + 9
        chunks = () if 2 in code or max(code) > 255 else ((b"cICP", bytes([*code, 0, 1])),)  # 2: not specified
        return chunks, head[depth] if depth > 8 else 8, notes
    if (size := head.find(b"\xffO\xffQ")) >= 0 and (size == 0 or head[4:8] == b"jP  "):  # a JPEG 2000 codestream
        return (), (head[size + 42] & 127) + 1, ()
    return (), 8, notes
