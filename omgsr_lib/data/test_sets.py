"""Test sets of the field as data: layout, number, sizes, checksum, where each is to be had; and synthetic pairs.

Pairs go by name, never by order. Nothing is downloaded: a missing set is refused with its address.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..images.png import png_source
from ..utils.files import atomic_folder
from .manifest import write_manifest
from .pairs import assert_disjoint, evaluation_pairs
from .photos import find_photos, open_photo, to_image


STABLESR = "the test sets of StableSR, https://huggingface.co/datasets/Iceclear/StableSR-TestSets"


@dataclass(frozen=True)
class Benchmark:
    """One test set."""

    lq: str  # folder of the low-quality pictures, "" for the given one itself
    hq: str | None  # folder of the references; None: there are none
    count: int
    lq_size: int | None  # side in pixels of all low-quality pictures; None: various
    scale: int
    source: str  # where it is to be had
    checksum: str | None = None  # of all pixels (`pixel_checksum`); None: not known to us


BENCHMARKS = {
    "RealSR": Benchmark(
        "test_LR", "test_HR", 100, 128, 4, f"{STABLESR} (RealSRVal_crop128); original data csjcai/RealSR",
        "6135656e88a4cabae052a4843e30fda63faad123c8c80c65f4cd7f8186c4b82c",
    ),
    "DRealSR": Benchmark(
        "test_LR", "test_HR", 93, 128, 4,
        f"{STABLESR} (DrealSRVal_crop128); original data xiezw5/Component-Divide-and-Conquer",
    ),
    "DIV2K-Val": Benchmark("lq", "gt", 3000, 128, 4, f"{STABLESR} (DIV2K_V2_val)"),
    "RealLQ250": Benchmark("", None, 250, 256, 4, "DreamClear, https://github.com/shallowdream204/DreamClear"),
    "RealSet65": Benchmark(
        "", None, 65, None, 4, "ResShift, https://github.com/zsyOAOA/ResShift, testdata/RealSet65",
        "09798dbfc91bf766a741a4a8a9f6e482ff0bc599189da6378ae42cf4bf297df7",
    ),
}  # fmt: skip


def open_benchmark(name, folder, *, checksum=True):
    """`{picture: (lq, hq)}` of the benchmark `name` in `folder`, `hq` None without references, sorted by name.

    Number, names, sizes and, where one is known, the checksum of all pixels are compared first (`checksum=False` skips
    the last). Raises `ValueError` or `FileNotFoundError` that says what differs and where the set is to be had.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"A benchmark must be one of {', '.join(BENCHMARKS)}; got {name!r}.")
    benchmark, folder = BENCHMARKS[name], Path(folder)
    sides = [_by_name(name, folder / part) for part in (benchmark.lq, benchmark.hq) if part is not None]
    for side, part in zip(sides, (benchmark.lq, benchmark.hq), strict=False):
        if len(side) != benchmark.count:
            raise ValueError(
                f"{name} has {benchmark.count} pictures in '{part}': '{folder / part}' holds {len(side)}. "
                f"Get it from {benchmark.source}."
            )
    lonely = sorted(set(sides[0]) ^ set(sides[-1]))
    if lonely:
        raise ValueError(f"Pairs of {name} share their names; without a partner: {', '.join(lonely[:5])}.")
    if benchmark.lq_size:
        for side, wanted in zip(sides, (benchmark.lq_size, benchmark.lq_size * benchmark.scale), strict=False):
            _check_sizes(name, side, wanted)
    if checksum and benchmark.checksum:
        found = pixel_checksum(path for side in sides for path in side.values())
        if found != benchmark.checksum:
            raise ValueError(
                f"The pixels of {name} have the checksum {benchmark.checksum[:12]}..., those in '{folder}' "
                f"{found[:12]}.... It is another copy; get {benchmark.source}."
            )
    return {image: (path, sides[1][image] if benchmark.hq is not None else None) for image, path in sides[0].items()}


def pixel_checksum(paths):
    """SHA-256 over the pixels of pictures: independent of their names, order and lossless format."""
    digests = []
    for path in paths:
        pixels = np.asarray(open_photo(path))
        digests.append(hashlib.sha256(np.array(pixels.shape, dtype="<i4").tobytes() + pixels.tobytes()).hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def build_synthetic(photos, folder, *, trained_on, size=512, scale=4, crops_per_photo=1, seed=0, settings=None):
    """Write synthetic pairs as PNG to `folder`/lq and `folder`/gt, with a manifest of each; returns their number.

    Args:
        photos: paths of the photographs to crop and degrade (`evaluation_pairs`).
        trained_on: paths of the training photographs of what is to be evaluated: none may be among `photos`.
        size: side of the high-quality crops.
        scale, crops_per_photo, seed, settings: those of `evaluation_pairs`.

    Raises `ValueError` for a photograph that was trained on (`assert_no_leak`). Nothing is written then.
    """
    assert_no_leak(trained_on, photos)
    pairs = evaluation_pairs(photos, size, seed=seed, scale=scale, crops_per_photo=crops_per_photo, settings=settings)
    with atomic_folder(folder) as part:
        for kind, attribute in (("lq", "lq_small"), ("gt", "hq")):
            files = [part / kind / f"{pair.name}.png" for pair in pairs]
            for pair, file in zip(pairs, files, strict=True):
                file.parent.mkdir(parents=True, exist_ok=True)
                to_image(getattr(pair, attribute)).save(file)
            write_manifest(files, part / f"{kind}.csv")
    return len(pairs)


def assert_no_leak(trained_on, photos, *, correlation=0.98):
    """Raise `ValueError`, naming both pictures, if one of `photos` was trained on.

    The same are files with equal bytes or names (`assert_disjoint`), and pictures whose 16x16 grey thumbnails, as they
    are or mirrored, correlate more than `correlation`: resized and re-encoded copies. Crops are not found so.
    """
    trained_on, photos = list(trained_on), list(photos)
    assert_disjoint(trained_on, photos)
    if not trained_on:
        return
    known = torch.stack([_thumbnail(path) for path in trained_on])
    for path in photos:
        thumbnail = _thumbnail(path)
        both = torch.stack([thumbnail, thumbnail.flip(-1)]).flatten(1)
        closest = (both @ known.flatten(1).T).max(dim=0).values
        if closest.max() > correlation:
            twin = trained_on[int(closest.argmax())]
            raise ValueError(
                f"Evaluation pictures must not be trained on: '{path}' looks like the training picture '{twin}' "
                f"(correlation {closest.max():.3f}). Remove one of them."
            )


def _thumbnail(path):
    """16x16 grey values with mean 0 and length 1; of a plain picture all 0."""
    grey = open_photo(path).convert("L").resize((16, 16), Image.BOX)
    values = torch.from_numpy(np.array(grey)).double()
    values = values - values.mean()
    return values / values.norm().clamp(min=1e-9)


def _by_name(name, folder):
    try:
        paths = find_photos(folder)
    except FileNotFoundError as err:
        raise FileNotFoundError(f"{name} is not in '{folder}'. Get it from {BENCHMARKS[name].source}.") from err
    named = {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
    if len(named) != len(paths):
        raise ValueError(f"Pictures of {name} need different names: '{folder}' holds one twice.")
    return named


def _check_sizes(name, side, wanted):
    for path in side.values():
        with Image.open(png_source(path)[0]) as image:
            if image.size != (wanted, wanted):
                raise ValueError(
                    f"Pictures of {name} measure {wanted}x{wanted} here: '{path}' is {image.width}x{image.height}. "
                    f"Get {BENCHMARKS[name].source}."
                )
