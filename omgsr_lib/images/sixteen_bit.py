"""16-bit colour in PNG, TIFF and PPM files: Pillow reads it with 8 bits or not at all, and does not write it.

Samples are arrays `(h, w, c)`, uint16 (or uint8 to be written), with c = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB,
alpha).
"""

import re
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from .exif import as_bytes, with_resolution
from .png import SIGNATURE


BITS, PLANAR, XMP = 258, 284, 700  # TIFF tags
STRIP = 2**20  # bytes of a block of rows that is written at once
CLASSIC = 2**32 - 2**28  # bytes of pixels in a TIFF with offsets of 32 bits; its tags need the rest


def is_deep(image):
    """Whether an opened, not yet loaded file holds 16-bit colour, or grey with alpha, that Pillow would shorten.

    Raises `ValueError` for CMYK.
    """
    if image.format == "PPM":
        return image.mode == "RGB" and _maxval(image) > 255
    bits = image.tag_v2.get(BITS, ()) if image.format == "TIFF" else ()
    deep = any(_rawmode(tile).endswith((";16B", ";16L", ";16N")) for tile in image.tile) or 16 in bits
    if not deep or image.mode.startswith("I"):
        return False
    if image.mode == "CMYK":
        raise ValueError("16-bit CMYK; save it as 16-bit RGB")
    return True


def read_deep(open_image, turn):
    """Samples of a file for which `is_deep`; `open_image()` opens it from its start, `turn(image)` turns it upright.

    PNG and TIFF are decoded twice, for the high and for the low bytes. Alpha that a TIFF has multiplied into the
    colours is divided out again; a PNG's transparent colour becomes alpha.
    """
    first = open_image()
    if first.format == "PPM":
        return _read_ppm(first)
    rawmode = _rawmode(first.tile[0])
    if rawmode == "LA;16B":  # as many bytes per pixel as 8-bit RGBA
        quadruples = _decode(first, turn, lambda mode: "RGBA")
        samples = quadruples[..., ::2] << 8 | quadruples[..., 1::2]
    else:
        ending = {"B": "L", "L": "B", "N": "B" if np.little_endian else "L"}
        swapped = _decode(open_image(), turn, lambda mode: mode.replace("RGBa", "RGBA")[:-1] + ending[mode[-1]])
        straight = _decode(first, turn, lambda mode: mode.replace("RGBa", "RGBA"))
        samples = straight << 8 | swapped
    if rawmode.startswith("RGBa"):
        samples = _divided(samples)
    key = first.info.get("transparency")
    if isinstance(key, tuple):
        alpha = (samples != np.array(key, np.uint16)).any(-1, keepdims=True) * np.uint16(65535)
        samples = np.concatenate([samples, alpha], axis=2)
    return samples


def _divided(samples):
    """`samples` without the alpha, their last channel, that was multiplied into the colours."""
    colour, alpha = np.split(samples.astype(np.float64), [-1], axis=2)
    colour = (colour * 65535 / np.maximum(alpha, 1)).round().clip(0, 65535)
    return np.concatenate([colour, alpha], axis=2).astype(np.uint16)


def needs_tifffile(file):
    """Whether the path or `BytesIO` `file` is a TIFF that Pillow does not read, or not with its 16 bits.

    These are samples of float16, of float64, of 32 bits in colour, and 16-bit channels one after the other.
    """
    with tifffile.FileHandle(file) as handle:
        if handle.read(4) not in TiffImagePlugin.PREFIXES:
            return False
    try:
        with Image.open(file, formats=["TIFF"]) as image:
            return image.tag_v2.get(PLANAR) == 2 and 16 in image.tag_v2.get(BITS, ())
    except UnidentifiedImageError:
        return True


def read_tiff(file, turn, check):
    """`(samples, image, pages)` of a file that `needs_tifffile`, of its first page.

    Samples are uint16; the PIL image is grey and has the EXIF data and the profile; `pages` is their number.
    `turn(image)` turns a PIL image upright; `check(size)` refuses a size. Raises `ValueError` for colours other than
    grey and RGB, samples without a known range (`to_16_bits`), and compression that needs the package imagecodecs.
    """
    with tifffile.TiffFile(file) as tiff:
        page, pages, exif = tiff.pages[0], len(tiff.pages), Image.Exif()
        check((page.imagewidth, page.imagelength))
        colours = {"MINISWHITE": 1, "MINISBLACK": 1, "RGB": 3}.get(page.photometric.name)
        if colours is None or page.imagedepth > 1:
            raise ValueError(f"{page.photometric.name} of {page.dtype}; save it as 16-bit RGB")
        samples = page.asarray().reshape(page.shape if page.samplesperpixel > 1 else (*page.shape, 1))
        samples = to_16_bits(np.moveaxis(samples, 0, 2) if page.axes == "SYX" else samples, page.bitspersample)
        exif.bigtiff, exif.endian = tiff.is_bigtiff, tiff.byteorder
        exif.load_from_fp(tiff.filehandle, page.offset)
        exif.bigtiff = False
        info = {"exif": exif.tobytes(), "icc_profile": page.iccprofile, "xmp": page.tags.valueof(XMP)}
    kind = page.extrasamples[0].name if page.extrasamples else "UNSPECIFIED"
    samples = samples[..., : colours + (kind != "UNSPECIFIED")]
    if page.photometric.name == "MINISWHITE":
        samples[..., 0] = 65535 - samples[..., 0]
    if kind == "ASSOCALPHA":
        samples = _divided(samples)
    channels = [Image.fromarray(channel) for channel in np.moveaxis(samples, 2, 0)]
    for channel in channels:
        channel.info |= info
    return np.stack([np.asarray(turn(channel)) for channel in channels], axis=2), channels[0], pages


def to_16_bits(samples, bits=16):
    """`samples` of any type as uint16: of floats 0 .. 1, of integers of at most 16 `bits` all, of others 0 .. 65535.

    Raises `ValueError` for samples outside of that range.
    """
    if samples.dtype.kind == "f":
        if not (np.isfinite(samples).all() and samples.min() >= 0 and samples.max() <= 1):
            raise ValueError("floating-point samples must be finite and lie in 0 .. 1")
        samples = samples.astype(np.float64) * 65535
    elif samples.min() < 0 or samples.max() > 65535:
        raise ValueError(f"integer samples must lie in 0 .. 65535: got {samples.min()} .. {samples.max()}")
    elif bits < 16:
        samples = samples * (65535 / (2**bits - 1))
    return np.rint(samples).astype(np.uint16)


def _read_ppm(image):
    """Samples of a colour PPM file of two bytes each, or of text, scaled to 16 bits.

    Raises `ValueError` if it ends too early.
    """
    (width, height), maxval = image.size, _maxval(image)
    image.fp.seek(image.tile[0].offset)
    if image.tile[0].codec_name == "ppm_plain":
        numbers = re.sub(rb"#[^\r\n]*", b"", image.fp.read()).split()
        content = np.array(numbers, float).astype(">u2").tobytes()
    else:
        content = image.fp.read(6 * width * height)
    if len(content) < (needed := 6 * width * height):
        raise ValueError(f"its pixels take {needed} bytes, it has {len(content)}")
    samples = np.frombuffer(content[:needed], ">u2").reshape(height, width, 3)
    return (samples * (65535 / maxval)).round().clip(0, 65535).astype(np.uint16)


def _maxval(image):
    """The sample of white in a PPM file."""
    (tile,) = image.tile
    return 255 if tile.codec_name == "raw" else tile.args[1]


def _rawmode(tile):
    rawmode = tile.args[0] if isinstance(tile.args, tuple) else tile.args
    return rawmode if isinstance(rawmode, str) else ""


def _decode(image, turn, change):
    def changed(tile):
        if isinstance(tile.args, tuple):
            return tile._replace(args=(change(tile.args[0]), *tile.args[1:]))
        return tile._replace(args=change(tile.args))

    image.tile = [changed(tile) for tile in image.tile]
    image.load()
    return np.asarray(turn(image)).astype(np.uint16)


def write_png(file, samples, *, icc=None, exif=None, dpi=None, chunks=()):
    """Write `samples` to the path `file` as PNG, exactly, block by block.

    Every row is predicted by Paeth's filter. `chunks` are `(name, bytes)` to be written before the pixels.
    """
    height, width, channels = samples.shape
    depth, colour = 8 * samples.dtype.itemsize, {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    pixel = channels * samples.dtype.itemsize
    compressor, above = zlib.compressobj(), np.zeros((1, width * pixel), np.uint8)
    with open(file, "wb") as out:
        out.write(SIGNATURE)
        _chunk(out, b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
        for name, content in chunks:
            if not (icc and name == b"sRGB"):  # a file has one of them
                _chunk(out, name, content)
        if icc:
            _chunk(out, b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))
        if dpi:
            _chunk(out, b"pHYs", struct.pack(">IIB", *(round(dots / 0.0254) for dots in dpi), 1))  # per metre
        if exif:
            _chunk(out, b"eXIf", exif.removeprefix(b"Exif\0\0"))
        for rows in _blocks(samples):
            rows = rows.astype(rows.dtype.newbyteorder(">")).view(np.uint8).reshape(len(rows), -1)
            _chunk(out, b"IDAT", compressor.compress(_filtered(rows, above, pixel)))
            above = rows[-1:]
        _chunk(out, b"IDAT", compressor.flush())
        _chunk(out, b"IEND", b"")


def _chunk(out, name, content):
    if content or name == b"IEND":
        out.write(struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content)))


def _filtered(rows, above, pixel):
    """Bytes of `rows` after Paeth's filter, each row behind its filter's number; `above` is the row before them."""
    up = np.concatenate([above, rows[:-1]]).astype(np.int16)
    left, corner = (np.pad(x, ((0, 0), (pixel, 0)))[:, :-pixel].astype(np.int16) for x in (rows, up))
    by_left, by_up = np.abs(up - corner), np.abs(left - corner)  # distance of left + up - corner from each
    by_corner = np.abs(left + up - 2 * corner)
    nearest = np.where(by_up <= by_corner, up, corner)
    nearest = np.where((by_left <= by_up) & (by_left <= by_corner), left, nearest)
    return np.pad(rows - nearest.astype(np.uint8), ((0, 0), (1, 0)), constant_values=4).tobytes()


def write_tiff(file, samples, *, icc=None, exif=None, dpi=None, xmp=None):
    """Write `samples` to the path `file` as TIFF, deflated in strips with horizontal differences.

    What 32-bit offsets do not reach becomes a BigTIFF.
    """
    height, width, channels = samples.shape
    strips = []
    for rows in _blocks(samples):
        differences = np.diff(rows, axis=1, prepend=np.zeros_like(rows[:, :1]))
        strips.append(zlib.compress(differences.astype(rows.dtype.newbyteorder("<")).tobytes()))
    sizes = [len(strip) for strip in strips]
    big = sum(sizes) > CLASSIC
    ifd = TiffImagePlugin.ImageFileDirectory_v2(b"II+\0\x08\0\0\0" + bytes(8) if big else b"II*\0" + bytes(4))
    described = Image.Exif()
    described.load((with_resolution(exif, dpi) if dpi else exif) or b"")
    for tag in described:
        ifd[tag] = as_bytes(described.get_ifd(tag) if tag in (34665, 34853) else described[tag])
    ifd[256], ifd[257], ifd[BITS] = width, height, (8 * samples.dtype.itemsize,) * channels
    ifd[259], ifd[317] = 8, 2  # deflate, horizontal differences
    ifd[262], ifd[277] = (1 if channels < 3 else 2), channels
    ifd[273], ifd[278], ifd[279] = tuple(np.cumsum([0, *sizes[:-1]]).tolist()), _rows(samples), tuple(sizes)
    ifd.tagtype[273] = ifd.tagtype[279] = 16 if big else 4  # LONG8, LONG
    if channels in (2, 4):
        ifd[338] = 2  # alpha, not multiplied into the colours
    if icc:
        ifd[34675] = icc
    if xmp:
        ifd[XMP] = xmp
    with open(file, "wb") as out:
        ifd.save(out)
        out.writelines(strips)


def _rows(samples):
    return max(1, STRIP // samples[0].nbytes)


def _blocks(samples):
    for top in range(0, len(samples), _rows(samples)):
        yield np.ascontiguousarray(samples[top : top + _rows(samples)])
