"""Images as files and PIL hold them: grey or colour, with alpha, 8 or 16 bits, profile and EXIF data."""

import io
import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from .boxes import unread
from .corrections import corrected
from .exif import DPI, dots_per_inch, is_adobe_rgb, kept_exif, upright, with_resolution
from .png import png_source
from .profile import ADOBE_RGB, described_colours, icc_profile
from .sixteen_bit import BITS, is_deep, needs_tifffile, read_deep, read_tiff, to_16_bits, write_png, write_tiff
from .text import COMMENT, FILES, LONGEST, XMP, image_texts, texts


READABLE = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000")  # formats that hold pixels only
LOSSY = ("jpeg", "webp")
FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"}
LARGEST_SIDE = {"jpeg": 65500, "webp": 16383}  # of the encoders
JPEG_EXIF = 65533  # bytes of a segment of a JPEG file
SUBFILE, PHOTOMETRIC = 254, 262  # TIFF tags; 1: a reduced copy; 0: white is zero
LUMA = (0.299, 0.587, 0.114)  # Rec. 601, as Pillow has it


@dataclass(frozen=True)
class Picture:
    """An image as upright samples.

    Attributes:
        colour: `(h, w, 1)` (grey) or `(h, w, 3)`, uint8 or uint16.
        alpha: `(h, w, 1)` of the same type, or None.
        icc: ICC profile that the colours refer to, or None.
        exif: EXIF data without orientation, resolution, thumbnail and what belongs to the file's format, or None.
        dpi: `(x, y)` in dots per inch, or None.
        chunks: `(name, bytes)`, as a PNG file has them: what the colours mean where there is no profile
            (`png.COLOUR`), texts and XMP (`text`).
        notes: what was not kept, in words.
    """

    colour: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple | None = None
    chunks: tuple = ()
    notes: tuple = ()

    @property
    def size(self):
        """`(width, height)`, as PIL has it."""
        return self.colour.shape[1::-1]

    @property
    def is_grey(self):
        return self.colour.shape[2] == 1

    @property
    def levels(self):
        """The largest sample: 255 or 65535."""
        return np.iinfo(self.colour.dtype).max

    @classmethod
    def from_image(cls, image):
        """The `Picture` of a PIL image, turned upright by its EXIF orientation.

        Grey modes stay grey, with 1 bit as with 16; palettes, YCbCr, HSV, LAB and CMYK become RGB, the last one
        through its embedded profile; every kind of transparency becomes alpha. Mode "I" must lie in 0 .. 65535, "F" in
        0 .. 1; both become 16 bits. Raises `ValueError` for other values.
        """
        image = corrected(image)
        image.load()
        tags = getattr(image, "tag_v2", {})  # of a TIFF; before: what is transposed forgets them
        icc, about, notes = _described(image)
        image = upright(image)
        if image.mode.startswith("I") or image.mode == "F":
            samples = _grey16(image, tags)
        else:
            if image.mode == "LAB":
                lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
                image = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
            elif image.mode == "CMYK":
                image, note = _rgb_of_cmyk(image, icc)
                icc, notes = None, notes + note
            grey = image.mode in ("1", "L", "LA", "La")
            image = image.convert(("L" if grey else "RGB") + ("A" if image.has_transparency_data else ""))
            samples = np.atleast_3d(np.asarray(image))
        return cls._of_samples(samples, icc, about, notes)

    @classmethod
    def open(cls, path, *, max_pixels=None):
        """The `Picture` in a file, PNG, TIFF and PPM with their 16 bits; of an animation or several pages the first.

        Raises `ValueError` if it is not an image, is damaged, or has more than `max_pixels` (by default twice
        Pillow's `Image.MAX_IMAGE_PIXELS`, 179 million); `OSError` if the file cannot be read.
        """
        try:
            file, chunks, icc, left_out = png_source(path)
            with _limit(max_pixels):
                check = partial(_check_pixels, path=path, max_pixels=max_pixels)
                picture, frames = cls._opened(file, icc, check)
        except Image.DecompressionBombError as err:
            raise ValueError(_too_many(path, str(err))) from err
        except _TooManyPixels:
            raise
        except Exception as err:  # whatever the decoders make of damaged data
            if isinstance(err, OSError) and err.errno is not None:  # the file itself cannot be read
                raise
            reason = "" if isinstance(err, UnidentifiedImageError) else f" ({str(err) or type(err).__name__})"
            raise ValueError(
                f"A photograph must be a readable image: '{path}' is not{reason}. Remove or replace it."
            ) from err
        colours, bits, further = unread(path)
        notes = [*picture.notes, *left_out, *further]
        if bits > 8 and picture.levels == 255:
            notes.append(f"its {bits} bits are read as 8")
        if frames > 1:
            notes.append(f"only the first of its {frames} frames is taken")
        chunks = (*picture.chunks, *chunks, *(() if picture.icc else colours))
        return replace(picture, chunks=chunks, notes=tuple(notes))

    @classmethod
    def _opened(cls, file, icc, check):
        """`(image, frames)` of a path or `BytesIO`; `check(size)` refuses a size before the pixels are read.

        `icc`: the profile, of a file from which it was taken out.
        """
        if needs_tifffile(file):
            samples, image, frames = read_tiff(file, upright, check)
            return cls._of_deep(samples, image), frames
        with Image.open(file, formats=READABLE) as image:
            check(image.size)
            image.info |= {"icc_profile": icc} if icc else {}
            deep, frames = is_deep(image), getattr(image, "n_frames", 1)
            if not deep:
                return cls.from_image(image), frames
            samples = read_deep(lambda: _opened(file), upright)
            image.load()
            return cls._of_deep(samples, image), frames

    @classmethod
    def _of_deep(cls, samples, image):
        return cls._of_samples(samples, *_described(image))

    @classmethod
    def _of_samples(cls, samples, icc, about, notes):
        channels = 1 if samples.shape[2] < 3 else 3
        alpha = samples[..., channels:] if samples.shape[2] > channels else None
        if icc and icc[16:20] != (b"GRAY" if channels == 1 else b"RGB "):
            icc, notes = (
                None,
                (*notes, f"its ICC profile is not one of {'grey' if channels == 1 else 'RGB'}: left out"),
            )
        return cls(samples[..., :channels], alpha, icc or None, **about, notes=notes)

    def enlarge(self, width, height):
        """The bicubic enlargement, 8-bit samples exactly as PIL makes them, hidden colours filled first."""
        picture = self.with_hidden_filled()
        return picture.with_colour(_resized(picture.colour, width, height))

    def with_hidden_filled(self):
        """The image with the colours of the visible pixels nearby where it is fully transparent.

        So enlarging leaves no fringe at the edge of what is visible.
        """
        if self.alpha is None:
            return self
        colour = _filled(self.colour.astype(np.float32), self.alpha[..., 0] / np.float32(self.levels))
        return replace(self, colour=colour.round().astype(self.colour.dtype))

    def to_pixels(self):
        """Colours as a float32 tensor `(3, h, w)` in `[-1, 1]`, grey in all three channels."""
        samples = torch.from_numpy(self.colour.astype(np.float32)).permute(2, 0, 1)
        return (samples / (self.levels / 2) - 1).expand(3, -1, -1)

    def with_pixels(self, pixels):
        """This image with the colours of `pixels` `(3, h, w)` in `[-1, 1]` (clamped), rounded to its own levels."""
        pixels = pixels.detach().float().clamp(-1, 1)
        if self.is_grey:
            pixels = sum(weight * channel for weight, channel in zip(LUMA, pixels, strict=True))[None]
        samples = ((pixels + 1) * (self.levels / 2)).round().permute(1, 2, 0).cpu().numpy()
        return replace(self, colour=samples.astype(self.colour.dtype))

    def with_colour(self, colour):
        """This image with `colour` `(H, W, c)` of the same type and another size, its alpha and resolution enlarged.

        So it keeps its size on paper.
        """
        height, width = colour.shape[:2]
        alpha = None if self.alpha is None else _resized(self.alpha, width, height)
        dpi = self.dpi and tuple(
            dots * to / by for dots, to, by in zip(self.dpi, (width, height), self.size, strict=True)
        )
        return replace(self, colour=colour, alpha=alpha, dpi=dpi)

    def to_8_bits(self):
        """The image with 8-bit samples."""
        if self.levels == 255:
            return self
        colour, alpha = (None if x is None else _short(x) for x in (self.colour, self.alpha))
        return replace(self, colour=colour, alpha=alpha)

    def image(self):
        """A PIL image of mode L, LA, RGB, RGBA or, of 16-bit grey without alpha, I;16; other 16-bit samples become 8.

        Profile, EXIF data and resolution stand in its `info`.
        """
        if self.levels == 65535 and self.is_grey and self.alpha is None:
            image = Image.fromarray(self.colour[..., 0])
        else:
            image = Image.fromarray(self.to_8_bits()._samples())
        kept = {"icc_profile": self.icc, "exif": self.exif, "dpi": self.dpi}
        image.info.update({name: value for name, value in kept.items() if value})
        return image

    def check_format(self, format, size, path):
        """Raise `ValueError`, naming `path`, if no file of `format` holds this image at `size`: its alpha, sides."""
        if format == "jpeg" and self.alpha is not None:
            raise ValueError(f"A JPEG file holds no transparency: '{path}' has some. Choose png, webp or tiff.")
        width, height = size
        if max(size) > LARGEST_SIDE.get(format, max(size)):
            raise ValueError(
                f"The sides of a {format} file are at most {LARGEST_SIDE[format]} pixels: '{path}' restored is "
                f"{width}x{height}. Choose png or tiff."
            )

    def losses(self, format):
        """What a file of `format` does not keep, in words: of "samples", "colours", "icc", "texts", "exif", "dpi"."""
        lost = {}
        if format in LOSSY and self.levels > 255:
            lost["samples"] = "its 16 bits are written as 8; png and tiff keep them"
        try:
            self._profile(format)
        except ValueError as err:
            lost["colours"] = f"{err}: left out; png keeps it"
        if format == "webp" and self.is_grey and self.icc:
            lost["icc"] = "its ICC profile is one of grey, which webp does not have: left out"
        if format == "jpeg" and len(self.exif or b"") > JPEG_EXIF:
            lost["exif"] = f"its EXIF data takes more than the {JPEG_EXIF} bytes of a JPEG file: left out"
        low, high = DPI[format]
        if self.dpi and not (low <= min(self.dpi) and max(self.dpi) <= high):
            lost["dpi"] = f"its resolution of {self.dpi[0]:g} dots per inch is none of a {format} file: left out"
        left = [keyword for keyword in texts(self.chunks) if keyword not in self._texts(format)]
        if format != "png" and left:
            lost["texts"] = f"its texts are left out ({', '.join(left)}); png keeps them"
        return lost

    def _profile(self, format):
        """The ICC profile of a file of `format`: that of the image, or one of the colours that its chunks describe."""
        if self.icc or format == "png":
            return self.icc
        colours = described_colours(self.chunks)
        return colours and icc_profile(*colours, grey=self.is_grey and format != "webp")

    def _texts(self, format):
        """The texts that a file of `format`, which is not PNG, holds, by keyword."""
        kept = {keyword: text for keyword, text in texts(self.chunks).items() if keyword in FILES.get(format, ())}
        return {keyword: text for keyword, text in kept.items() if format != "jpeg" or len(text) <= LONGEST}

    def save(self, file, format="png", *, quality=95):
        """Write to the path `file` as "png", "jpeg", "webp" or "tiff"; the last two but one with 8 bits, lossy.

        `quality` (1 to 100) is that of the lossy ones; JPEG keeps the full resolution of colour. See `losses`.
        """
        lost = self.losses(format)
        icc = None if {"icc", "colours"} & set(lost) else self._profile(format)
        kept = dict(icc=icc, exif=None if "exif" in lost else self.exif, dpi=None if "dpi" in lost else self.dpi)
        if format == "tiff":
            write_tiff(file, np.atleast_3d(self._samples()), **kept, xmp=self._texts(format).get(XMP))
        elif format == "png" and self.levels == 65535:
            write_png(file, np.atleast_3d(self._samples()), **kept, chunks=self.chunks)
        else:
            self._save_8_bits(file, format, quality, **kept)

    def _save_8_bits(self, file, format, quality, icc, exif, dpi):
        options = {"png": {}, "jpeg": dict(quality=quality, subsampling=0), "webp": dict(quality=quality)}[format]
        if dpi and format == "webp":
            exif = with_resolution(exif, dpi)
        elif dpi:
            options["dpi"] = dpi
        if format == "png":
            options["pnginfo"] = PngImagePlugin.PngInfo()
            for chunk in self.chunks:
                options["pnginfo"].add(*chunk)
        else:
            kept = self._texts(format)
            options |= {name: kept[key] for name, key in (("comment", COMMENT), ("xmp", XMP)) if key in kept}
        self.to_8_bits().image().save(file, format=format.upper(), icc_profile=icc, exif=exif or b"", **options)

    def _samples(self):
        samples = self.colour if self.alpha is None else np.concatenate([self.colour, self.alpha], axis=2)
        return samples[..., 0] if samples.shape[2] == 1 and self.levels == 255 else samples


def _described(image):
    """`(icc, about, notes)` of a PIL image as it was opened; `about`: the attributes exif, dpi and chunks."""
    (exif, notes), icc = kept_exif(image), image.info.get("icc_profile")
    chunks, lost = ((), ()) if image.format == "PNG" else image_texts(image)
    if getattr(image, "tag_v2", {}).get(SUBFILE) == 1:
        lost += ("its first page, a small copy of another one, is taken",)
    if not icc and is_adobe_rgb(image):
        chunks += ADOBE_RGB
    return icc, dict(exif=exif, dpi=dots_per_inch(image), chunks=chunks), (*notes, *lost)


def _opened(file):
    if isinstance(file, io.BytesIO):
        file = io.BytesIO(file.getvalue())
    return Image.open(file, formats=READABLE)


class _TooManyPixels(ValueError):
    pass


@contextmanager
def _limit(max_pixels):
    """Pillow's own limit, which is one of the process, is lifted while a file with another limit is read."""
    before = Image.MAX_IMAGE_PIXELS
    if max_pixels is not None:
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _check_pixels(size, path, max_pixels):
    width, height = size
    limit = 2 * (Image.MAX_IMAGE_PIXELS or math.inf) if max_pixels is None else max_pixels
    if width * height > limit:
        raise _TooManyPixels(_too_many(path, f"{width}x{height}, limit {limit}"))


def _too_many(path, reason):
    return (
        f"An image must not have more pixels than the limit: '{path}' does ({reason}). If you trust it, raise the "
        "limit with max_pixels (--max-pixels)."
    )


def _grey16(image, tags):
    samples = to_16_bits(np.asarray(image), 12 if tags.get(BITS) == (12,) else 16)[..., None]
    if tags.get(PHOTOMETRIC) == 0:
        samples = 65535 - samples
    key = image.info.get("transparency")
    if key is None:
        return samples
    return np.concatenate([samples, (samples != key) * np.uint16(65535)], axis=2)


def _rgb_of_cmyk(image, icc):
    """`(RGB image, notes)`, through the embedded profile to sRGB where there is one."""
    if not icc:
        return image.convert("RGB"), ()
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"), ()
    except (OSError, ImageCms.PyCMSError):
        return image.convert("RGB"), ("its CMYK profile is damaged: converted without it",)


def _filled(colour, weight):
    """`colour` `(h, w, c)` where `weight` `(h, w)` is not 0, elsewhere the mean of what surrounds it (push-pull)."""
    if weight.all() or not weight.any():
        return colour
    height, width = weight.shape
    even = ((0, height % 2), (0, width % 2))
    weights = np.pad(weight, even)
    weighted = np.pad(colour, (*even, (0, 0))) * weights[..., None]
    halves = (weights.shape[0] // 2, 2, weights.shape[1] // 2, 2)
    sums = weights.reshape(halves).sum((1, 3))
    means = weighted.reshape(*halves, -1).sum((1, 3)) / np.maximum(sums, 1e-9)[..., None]
    coarse = _filled(means, np.minimum(sums, 1)).repeat(2, axis=0).repeat(2, axis=1)
    return np.where(weight[..., None] > 0, colour, coarse[:height, :width])


def _resized(samples, width, height):
    size = (width, height)
    if samples.dtype == np.uint8:
        plane = samples[..., 0] if samples.shape[2] == 1 else samples
        return np.atleast_3d(np.asarray(Image.fromarray(plane).resize(size, Image.BICUBIC)))
    channels = [Image.fromarray(channel.astype(np.float32)) for channel in np.moveaxis(samples, 2, 0)]
    large = np.stack([np.asarray(channel.resize(size, Image.BICUBIC)) for channel in channels], axis=2)
    return large.round().clip(0, 65535).astype(np.uint16)


def _short(samples):
    return ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
