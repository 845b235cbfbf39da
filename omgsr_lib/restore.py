"""Restore photographs: PIL images or a folder in, PIL images or files out."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F

from .colour import fix_colour
from .data.photos import find_photos, open_photo, to_image, to_pixels
from .priors.latents import compression
from .provenance import atomic_write


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
):
    """Restore `images` (one PIL image or a list) and return a `RestoreResult`.

    Args:
        model: `OMGSR`.
        scale: output side / input side, at least 1.
        timestep: instead of the model's t*; an int for all pictures.
        tile, overlap: in pixels of the output, multiples of `model.multiple`; None restores in one pass. The latents are predicted
            in tiles whose outputs are blended with `window` ("gaussian", "released" or "cosine").
        colour_fix: "adain", "wavelet" or None; the reference is the bicubic enlargement.
        seed: None takes the mean of the encoder's posterior (deterministic), an integer the sample of the authors' code.
        progress: show a progress bar.

    Pictures are enlarged bicubically, padded by reflection to a multiple of `model.multiple` and cropped back.
    """
    images = [images] if isinstance(images, Image.Image) else list(images)
    if not images:
        raise ValueError("restore() needs at least one picture: got an empty list.")
    if scale < 1:
        raise ValueError(f"scale must be at least 1: got {scale}.")
    device = next(model.parameters()).device
    seconds = dict.fromkeys(("encode", "predict", "decode", "colour"), 0.0)
    restored = []
    for image in _progress(images, progress):
        size = (round(image.width * scale), round(image.height * scale))
        enlarged = to_pixels(image.convert("RGB").resize(size, Image.BICUBIC))[None].to(device)
        padded = _pad(enlarged, model.multiple)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        clock = [time.perf_counter()]
        latents = model.encode(padded, generator=generator)
        clock.append(time.perf_counter())
        factor = compression(model.vae)
        clean = model.predict_clean(
            latents,
            timestep,
            tile=_in_latents("tile", tile, factor, model.multiple),
            overlap=_in_latents("overlap", overlap, factor, model.multiple),
            window=window,
        )
        clock.append(time.perf_counter())
        pixels = model.decode(clean)[..., : size[1], : size[0]].clamp(-1, 1)
        clock.append(time.perf_counter())
        restored.append(to_image(fix_colour(pixels, enlarged, method=colour_fix)[0]))
        clock.append(time.perf_counter())
        for stage, begin, end in zip(seconds, clock, clock[1:], strict=False):
            seconds[stage] += end - begin
    return RestoreResult(restored, seconds)


def restore_folder(model, source, target, **options):
    """Restore a picture or every picture below the folder `source` into `target` as PNG; returns the paths written.

    Names keep their relative path and their suffix where two would collide. Options are those of `restore`.
    """
    source, target = Path(source), Path(target)
    paths = [source] if source.is_file() else find_photos(source)
    names = [path.name if source.is_file() else path.relative_to(source).as_posix() for path in paths]
    stems = [str(Path(name).with_suffix("")) for name in names]
    written = []
    for path, name, stem in zip(paths, names, stems, strict=True):
        image = restore(model, open_photo(path), **options).images[0]
        file = target / f"{name if stems.count(stem) > 1 else stem}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            image.save(part, format="PNG")
        written.append(file)
    return written


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

    return tqdm(items, desc="restore", disable=not shown)
