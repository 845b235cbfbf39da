"""The explorer's face, one HTML file: alone with all images inside, or in a notebook whose kernel sends them.

`explore_page.html` beside this file holds the layout, `explore_page.js` the script and `explore_notebook.js` what it
needs besides in a notebook; this module fills in the data.
"""

import base64
import html
import io
import json
from pathlib import Path

import numpy as np

from ..utils.files import atomic_write
from .cache import PANELS
from .curves import plot_svg, plots_of
from .drawing import (
    DETAIL,
    DIFFERENCE_LIMIT,
    ROWS,
    caption,
    columns_of,
    contact_sheet,
    difference_colours,
    title,
    variants_of,
    views_of,
)


FILES = Path(__file__).parent
HEADING = "OMGSR: what the timestep of injection does"
START = "medium"  # the strength that is shown first, where it is among those to choose from
QUALITY = 90  # of the WebP images of the page: difference maps are two grey levels off on average


def explore_page(path, caches, *, heading=HEADING):
    """Write the page of complete `FrameCache`s to `path`, whole or not at all, and return it.

    Photographs and degradations of the caches are those to choose from. Raises `ValueError` if there is no cache, one
    lacks frames, or they differ in their variants.
    """
    path, caches = Path(path), list(caches)
    if not caches:
        raise ValueError("A page needs at least one frame cache: got none.")
    for cache in caches:
        if cache.missing:
            raise ValueError(
                f"A page needs complete caches: '{cache.folder}' lacks timesteps {cache.missing}. Fill it first."
            )
        if cache.variants != caches[0].variants:
            raise ValueError(
                f"The caches of a page need the same variants: {caches[0].variants} and {cache.variants}."
            )
    images = {}  # their places in the page by address: z_t is the same image at every strength

    def place(image):
        return images.setdefault(_uri(image, quality=QUALITY), len(images))

    cases = [case_of(cache, place) for cache in caches]
    for cache, case in zip(caches, cases, strict=True):
        case["frames"] = {timestep: frames_of(cache, timestep, place) for timestep in cache.timesteps}
    some = caches[0].timesteps[:: max(1, len(caches[0].timesteps) // 6)]
    sheet = _uri(contact_sheet(caches[0], some), quality=QUALITY)
    text = page_text(caches[0], heading, sheet, cases=cases, images=list(images))
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def page_text(cache, heading=HEADING, sheet="", **data):
    """The page for the variants of `cache`, filled with `data`; the image at `sheet` is seen where scripts are off."""
    data |= {
        "views": {view: {"name": name, "columns": _columns(view)} for view, name in views_of(cache).items()},
        "rows": ROWS,
        "detail": DETAIL,
        "variants": cache.variants,
        "start": START,
        "limit": DIFFERENCE_LIMIT,
        "colours": difference_colours().tolist(),
    }
    values = {
        "HEADING": html.escape(heading),
        "SHEET": sheet,
        "DATA": as_json(data),
    }
    scripts = ["explore_notebook.js"] * ("live" in data) + ["explore_page.js"]
    values["SCRIPT"] = "\n".join((FILES / name).read_text(encoding="utf-8") for name in scripts)
    text = (FILES / "explore_page.html").read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"%{name}%", value)
    return text


def as_json(data):
    """JSON that can stand inside of a script element."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("</", "<\\/")


def case_of(cache, place):
    """What the script knows of a cache besides its frames; `place` maps an image to what the script finds it by."""
    about, start = cache.about, cache.timesteps[0]
    curves = {}
    for variant in cache.variants:
        timesteps, _ = cache.curve(variant, "snr")
        curves[variant] = {"timestep": timesteps.tolist()}
        for name in plots_of(cache):
            curves[variant][name] = [
                float(f"{value:.4g}") if np.isfinite(value) else None for value in cache.curve(variant, name)[1]
            ]
    return {
        **{name: about[name] for name in ("photo", "strength", "size", "centre", "timesteps", "box", "warning")},
        "reference": cache.reference,
        "mids": {variant: facts["timestep"] for variant, facts in about["variants"].items()},
        "images": {"lq": place(cache.lq), "photo": place(cache.photo)},
        "captions": {panel: caption(cache, None, panel, start) for panel in ("lq", "photo")},
        "curves": curves,
        "plots": {
            view: [plot_svg(cache, name, variants_of(cache, view), start) for name in plots_of(cache)]
            for view in views_of(cache)
        },
        "frames": {},
    }


def frames_of(cache, timestep, place):
    """`{variant: images and captions}` of a computed timestep, for the script."""
    return {
        variant: {
            "images": {panel: place(image) for panel, image in cache.panels(variant, timestep).items()},
            "captions": {panel: caption(cache, variant, panel, timestep) for panel in PANELS},
        }
        for variant in cache.variants
    }


def lossless(image):
    """The address of an image that holds all of it, `data:...`."""
    return _uri(image, lossless=True, method=1)


def _columns(view):
    if view == "compare":
        return []
    return [{"variant": v, "panel": panel, "title": title(v, panel)} for v, panel in columns_of(view)]


def _uri(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", **options)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
