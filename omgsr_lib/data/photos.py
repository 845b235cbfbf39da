"""Photographs: where they come from and how they are opened.

Pixels are RGB tensors `(3, H, W)` in `[-1, 1]` inside the library and PIL images outside.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..images.image_file import Picture
from ..images.scan import SUFFIXES, scan_folder
from ..utils.files import reading
from .manifest import LISTS, read_manifest, read_table


# Photographs inside the wheels of scikit-image, scikit-learn and matplotlib, split by image.
# Licences: NASA, CC0 and public domain (scikit-image), CC BY 2.0 (scikit-learn), US Navy portrait (matplotlib).
PACKAGED = {
    "train": (
        ("skimage", "data/coffee.png"),
        ("skimage", "data/rocket.jpg"),
        ("skimage", "data/motorcycle_left.png"),
        ("skimage", "data/hubble_deep_field.jpg"),
        ("sklearn", "datasets/images/flower.jpg"),
    ),
    "eval": (
        ("skimage", "data/astronaut.png"),
        ("skimage", "data/chelsea.png"),
        ("sklearn", "datasets/images/china.jpg"),
        ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ),
}


def find_photos(source):
    """Paths of the photographs that `source` stands for.

    Args:
        source: a folder (all files with a suffix of `SUFFIXES`, any case, at any depth, sorted by path, without those
            that `scan_folder` leaves out), a list (`.txt`: a path per line; lines that begin with `#` are comments) or
            a manifest (`.csv`, written by `write_manifest`). Lists and manifests keep their order; their paths are
            relative to their own folder.

    Raises `FileNotFoundError` if the source is missing or names no photograph or one that is missing; `OSError` for a
    folder below it that cannot be read; `ValueError` for another kind of file or a CSV without the columns of a
    manifest. Hashes are compared by `verify_manifest` alone.
    """
    source = Path(source)
    if source.is_file():
        return _listed(source)
    if not source.is_dir():
        raise FileNotFoundError(f"A photo folder must exist: got '{source}'. Check the path.")
    paths = [path for path in scan_folder(source, SUFFIXES, _refuse) if path.is_file()]
    if not paths:
        raise FileNotFoundError(
            f"A photo folder must hold at least one image ({' '.join(SUFFIXES)}): '{source}' has none. Hidden "
            "files and restored images do not count."
        )
    return paths


def _refuse(error):
    raise error


def _listed(file):
    match file.suffix.lower():
        case ".txt":
            with reading(file, LISTS):
                lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
            names = [line for line in lines if line and not line.startswith("#")]
        case ".csv":
            names = [name for name, _ in read_manifest(file)]
        case _:
            raise ValueError(
                f"Photographs come from a folder, a list (.txt) or a manifest (.csv), got '{file}'. Name its folder."
            )
    if not names:
        raise FileNotFoundError(f"A list of photographs must name at least one: '{file}' is empty.")
    paths = [file.parent / name for name in names]
    missing = [name for name, path in zip(names, paths, strict=True) if not path.is_file()]
    if missing:
        shown = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
        raise FileNotFoundError(
            f"A list of photographs must name files that exist: '{file}' names {len(names)}, of which {len(missing)} "
            f"are missing ({shown}). Paths are relative to the folder of the list."
        )
    return paths


def packaged_photos(split):
    """Paths of the photographs that come with the dependencies; `split` is "train" or "eval" (split by image)."""
    if split not in PACKAGED:
        raise ValueError(f"split must be one of {sorted(PACKAGED)}, got {split!r}.")
    from importlib.util import find_spec

    return [Path(find_spec(package).origin).parent / name for package, name in PACKAGED[split]]


def freely_licensed(folder, provenance):
    """Photographs of `folder` whose `licence` column in the CSV `provenance` does not restrict them to research.

    Paths in its column `file` are relative to its own folder. Raises `ValueError` for a photograph without a row.
    """
    folder, provenance = Path(folder), Path(provenance)
    rows = read_table(provenance, ("file", "licence"))
    licences = {row["file"]: row["licence"] or "" for row in rows}
    photos = find_photos(folder)
    names = [Path(os.path.relpath(path, provenance.parent)).as_posix() for path in photos]
    unlisted = [name for name in names if name not in licences]
    if unlisted:
        raise ValueError(f"Every photograph needs a row in {provenance.name}; {unlisted[0]!r} has none.")
    return [path for path, name in zip(photos, names, strict=True) if "research" not in licences[name].lower()]


def open_photo(path):
    """Open `path` as an upright RGB PIL image; more than 8 bits are rounded to 8, transparency is left out.

    Raises `ValueError` if the file is not an image, a side is shorter than 2 pixels, or its samples have no known
    range (see `Picture`).
    """
    image = _rgb(Picture.open(path))
    if min(image.size) < 2:
        raise ValueError(
            f"A photograph must measure at least 2 pixels on each side: '{path}' is "
            f"{image.width}x{image.height}. Remove or replace it."
        )
    return image


def to_rgb(image):
    """PIL image of any mode to one of RGB: more than 8 bits are rounded to 8, transparency is left out.

    Raises `ValueError` for samples without a known range (see `Picture`).
    """
    return image if image.mode == "RGB" else _rgb(Picture.from_image(image))


def _rgb(picture):
    return replace(picture.to_8_bits(), alpha=None).image().convert("RGB")


def to_pixels(image):
    """PIL image of any mode (see `to_rgb`) to a float32 tensor `(3, H, W)` in `[-1, 1]`."""
    array = torch.from_numpy(np.array(to_rgb(image)))
    return array.permute(2, 0, 1).float() / 127.5 - 1


def to_image(pixels):
    """Tensor `(3, H, W)` in `[-1, 1]` (clamped) to a PIL image, rounded to the nearest of 256 levels."""
    array = ((pixels.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(array.permute(1, 2, 0).cpu().numpy())
