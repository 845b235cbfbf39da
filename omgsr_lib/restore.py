"""Restore photographs: PIL images or a folder in, PIL images or files out."""

import math
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F

from .colour import fix_colour
from .data.photos import find_photos, open_photo, to_image, to_pixels
from .memory import free_memory
from .priors.latents import compression
from .provenance import atomic_write
from .tile_size import Settings, fitting_settings, retry_smaller


@dataclass
class RestoreResult:
    """Restored pictures and what they cost.

    Attributes:
        images: PIL images in the order of the input, each exactly `scale` times its input's size (rounded).
        seconds: per stage (encode, predict, decode, colour), summed over pictures.
    """

    images: list
    seconds: dict = field(default_factory=dict)


@torch.inference_mode()
def restore(
    model,
    images,
    *,
    scale=4,
    timestep=None,
    tile=None,
    overlap=None,
    window="gaussian",
    colour_fix="adain",
    seed=None,
    progress=True,
    planner=None,
    tile_batch=1,
    vae_mode=None,
):
    """Restore `images` (one PIL image or a list) and return a `RestoreResult`.

    Args:
        model: `OMGSR`.
        scale: output side / input side, at least 1.
        timestep: instead of the model's t*; an int for all pictures.
        tile, overlap: in pixels of the output, multiples of `model.multiple`; `tile=None` restores in one pass. The
            latents are predicted in tiles whose outputs are blended with `window` ("gaussian", "released", "cosine",
            "ramp"). With an `overlap` the tiles lie as published, without one there are as few as possible, as small
            as possible. `tile="auto"` is one pass if that fits into half of the free memory, else the largest tile
            that does, and likewise chooses `vae_mode`.
        colour_fix: "adain", "wavelet" or None; the reference is the bicubic enlargement.
        seed: None takes the mean of the encoder's posterior (deterministic), an integer a sample of it, as the
            authors' code does; every picture is sampled with this seed.
        progress: show a progress bar, in a terminal or notebook.
        planner, tile_batch: "smallest" or "published" tiles, and how many go through the prior at once (see `tiled`).
        vae_mode: encoder and decoder in one piece (None) or in parts, "exact" or "flat" (see `tiled_vae`).

    Pictures are enlarged bicubically, padded by reflection to a multiple of `model.multiple` and cropped back. Out of
    memory, a picture is tried once more with smaller tiles, with a warning. A wrong argument raises `ValueError`.
    """
    images = [images] if isinstance(images, Image.Image) else list(images)
    if not images:
        raise ValueError("restore() needs at least one picture: got an empty list.")
    if not 1 <= scale < math.inf:
        raise ValueError(f"scale must be at least 1 and finite: got {scale}.")
    factor = compression(model.vae)
    tiling = dict(window=window, planner=planner, tile_batch=tile_batch)
    overlap = _in_latents("overlap", overlap, factor, model.multiple)
    fixed = None
    if tile != "auto":
        fixed = Settings(_in_latents("tile", tile, factor, model.multiple), overlap, vae_mode)
    device = next(model.parameters()).device
    seconds = dict.fromkeys(("encode", "predict", "decode", "colour"), 0.0)
    restored = []
    for image in _progress(images, progress):
        size = (round(image.width * scale), round(image.height * scale))
        enlarged = to_pixels(image.convert("RGB").resize(size, Image.BICUBIC))[None].to(device)
        padded = _pad(enlarged, model.multiple)
        settings = fixed or fitting_settings(model, *padded.shape[-2:], free_memory(device) // 2, overlap)

        def attempt(settings, enlarged=enlarged, padded=padded):
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            return _restore_one(model, enlarged, padded, timestep, settings, tiling, colour_fix, generator)

        pixels, clock = retry_smaller(attempt, settings, max(padded.shape[-2:]) // factor, model.prior.latent_multiple)
        restored.append(to_image(pixels))
        clock.append(_now(device))
        for stage, (begin, end) in zip(seconds, pairwise(clock), strict=True):
            seconds[stage] += end - begin
    return RestoreResult(restored, seconds)


def _restore_one(model, enlarged, padded, timestep, settings, tiling, colour_fix, generator):
    """Restored pixels `(3, H, W)` and the times at which encoder, prediction and decoder began and the last ended."""
    weight = next(model.parameters())
    clock = [_now(weight.device)]
    latents = model.encode(padded.to(weight.dtype), generator=generator, **settings.vae)
    clock.append(_now(weight.device))
    clean = model.predict_clean(latents, timestep, tile=settings.tile, overlap=settings.overlap, **tiling)
    clock.append(_now(weight.device))
    pixels = model.decode(clean, **settings.vae)[..., : enlarged.shape[-2], : enlarged.shape[-1]].float().clamp(-1, 1)
    clock.append(_now(weight.device))
    return fix_colour(pixels, enlarged, method=colour_fix)[0], clock


def restore_folder(model, source, target, *, progress=True, **options):
    """Restore a picture or every picture below the folder `source` into `target` as PNG; returns the paths written.

    Names keep their relative path, and their suffix where two would collide. Options are those of `restore`. Raises
    `ValueError` if a restored picture would replace one of the pictures.
    """
    source, target = Path(source), Path(target)
    paths = [source] if source.is_file() else find_photos(source)
    names = [path.relative_to(source.parent if source.is_file() else source) for path in paths]
    stems = [name.with_suffix("") for name in names]
    files = [
        target / f"{name if stems.count(stem) > 1 else stem}.png" for name, stem in zip(names, stems, strict=True)
    ]
    replaced = {path.resolve() for path in paths} & {file.resolve() for file in files}
    if replaced:
        raise ValueError(
            f"A restored picture must not replace a picture to restore: '{target}' holds {min(replaced).name}. "
            "Choose another folder for the output."
        )
    for path, file in zip(_progress(paths, progress), files, strict=True):
        image = restore(model, open_photo(path), progress=False, **options).images[0]
        with atomic_write(file) as part:
            image.save(part, format="PNG")
    return files


def _pad(pixels, multiple):
    height, width = pixels.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(pixels, (0, right, 0, bottom), mode=mode)


def _in_latents(name, pixels, factor, multiple):
    if pixels is None:
        return None
    if pixels % multiple:
        raise ValueError(f"{name} must be a multiple of {multiple} pixels: got {pixels}.")
    return pixels // factor


def _progress(items, shown):
    from tqdm.auto import tqdm

    return tqdm(items, desc="restore", disable=None if shown else True)  # None: off where there is no terminal


def _now(device):
    """Seconds on a clock, once the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
