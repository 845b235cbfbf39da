"""Training pairs from photographs too many to hold in memory (LSDIR and FFHQ): one file is opened per item."""

import warnings
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from .degradation import Degradation
from .degraded_crops import DegradedCrops, describe_photos
from .filters import reflection
from .photos import open_photo, to_pixels


UNTRIED, OPENED, BROKEN = range(3)
FIRST = 1000  # photographs: the broken ones count as a share of at least so many, so that the first is not 100 %


class PhotoPairs(DegradedCrops):
    """Random crops and their degraded twins; item `index` depends on `(seed, index)` and the files alone.

    Each item draws a photograph, a crop and two flips (OMGSR flips once before and once in the degradation). A broken
    file is reported once, by a `RuntimeWarning` with its path, and the item draws another photograph from the same
    generator. Workers share what they know of the files; only two that meet one at the same moment may both report it.

    Args:
        paths: photographs that are cropped at their own resolution; smaller ones are extended by reflection.
        size: side of a crop in pixels, at least 16.
        seed: non-negative integer.
        scale: factor between HQ and LQ; None takes that of `settings`.
        settings: a `Degradation`; None takes OMGSR's column for 512 pixels up to that size, that for 1024 above it.
        portraits: further photographs, first reduced to a short side of `size` (Lanczos; never enlarged), which is
            what OMGSR does at 512 pixels with FFHQ.
        broken_share: the run stops once more than this share of the different photographs tried is broken.
        length: number of items; a run of n steps uses batch size times n of them, in order.

    Raises `ValueError` if there is no photograph, for a share outside `[0, 1)`, and from an item if too many files are
    broken.
    """

    def __init__(
        self,
        paths,
        size,
        *,
        seed,
        scale=None,
        settings=None,
        portraits=(),
        broken_share=0.01,
        length=1_000_000,
    ):
        if not 0 <= broken_share < 1:
            raise ValueError(
                f"broken_share must lie in [0, 1), got {broken_share}. 0.01 allows one file in a hundred."
            )
        self.size, self.seed, self.length = size, seed, length
        self.settings = Degradation.for_size(512 if size <= 512 else 1024) if settings is None else settings
        if scale is not None:
            self.settings = replace(self.settings, scale=scale)
        self.broken_share = broken_share
        self.paths = [*map(str, paths)]
        self.first_portrait = len(self.paths)
        self.paths += map(str, portraits)
        if not self.paths:
            raise ValueError("Training pairs need photographs: got none. Give paths or portraits.")
        self._state = torch.zeros(len(self.paths), dtype=torch.uint8).share_memory_()  # one for all workers

    def describe(self):
        return describe_photos(self.paths, "", self.first_portrait)

    def _crop(self, index):
        rng = np.random.default_rng([self.seed, index, 3])  # `degrade` draws from (seed, index)
        return random_crop(self._draw_photo(rng), self.size, rng)

    def _draw_photo(self, rng):
        while True:
            number = int(rng.integers(len(self.paths)))
            try:
                photo = open_photo(self.paths[number])
            except (OSError, ValueError) as err:
                self._report(number, err)
                continue
            if self._state[number] == UNTRIED:
                self._state[number] = OPENED
            return _reduced(photo, self.size) if number >= self.first_portrait else photo

    def _report(self, number, err):
        if self._state[number] != BROKEN:
            self._state[number] = BROKEN
            warnings.warn(f"Skipped the photograph '{self.paths[number]}': {err}", RuntimeWarning, stacklevel=6)
        tried, broken = int((self._state != UNTRIED).sum()), int((self._state == BROKEN).sum())
        if broken > self.broken_share * min(max(tried, FIRST), len(self.paths)):
            raise ValueError(
                f"At most {self.broken_share:.3%} of the photographs may be broken: of {tried} tried {broken} are, "
                f"lastly '{self.paths[number]}'. Remove or replace those reported, or raise broken_share."
            ) from err


def random_crop(photo, size, rng):
    """A square of `size` pixels anywhere in the PIL image `photo`, flipped by each of two fair coins.

    A side shorter than `size` lies anywhere in the crop and is extended by reflection, to and fro if it is much
    shorter. Returns a float32 tensor `(3, size, size)` in `[-1, 1]`.
    """
    pixels, windows = np.asarray(photo), []
    for length in pixels.shape[:2]:
        first = int(rng.integers(min(0, length - size), max(0, length - size) + 1))
        windows.append(reflection(torch.arange(first, first + size), length).numpy())
    rows, columns = windows
    crop = pixels[rows][:, columns]
    before, within = rng.integers(2, size=2)
    return to_pixels(Image.fromarray(crop if before == within else np.ascontiguousarray(crop[:, ::-1])))


def _reduced(photo, short_side):
    if min(photo.size) <= short_side:
        return photo
    return photo.resize([round(length * short_side / min(photo.size)) for length in photo.size], Image.LANCZOS)
