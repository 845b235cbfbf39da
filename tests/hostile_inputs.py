"""Inputs that a restoration must survive (sizes, modes, bit depths, names, damage), and what becomes of each."""

import io
import os
import struct
import zlib

import numpy as np
import tifffile
from PIL import ExifTags, Image, ImageCms
from png_bytes import chunk, png

from omgsr_lib.images.image_file import Picture


def picture(width=16, height=16, mode="RGB", seed=0):
    """A smooth random image, with an alpha channel that varies too."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 4), dtype=np.uint8)
    image = Image.fromarray(small[..., :3]).resize((width, height), Image.BICUBIC).convert(mode)
    if "A" in image.getbands() and mode != "LAB":
        image.putalpha(Image.fromarray(small[..., 3]).resize((width, height), Image.BICUBIC))
    return image


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def exif(orientation):
    data = Image.Exif()
    data[ExifTags.Base.Orientation] = orientation
    return data.tobytes()


def deep(channels, height=16, width=16):
    return np.random.default_rng(1).integers(0, 65536, (height, width, channels), dtype=np.uint16)


def png16(channels):
    def make(path):
        samples = deep(channels)
        split = 1 if channels < 3 else 3
        Picture(samples[..., :split], samples[..., split:] if channels > split else None).save(path, "png")

    return make


def tiff(samples, **options):
    return lambda path: tifffile.imwrite(path, samples, **options)


def bomb(width, height):
    """A PNG of a few bytes that claims to be large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png((b"IHDR", header), (b"IDAT", zlib.compress(b"")))


def text_bomb():
    """A PNG whose compressed text is 200 MB long."""
    data = encoded(picture(), "PNG")
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9))
    return data[:33] + text + data[33:]


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def interlaced():
    """An 8-bit RGB PNG in Adam7's seven passes."""
    array, raw = np.asarray(picture()), b""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    for x, y, dx, dy in passes:
        raw += b"".join(b"\0" + row.tobytes() for row in array[y::dy, x::dx])
    header = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 1)
    return png((b"IHDR", header), (b"IDAT", zlib.compress(raw)))


def lab():
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(picture(), *profiles, outputMode="LAB")


def indexed(**options):
    image = picture().quantize(8)
    return encoded(image, "PNG", **options)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
JPEG, PNG = encoded(picture(48, 40), "JPEG"), encoded(picture(48, 40), "PNG")
WEBP = encoded(picture(48, 40), "WEBP")
TIFF = encoded(picture(48, 40), "TIFF", compression="tiff_lzw")
FRAMES = dict(save_all=True, append_images=[picture(seed=1), picture(seed=2)])
UNREADABLE = "must be a readable image"

# name, bytes or a function that writes the file, and what becomes of it at scale 1: mode and size, or the failure
TABLE = [
    # sizes and aspects
    ("smallest.png", encoded(picture(16, 16), "PNG"), ("RGB", (16, 16))),
    ("odd.png", encoded(picture(17, 19), "PNG"), ("RGB", (17, 19))),
    ("prime.jpg", encoded(picture(101, 37), "JPEG"), ("RGB", (101, 37))),
    ("wide.png", encoded(picture(400, 16), "PNG"), ("RGB", (400, 16))),
    ("tall.png", encoded(picture(16, 400), "PNG"), ("RGB", (16, 400))),
    ("short.png", encoded(picture(16, 15), "PNG"), "at least 16 pixels on each side: '.*' is 16x15"),
    ("line.png", encoded(picture(1, 90), "PNG"), "at least 16 pixels on each side: '.*' is 1x90"),
    ("dot.png", encoded(picture(1, 1), "PNG"), "at least 16 pixels on each side: '.*' is 1x1"),
    # colour modes and bit depths
    ("grey.png", encoded(picture(mode="L"), "PNG"), ("L", (16, 16))),
    ("grey.jpg", encoded(picture(mode="L"), "JPEG"), ("L", (16, 16))),
    ("grey-alpha.png", encoded(picture(mode="LA"), "PNG"), ("LA", (16, 16))),
    ("alpha.png", encoded(picture(mode="RGBA"), "PNG"), ("RGBA", (16, 16))),
    ("alpha.webp", encoded(picture(mode="RGBA"), "WEBP"), ("RGBA", (16, 16))),
    ("alpha.tif", encoded(picture(mode="RGBA"), "TIFF"), ("RGBA", (16, 16))),
    ("palette.png", indexed(), ("RGB", (16, 16))),
    ("palette-2-bits.png", indexed(bits=3), ("RGB", (16, 16))),
    ("palette-transparent.png", indexed(transparency=3), ("RGBA", (16, 16))),
    ("palette-alpha.png", indexed(transparency=bytes(range(8))), ("RGBA", (16, 16))),
    ("palette.gif", encoded(picture(), "GIF"), ("RGB", (16, 16))),
    ("key.png", encoded(picture(), "PNG", transparency=(1, 2, 3)), ("RGBA", (16, 16))),
    ("bilevel.png", encoded(picture(mode="1"), "PNG"), ("L", (16, 16))),
    ("bilevel-fax.tif", encoded(picture(mode="1"), "TIFF", compression="group4"), ("L", (16, 16))),
    ("cmyk.jpg", encoded(picture(mode="CMYK"), "JPEG"), ("RGB", (16, 16))),
    ("cmyk.tif", encoded(picture(mode="CMYK"), "TIFF"), ("RGB", (16, 16))),
    ("ycbcr.tif", encoded(picture(mode="YCbCr"), "TIFF"), ("RGB", (16, 16))),
    ("lab.tif", encoded(lab(), "TIFF"), ("RGB", (16, 16))),
    ("16-grey.png", png16(1), ("L;16", (16, 16))),
    ("16-grey-alpha.png", png16(2), ("LA;16", (16, 16))),
    ("16-rgb.png", png16(3), ("RGB;16", (16, 16))),
    ("16-rgba.png", png16(4), ("RGBA;16", (16, 16))),
    ("16-grey.tif", tiff(deep(1)[..., 0]), ("L;16", (16, 16))),
    ("16-rgb.tif", tiff(deep(3), photometric="rgb"), ("RGB;16", (16, 16))),
    ("16-rgb-big-endian.tif", tiff(deep(3), photometric="rgb", byteorder=">"), ("RGB;16", (16, 16))),
    ("16-rgb-deflate.tif", tiff(deep(3), photometric="rgb", compression="zlib", predictor=True), ("RGB;16", (16, 16))),
    ("16-rgb-tiles.tif", tiff(deep(3, 40, 40), photometric="rgb", tile=(16, 16)), ("RGB;16", (40, 40))),
    ("16-rgba.tif", tiff(deep(4), photometric="rgb", extrasamples=["unassalpha"]), ("RGBA;16", (16, 16))),
    ("16-grey.pgm", b"P5 16 16 65535\n" + deep(1).astype(">u2").tobytes(), ("L;16", (16, 16))),
    ("16-rgb.ppm", b"P6 16 16 65535\n" + deep(3).astype(">u2").tobytes(), ("RGB;16", (16, 16))),
    ("16-rgb-short.ppm", b"P6 16 16 65535\n" + deep(3).astype(">u2").tobytes()[:-1], "take 1536 bytes, it has 1535"),
    ("16-signed.tif", tiff(deep(1)[..., 0].astype(np.int16)), "integer samples must lie in 0 .. 65535"),
    ("16-planes.tif", tiff(deep(16, 3, 16), photometric="rgb", planarconfig="separate"), ("RGB;16", (16, 16))),
    ("big.tif", tiff(deep(3), photometric="rgb", bigtiff=True), ("RGB;16", (16, 16))),
    ("32-integer.tif", tiff(deep(1)[..., 0].astype(np.int32) * 9), "integer samples must lie in 0 .. 65535"),
    ("32-in-range.tif", tiff(deep(1)[..., 0].astype(np.int32)), ("L;16", (16, 16))),
    ("float.tif", tiff(deep(1)[..., 0].astype(np.float32) / 65535), ("L;16", (16, 16))),
    ("float-255.tif", tiff(deep(1)[..., 0].astype(np.float32)), "floating-point samples must be finite and lie in 0"),
    ("float-nan.tif", tiff(np.full((16, 16), np.nan, np.float32)), "floating-point samples must be finite"),
    ("float-rgb.tif", tiff(deep(3).astype(np.float32) / 65535, photometric="rgb"), ("RGB;16", (16, 16))),
    ("double.tif", tiff(deep(1)[..., 0] / 65535), ("L;16", (16, 16))),
    ("half-255.tif", tiff(deep(1)[..., 0].astype(np.float16)), "floating-point samples must be finite and lie in 0"),
    # orientation, profiles, kinds of a format
    *((f"turned-{n}.jpg", encoded(picture(32, 16), "JPEG", exif=exif(n)), ("RGB", (32, 16))) for n in range(1, 5)),
    *((f"turned-{n}.jpg", encoded(picture(32, 16), "JPEG", exif=exif(n)), ("RGB", (16, 32))) for n in range(5, 9)),
    ("turned-99.jpg", encoded(picture(32, 16), "JPEG", exif=exif(99)), ("RGB", (32, 16))),
    ("turned.png", encoded(picture(32, 16), "PNG", exif=exif(6)), ("RGB", (16, 32))),
    ("turned.tif", encoded(picture(32, 16), "TIFF", exif=exif(6)), ("RGB", (16, 32))),
    ("turned-alpha.webp", encoded(picture(32, 16, "RGBA"), "WEBP", exif=exif(6)), ("RGBA", (16, 32))),
    ("damaged-exif.jpg", encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), ("RGB", (16, 16))),
    ("profile.jpg", encoded(picture(), "JPEG", icc_profile=SRGB), ("RGB", (16, 16))),
    ("damaged-profile.jpg", encoded(picture(), "JPEG", icc_profile=b"none"), ("RGB", (16, 16))),
    ("damaged-profile-cmyk.jpg", encoded(picture(mode="CMYK"), "JPEG", icc_profile=b"none"), ("RGB", (16, 16))),
    ("interlaced.png", interlaced(), ("RGB", (16, 16))),
    ("progressive.jpg", encoded(picture(), "JPEG", progressive=True), ("RGB", (16, 16))),
    ("lossless.webp", encoded(picture(), "WEBP", lossless=True), ("RGB", (16, 16))),
    ("lzw.tif", encoded(picture(), "TIFF", compression="tiff_lzw"), ("RGB", (16, 16))),
    ("jpeg.tif", encoded(picture(), "TIFF", compression="jpeg"), ("RGB", (16, 16))),
    ("plain.bmp", encoded(picture(), "BMP"), ("RGB", (16, 16))),
    ("two.mpo.jpg", encoded(picture(), "MPO", **FRAMES), ("RGB", (16, 16))),
    ("animated.gif", encoded(picture(), "GIF", **FRAMES), ("RGB", (16, 16))),
    ("animated.webp", encoded(picture(), "WEBP", **FRAMES), ("RGB", (16, 16))),
    ("animated.png", encoded(picture(), "PNG", **FRAMES), ("RGB", (16, 16))),
    ("animated.apng", encoded(picture(), "PNG", **FRAMES), ("RGB", (16, 16))),
    ("wavelets.jpx", encoded(picture(), "JPEG2000"), ("RGB", (16, 16))),
    ("pages.tif", tiff(np.stack([np.asarray(picture())] * 3), photometric="rgb"), ("RGB", (16, 16))),
    ("tail.jpg", JPEG + b"more bytes behind the end", ("RGB", (48, 40))),
    # names
    ("jpeg-called.png", JPEG, ("RGB", (48, 40))),
    ("png-called.jpg", PNG, ("RGB", (48, 40))),
    ("with spaces & 'quotes'.png", PNG, ("RGB", (48, 40))),
    ("-leading-dash.png", PNG, ("RGB", (48, 40))),
    ("Größe 写真 🏞.png", PNG, ("RGB", (48, 40))),
    ("[brackets]*.png", PNG, ("RGB", (48, 40))),
    ("SHOUTED.PNG", PNG, ("RGB", (48, 40))),
    ("n" * 240 + ".png", PNG, ("RGB", (48, 40))),
    ("link.png", lambda path: path.symlink_to("/dev/zero"), "must be a regular file"),
    # what is no image, and damage
    ("empty.png", b"", UNREADABLE),
    ("text.png", b"not an image", UNREADABLE),
    ("zeros.jpg", bytes(5000), UNREADABLE),
    ("phone.heic", b"\0\0\0\x18ftypheic" + bytes(900), UNREADABLE),
    ("CAMERA.HIF", b"\0\0\0\x18ftypheix" + bytes(900), UNREADABLE),
    ("photo.jxl", b"\xff\x0a" + bytes(900), UNREADABLE),
    ("header-only.png", PNG[:8], UNREADABLE),
    ("postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\nshowpage\n", UNREADABLE),
    ("vectors.png", b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"/>', UNREADABLE),
    ("truncated.jpg", JPEG[: len(JPEG) // 2], UNREADABLE),
    ("truncated.png", PNG[: len(PNG) // 2], UNREADABLE),
    ("truncated.webp", WEBP[: len(WEBP) // 2], UNREADABLE),
    ("truncated.tif", TIFF[: len(TIFF) // 2], UNREADABLE),
    ("bad-checksum.png", flipped(PNG, 40), UNREADABLE),
    ("bad-header.png", flipped(PNG, 20), UNREADABLE),
    ("no-pixels.png", bomb(16, 16), UNREADABLE),
    ("bomb.png", bomb(60000, 60000), "must not have more pixels than the limit.*--max-pixels"),
    ("giant.png", bomb(2**31 - 1, 2**31 - 1), "must not have more pixels than the limit"),
    ("text-bomb.png", text_bomb(), ("RGB", (16, 16))),
    ("broken-link.png", lambda path: path.symlink_to("nowhere"), "No such file or directory: '.*broken-link.png'"),
    ("loop.png", lambda path: path.symlink_to(path.name), "symbolic links: '.*loop.png'"),
    ("pipe.png", lambda path: os.mkfifo(path), "must be a regular file: '.*pipe.png' is not"),
]
