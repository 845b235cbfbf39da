"""Pairs of low- and high-quality images: endless random crops to train on, fixed crops to evaluate on."""

import copy
import os
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..utils.files import sha256
from .crops import CropSampler
from .degradation import Degradation, degrade
from .degraded_crops import DegradedCrops, describe_photos
from .photos import open_photo, to_pixels
from .synthetic import synthetic_pictures


ALIKE = 15  # levels of 255, mean difference of two images at 16x16 pixels


class Pairs(DegradedCrops):
    """Random crops and their degraded twins; item `index` depends on `(seed, index)` alone, whatever was read before.

    Args:
        paths: photographs; may be empty if `synthetic` is not 0.
        size: side of a crop in pixels, at least 16.
        seed: non-negative integer.
        scale: factor between HQ and LQ.
        synthetic: number of synthetic images, of side `2 * size`; each is as likely as one level of one photograph.
        short_sides: pyramid of each photograph, see `CropSampler`.
        settings: a `Degradation`, by default the one for 512 pixels, or a function of the item's index that gives one
            (its scale counts then).
        length: number of items; a run of n steps uses batch size times n of them, in order.

    Raises `ValueError` if there is no image at all.
    """

    def __init__(
        self,
        paths,
        size,
        *,
        seed,
        scale=4,
        synthetic=0,
        short_sides=(256, 384, 512),
        settings=None,
        length=1_000_000,
    ):
        self.seed, self.length = seed, length
        self.settings = settings if callable(settings) else replace(settings or Degradation(), scale=scale)
        self.paths, self.synthetic = list(map(Path, paths)), synthetic
        self.crops = CropSampler(self.paths, size, seed=seed, short_sides=short_sides)
        for picture in synthetic_pictures(synthetic, 2 * size, seed=seed):
            self.crops.levels.append(((picture + 1) * 127.5).round().byte())
        if not self.crops.levels:
            raise ValueError("Training pairs need images: got no photograph and synthetic=0. Give some.")

    def with_seed(self, seed):
        """The same photographs under another seed; they are not opened again."""
        pairs = copy.copy(self)
        pairs.crops = copy.copy(self.crops)
        pairs.seed = pairs.crops.seed = seed
        return pairs

    def describe(self):
        return describe_photos(self.paths, self.synthetic, "")

    def _crop(self, index):
        return self.crops.batch(index, 1)[0]


@dataclass(frozen=True, eq=False)
class EvaluationPair:
    """One evaluation image; float32 tensors in `[-1, 1]` on the 8-bit grid."""

    name: str  # as in `picture_names`, and the number of the crop if there are several per photograph
    lq: torch.Tensor  # (3, size, size), enlarged again as in training
    lq_small: torch.Tensor  # (3, size // scale, size // scale), what a restorer is given
    hq: torch.Tensor  # (3, size, size)


def evaluation_pairs(paths, size, *, seed, scale=4, crops_per_photo=1, short_side=None, settings=None):
    """Fixed pairs from photographs, a list of `EvaluationPair`.

    One crop per photograph is its centre; several are the most detailed cells (mean absolute difference of
    neighbouring pixels) of a centred grid of cells that do not overlap. The degradation of a crop depends on `seed`,
    the photograph's bytes and the crop's number, so a pair stays the same whatever else is evaluated beside it.

    Args:
        paths: photographs; those shorter than `size` are enlarged (Lanczos).
        size: side of a crop in pixels, at least 16.
        seed: non-negative integer.
        scale: factor between HQ and LQ.
        crops_per_photo: number of crops.
        short_side: photographs with a longer short side are first reduced to it (Lanczos); None keeps them.
        settings: a `Degradation`, by default the one for 512 pixels.

    Raises `ValueError` if a photograph is given twice or one holds fewer cells than `crops_per_photo`.
    """
    paths = list(map(Path, paths))
    pairs = []
    for path, stem in zip(paths, picture_names(paths), strict=True):
        photo = open_photo(path)
        target = max(size, min(min(photo.size), short_side or min(photo.size)))
        shape = [max(size, round(length * target / min(photo.size))) for length in photo.size]
        pixels = to_pixels(photo if tuple(shape) == photo.size else photo.resize(shape, Image.LANCZOS))
        cells = _centre(pixels, size) if crops_per_photo == 1 else _most_detailed(pixels, size)
        if len(cells) < crops_per_photo:
            raise ValueError(
                f"'{path}' ({shape[0]}x{shape[1]}) holds {len(cells)} crops of {size} pixels, not {crops_per_photo}. "
                "Ask for fewer or smaller crops."
            )
        first = int(sha256(path)[:12], 16)
        for number, hq in enumerate(cells[:crops_per_photo]):
            chain = dict(seed=seed, index=first + number, scale=scale, settings=settings)
            lq, lq_small = degrade(hq, **chain), degrade(hq, **chain, upscale=False)
            name = stem if crops_per_photo == 1 else f"{stem}_{number}"
            pairs.append(EvaluationPair(name, lq, lq_small, hq))
    return pairs


def picture_names(paths):
    """A name for each of `paths`: its file name without suffix.

    Where several share it, the path from the folder that all images of a shared name lie in (`100CANON/IMG_0001`),
    with the suffix where it still takes that. Raises `ValueError` for a path that is given twice.
    """
    paths = [Path(os.path.abspath(path)) for path in paths]
    if len(set(paths)) < len(paths):
        twice = next(path for path, count in Counter(paths).items() if count > 1)
        raise ValueError(f"Evaluation images must differ, but '{twice}' is given twice. Name it once.")
    stems = Counter(path.stem for path in paths)
    shared = [path for path in paths if stems[path.stem] > 1]
    root = os.path.commonpath([path.parent for path in shared]) if shared else None
    relative = {path: path.relative_to(root) for path in shared}
    short = Counter(path.with_suffix("") for path in relative.values())
    names = {
        path: name if short[name.with_suffix("")] > 1 else name.with_suffix("") for path, name in relative.items()
    }
    return [names[path].as_posix() if path in names else path.stem for path in paths]


def assert_disjoint(train_paths, eval_paths):
    """Raise `ValueError`, naming the image, if a training photograph is also an evaluation photograph.

    Images are the same if their files have the same bytes (SHA-256), or the same name and about the same picture at 16
    pixels a side, so that a copy of another size or quality is found, but not the next IMG_0001.JPG of a camera.
    """
    train_paths, eval_paths = list(map(Path, train_paths)), list(map(Path, eval_paths))
    sizes = {path.stat().st_size for path in eval_paths}  # of a large set only files of these sizes need be read
    named = defaultdict(list)
    for path in train_paths:
        named[path.stem].append(path)
    contents = {sha256(path): path for path in train_paths if path.stat().st_size in sizes}
    for path in eval_paths:
        twin = contents.get(sha256(path))
        if twin is None and path.stem in named:
            small = _small(path)
            twin = next((other for other in named[path.stem] if np.abs(_small(other) - small).mean() < ALIKE), None)
        if twin:
            raise ValueError(
                f"Evaluation images must not be trained on: '{path}' equals the training image '{twin}'. Remove one "
                "of them."
            )


def _small(path):
    """The image at 16x16 pixels, NaN if it is unreadable: the training says so itself."""
    try:
        return np.asarray(open_photo(path).resize((16, 16), Image.BOX, reducing_gap=2), dtype=np.float32)
    except (OSError, ValueError):
        return np.full((16, 16, 3), np.nan, np.float32)


def _centre(pixels, size):
    top, left = (pixels.shape[1] - size) // 2, (pixels.shape[2] - size) // 2
    return [pixels[:, top : top + size, left : left + size]]


def _most_detailed(pixels, size):
    rows, columns = pixels.shape[1] // size, pixels.shape[2] // size
    top, left = (pixels.shape[1] - rows * size) // 2, (pixels.shape[2] - columns * size) // 2
    grid = pixels[:, top : top + rows * size, left : left + columns * size]
    cells = grid.unfold(1, size, size).unfold(2, size, size).permute(1, 2, 0, 3, 4).flatten(0, 1)
    detail = [float(cell.diff(dim=1).abs().mean() + cell.diff(dim=2).abs().mean()) for cell in cells]
    return [cells[i].contiguous() for i in sorted(range(len(cells)), key=lambda i: -detail[i])]
