"""EXIF data: which way is up, how dense the pixels lie, and what stays true of a restored image, tag by tag."""

import math
import re

from PIL import ExifTags, Image


DESCRIPTIVE = (  # what was taken, with what, by whom; ratings, titles, comments and keywords of Windows
    *(269, 270, 271, 272, 305, 306, 315, 316, 33432),
    *(18246, 18249, 40091, 40092, 40093, 40094, 40095),
)
STALE = (40962, 40963, 40965)  # size in pixels, a pointer
DESCRIPTION = 270
SIZED = re.compile(r'ImageJ=|SCIFIO=|{"shape"|.*<OME\b', re.DOTALL)  # descriptions that state a file's size and pages
X_RESOLUTION, Y_RESOLUTION, UNIT = 282, 283, 296
SRGB = 1  # value of ColorSpace
INCH, CENTIMETRE = 2, 3  # values of UNIT; 1: the resolution is a ratio alone
DPI = {"png": (0.0127, 1e8), "jpeg": (0.5, 65535), "webp": (1e-9, 2**32 - 1), "tiff": (1e-9, 2**32 - 1)}  # they hold
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
DAMAGED = "its EXIF data is damaged and is left out"


class _Text(str):
    """Text as Pillow reads it, each byte one character, which it writes as these bytes again."""

    def encode(self, *_):
        return super().encode("latin-1", "replace")


def upright(image):
    """`image` turned by its EXIF orientation, as it is where that cannot be read."""
    turn = TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def orientation(image):
    """The EXIF orientation of a PIL image, 1 to 8; 1 where there is none."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return value if value in TURNS else 1
    except Exception:  # whatever damaged EXIF data leads to
        return 1


def dots_per_inch(image):
    """`(x, y)` of a PIL image, as its file has it, else its EXIF data; None where neither says it."""
    dpi = image.info.get("dpi")
    invented = image.format == "TIFF" or (image.format == "JPEG" and not image.info.get("jfif_unit"))
    if dpi is None or invented:  # Pillow fills in what these do not say
        try:
            exif = image.getexif()
            factor = {INCH: 1, CENTIMETRE: 2.54}[exif.get(UNIT, INCH)]
            across = exif[X_RESOLUTION]
            dpi = [float(value) * factor for value in (across, exif.get(Y_RESOLUTION, across))]
        except Exception:  # whatever damaged EXIF data leads to
            return None
    if any(not math.isfinite(x) or x <= 0 for x in dpi):
        return None
    dpi = tuple(float(x) for x in dpi)
    return dpi[::-1] if orientation(image) >= 5 else dpi


def is_adobe_rgb(image):
    """Whether the EXIF data of a PIL image say that its colours are those of Adobe RGB (as cameras write them)."""
    try:
        details = image.getexif().get_ifd(ExifTags.IFD.Exif)
        interoperability = image.getexif().get_ifd(ExifTags.IFD.Interop)
        return details.get(ExifTags.Base.ColorSpace) != SRGB and interoperability.get(1) == "R03"
    except Exception:  # whatever damaged EXIF data leads to
        return False


def kept_exif(image):
    """`(EXIF data or None, notes)`: what of a PIL image's EXIF data stays true; what cannot be written is left out."""
    kept, damaged, notes = Image.Exif(), [], ()
    try:
        source = image.getexif()
        parts = {None: [tag for tag in DESCRIPTIVE if tag in source]}
    except Exception:  # whatever damaged EXIF data leads to
        return None, (DAMAGED,)
    for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        try:
            parts[ifd] = [tag for tag in source.get_ifd(ifd) if tag not in STALE]
        except Exception:
            damaged.append(ifd.name)
    for ifd, tags in parts.items():
        values = {}
        for tag in tags:
            try:
                value = as_bytes((source if ifd is None else source.get_ifd(ifd))[tag])
                _written(ifd, {tag: value}).tobytes()
                if ifd is None and tag == DESCRIPTION and SIZED.match(str(value)):
                    if not str(value).startswith('{"shape"'):  # nothing but the size, as tifffile writes it
                        notes = ("its description states the size of its file and is left out",)
                    continue
                values[tag] = value
            except Exception:
                names = ExifTags.GPSTAGS if ifd == ExifTags.IFD.GPSInfo else ExifTags.TAGS
                damaged.append(names.get(tag, str(tag)))
        if ifd is None:
            kept.update(values)
        elif values:
            kept[ifd] = values
    if damaged:
        notes += (f"damaged EXIF tags are left out: {', '.join(damaged)}",)
    return (kept.tobytes() if len(kept) else None), notes


def as_bytes(value):
    """An EXIF value whose text Pillow writes byte by byte, beyond ASCII too."""
    if isinstance(value, str):
        return _Text(value)
    if isinstance(value, dict):
        return {tag: as_bytes(part) for tag, part in value.items()}
    return tuple(map(as_bytes, value)) if isinstance(value, tuple) else value


def _written(ifd, values):
    exif = Image.Exif()
    if ifd is None:
        exif.update(values)
    else:
        exif[ifd] = values
    return exif


def with_resolution(exif, dpi):
    """EXIF data with the resolution `dpi`, for files that say it nowhere else."""
    written = Image.Exif()
    written.load(exif or b"")
    for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if ifd in written:
            written[ifd] = as_bytes(written.get_ifd(ifd))
    for tag in [tag for tag in written if tag not in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)]:
        written[tag] = as_bytes(written[tag])
    written[X_RESOLUTION], written[Y_RESOLUTION], written[UNIT] = *dpi, INCH
    return written.tobytes()
