"""The explorer as one HTML file for a talk or a supplement: no kernel, no network, every image inside.

`explore_page.html` beside this file holds layout and script; this module fills in the data.
"""

import base64
import html
import io
import json
from pathlib import Path

from PIL import Image

from ..utils.files import atomic_write
from .cache import PANELS
from .curves import HEADINGS, plot_svg
from .drawing import (
    DIFFERENCE_LIMIT,
    ROWS,
    ZOOM,
    caption,
    cell_of,
    columns_of,
    contact_sheet,
    difference_colours,
    title,
    variants_of,
    views_of,
)


TEMPLATE = Path(__file__).with_name("explore_page.html")
QUALITY = 90  # of the WebP images: difference maps are two grey levels off on average


def explore_page(path, caches, *, heading="OMGSR: what the timestep of injection does"):
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
    views = {
        view: {"name": name} | ({} if view == "wiper" else {"crop": cell_of(view) // ZOOM, "columns": _columns(view)})
        for view, name in views_of(caches[0]).items()
    }
    pictures = {}  # their places in the page by address: z_t is the same image at every strength
    cases = [_case(cache, views, pictures) for cache in caches]
    data = {
        "views": views,
        "rows": ROWS,
        "variants": caches[0].variants,
        "limit": DIFFERENCE_LIMIT,
        "colours": difference_colours().tolist(),
        "cases": cases,
        "pictures": list(pictures),
    }
    some = caches[0].timesteps[:: max(1, len(caches[0].timesteps) // 6)]
    values = {
        "HEADING": html.escape(heading),
        "SHEET": _uri(Image.open(io.BytesIO(contact_sheet(caches[0], some)))),
        "DATA": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("</", "<\\/"),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"%{name}%", value)
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def _columns(view):
    return [{"variant": v, "panel": panel, "title": title(v, panel)} for v, panel in columns_of(view)]


def _case(cache, views, pictures):
    """What the script knows of one cache; images go to `pictures`, their places there stay."""

    def places(panels):
        return {panel: pictures.setdefault(_uri(picture), len(pictures)) for panel, picture in panels.items()}

    frames = {
        variant: {
            timestep: {
                "pictures": places(cache.panels(variant, timestep)),
                "captions": {panel: caption(cache, variant, panel, timestep) for panel in PANELS},
            }
            for timestep in cache.timesteps
        }
        for variant in cache.variants
    }
    start = cache.timesteps[0]
    return {
        "photo": cache.about["photo"],
        "strength": cache.about["strength"],
        "size": cache.about["size"],
        "centre": cache.about["centre"],
        "timesteps": cache.timesteps,
        "mids": {variant: about["timestep"] for variant, about in cache.about["variants"].items()},
        "pictures": places({"lq": cache.lq, "photo": cache.photo}),
        "captions": {panel: caption(cache, None, panel, start) for panel in ("lq", "photo")},
        "frames": frames,
        "plots": {
            view: [plot_svg(cache, name, variants_of(cache, view), start) for name in HEADINGS] for view in views
        },
    }


def _uri(picture):
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
