"""Images whose restoration does not fit into the memory, restored in files with the settings of a `Restorer`."""

import math
import shutil
import tempfile

import numpy as np
import torch
from PIL import Image

from ..priors.latents import compression
from ..utils.memory import free_memory
from .out_of_core import restore_array


BYTES = 40  # of memory per pixel of the output that a restoration takes at least, whatever its tiles
DISK_BYTES = 20  # of disk per pixel of the output that one in files takes


def fits_memory(width, height):
    """Whether a restored picture of this size fits, with what goes into the model and what comes out beside it."""
    try:
        free = free_memory(torch.device("cpu"))
    except ValueError:  # the system does not say
        free = math.inf
    return width * height * BYTES <= free


def check_oversize(restorer, picture, folder, path):
    """Raise `ValueError`, naming `path`, if `restore_oversize` cannot restore this 8-bit or 16-bit `Picture`."""
    width, height = restorer.size(picture.size)
    start = f"'{path}' becomes {width}x{height} pixels, more than fit into the memory"
    if restorer.tile != "auto":
        raise ValueError(f'{start}. Choose tile="auto" (--tile auto), which then works in files.')
    if restorer.as_released:
        raise ValueError(f"{start}, and as_released (--as-released) works in memory alone. Restore it in pieces.")
    if picture.levels > 255:
        raise ValueError(f"{start}, and files are for 8 bits only. Restore it in pieces, or with 8 bits.")
    if shutil.disk_usage(folder).free < width * height * DISK_BYTES:
        raise ValueError(
            f"{start}, and takes {width * height * DISK_BYTES / 2**30:.0f} GiB in '{folder}'. Free some space there."
        )


def restore_oversize(restorer, picture, folder):
    """The restored `Picture` of an 8-bit `Picture` that is not yet enlarged; its colours lie in a file without a name.

    `folder` takes the files between the stages: it is made, and removed at the end.
    """
    model, factor = restorer.model, compression(restorer.model.vae)
    width, height = restorer.size(picture.size)
    free = free_memory(next(model.parameters()).device)
    settings = restorer.fitting_settings(height, width, free // 2)
    picture = picture.with_hidden_filled()
    folder.mkdir(parents=True)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            output = np.memmap(file, np.uint8, "w+", shape=(height, width, 3))
        restore_array(
            model,
            np.ascontiguousarray(np.broadcast_to(picture.colour, (*picture.colour.shape[:2], 3))),
            output,
            scale=restorer.scale,
            timestep=restorer.timestep,
            strength=restorer.strength,
            tile=(settings.tile or max(height, width) // factor) * factor,
            overlap=restorer.overlap,
            window=restorer.window,
            planner=restorer.planner,
            tile_batch=settings.tile_batch,
            vae_tile=settings.vae_tile * factor,
            colour_fix=restorer.colour_fix,
            seed=restorer.seed,
            scratch=folder,
        )
    finally:
        shutil.rmtree(folder)
    return picture.with_colour(
        np.asarray(Image.fromarray(output).convert("L"))[..., None] if picture.is_grey else output
    )
