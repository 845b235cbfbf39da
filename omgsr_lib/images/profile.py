"""ICC profiles for colours that a file describes in another way: the chunks of a PNG file, the nclx box of AVIF.

Their codes are those of ITU-T H.273.
"""

import struct

import numpy as np


PRIMARIES = {  # x and y of red, green, blue and white
    1: (0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329),  # sRGB
    5: (0.64, 0.33, 0.29, 0.6, 0.15, 0.06, 0.3127, 0.329),
    6: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, 0.3127, 0.329),
    7: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, 0.3127, 0.329),
    9: (0.708, 0.292, 0.17, 0.797, 0.131, 0.046, 0.3127, 0.329),  # BT.2020
    11: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.314, 0.351),  # DCI-P3
    12: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329),  # Display P3
}
BT709 = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)  # light = (a x + b) ** g from d on, c x below: g a b c d
CURVES = {
    1: BT709, 6: BT709, 14: BT709, 15: BT709,
    4: (2.2,), 5: (2.8,), 8: (1.0,),
    13: (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),  # sRGB
}  # fmt: skip
ADOBE_RGB = (  # as the chunks of a PNG file
    (b"gAMA", struct.pack(">I", round(100000 * 256 / 563))),
    (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)),
)
D50 = np.array((0.9642, 1.0, 0.8249))
BRADFORD = np.array(((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296)))


def described_colours(chunks):
    """`(primaries, curve)` of the `(name, bytes)` chunks of a PNG file, or None: those of sRGB, or not described.

    Raises `ValueError` where no profile of this kind shows them: high dynamic range, samples of a narrow range, values
    of no colours.
    """
    chunks = dict(chunks)
    if cicp := chunks.get(b"cICP"):
        primaries, curve, matrix, full = cicp
        if primaries == curve == 2:  # not specified
            return None
        if primaries not in PRIMARIES or curve not in CURVES or matrix != 0 or full != 1:
            raise ValueError(f"no ICC profile describes the colours of cICP {primaries}, {curve}, {matrix}, {full}")
        found = PRIMARIES[primaries], CURVES[curve]
    elif b"sRGB" in chunks:
        return None
    else:
        gamma = int.from_bytes(chunks.get(b"gAMA", b""))
        white, rest = np.split(np.frombuffer(chunks.get(b"cHRM", b""), ">u4") / 100000, [2])
        primaries = (*rest, *white)
        if (primaries and not _are_a_triangle(primaries)) or 0 < gamma < 10_000:
            raise ValueError("its gAMA or cHRM describes no colours")
        found = primaries or PRIMARIES[1], (100000 / gamma,) if gamma else CURVES[13]
    return None if found == (PRIMARIES[1], CURVES[13]) else found


def _are_a_triangle(primaries):
    red, green, blue, white = np.reshape(primaries, (4, 2))
    return abs(np.linalg.det([green - red, blue - red])) > 1e-3 and white[1] > 0


def icc_profile(primaries, curve, grey=False):
    """The bytes of an ICC profile (version 4.3) of RGB, or of grey, which has the curve and the white alone."""
    curve = struct.pack(">4s4xH2x", b"para", 0 if len(curve) == 1 else 3) + _fixed(curve)
    red, green, blue, white = (_xyz(*pair) for pair in np.reshape(primaries, (4, 2)))
    response = np.diag(BRADFORD @ D50) @ np.diag(1 / (BRADFORD @ white))
    adaptation = np.linalg.inv(BRADFORD) @ response @ BRADFORD
    columns = np.stack([red, green, blue], axis=1)
    columns = adaptation @ columns * np.linalg.solve(columns, white)
    tags = {
        b"desc": _text("Colours as the original describes them"),
        b"cprt": _text("No copyright, use freely"),
        b"wtpt": _values(b"XYZ ", D50),
        b"chad": _values(b"sf32", adaptation.ravel()),
    }
    if grey:
        tags[b"kTRC"] = curve
    else:
        for name, column in zip("rgb", columns.T, strict=True):
            tags[f"{name}XYZ".encode()] = _values(b"XYZ ", column)
            tags[f"{name}TRC".encode()] = curve
    return _assembled(b"GRAY" if grey else b"RGB ", tags)


def _assembled(space, tags):
    table, data, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start + len(data), len(content))
        data += content.ljust(-(-len(content) // 4) * 4, b"\0")
    head = struct.pack(">I4xI4s4s4s6H4s", start + len(data), 0x04300000, b"mntr", space, b"XYZ ", 2026, 1, 1, 0, 0, 0,
                       b"acsp")  # fmt: skip
    return head.ljust(68, b"\0") + _fixed(D50).ljust(60, b"\0") + table + data


def _xyz(x, y):
    return np.array((x / y, 1.0, (1 - x - y) / y)) if y else np.array((x, y, 1 - x - y))


def _fixed(values):
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65536) for value in values))


def _values(kind, values):
    return kind + bytes(4) + _fixed(values)


def _text(text):
    content = text.encode("utf-16-be")
    return struct.pack(">4s4xIIHHII", b"mluc", 1, 12, 0x656E, 0x5553, len(content), 28) + content
