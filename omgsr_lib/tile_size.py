"""How large the tiles of a restoration may be: what the free memory holds, and less when it was too little."""

import warnings
from bisect import bisect_right
from dataclasses import dataclass, replace

import torch

from .memory import LiveMemory, meta_twin, out_of_memory
from .priors.latents import compression


STEP = 8  # latents between the tiles that are considered
VAE_TILES = (128, 64, 32, 16)  # latents, of the flat autoencoder


@dataclass(frozen=True)
class Settings:
    """Sides in latents: tile of the prediction (None: one pass), its overlap, and that of a flat autoencoder."""

    tile: int | None
    overlap: int | None = None
    vae_mode: str | None = None
    vae_tile: int = 64

    @property
    def vae(self):
        """Options of `OMGSR.encode` and `OMGSR.decode`."""
        return dict(mode=self.vae_mode) | (dict(tile=self.vae_tile) if self.vae_mode == "flat" else {})

    def smaller(self, side, multiple):
        """Half the tile, of latents with the longer side `side`, and the autoencoder flat with half its tile."""

        def half(value):
            return value // 2 // multiple * multiple

        return Settings(
            tile=max(half(self.tile or side), multiple),
            overlap=None if self.overlap is None else half(self.overlap),
            vae_mode="flat",
            vae_tile=self.vae_tile // 2 if self.vae_mode == "flat" else self.vae_tile,
        )

    def __str__(self):
        prediction = "one pass" if self.tile is None else f"tiles of {self.tile} latents"
        return f"prediction: {prediction}, autoencoder: {self.vae_mode or 'one piece'}"


def fitting_settings(model, height, width, budget, overlap=None):
    """`Settings` for a picture of `height` x `width` pixels whose activations take at most `budget` bytes.

    One pass and one piece where they fit, else the largest tile that does; the smallest where none does. The bytes are
    counted on the meta device: a second or so for a large network, and without the memory inside of kernels.
    """
    twin, weight = meta_twin(model), next(model.parameters())
    factor, channels = compression(model.vae), model.vae.config.latent_channels
    height, width = height // factor, width // factor

    def fits(function, *shape):
        with torch.inference_mode(), LiveMemory() as memory:
            function(torch.empty(1, *shape, device="meta", dtype=weight.dtype))
        return memory.peak <= budget

    def predicts(side):
        return fits(lambda z: twin.prior(z, model.timestep), channels, min(side, height), min(side, width))

    def codes(height, width):
        return fits(twin.encode, 3, height * factor, width * factor) and fits(twin.decode, channels, height, width)

    settings = Settings(None, overlap)
    if not predicts(max(height, width)):
        sides = range(STEP, max(height, width), STEP)
        count = bisect_right(sides, False, key=lambda side: not predicts(side))
        settings = replace(settings, tile=sides[max(count - 1, 0)])
    if not codes(height, width):
        vae_tile = next((side for side in VAE_TILES if codes(side + 24, side + 24)), VAE_TILES[-1])  # halo of 12
        settings = replace(settings, vae_mode="flat", vae_tile=vae_tile)
    return settings


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
