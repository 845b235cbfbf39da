"""Images of the explorer, drawn from a `FrameCache`: columns of images with crop and difference, wiper, sheet.

What is said here once (views, titles, captions, crop, scale of the difference) holds in the notebook and in the page.
"""

import io
from functools import cache as remembered
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont


VIEWS = {"s": "OMGSR-S", "f": "OMGSR-F", "both": "S and F", "wiper": "Before / after"}
WIDTH = 764  # of every image, pixels
ZOOM = 4  # of the crop
ROWS = ("Picture", f"Crop × {ZOOM}", "Difference")
DIFFERENCE_LIMIT = 64  # grey levels that get the brightest colour of the difference
INK, PAPER, EMPTY, MARK = "#262626", "white", "#EDEDED", "#FFD400"
_MARGIN, _GAP, _HEADER = 20, 6, 36


def columns_of(view):
    """Columns `(variant, panel)` of view "s", "f" or "both", panels of `cache.PANELS` besides "lq" and "photo"."""
    if view == "both":
        return [(None, "lq"), *((v, p) for v in "sf" for p in ("prior", "tuned")), (None, "photo")]
    return [(None, "lq"), *((view, p) for p in ("noisy", "prior", "tuned")), (None, "photo")]


def views_of(cache):
    """`{view: name}`, those that the variants of a cache allow."""
    one = [variant for variant in VIEWS if variant in cache.variants]
    return {view: VIEWS[view] for view in [*one, *(["both"] if len(one) == 2 else []), "wiper"]}


def variants_of(cache, view):
    """The variants that a view shows."""
    return [view] if view in cache.variants else cache.variants


def cell_of(view):
    """Side of an image in pixels: a multiple of `ZOOM`."""
    count = len(columns_of(view))
    return (WIDTH - _MARGIN - _GAP * (count - 1)) // count // ZOOM * ZOOM


def title(variant, panel):
    letter = (variant or "").upper()
    return {
        "lq": "Low quality",
        "noisy": "Photograph at zₜ",
        "prior": f"Prior {letter}",
        "tuned": f"OMGSR-{letter}",
        "photo": "Photograph",
    }[panel]


def caption(cache, variant, panel, timestep):
    """The number under a title: SNR of a noisy latent, PSNR-Y of an image."""
    if panel == "photo":
        return cache.about["photo"]
    if panel == "lq":
        return f"PSNR-Y {cache.about['psnr']:.2f} dB"
    if panel == "noisy":
        snr = cache.at(variant, "snr", timestep)
        return f"SNR {snr:.1f} dB" if np.isfinite(snr) else "no noise" if snr > 0 else "noise only"
    return f"PSNR-Y {cache.score(variant, timestep, panel):.2f} dB"


def crop_box(cache, view):
    """(left, top, right, bottom) of the crop: around the cache's centre, `ZOOM` times smaller than a column."""
    size = cache.about["size"]
    side = min(cell_of(view) // ZOOM, size // 2)
    left, top = (min(max(centre - side // 2, 0), size - side) for centre in cache.about["centre"])
    return left, top, left + side, top + side


def difference_map(picture, photo):
    """Mean absolute difference of the channels, 0 to `DIFFERENCE_LIMIT` grey levels, in the colours of "inferno"."""
    levels = np.asarray(ImageChops.difference(picture, photo), dtype=np.uint16).sum(2) // 3
    return Image.fromarray(difference_colours()[np.minimum(levels, DIFFERENCE_LIMIT)])


@remembered
def difference_colours():
    """`(DIFFERENCE_LIMIT + 1, 3)` bytes, the colour of each difference."""
    colours = matplotlib.colormaps["inferno"](np.linspace(0, 1, DIFFERENCE_LIMIT + 1))
    return (colours[:, :3] * 255).round().astype(np.uint8)


def explorer_picture(cache, view, timestep):
    """PNG bytes of view "s", "f" or "both" at `timestep`: columns of image, crop and difference to the photograph.

    What is not computed yet stays grey.
    """
    columns, cell, box = columns_of(view), cell_of(view), crop_box(cache, view)
    sheet = Image.new("RGB", (WIDTH, _HEADER + 3 * cell + 2 * _GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    tops = [_HEADER + row * (cell + _GAP) for row in range(3)]
    for name, top in zip(ROWS, tops, strict=True):
        _upright(sheet, name, (0, top, _MARGIN - 4, top + cell))
    for place, (variant, panel) in enumerate(columns):
        left = _MARGIN + place * (cell + _GAP)
        picture = _picture(cache, variant, panel, timestep)
        words = "computing ..." if picture is None else caption(cache, variant, panel, timestep)
        _head(draw, left, title(variant, panel), words)
        if picture is None:
            for top in tops:
                draw.rectangle((left, top, left + cell - 1, top + cell - 1), fill=EMPTY)
            continue
        sheet.paste(picture.resize((cell, cell), Image.LANCZOS), (left, tops[0]))
        if panel in ("lq", "photo"):
            _outline(draw, box, cell / picture.width, (left, tops[0]))
        sheet.paste(picture.crop(box).resize((cell, cell), Image.NEAREST), (left, tops[1]))
        if panel == "photo":
            _colour_bar(sheet, (left, tops[2]), cell)
        else:
            sheet.paste(difference_map(picture, cache.photo).resize((cell, cell), Image.NEAREST), (left, tops[2]))
    return to_png(sheet)


def wiper_picture(cache, timestep, border):
    """PNG bytes per variant: the low-quality image left of `border` (percent), the tuned model's right of it."""
    count = len(cache.variants)
    cell = min((WIDTH - _GAP * (count - 1)) // count, 480)
    sheet = Image.new("RGB", (WIDTH, _HEADER + cell), PAPER)
    draw = ImageDraw.Draw(sheet)
    split = round(cell * border / 100)
    for place, variant in enumerate(cache.variants):
        left = place * (cell + _GAP)
        tuned = _picture(cache, variant, "tuned", timestep)
        words = "computing ..." if tuned is None else caption(cache, variant, "tuned", timestep)
        _head(draw, left, f"Low quality | {title(variant, 'tuned')}", words)
        before = cache.lq.resize((cell, cell), Image.BICUBIC)
        after = Image.new("RGB", (cell, cell), EMPTY) if tuned is None else tuned.resize((cell, cell), Image.BICUBIC)
        sheet.paste(after, (left, _HEADER))
        sheet.paste(before.crop((0, 0, split, cell)), (left, _HEADER))
        draw.line((left + split, _HEADER, left + split, _HEADER + cell - 1), fill=MARK, width=2)
    return to_png(sheet)


def contact_sheet(cache, timesteps, *, cell=88):
    """PNG bytes: what goes in, then a column per computed timestep; per variant z_t, prior and tuned model."""
    margin, header = 62, 22
    rows = [(variant, panel) for variant in cache.variants for panel in ("noisy", "prior", "tuned")]
    size = margin + (len(timesteps) + 1) * (cell + _GAP) - _GAP, header + len(rows) * (cell + _GAP) - _GAP
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    mids = {about["timestep"]: variant.upper() for variant, about in cache.about["variants"].items()}
    labels = ["input", *(f"t = {t}" + (f" = t* {mids[t]}" if t in mids else "") for t in timesteps)]
    for place, label in enumerate(labels):
        middle = margin + place * (cell + _GAP) + cell / 2
        draw.text((middle, header / 2), label, fill=INK, font=_font(11, bold="*" in label), anchor="mm")
    for place, (variant, panel) in enumerate(rows):
        top = header + place * (cell + _GAP)
        name = f"zₜ, {variant.upper()}" if panel == "noisy" else title(variant, panel)
        draw.text((0, top + cell / 2), name, fill=INK, font=_font(11), anchor="lm")
        pictures = [cache.photo if panel == "noisy" else cache.lq]
        pictures += [_picture(cache, variant, panel, timestep) for timestep in timesteps]
        for column, picture in enumerate(pictures):
            sheet.paste(picture.resize((cell, cell), Image.LANCZOS), (margin + column * (cell + _GAP), top))
    return to_png(sheet, level=6)


def to_png(picture, level=1):
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=level)
    return buffer.getvalue()


def _picture(cache, variant, panel, timestep):
    """PIL image, or None where the frame is not computed."""
    if variant is None:
        return cache.lq if panel == "lq" else cache.photo
    return cache.panels(variant, timestep)[panel] if cache.has(timestep) else None


def _head(draw, left, heading, words):
    draw.text((left, 1), heading, fill=INK, font=_font(13, bold=True))
    draw.text((left, 18), words, fill=INK, font=_font(12))


def _outline(draw, box, scale, corner):
    edges = [round(corner[i % 2] + edge * scale) for i, edge in enumerate(box)]
    draw.rectangle((edges[0], edges[1], edges[2] - 1, edges[3] - 1), outline=MARK, width=1)


def _upright(sheet, text, area):
    """Write `text` upwards in the middle of `area`."""
    left, top, right, bottom = area
    line = Image.new("RGB", (bottom - top, right - left), PAPER)
    ImageDraw.Draw(line).text(((bottom - top) / 2, (right - left) / 2), text, fill=INK, font=_font(12), anchor="mm")
    sheet.paste(line.rotate(90, expand=True), (left, top))


def _colour_bar(sheet, corner, cell):
    """The scale of the difference, in the place of the photograph's."""
    left, top = corner
    draw = ImageDraw.Draw(sheet)
    ramp = difference_colours()[np.linspace(0, DIFFERENCE_LIMIT, cell).astype(int)]
    sheet.paste(Image.fromarray(np.repeat(ramp[None], 14, axis=0)), (left, top + 20))
    draw.text((left, top + 2), "from photograph", fill=INK, font=_font(11))
    draw.text((left, top + 38), "0", fill=INK, font=_font(11))
    draw.text((left + cell, top + 38), f"{DIFFERENCE_LIMIT}+ levels", fill=INK, font=_font(11), anchor="ra")


@remembered
def _font(size, bold=False):
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)
