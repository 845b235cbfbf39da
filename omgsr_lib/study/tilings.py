"""Layouts of tiles compared with one pass: how far the images differ, and what shows at the borders."""

import pandas as pd
from PIL import Image

from ..data.photos import to_pixels
from ..metrics.measures import checkerboard, psnr_rgb, seam_energy, seam_lines
from ..priors.latents import compression
from ..restore.pipeline import restore
from ..tiling.grid import plan_tiles


def compare_tilings(model, image, tile, *, scale=4):
    """One image restored in one pass and in tiles of `tile` pixels of several layouts.

    Returns a data frame and the PIL images by name, "one pass" first. Columns: tiling, tiles, overdraw (area of all
    tiles over that of the image), seconds of the prediction, psnr to one pass (dB), seam and seam_one_pass (the seam
    metric at the borders of the tiles, in this image and in that of one pass), line and line_one_pass (likewise how
    far lines along the borders stand out, in levels of 255), checkerboard (dB at 8 pixels).
    """
    layouts = {  # planner, overlap in pixels, window
        "no overlap": ("published", 0, "gaussian"),
        "published": ("published", tile // 2, "gaussian"),
        "smallest": ("smallest", None, "gaussian"),
        "smallest, cosine": ("smallest", None, "cosine"),
        "smallest, ramp": ("smallest", None, "ramp"),
    }
    whole = restore(model, image, scale=scale, progress=False)
    pictures, expected = {"one pass": whole.images[0]}, to_pixels(whole.images[0])[None]
    enlarged = to_pixels(image.resize(whole.images[0].size, Image.BICUBIC))[None]
    rows = [{"tiling": "one pass", "tiles": 1, "overdraw": 1.0, "seconds": whole.seconds["predict"]}]
    for name, (planner, overlap, window) in layouts.items():
        layout = dict(tile=tile, overlap=overlap, planner=planner, window=window)
        result = restore(model, image, scale=scale, progress=False, **layout)
        pictures[name], pixels = result.images[0], to_pixels(result.images[0])[None]
        plan, borders = tile_borders(model, pictures[name].size, tile, overlap, planner=planner)
        row = {"tiling": name, "tiles": len(plan.slices()), "overdraw": plan.overdraw}
        row |= {"seconds": result.seconds["predict"], "psnr": psnr_rgb(pixels, expected).item()}
        row |= {"seam": seam_energy(pixels, *borders).item(), "seam_one_pass": seam_energy(expected, *borders).item()}
        lines = [seam_lines(x, enlarged, *borders)[0].item() for x in (pixels, expected)]
        rows.append(row | dict(zip(("line", "line_one_pass"), lines, strict=True)))
    grids = [checkerboard(to_pixels(picture)[None]).item() for picture in pictures.values()]
    return pd.DataFrame(rows).assign(checkerboard=grids), pictures


def tile_borders(model, size, tile, overlap=None, *, planner="smallest"):
    """`(plan, borders)` of a restored image of `size` (width, height) in tiles of at most `tile` pixels.

    The `TilePlan` of its latents, and the rows and columns in pixels where two tiles weigh the same.
    """
    factor = compression(model.vae)
    height, width = (-(-side // model.multiple) * model.multiple // factor for side in reversed(size))
    overlap = overlap if overlap is None else overlap // factor
    options = dict(planner=planner, multiple=model.prior.latent_multiple, rim=model.prior.rim)
    plan = plan_tiles(height, width, tile // factor, overlap, **options)
    return plan, [[factor * seam for seam in seams] for seams in plan.seams()]


def prediction_tiles(model, height, width, tile):
    """The tiles in which `restore_array` predicts an image of `height` x `width` pixels, of at most `tile` pixels.

    A data frame with a row per tile: left, top, right, bottom in pixels, cut at the image's edge.
    """
    plan, _ = tile_borders(model, (width, height), tile)
    rows = [(x.start, y.start, x.stop, y.stop) for y, x in plan.slices()]
    frame = pd.DataFrame(rows, columns=["left", "top", "right", "bottom"]) * compression(model.vae)
    return frame.assign(right=frame["right"].clip(upper=width), bottom=frame["bottom"].clip(upper=height))
