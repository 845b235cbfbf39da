"""What the explorer shows of a `FrameCache`: views, columns, titles, captions, colours; and the contact sheet."""

import io
from functools import cache as remembered
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont


VIEWS = {
    "s": "OMGSR-S", "f": "OMGSR-F", "z": "OMGSR-Z", "k": "OMGSR-K", "both": "S and F", "compare": "Before / after",
}  # fmt: skip
ROWS = ("Image", "Detail", "Difference")
DETAIL = {3: 44, 5: 36, 6: 28}  # side in pixels of the detail by the number of columns: it is shown 4 times enlarged
DIFFERENCE_LIMIT = 64  # grey levels that get the brightest colour of the difference
INK, PAPER = "#262626", "white"
_GAP = 6


def columns_of(view):
    """Columns `(variant, panel)` of a variant's view or of "both": panels of `cache.PANELS` and "lq", "photo"."""
    if view == "both":
        return [(None, "lq"), *((v, p) for v in "sf" for p in ("prior", "tuned")), (None, "photo")]
    return [(None, "lq"), *((view, p) for p in ("noisy", "prior", "tuned")), (None, "photo")]


def views_of(cache):
    """`{view: name}`, those that the variants of a cache allow."""
    one = [variant for variant in VIEWS if variant in cache.variants]
    return {view: VIEWS[view] for view in [*one, *(["both"] if one[:2] == ["s", "f"] else []), "compare"]}


def variants_of(cache, view):
    """The variants that a view shows."""
    return [view] if view in cache.variants else cache.variants


def title(variant, panel):
    """The heading of a column."""
    letter = (variant or "").upper()
    return {
        "lq": "Low quality",
        "noisy": "Photograph at zₜ",
        "prior": f"Prior {letter}",
        "tuned": f"OMGSR-{letter}",
        "photo": "Photograph",
    }[panel]


def caption(cache, variant, panel, timestep):
    """The number under a title: SNR of a noisy latent, PSNR-Y of an image where there is a reference."""
    if panel == "photo":
        return cache.about["photo"]
    if panel == "noisy":
        snr = cache.at(variant, "snr", timestep)
        return f"SNR {snr:.1f} dB" if np.isfinite(snr) else "no noise" if snr > 0 else "noise only"
    if cache.reference == "lq":
        return "as it is" if panel == "lq" else "no reference"
    score = cache.about["psnr"] if panel == "lq" else cache.score(variant, timestep, panel)
    return f"PSNR-Y {score:.2f} dB"


@remembered
def difference_colours():
    """`(DIFFERENCE_LIMIT + 1, 3)` bytes, the colour of each difference."""
    colours = matplotlib.colormaps["inferno"](np.linspace(0, 1, DIFFERENCE_LIMIT + 1))
    return (colours[:, :3] * 255).round().astype(np.uint8)


def contact_sheet(cache, timesteps, *, cell=88):
    """A PIL image: what goes in, then a column per computed timestep; per variant z_t, prior and tuned model."""
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
        images = [cache.photo if panel == "noisy" else cache.lq]
        images += [cache.panels(variant, timestep)[panel] for timestep in timesteps]
        for column, image in enumerate(images):
            sheet.paste(image.resize((cell, cell), Image.LANCZOS), (margin + column * (cell + _GAP), top))
    return sheet


def to_png(image):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def to_jpeg(image):
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


@remembered
def _font(size, bold=False):
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)
