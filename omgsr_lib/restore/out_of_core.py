"""Restore an image of any size: the stages of `Restorer` in tiles, everything between them in files."""

import math
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..priors.latents import compression
from ..tiling.arrays import View, blocks
from ..utils.memory import free_memory, release_memory
from .pipeline import Restorer
from .tensor_file import TensorFile


BYTES = 40  # of memory per pixel of the output, for the arrays between the stages
DISK_BYTES = 20  # of disk per pixel of the output, for files between the stages


def fits_memory(restorer, width, height):
    """Whether the arrays of a restored image of this size fit into half of the free memory, of the model's device too.

    The other half is for activations, for which `Restorer.settings` chooses the parts of the autoencoder.
    """
    return all(
        width * height * BYTES <= _free(device) / 2
        for device in {torch.device("cpu"), next(restorer.model.parameters()).device}
    )


def _free(device):
    try:
        return free_memory(device)
    except ValueError:  # the system does not say
        return math.inf


def restore_oversize(restorer, picture, folder):
    """The restored `Picture` of an 8-bit `Picture` that is not yet enlarged; its colours lie in a file without a name.

    `folder` takes the files between the stages: it is made, and removed at the end.
    """
    width, height = restorer.size(picture.size)
    settings = restorer.settings(height, width)
    picture = picture.with_hidden_filled()
    colour = np.ascontiguousarray(np.broadcast_to(picture.colour, (*picture.colour.shape[:2], 3)))
    folder.mkdir(parents=True)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            output = np.memmap(file, np.uint8, "w+", shape=(height, width, 3))
        restore_in_files(restorer, colour, output, settings, folder)
    finally:
        shutil.rmtree(folder)
    return picture.with_colour(
        np.asarray(Image.fromarray(output).convert("L"))[..., None] if picture.is_grey else output
    )


def restore_array(model, image, output=None, *, tile=512, vae_tile=512, scratch=None, progress=None, **options):
    """Restore one image in memory that does not grow with it; equals `restore(..., vae_mode="flat")`.

    Args:
        model: `OMGSR`.
        image: `(h, w, 3)`, uint8: an array, a memory map or a `TensorFile`.
        output: where to write the result `(H, W, 3)`, uint8, likewise; by default an array made here. `H` and `W` are
            `scale` times those of the image, rounded.
        tile, vae_tile: of the prediction and of the autoencoder, sides in pixels of the output.
        scratch: folder for the files between the stages, by default the system's for temporary files. They take about
            15 bytes per output pixel and 8 per latent, and are removed at the end.
        progress: `progress(stage, done, total)` is called after each tile.
        options: of `Restorer`. With a seed the noise of all latents is in memory at once, and with timesteps that are
            estimated the map of D, a number per latent.

    Returns `output`.
    """
    restorer, factor = Restorer(model, tile=tile, vae_mode="flat", **options), compression(model.vae)
    width, height = restorer.size(image.shape[1::-1])
    output = np.empty((height, width, 3), np.uint8) if output is None else output
    if tuple(output.shape) != (height, width, 3):
        raise ValueError(f"The output must measure {(height, width, 3)}: got {tuple(output.shape)}.")
    settings = replace(restorer.settings(height, width), vae_tile=vae_tile // factor)
    restore_in_files(restorer, image, output, settings, scratch, progress)
    return output


@torch.inference_mode()
def restore_in_files(restorer, image, output, settings, scratch=None, progress=None):
    """Restore `image` `(h, w, 3)` into `output` `(H, W, 3)`, both uint8, with files in the folder `scratch` between.

    The autoencoder is flat whatever `settings` says, and one pass a tile as large as the image.
    """
    size = tuple(output.shape[:2])
    padded = restorer.padded(size)
    whole = max(padded) // compression(restorer.model.vae)
    settings = replace(settings, tile=settings.tile or whole, vae_mode="flat")

    def after_tile(stage, done, total):
        release_memory()
        if progress is not None:
            progress(stage, done, total)

    def write(number, rows, pixels):
        pixels = ((pixels[0].clamp(-1, 1) + 1) * 127.5).round().byte()
        output[rows] = pixels.permute(1, 2, 0).cpu().numpy()
        if restorer.colour_fix is not None:
            after_tile("colour", rows.stop, size[0])

    with tempfile.TemporaryDirectory(dir=scratch) as folder:

        def store(stage):
            return dict(
                new=lambda shape: TensorFile(Path(folder) / stage, shape),
                progress=lambda done, total: after_tile(stage, done, total),
            )

        file = TensorFile(Path(folder) / "reference", (1, 3, *padded), torch.uint8)
        enlarge(image, file, size, lambda done, total: after_tile("enlarge", done, total))
        pixels = View(file, lambda part: part.float() / 127.5 - 1)
        restorer.run(pixels, [pixels], [size], settings, write, store)


def enlarge(image, file, size, progress):
    """Write the bicubic enlargement of `image` to `size`, padded as `restore` does, to `file`, uint8."""
    ratios = [side / large for side, large in zip(image.shape, size, strict=False)]
    squares = blocks(size)
    for done, (rows, columns) in enumerate(squares, start=1):
        crop, edges = [], []
        for span, side, ratio in zip((rows, columns), image.shape, ratios, strict=False):
            first, last = max(int(span.start * ratio) - 3, 0), min(int(span.stop * ratio) + 4, side)
            crop.append(slice(first, last))
            edges.append((span.start * ratio - first, min(span.stop * ratio, side) - first))
        (top, bottom), (left, right) = edges
        part = Image.fromarray(np.ascontiguousarray(image[tuple(crop)]))
        shape = (columns.stop - columns.start, rows.stop - rows.start)
        part = part.resize(shape, Image.BICUBIC, box=(left, top, right, bottom))
        file[0, :, rows, columns] = np.array(part).transpose(2, 0, 1)
        progress(done, len(squares))
    _pad(file, size)


def _pad(file, size):
    """Fill what lies beyond `size` in the last two axes: by reflection, or with the border if that is too short."""
    height, width = size
    bottom, right = (large - side for large, side in zip(file.shape[2:], size, strict=True))
    if bottom < height and right < width:
        if bottom:
            file[..., height:, :width] = file[..., height - 1 - bottom : height - 1, :width].flip(2)
        if right:
            file[..., width:] = file[..., width - 1 - right : width - 1].flip(3)
        return
    file[..., height:, :width] = file[..., height - 1 : height, :width]
    file[..., width:] = file[..., width - 1 : width]
