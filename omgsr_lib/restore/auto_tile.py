"""How large the tiles of a restoration are: the fastest that the memory holds, and less when it was too little."""

import warnings
from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cache

import torch

from ..priors.latents import compression
from ..tiling.grid import plan_tiles
from ..tiling.vae import flat_peak
from ..tiling.vae_layers import decoder_layers, encoder_layers
from ..utils.memory import meta_twin, out_of_memory
from ..utils.meter import Meter


STEP = 8  # latents between the tiles that are considered
VAE_TILES = (128, 64, 32, 16)  # latents, of the flat autoencoder
LEAST = 128  # latents of the longer side from which tiles of an autoencoder cost less than workers gain


@dataclass(frozen=True)
class Settings:
    """Sides in latents: tile of the prediction (None: one pass), its overlap, and that of a flat autoencoder.

    `tile_batch`: how many tiles are predicted at once. `workers`: how many tiles a CPU computes side by side.
    """

    tile: int | None
    overlap: int | None = None
    vae_mode: str | None = None
    vae_tile: int = 64
    tile_batch: int = 1
    workers: int = 1

    @property
    def vae(self):
        """Options of `OMGSR.encode` and `OMGSR.decode`."""
        tiles = dict(tile=self.vae_tile, workers=self.workers)
        return dict(mode=self.vae_mode) | (tiles if self.vae_mode == "flat" else {})

    def smaller(self, side, multiple):
        """Half the tile, of latents with the longer side `side`, one at a time; a flat autoencoder with half its."""

        def half(value):
            return value // 2 // multiple * multiple

        tile = max(half(self.tile or side), multiple)
        return Settings(
            tile=tile,
            overlap=None if self.overlap is None else min(half(self.overlap), tile - multiple),
            vae_mode="flat",
            vae_tile=self.vae_tile // 2 if self.vae_mode == "flat" else self.vae_tile,
        )

    def __str__(self):
        prediction = "one pass" if self.tile is None else f"tiles of {self.tile} latents"
        return f"prediction: {prediction}, autoencoder: {self.vae_mode or 'one piece'}"


class Peaks:
    """Bytes that the activations of a model's stages take at the most, sides in latents.

    Counted on the meta device, each shape once: a second or so for a large network, and without the memory inside of
    kernels.
    """

    def __init__(self, model):
        self.twin, self.factor = meta_twin(model), compression(model.vae)
        self.channels, self.dtype = model.vae.config.latent_channels, next(model.parameters()).dtype
        self.prediction, self.autoencoder, self.flat = map(cache, (self._prediction, self._autoencoder, self._flat))

    def _prediction(self, count, height, width):
        """Of the denoiser, for `count` tiles at once."""
        return self._peak(lambda z: self.twin.prior(z, self.twin.timestep), self._latents(height, width, count))

    def _autoencoder(self, height, width):
        """Of encoder and decoder in one piece."""
        encode = self._peak(self.twin.encode, self._pixels(height, width))
        return max(encode, self._peak(self.twin.decode, self._latents(height, width)))

    def _flat(self, tile):
        """Of both in tiles of `tile`, whatever the image: three along a side have all that more of them have."""
        side = 3 * tile
        with torch.inference_mode():
            encode = flat_peak(encoder_layers(self.twin.lq_vae), self._pixels(side, side), tile=tile)
            return max(encode, flat_peak(decoder_layers(self.twin.vae), self._latents(side, side), tile=tile))

    def _peak(self, function, x):
        with torch.inference_mode(), Meter() as meter:
            function(x.clone())
        return meter.peak

    def _latents(self, height, width, count=1):
        return torch.empty(count, self.channels, height, width, device="meta", dtype=self.dtype)

    def _pixels(self, height, width):
        return torch.empty(1, 3, height * self.factor, width * self.factor, device="meta", dtype=self.dtype)


def fitting_settings(peaks, height, width, budget, overlap=None, tile_batch=1, *, best, workers=1):
    """`Settings` for an image of `height` x `width` pixels whose activations take at most `budget` bytes by `peaks`.

    Tiles of `best` latents where `tile_batch` of them fit for each of `workers`, one pass for an image no larger;
    else, of the tiles that do and are larger than `overlap`, the one with the fewest computed pixels, the smallest
    where none does. Larger ones than `best` would take longer, as attention grows with the square of their area.
    """
    sides, planner = (height // peaks.factor, width // peaks.factor), "smallest" if overlap is None else "published"
    longer, smallest = max(sides), (overlap or 0) // STEP * STEP + STEP
    settings = Settings(None, overlap, tile_batch=tile_batch, workers=workers)
    best, at_once = max(best, smallest), tile_batch * workers

    def fits(side, count):
        return peaks.prediction(count, *(min(side, length) for length in sides)) <= budget

    if not (longer <= best and fits(longer, 1)):
        candidates = range(smallest, min(best + 1, longer), STEP) or [smallest]
        if longer > best and fits(best, at_once):
            tile = best
        else:
            count = bisect_right(candidates, False, key=lambda side: not fits(side, at_once))

            def computed(side):
                return plan_tiles(*sides, side, overlap, planner=planner).overdraw

            tile = min(reversed(candidates[: max(count, 1)]), key=computed)
        settings = replace(settings, tile=tile)
    return fitting_autoencoder(peaks, settings, height, width, budget)


def fitting_autoencoder(peaks, settings, height, width, budget):
    """`settings` with the autoencoder in parts if in one piece it takes more than `budget` bytes by `peaks`."""
    if peaks.autoencoder(height // peaks.factor, width // peaks.factor) <= budget:
        return settings
    vae_tile = next((side for side in VAE_TILES if peaks.flat(side) * settings.workers <= budget), VAE_TILES[-1])
    return replace(settings, vae_mode="flat", vae_tile=vae_tile)


def in_exact_tiles(settings, height, width):
    """`settings` with an autoencoder of `exact_in_tiles`, for latents `height` x `width`, in tiles for workers."""
    longer = max(height, width)
    if settings.vae_mode is not None or longer < LEAST:
        return settings
    return replace(settings, vae_mode="flat", vae_tile=min(-(-longer // 2), VAE_TILES[0]))


def retry_smaller(attempt, settings, side, multiple):
    """`attempt(settings)`; if the memory was too little, a warning and one more with `settings.smaller(...)`."""
    try:
        return attempt(settings)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    smaller = settings.smaller(side, multiple)
    warnings.warn(f"Out of memory with {settings}. Trying once more with {smaller}.", stacklevel=3)
    return attempt(smaller)
