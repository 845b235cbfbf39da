"""Restore a picture of any size: every stage in tiles, everything between the stages in files."""

import tempfile
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..adaptive.timesteps import difference_map, estimates, tile_predictor
from ..priors.latents import compression, posterior_latents, unscale_latents
from ..tiling.grid import tiled
from ..tiling.vae import FlatPass
from ..tiling.vae_layers import decoder_layers, encoder_layers
from ..utils.memory import release_memory
from ..utils.moments import Moments
from ..utils.random import randn
from .colour import REACH, adain_gain, wavelet
from .tensor_file import TensorFile


BLOCK = 512  # side of the squares in which pictures are enlarged and coloured


@torch.inference_mode()
def restore_array(
    model,
    picture,
    output=None,
    *,
    scale=4,
    timestep=None,
    strength=0.0,
    tile=512,
    overlap=None,
    window="gaussian",
    planner=None,
    tile_batch=1,
    vae_tile=512,
    colour_fix="adain",
    seed=None,
    scratch=None,
    progress=None,
):
    """Restore one picture in memory that does not grow with it; equals `restore(..., vae_mode="flat")`.

    Args:
        model: `OMGSR`.
        picture: `(h, w, 3)`, uint8: an array, a memory map or a `TensorFile`.
        output: where to write the result `(H, W, 3)`, uint8, likewise; by default an array made here. `H` and `W` are
            `scale` times those of the picture, rounded.
        tile, overlap, window, planner, tile_batch: of the prediction, sides in pixels of the output (see `tiled`).
        vae_tile: tile of encoder and decoder in pixels of the output.
        timestep, strength, colour_fix, seed: as in `restore`. With a seed the noise of all latents is in memory at
            once, and with timesteps that are estimated the map of D, a number per latent.
        scratch: folder for the files between the stages, by default the system's for temporary files. They take about
            15 bytes per output pixel and 8 per latent, and are removed at the end.
        progress: `progress(stage, done, total)` is called after each tile.

    Returns `output`.
    """
    if colour_fix not in ("adain", "wavelet", None):
        raise ValueError(f'colour_fix must be "adain", "wavelet" or None, got {colour_fix!r}.')
    size = tuple(round(side * scale) for side in picture.shape[:2])
    padded = tuple(-(-side // model.multiple) * model.multiple for side in size)
    output = np.empty((*size, 3), np.uint8) if output is None else output
    if tuple(output.shape) != (*size, 3):
        raise ValueError(f"The output must measure {(*size, 3)}: got {tuple(output.shape)}.")
    factor = compression(model.vae)
    tiling = dict(tile=tile // factor, overlap=overlap and overlap // factor, window=window, planner=planner)

    def after_tile(stage, done, total):
        release_memory()
        if progress is not None:
            progress(stage, done, total)

    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        stages = _Stages(model, Path(folder), after_tile, vae_tile // factor)
        reference = stages.enlarge(picture, size, padded)
        tiling["tile_batch"] = tile_batch
        if estimates(model, timestep):
            latents = stages.encode(model.lq_vae, reference, "latents", seed)
            clean = stages.predict_adaptive(latents, stages.estimate(reference), strength, tiling)
        else:
            latents = stages.encode(model.lq_vae, reference, "latents", seed, timestep)
            clean = stages.predict(latents, timestep, tiling)
        if colour_fix is None:
            for rows, columns, pixels in stages.decode(clean, size):
                output[rows, columns] = _to_bytes(pixels)
        else:
            restored = TensorFile(Path(folder) / "restored", (1, 3, *size))
            moments = Moments(3)
            for rows, columns, pixels in stages.decode(clean, size):
                restored[..., rows, columns] = pixels
                moments.update(pixels)
            stages.colour(restored, reference, moments, colour_fix, output)
    return output


class _Stages:
    def __init__(self, model, folder, progress, vae_tile):
        self.model, self.folder, self.progress, self.vae_tile = model, folder, progress, vae_tile
        self.weight = next(model.parameters())

    def enlarge(self, picture, size, padded):
        """The picture's bicubic enlargement, padded as `restore` does: a file `(3, H, W)`, uint8."""
        file = TensorFile(self.folder / "reference", (3, *padded), torch.uint8)
        ratios = [side / large for side, large in zip(picture.shape, size, strict=False)]
        blocks = _blocks(size)
        for done, (rows, columns) in enumerate(blocks, start=1):
            crop, edges = [], []
            for span, side, ratio in zip((rows, columns), picture.shape, ratios, strict=False):
                first, last = max(int(span.start * ratio) - 3, 0), min(int(span.stop * ratio) + 4, side)
                crop.append(slice(first, last))
                edges.append((span.start * ratio - first, min(span.stop * ratio, side) - first))
            (top, bottom), (left, right) = edges
            part = Image.fromarray(np.ascontiguousarray(picture[tuple(crop)]))
            shape = (columns.stop - columns.start, rows.stop - rows.start)
            part = part.resize(shape, Image.BICUBIC, box=(left, top, right, bottom))
            file[:, rows, columns] = np.array(part).transpose(2, 0, 1)
            self.progress("enlarge", done, len(blocks))
        _pad(file, size)
        return file

    def encode(self, vae, reference, name, seed=None, timestep=None):
        """Latents of `vae` for the prediction at `timestep`: a file `(1, C, h, w)`."""
        flat = FlatPass(
            encoder_layers(vae),
            lambda rows, columns: _to_pixels(reference[:, rows, columns]).to(self.weight),
            *reference.shape[1:],
            tile=self.vae_tile,
        )
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        latents = noise = None
        for done, (rows, columns, encoded) in enumerate(flat.tiles(), start=1):
            if latents is None:
                channels = posterior_latents(vae, encoded).shape[1]
                latents = TensorFile(self.folder / name, (1, channels, *flat.latents))
                if generator is not None:
                    noise = randn(latents.shape, generator, self.weight)
            drawn = None if noise is None else noise[..., rows, columns].to(self.weight)
            part = posterior_latents(vae, encoded, noise=drawn)
            latents[..., rows, columns] = self.model.inject(part, timestep)
            self.progress("encode", done, flat.count)
        return latents

    def estimate(self, reference):
        """Estimated D of each neighbourhood, `(1, 1, h, w)`."""
        return difference_map(self.model.estimator, self.encode(self.model.vae, reference, "plain"))

    def predict_adaptive(self, latents, difference, strength, tiling):
        """Clean latents, each tile at a timestep of its own: a file like `latents`."""
        channels, size = latents.shape[1], latents.shape[2:]
        joined = TensorFile(self.folder / "joined", (1, channels + 1, *size))
        clean = TensorFile(self.folder / "clean", latents.shape)
        joined[:, channels:] = difference
        for rows, columns in _blocks(size):
            joined[:, :channels, rows, columns] = latents[..., rows, columns]
        predict = tile_predictor(self.model, strength)
        tiled(
            lambda parts: predict(parts.to(self.weight)).cpu(),
            joined,
            multiple=self.model.prior.latent_multiple,
            out=clean,
            progress=lambda done, total: self.progress("predict", done, total),
            **tiling,
        )
        return clean

    def predict(self, latents, timestep, tiling):
        """Clean latents: a file like `latents`."""
        prior = self.model.prior
        timestep = self.model.timestep if timestep is None else timestep
        outputs, clean = (TensorFile(self.folder / name, latents.shape) for name in ("outputs", "clean"))
        tiled(
            lambda parts: self.model.predict_output(parts.to(self.weight), timestep).cpu(),
            latents,
            multiple=prior.latent_multiple,
            out=outputs,
            progress=lambda done, total: self.progress("predict", done, total),
            **tiling,
        )
        for rows, columns in _blocks(latents.shape[2:]):
            parts = (file[..., rows, columns].to(self.weight) for file in (latents, outputs))
            clean[..., rows, columns] = prior.schedule.predict_clean(*parts, timestep)
        return clean

    def decode(self, clean, size):
        """Yield `(rows, columns, pixels)`, clamped to [-1, 1] and inside `size`."""
        vae = self.model.vae
        flat = FlatPass(
            decoder_layers(vae),
            lambda rows, columns: unscale_latents(vae, clean[..., rows, columns].to(self.weight)),
            *clean.shape[2:],
            tile=self.vae_tile,
        )
        for done, (rows, columns, pixels) in enumerate(flat.tiles(), start=1):
            rows, columns = (
                slice(span.start, min(span.stop, side)) for span, side in zip((rows, columns), size, strict=True)
            )
            pixels = pixels[..., : rows.stop - rows.start, : columns.stop - columns.start]
            yield rows, columns, pixels.float().clamp(-1, 1).cpu()
            self.progress("decode", done, flat.count)

    def colour(self, restored, reference, moments, method, output):
        """Write `restored` with the colours of `reference` to `output`."""
        size = restored.shape[2:]
        blocks = _blocks(size)
        if method == "adain":
            target = Moments(3)
            for rows, columns in blocks:
                target.update(_to_pixels(reference[:, rows, columns]))
            gain, offset = adain_gain(moments, target)
        for done, (rows, columns) in enumerate(blocks, start=1):
            if method == "adain":
                pixels = restored[..., rows, columns] * gain + offset
            else:
                y, x = (
                    slice(max(span.start - REACH, 0), min(span.stop + REACH, side))
                    for span, side in zip((rows, columns), size, strict=True)
                )
                pixels = wavelet(restored[..., y, x], _to_pixels(reference[:, y, x]))
                pixels = pixels[..., rows.start - y.start :, columns.start - x.start :]
                pixels = pixels[..., : rows.stop - rows.start, : columns.stop - columns.start]
            output[rows, columns] = _to_bytes(pixels)
            self.progress("colour", done, len(blocks))


def _blocks(size):
    spans = [[slice(start, stop) for start, stop in pairwise([*range(0, side, BLOCK), side])] for side in size]
    return list(product(*spans))


def _pad(file, size):
    """Fill what lies beyond `size` in the last two axes: by reflection, or with the border if that is too short."""
    height, width = size
    bottom, right = (large - side for large, side in zip(file.shape[1:], size, strict=True))
    if bottom < height and right < width:
        if bottom:
            file[:, height:, :width] = file[:, height - 1 - bottom : height - 1, :width].flip(1)
        if right:
            file[:, :, width:] = file[:, :, width - 1 - right : width - 1].flip(2)
        return
    file[:, height:, :width] = file[:, height - 1 : height, :width]
    file[:, :, width:] = file[:, :, width - 1 : width]


def _to_pixels(part):
    return part.float()[None] / 127.5 - 1


def _to_bytes(pixels):
    return ((pixels[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
