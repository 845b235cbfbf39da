"""Restore photographs: PIL images in, PIL images out. `restore.folder` does the same with files."""

import math
import time
import warnings
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import groupby, pairwise
from numbers import Integral, Real

import torch
from PIL import Image
from torch.nn import functional as F

from ..adaptive.timesteps import predict_adaptive
from ..images.image_file import Picture
from ..priors.latents import compression
from ..tiling.arrays import View, blockwise, read_as
from ..tiling.grid import PLANNERS, WINDOWS
from ..tiling.vae import MODES, exact_in_tiles
from ..utils.device import fast_attention, small_on_cpu
from ..utils.memory import free_memory, out_of_memory
from ..utils.workers import in_order, on_threads
from .auto_tile import Peaks, Settings, fitting_autoencoder, fitting_settings, in_exact_tiles, retry_smaller
from .batches import batches
from .checks import check_count, check_name
from .colour import check_method, colour_strips


STAGES = ("encode", "predict", "decode", "colour")
BEST_TILE = 512  # pixels of the output, of a model that does not say what it was trained on
SMALL = 1024**2  # pixels of the output whose autoencoder fits in one piece without counting


@dataclass
class RestoreResult:
    """Restored images and what they cost.

    Attributes:
        images: PIL images in the order of the input, each exactly `scale` times its input's size (rounded).
        seconds: per stage (encode, predict, decode, colour), summed over images.
    """

    images: list
    seconds: dict = field(default_factory=dict)


def restore(
    model,
    images,
    *,
    scale=4,
    timestep=None,
    strength=0.0,
    tile=None,
    overlap=None,
    window="gaussian",
    colour_fix="adain",
    seed=None,
    progress=True,
    planner=None,
    tile_batch=1,
    vae_mode=None,
    batch_size=1,
    as_released=False,
):
    """Restore `images` (one PIL image or a list) and return a `RestoreResult`.

    Args:
        model: `OMGSR`.
        progress: show a progress bar, in a terminal or notebook.
        batch_size: how many images of equal padded size go through the model at once.
        scale, timestep, strength, tile, overlap, window, colour_fix, seed, planner, tile_batch, vae_mode, as_released:
            see `Restorer`.

    Images are turned upright by their EXIF orientation. Grey ones come back as L (I;16 as I;16), transparent ones
    with their alpha enlarged, all others as RGB; profile and EXIF data stand in `info` (see `Picture`). A wrong
    argument raises `ValueError`.
    """
    images = [images] if isinstance(images, Image.Image) else list(images)
    if not images:
        raise ValueError("restore() needs at least one image: got an empty list.")
    for image in images:
        if not isinstance(image, Image.Image):
            raise ValueError(
                f"restore() takes PIL images: got {type(image).__name__}. Open files with PIL.Image.open, turn arrays "
                "into images with PIL.Image.fromarray."
            )
    check_count("batch_size", batch_size)
    tiling = dict(tile=tile, overlap=overlap, window=window, planner=planner, tile_batch=tile_batch, vae_mode=vae_mode)
    options = dict(scale=scale, timestep=timestep, strength=strength, colour_fix=colour_fix, seed=seed)
    restorer = Restorer(model, **options, **tiling, as_released=as_released)
    pictures = enumerate(Picture.from_image(image) for image in images)
    groups = batches(pictures, lambda item: restorer.padded(restorer.size(item[1].size)), batch_size)
    restored, seconds = [None] * len(images), dict.fromkeys(STAGES, 0.0)

    def compute(group):
        numbers, group = zip(*group, strict=True)
        results, clock = restorer([restorer.enlarge(picture) for picture in group])
        return dict(zip(numbers, results, strict=True)), clock

    def one_tile(group):
        return restorer.takes_one_tile(restorer.size(group[0][1].size), len(group))

    with _progress(len(images), progress) as bar:
        for results, clock in restorer.in_order(compute, groups, one_tile):
            for number, result in results.items():
                restored[number] = result.image()
            for stage in STAGES:
                seconds[stage] += clock[stage]
            bar.update(len(results))
    return RestoreResult(restored, seconds)


@dataclass(frozen=True)
class Restorer:
    """Restores enlarged images, several of equal padded size at once.

    Args:
        model: `OMGSR`.
        scale: output side / input side, at least 1.
        timestep: an int for all images, instead of the model's t*. "auto", the default of an adaptive model, is that
            of each image, or of each tile, as the model's estimator finds it.
        strength: of "auto": moves the timesteps around the estimate (see `shifted_timesteps`). Below 0 the
            result keeps to the photograph, above 0 the prior adds more.
        tile, overlap: in pixels of the output, multiples of `model.multiple`; `tile=None` restores in one pass. The
            latents are predicted in tiles whose outputs are blended with `window` ("gaussian", "released", "cosine",
            "ramp"). With an `overlap` the tiles lie as published, without one there are as few as possible, as small
            as possible. `tile="auto"` is the model's best tile, `model.tile`, if that fits into half of the free
            memory, else of those that do the one with the fewest computed pixels. One pass takes neither `overlap` nor
            `planner`, nor another `window` than the default.
        colour_fix: "adain", "wavelet" or None; the reference is the bicubic enlargement.
        seed: None takes the mean of the encoder's posterior (deterministic), an integer a sample of it, as the
            authors' code does; every image is sampled with this seed, in whatever batch it is.
        planner, tile_batch: "smallest" or "published" tiles, and how many go through the prior at once (see `tiled`).
        vae_mode: encoder and decoder in parts, "exact" or "flat" (see `tiling.vae`), one image at a time; None is in
            one piece if that fits into half of the free memory, else "flat".
        as_released: cut to 8 bits before and after the colour fix, as the authors' code does, instead of rounding the
            result once; about half a level darker.

    Raises `ValueError` for a wrong argument, before anything is computed.
    """

    model: object
    scale: float = 4
    timestep: int | str | None = None
    strength: float = 0.0
    tile: int | str | None = None
    overlap: int | None = None
    window: str = "gaussian"
    colour_fix: str | None = "adain"
    seed: int | None = None
    planner: str | None = None
    tile_batch: int = 1
    vae_mode: str | None = None
    as_released: bool = False

    def __post_init__(self):
        if not (isinstance(self.scale, Real) and 1 <= self.scale < math.inf):
            raise ValueError(f"scale must be a number, at least 1 and finite: got {self.scale!r}.")
        if self.seed is not None and not (isinstance(self.seed, Integral) and -(2**63) <= self.seed < 2**64):
            raise ValueError(f"seed must be an integer of at most 64 bits or None: got {self.seed!r}.")
        check_count("tile_batch", self.tile_batch)
        check_name("window", self.window, WINDOWS)
        check_name("planner", self.planner, PLANNERS, optional=True)
        check_name("vae_mode", self.vae_mode, MODES, optional=True)
        check_method(self.colour_fix)
        tile, overlap = (self._in_latents(name) for name in ("tile", "overlap"))
        if self.tile not in (None, "auto") and overlap is not None and overlap >= tile:
            raise ValueError(f"overlap must be less than the tile: got overlap={self.overlap} and tile={self.tile}.")
        given = {name: getattr(self, name) for name in ("overlap", "window", "planner")}
        unused = ", ".join(f"{name}={value}" for name, value in given.items() if value != getattr(Restorer, name))
        if self.tile is None and unused:
            raise ValueError(f"{', '.join(given)} are of tiles: got {unused} and one pass. Give a tile too.")
        self._check_timestep()

    def _check_timestep(self):
        if self.timestep == "auto" and not estimates(self.model, "auto"):
            raise ValueError(
                'timestep="auto" needs an adaptive model with an estimator: this one has t* = '
                f"{self.model.timestep}. Take mini-s-adaptive or mini-f-adaptive, or an integer."
            )
        if isinstance(self.timestep, str) and self.timestep != "auto":
            raise ValueError(f'A timestep is an integer or "auto": got {self.timestep!r}.')
        if not (isinstance(self.strength, Real) and math.isfinite(self.strength)):
            raise ValueError(f"strength must be a finite number: got {self.strength!r}.")
        if self.strength and not estimates(self.model, self.timestep):
            raise ValueError(
                f'strength moves the timestep of timestep="auto": got strength={self.strength} and timestep='
                f"{self.timestep}. Choose the timestep itself, or an adaptive model."
            )
        if self.timestep not in (None, "auto"):
            self.model.prior.schedule.expand(self.timestep, 1)

    def _in_latents(self, name):
        pixels, multiple = getattr(self, name), self.model.multiple
        if pixels is None or (name, pixels) == ("tile", "auto"):
            return pixels
        least = multiple if name == "tile" else 0
        if not isinstance(pixels, Integral) or pixels < least or pixels % multiple:
            raise ValueError(f"{name} must be a multiple of {multiple} pixels, at least {least}: got {pixels!r}.")
        return pixels // compression(self.model.vae)

    def size(self, size):
        """`(width, height)` of the restored image of one of `size`."""
        return tuple(round(side * self.scale) for side in size)

    def padded(self, size):
        """The restored `size` filled up to multiples of `model.multiple`: what the model sees."""
        return tuple(side + -side % self.model.multiple for side in size)

    def enlarge(self, picture):
        """The bicubic enlargement of a `Picture` to its restored size."""
        return picture.enlarge(*self.size(picture.size))

    def in_order(self, function, groups, one_tile):
        """Yield `function(group)` of each of `groups`, images that are restored at once, in order.

        On a CPU neighbours that take one tile each (`one_tile(group)`, see `takes_one_tile`) share the workers; of the
        others each has all workers, for its tiles.
        """
        workers = self._workers
        for shared, part in groupby(groups, key=one_tile):
            yield from in_order(function, part, workers if shared else 1)

    def takes_one_tile(self, size, count=1):
        """Whether `count` images of the restored `size` are computed on one thread, wherever others are.

        Those of a small network on a CPU are that fit into a tile at once, with a megapixel at most: so their bytes
        depend neither on the threads nor on their neighbours.
        """
        width, height = self.padded(size)
        if self.tile is None or not self._small_on_cpu or self._compiled or count * width * height > SMALL:
            return False
        tile = self.settings(height, width, count).tile
        return tile is None or width * height <= (tile * compression(self.model.vae)) ** 2

    @torch.inference_mode()
    def __call__(self, pictures):
        """`(restored, seconds)` of enlarged `Picture`s of one padded size; the seconds are those of each stage.

        They are padded by reflection to a multiple of `model.multiple` and cropped back. Out of memory, a batch is
        taken apart, and an image is tried once more with smaller tiles, with a warning.
        """
        device = next(self.model.parameters()).device
        enlarged = [picture.to_pixels().to(device)[None] for picture in pictures]
        height, width = enlarged[0].shape[-2:]
        settings = self.settings(height, width, len(pictures))
        if settings.vae_mode is None and len(pictures) > 1:
            try:
                return self._in_memory(pictures, enlarged, settings)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            warnings.warn(f"Out of memory with {len(pictures)} images at once. Trying one by one.", stacklevel=2)
        restored, seconds = [], dict.fromkeys(STAGES, 0.0)
        side = max(height, width) // compression(self.model.vae)
        for picture, alone in zip(pictures, enlarged, strict=True):
            attempt = partial(self._in_memory, [picture], [alone])
            (result,), clock = retry_smaller(attempt, settings, side, self.model.prior.latent_multiple)
            restored.append(result)
            seconds = {stage: seconds[stage] + clock[stage] for stage in STAGES}
        return restored, seconds

    def settings(self, height, width, count=1):
        """The `Settings` with which `count` restored images of this size, at once, take at most half the free memory.

        Only what is left open is chosen: the tile if it is "auto", and the parts of the autoencoder. A tile in pixels
        with images of up to a megapixel is not counted.
        """
        tile, overlap = (self._in_latents(name) for name in ("tile", "overlap"))
        sides, device = self.padded((height, width)), next(self.model.parameters()).device
        factor = compression(self.model.vae)
        if tile == "auto":
            best, budget = (self.model.tile or BEST_TILE) // factor, free_memory(device) // 2 // count
            options = dict(best=best, workers=self._workers)
            settings = fitting_settings(self._peaks, *sides, budget, overlap, self.tile_batch, **options)
        else:
            settings = Settings(tile, overlap, self.vae_mode, tile_batch=self.tile_batch, workers=self._workers)
            if self.vae_mode is None and count * height * width > SMALL:
                with suppress(ValueError):  # the system does not say what is free, or layers are offloaded
                    settings = fitting_autoencoder(self._peaks, settings, *sides, free_memory(device) // 2 // count)
        if count == 1 and self._exact_in_tiles:
            settings = in_exact_tiles(settings, *(side // factor for side in sides))
        return settings

    @cached_property
    def _peaks(self):
        return Peaks(self.model)

    @property
    def _workers(self):
        """How many tiles are computed side by side: one for each of torch's threads, of a small network on a CPU."""
        return torch.get_num_threads() if self._small_on_cpu else 1

    @cached_property
    def _small_on_cpu(self):
        return small_on_cpu(self.model.prior)

    @cached_property
    def _exact_in_tiles(self):
        """Whether tiles of the autoencoder change nothing but the speed, with one worker too: equal results."""
        return self._small_on_cpu and not self._compiled and exact_in_tiles(self.model.vae)

    @property
    def _compiled(self):
        """Whether the autoencoder is compiled: as one piece, for all threads."""
        return self.model.vae.decoder._compiled_call_impl is not None

    def _in_memory(self, pictures, enlarged, settings):
        results = [torch.empty_like(pixels[0]) for pixels in enlarged]
        sizes = [pixels.shape[-2:] for pixels in enlarged]
        one_thread = self.takes_one_tile(enlarged[0].shape[:-3:-1], len(enlarged))
        padded = torch.cat([_pad(pixels, self.model.multiple) for pixels in enlarged])

        def write(number, rows, pixels):
            results[number][:, rows] = pixels[0]

        with on_threads(1) if one_thread else nullcontext():
            seconds = self.run(padded, enlarged, sizes, settings, write)
        return [picture.with_pixels(pixels) for picture, pixels in zip(pictures, results, strict=True)], seconds

    def run(self, padded, enlarged, sizes, settings, write, store=lambda stage: {}):
        """Encode, inject, predict, decode, fix the colours and crop; returns the seconds of each stage.

        Args:
            padded: pixels `(B, 3, H, W)` in `[-1, 1]`, enlarged and padded; a tensor, or an array in a file.
            enlarged: likewise the pixels of each image, the reference of its colours.
            sizes: `(height, width)` of each image without its padding.
            settings: `Settings`; with an array `vae_mode` must be "flat" and `tile` a number.
            write: `write(number, rows, pixels)` takes the restored images, strip by strip, clamped only before the
                colour fix.
            store: `store(stage)` gives the options `new` and `progress` with which the results of a stage lie in
                files (see `tiling.arrays`); by default they are tensors.
        """
        model, like = self.model, next(self.model.parameters())
        tiling = dict(tile=settings.tile, overlap=settings.overlap, window=self.window, planner=self.planner)
        generators = None
        if self.seed is not None:
            generators = [torch.Generator().manual_seed(int(self.seed)) for _ in sizes]
        clock = [_now(like.device)]
        with fast_attention(like.device):
            pixels = read_as(padded, like)
            latents = model.encode(pixels, generator=generators, **settings.vae, **store("encode"))
            estimated = estimates(model, self.timestep)
            if estimated:
                difference = model.difference(pixels, **settings.vae, **store("estimate"))
            clock.append(_now(like.device))
            tiling |= dict(tile_batch=settings.tile_batch, workers=settings.workers)
            tiling |= store("predict") if settings.tile else {}
            if estimated:
                latents = read_as(latents, like)
                clean = predict_adaptive(model, latents, difference, strength=self.strength, **tiling)
            else:
                latents = blockwise(lambda z: model.inject(z, self.timestep), latents)
                clean = model.predict_clean(read_as(latents, like), self.timestep, **tiling)
            clock.append(_now(like.device))
            decoded = model.decode(clean, **settings.vae, **store("decode"))
            clock.append(_now(like.device))
        with on_threads(1) if settings.workers > 1 else nullcontext():
            for number, (size, reference) in enumerate(zip(sizes, enlarged, strict=True)):
                restored = decoded if len(sizes) == 1 else decoded[number : number + 1]
                clamped = View(restored, lambda part: part.float().clamp(-1, 1))
                for rows, strip in colour_strips(
                    clamped, reference, size, self.colour_fix, as_released=self.as_released
                ):
                    write(number, rows, strip)
        clock.append(_now(like.device))
        return {stage: end - begin for stage, (begin, end) in zip(STAGES, pairwise(clock), strict=True)}


def estimates(model, timestep):
    """Whether `model` has an estimator that chooses where `timestep` is asked for: None or "auto"."""
    return timestep in (None, "auto") and getattr(model, "estimator", None) is not None


def _pad(pixels, multiple):
    height, width = pixels.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(pixels, (0, right, 0, bottom), mode=mode)


def _progress(total, shown):
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="restore", disable=None if shown else True)  # None: off where there is no terminal


def _now(device):
    """Seconds on a clock, once the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
