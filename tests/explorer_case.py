"""A small frame cache with colours that tests can recognise, and an explorer that fills it without a model."""

import numpy as np
import pandas as pd
from PIL import Image

from omgsr_lib.explorer.cache import PANELS, FrameCache


SIZE = 32
TIMESTEPS = [0, 223, 325, 500, 999]
STRENGTHS = ["as it is", "mild", "medium", "extreme"]


def colour(variant, panel, timestep):
    return (timestep // 4, 40 + 60 * PANELS.index(panel), 20 if variant == "s" else 220)


def photograph():
    """Grey, with a bright square of 8 pixels whose centre is at (20, 12)."""
    pixels = np.full((SIZE, SIZE, 3), 100, dtype=np.uint8)
    pixels[8:16, 16:24] = 200
    return Image.fromarray(pixels)


def empty_cache(folder, photo="square", strength="medium", variants=("s", "f")):
    """A cache without a frame; taken as it is the photograph has no reference."""
    known = strength != "as it is"
    mids = {"s": 325, "f": 223}
    points = sorted({*range(0, 1000, 100), *TIMESTEPS})
    curves = pd.DataFrame(
        [
            (v, t, np.inf if t == 0 else 40 - t / 20, 0.2 + abs(t - mids[v]) / 1000 if known else np.nan)
            for v in variants
            for t in points
        ],
        columns=["variant", "timestep", "snr", "gap"],
    )
    about = {
        "photo": photo,
        "strength": strength,
        "timesteps": TIMESTEPS,
        "last": 999,
        "box": [0.25, 0.5, 0.75, 1],
        "warning": None,
        "psnr": 20.5 if known else None,
        "variants": {v: {"timestep": mids[v], "snr": 3.0 if known else None} for v in variants},
    }
    lq = Image.new("RGB", (SIZE, SIZE), (90, 90, 90))
    return FrameCache.create(folder, about=about, lq=lq, photo=photograph() if known else lq, curves=curves)


def fill(cache, timesteps=TIMESTEPS):
    for timestep in timesteps:
        frames = {}
        for variant in cache.variants:
            panels = {p: Image.new("RGB", (SIZE, SIZE), colour(variant, p, timestep)) for p in PANELS}
            scores = {"psnr_prior": 20 + timestep / 1000, "psnr_tuned": 22 + timestep / 1000}
            frames[variant] = panels, scores if cache.reference == "photo" else dict.fromkeys(scores, np.nan)
        cache.add(timestep, frames)
    return cache


class FakeExplorer:
    """The interface of `explorer.compute.Explorer`; `order` lists what was computed, `gate` holds `compute` back."""

    def __init__(self, folder, variants=("s", "f")):
        self.folder, self.variants = folder, variants
        self.photos, self.strengths, self.timesteps = ["square", "other"], STRENGTHS, TIMESTEPS
        self.caches, self.order, self.gate, self.centres = {}, [], None, []

    def open(self, photo, strength, centre=None):
        self.centres.append(centre)
        if photo == "broken":
            raise ValueError("this photograph is broken")
        key = (photo, strength) if centre is None else (photo, strength, *centre)
        if key not in self.caches:
            self.caches[key] = empty_cache(self.folder / "-".join(map(str, key)), photo, strength, self.variants)
        return self.caches[key]

    def overview(self, photo):
        return photograph()

    def compute(self, cache, timestep):
        if self.gate is not None:
            self.gate.acquire(timeout=30)
        if not cache.has(timestep):
            self.order.append((cache.about["photo"], timestep))
            fill(cache, [timestep])

    def fill(self, cache, timesteps=None):
        return fill(cache, [t for t in cache.missing if timesteps is None or t in timesteps])

    def add_photo(self, name, content):
        if not content.startswith(b"\x89PNG"):
            raise ValueError(f"A photograph must be a readable image: '{name}' is not.")
        self.photos.append(name)
        return name
