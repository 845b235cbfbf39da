"""Public SR test sets: their layout, number, sizes, checksum, and where to download each.

Pairs go by name, never by order. Nothing is downloaded: a missing set is refused with its address.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..images.png import png_source
from .photos import find_photos, open_photo


STABLESR = "the test sets of StableSR, https://huggingface.co/datasets/Iceclear/StableSR-TestSets"


@dataclass(frozen=True)
class PublicTestSet:
    """One test set."""

    lq: str  # folder of the low-quality images, "" for the given one itself
    hq: str | None  # folder of the references; None: there are none
    count: int
    lq_size: int | None  # side in pixels of all low-quality images; None: various
    scale: int
    source: str  # where to download it
    checksum: str | None = None  # of all pixels (`pixel_checksum`); None: not known to us


TEST_SETS = {
    "RealSR": PublicTestSet(
        "test_LR", "test_HR", 100, 128, 4, f"{STABLESR} (RealSRVal_crop128); original data csjcai/RealSR",
        "6135656e88a4cabae052a4843e30fda63faad123c8c80c65f4cd7f8186c4b82c",
    ),
    "DRealSR": PublicTestSet(
        "test_LR", "test_HR", 93, 128, 4,
        f"{STABLESR} (DrealSRVal_crop128); original data xiezw5/Component-Divide-and-Conquer",
    ),
    "DIV2K-Val": PublicTestSet("lq", "gt", 3000, 128, 4, f"{STABLESR} (DIV2K_V2_val)"),
    "RealLQ250": PublicTestSet("", None, 250, 256, 4, "DreamClear, https://github.com/shallowdream204/DreamClear"),
    "RealSet65": PublicTestSet(
        "", None, 65, None, 4, "ResShift, https://github.com/zsyOAOA/ResShift, testdata/RealSet65",
        "09798dbfc91bf766a741a4a8a9f6e482ff0bc599189da6378ae42cf4bf297df7",
    ),
}  # fmt: skip


def open_test_set(name, folder):
    """`{picture: (lq, hq)}` of the test set `name` in `folder`, `hq` None without references, sorted by name.

    Number, names, sizes and, where one is known, the checksum of all pixels are compared first. Raises `ValueError` or
    `FileNotFoundError` that says what differs and where to download the set.
    """
    if name not in TEST_SETS:
        raise ValueError(f"A test set must be one of {', '.join(TEST_SETS)}; got {name!r}.")
    test_set, folder = TEST_SETS[name], Path(folder)
    sides = [_by_name(name, folder / part) for part in (test_set.lq, test_set.hq) if part is not None]
    for side, part in zip(sides, (test_set.lq, test_set.hq), strict=False):
        if len(side) != test_set.count:
            raise ValueError(
                f"{name} has {test_set.count} images in '{part}': '{folder / part}' holds {len(side)}. "
                f"Get it from {test_set.source}."
            )
    unpaired = sorted(set(sides[0]) ^ set(sides[-1]))
    if unpaired:
        raise ValueError(f"Pairs of {name} share their names; without a partner: {', '.join(unpaired[:5])}.")
    if test_set.lq_size:
        for side, wanted in zip(sides, (test_set.lq_size, test_set.lq_size * test_set.scale), strict=False):
            _check_sizes(name, side, wanted)
    if test_set.checksum:
        found = pixel_checksum(path for side in sides for path in side.values())
        if found != test_set.checksum:
            raise ValueError(
                f"The pixels of {name} have the checksum {test_set.checksum[:12]}..., those in '{folder}' "
                f"{found[:12]}.... It is another copy; get {test_set.source}."
            )
    return {image: (path, sides[1][image] if test_set.hq is not None else None) for image, path in sides[0].items()}


def pixel_checksum(paths):
    """SHA-256 over the pixels of images: independent of their names, order and lossless format."""
    digests = []
    for path in paths:
        pixels = np.asarray(open_photo(path))
        digests.append(hashlib.sha256(np.array(pixels.shape, dtype="<i4").tobytes() + pixels.tobytes()).hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def _by_name(name, folder):
    try:
        paths = find_photos(folder)
    except FileNotFoundError as err:
        raise FileNotFoundError(f"{name} is not in '{folder}'. Get it from {TEST_SETS[name].source}.") from err
    named = {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
    if len(named) != len(paths):
        raise ValueError(f"Images of {name} need different names: '{folder}' holds one twice.")
    return named


def _check_sizes(name, side, wanted):
    for path in side.values():
        with Image.open(png_source(path)[0]) as image:
            if image.size != (wanted, wanted):
                raise ValueError(
                    f"Images of {name} measure {wanted}x{wanted} here: '{path}' is {image.width}x{image.height}. "
                    f"Get {TEST_SETS[name].source}."
                )
