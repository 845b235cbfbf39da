"""A small frame cache with colours that tests can recognise, and an explorer that fills it without a model."""

import numpy as np
import pandas as pd
from PIL import Image

from omgsr_lib.explorer.cache import PANELS, FrameCache


SIZE = 32
TIMESTEPS = [0, 223, 325, 500, 999]
STRENGTHS = ["mild", "medium", "extreme"]


def colour(variant, panel, timestep):
    return (timestep // 4, 40 + 60 * PANELS.index(panel), 20 if variant == "s" else 220)


def photograph():
    """Grey, with a bright square of 8 pixels whose centre is at (20, 12)."""
    pixels = np.full((SIZE, SIZE, 3), 100, dtype=np.uint8)
    pixels[8:16, 16:24] = 200
    return Image.fromarray(pixels)


def empty_cache(folder, photo="square", strength="medium", variants=("s", "f")):
    mids = {"s": 325, "f": 223}
    points = sorted({*range(0, 1000, 100), *TIMESTEPS})
    curves = pd.DataFrame(
        [(v, t, np.inf if t == 0 else 40 - t / 20, 0.2 + abs(t - mids[v]) / 1000) for v in variants for t in points],
        columns=["variant", "timestep", "snr", "gap"],
    )
    about = {
        "photo": photo,
        "strength": strength,
        "timesteps": TIMESTEPS,
        "last": 999,
        "psnr": 20.5,
        "variants": {v: {"timestep": mids[v], "snr": 3.0} for v in variants},
    }
    lq = Image.new("RGB", (SIZE, SIZE), (90, 90, 90))
    return FrameCache.create(folder, about=about, lq=lq, photo=photograph(), curves=curves)


def fill(cache, timesteps=TIMESTEPS):
    for timestep in timesteps:
        frames = {}
        for variant in cache.variants:
            panels = {p: Image.new("RGB", (SIZE, SIZE), colour(variant, p, timestep)) for p in PANELS}
            frames[variant] = panels, {"psnr_prior": 20 + timestep / 1000, "psnr_tuned": 22 + timestep / 1000}
        cache.add(timestep, frames)
    return cache


class FakeExplorer:
    """The interface of `explorer.compute.Explorer`; `order` lists what was computed, `gate` holds `compute` back."""

    def __init__(self, folder, variants=("s", "f")):
        self.folder, self.variants = folder, variants
        self.photos, self.strengths, self.timesteps = ["square", "other"], STRENGTHS, TIMESTEPS
        self.caches, self.order, self.gate = {}, [], None

    def open(self, photo, strength):
        if photo == "broken":
            raise ValueError("this photograph is broken")
        key = photo, strength
        if key not in self.caches:
            self.caches[key] = empty_cache(self.folder / f"{photo}-{strength}", photo, strength, self.variants)
        return self.caches[key]

    def compute(self, cache, timestep):
        if self.gate is not None:
            self.gate.acquire(timeout=30)
        self.order.append((cache.about["photo"], timestep))
        fill(cache, [timestep])

    def fill(self, cache, timesteps=None):
        return fill(cache, [t for t in cache.missing if timesteps is None or t in timesteps])

    def add_photo(self, name, content):
        if not content.startswith(b"\x89PNG"):
            raise ValueError(f"A photograph must be a readable image: '{name}' is not.")
        self.photos.append(name)
        return name
