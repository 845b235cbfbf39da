"""Evaluation of restored images, paired by name, into one long data frame that states its conventions.

The standard script (pyiqa) pairs by sorted order, so that one missing image shifts all pairs; here it is an error.
"""

import json
import math
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from tqdm.auto import tqdm

from ..data.photos import find_photos, open_photo, to_pixels
from ..images.boxes import unread
from ..images.png import png_source
from ..images.sixteen_bit import is_deep
from ..utils.files import sha256, write_json
from ..utils.processes import first_process, gather, process_device, share
from .measures import Undefined
from .scorers import metric_scorer
from .specs import metric_spec


COLUMNS = ("image", "metric", "value", "lower_better", "backend", "version", "convention")
MODES = ("RGB", "L", "P", "1")  # of files that 8-bit RGB holds without loss


def evaluate_folder(
    restored_dir,
    reference_dir,
    metrics=("psnr_y", "ssim_y"),
    device="auto",
    weights=None,
    *,
    cache=None,
    progress=False,
):
    """Score every image of `restored_dir` against the one of the same name in `reference_dir` (see `paired_files`).

    Args:
        restored_dir, reference_dir: folders; `reference_dir` may be None if no metric needs a reference.
        metrics: names of `specs.SPECS`.
        device: "auto" takes CUDA where there is one.
        weights: folder with `squeezenet/` (for `lpips_squeeze`) and `niqe/` (for `niqe`).
        cache: folder that keeps one JSON file of scores per image. A stopped evaluation resumes there, and a second
            one computes only images, metrics or versions that it has not seen (`fid` is computed each time).
        progress: show a progress bar with the time left.

    Under `accelerate launch --num_processes N` (or torchrun) the images are sharded over the processes, and
    each returns the whole frame. Returns a data frame with the columns `COLUMNS`; `fid` gives one row, image "all". A
    image that a metric is not defined for gets NaN, with a warning that says why (`measures.Undefined`).

    Raises `ValueError` if a name is missing on one side or occurs twice, sizes differ, or a file is not an 8-bit
    image without transparency; `FileNotFoundError` for a missing or empty folder or weights; `ImportError` for
    metrics of pyiqa without pyiqa.
    """
    specs, files = _check_metrics(metrics, reference_dir is not None), paired_files(restored_dir, reference_dir)
    device = process_device(device)
    scorers = [(spec, metric_scorer(spec, device, weights)) for spec in specs if spec.name != "fid"]
    fid = [(spec, metric_scorer(spec, device, weights)) for spec in specs if spec.name == "fid"]
    scores = {}
    for name, paths in tqdm(share([*files.items()]), disable=not (progress and first_process()), desc="evaluate"):
        scores[name] = _cached_scores(name, paths, scorers, device, cache)
    scores = dict(gather(scores.items()))
    rows = [_row(name, spec, scores[name][spec.name]) for name in files for spec, _ in scorers]
    rows += [_row("all", spec, function(str(restored_dir), str(reference_dir))) for spec, function in fid]
    return pd.DataFrame(rows, columns=COLUMNS)


def evaluate_images(restored, reference, metrics=("psnr_y", "ssim_y"), names=None, *, device="auto", weights=None):
    """As `evaluate_folder`, for images in memory: PIL images or tensors `(3, H, W)` in `[-1, 1]`, listed or stacked.

    Tensors are measured as they are; round them to 8 bits first to match files. `reference` may be None if no metric
    needs it. `names` (default "0", "1", ...) fill the column image.
    """
    specs, device = _check_metrics(metrics, reference is not None), process_device(device)
    if any(spec.name == "fid" for spec in specs):
        raise ValueError("The metric 'fid' compares folders, not images. Write PNG files and use evaluate_folder.")
    names = [str(index) for index in range(len(restored))] if names is None else list(names)
    if len(set(names)) != len(names):
        raise ValueError(f"Each image needs its own name, got {names}.")
    lengths = {"restored": len(restored), "names": len(names)} | (
        {} if reference is None else {"reference": len(reference)}
    )
    if len(set(lengths.values())) != 1:
        raise ValueError(f"One name and one reference per restored image are needed, got {lengths}.")
    scorers = [(spec, metric_scorer(spec, device, weights)) for spec in specs]
    rows = []
    for index, name in enumerate(names):
        pictures = [restored[index]] + ([] if reference is None else [reference[index]])
        pair = [_as_pixels(picture, name) for picture in pictures]
        _check_sizes(name, pair)
        scores = _score(name, pair, scorers, device)
        rows += [_row(name, spec, scores[spec.name]) for spec in specs]
    return pd.DataFrame(rows, columns=COLUMNS)


def paired_files(restored_dir, reference_dir):
    """`{name: (restored, reference)}` of two folders, or `{name: (restored,)}` if `reference_dir` is None.

    Names are relative paths, sorted, without suffix where no two of a folder share them: `a.jpg` beside `a.png` goes
    with `a.jpg.png` beside `a.png.png`, as `omgsr restore` names them. Raises `ValueError` where they are not the same
    on both sides, or a file is not an 8-bit image without transparency.
    """
    restored = _by_name(restored_dir)
    if reference_dir is None:
        return {name: (path,) for name, path in restored.items()}
    reference = _by_name(reference_dir)
    if restored.keys() != reference.keys():
        raise ValueError(
            f"Images are paired by name, so both folders must hold the same names without suffix: {len(restored)} "
            f"and {len(reference)} here. Only in '{restored_dir}': {_some(restored.keys() - reference.keys())}. Only "
            f"in '{reference_dir}': {_some(reference.keys() - restored.keys())}. Rename, add or remove files."
        )
    return {name: (path, reference[name]) for name, path in restored.items()}


def open_pair(name, paths):
    """Pixels `(3, H, W)` of each file of a pair of `paired_files`; `ValueError` if one is damaged, or sizes differ."""
    pixels = [_open(path) for path in paths]
    _check_sizes(name, pixels)
    return pixels


def _check_metrics(metrics, has_reference):
    if isinstance(metrics, str):
        raise ValueError(f"metrics must be a sequence of names, got the string {metrics!r}. Write ({metrics!r},).")
    specs = [metric_spec(name) for name in metrics]
    for spec in specs:
        if spec.full_reference and not has_reference:
            raise ValueError(f"The metric {spec.name!r} needs reference images and got none. Give them or drop it.")
    return specs


def _by_name(folder):
    photos = [path.relative_to(folder) for path in find_photos(folder)]
    shared = {stem for stem, count in Counter(photo.with_suffix("") for photo in photos).items() if count > 1}
    paths = {}
    for photo in photos:
        stem, path = photo.with_suffix(""), Path(folder, photo)
        name = (photo if stem in shared else stem).as_posix()
        if name in paths:
            raise ValueError(f"Two files claim the name '{name}': '{paths[name]}' and '{path}'. Remove one.")
        _check_header(path)
        paths[name] = path
    return dict(sorted(paths.items()))


def _some(names, limit=5):
    names = sorted(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "") or "none"


def _open(path):
    try:
        return to_pixels(open_photo(path))
    except OSError as err:
        raise ValueError(f"An image must be readable to its end: '{path}' is not ({err}). Replace it.") from err


def _check_header(path):
    try:
        with Image.open(png_source(path)[0]) as image:
            _check_image(image, path, unread(path)[1])
    except OSError as err:
        raise ValueError(f"An image must be readable: '{path}' is not ({err}). Replace it.") from err


def _check_image(image, name, bits=8):
    """`ValueError` for a PIL image of more than 8 bits (as far as it is not loaded yet) or with transparency.

    `bits`: the depth of its file, as far as Pillow does not tell it.
    """
    found = [] if image.mode in MODES else [f"the mode {image.mode}"]
    bits = 16 if _is_deep(image) else bits
    if bits > 8:
        found.append(f"{bits} bits")
    if image.has_transparency_data:
        found.append("transparency")
    if found:
        raise ValueError(
            f"Images are measured in 8-bit RGB without transparency: '{name}' has {' and '.join(found)}. "
            "Convert it, and say how."
        )


def _is_deep(image):
    try:
        return bool(getattr(image, "tile", ())) and is_deep(image)
    except ValueError:  # 16 bits in an order that is not read either
        return True


def _as_pixels(picture, name):
    if not isinstance(picture, torch.Tensor):
        _check_image(picture, name)
        return to_pixels(picture)
    if picture.dim() != 3 or picture.shape[0] != 3:
        raise ValueError(f"An image must be a tensor (3, H, W): '{name}' has the shape {tuple(picture.shape)}.")
    low, high = float(picture.min()), float(picture.max())
    if not (low >= -1.001 and high <= 1.001):
        raise ValueError(
            f"Pixels must lie in [-1, 1]: '{name}' spans [{low:.4g}, {high:.4g}]. Rescale or clamp it first."
        )
    return picture.detach().float()


def _cached_scores(name, paths, scorers, device, cache):
    """`{metric: value}` of one pair, from its file in `cache` as far as images, conventions and versions agree."""
    if cache is None:
        return _score(name, open_pair(name, paths), scorers, device)
    file = Path(cache) / f"{name}.json"
    record = {"pictures": [sha256(path) for path in paths], "scores": {}}
    with suppress(FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):  # damaged: computed again
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["pictures"] == record["pictures"]:
            record["scores"] = {metric: dict(score) for metric, score in known["scores"].items() if "value" in score}
    keys = {spec.name: f"{spec.version}, {spec.convention}" for spec, _ in scorers}
    wanted = [
        (spec, function)
        for spec, function in scorers
        if record["scores"].get(spec.name, {}).get("measured") != keys[spec.name]
    ]
    found = {}
    if wanted:
        found = _score(name, open_pair(name, paths), wanted, device)
        for metric, value in found.items():
            if math.isfinite(value):  # what is undefined is looked at again, and said again
                record["scores"][metric] = {"value": value, "measured": keys[metric]}
        write_json(file, record)
    return {metric: found.get(metric, record["scores"].get(metric, {}).get("value")) for metric in keys}


@torch.no_grad()
def _score(name, pair, scorers, device):
    values = {}
    for spec, function in scorers:
        inputs = [pixels[None].to(device) for pixels in (pair if spec.full_reference else pair[:1])]
        try:
            values[spec.name] = float(function(*inputs))
        except Undefined as err:
            values[spec.name] = math.nan
            warnings.warn(f"'{name}' has no {spec.name}: {err}", RuntimeWarning, stacklevel=2)
        except ValueError as err:
            raise ValueError(f"'{name}': {err}") from err
    return values


def _check_sizes(name, pair):
    if len({tuple(pixels.shape) for pixels in pair}) != 1:
        sizes = " and ".join(f"{pixels.shape[-1]}x{pixels.shape[-2]}" for pixels in pair)
        raise ValueError(f"Restored and reference image must have one size: '{name}' has {sizes}. Resize neither.")


def _row(name, spec, value):
    return (name, spec.name, float(value), spec.lower_better, spec.backend, spec.version, spec.convention)


def score_pairs(restored, pairs, *, method, metrics, weights=None):
    """Long data frame (method, image, metric, value, ...) of restored images against the photographs."""
    frame = evaluate_images(
        restored, [pair.hq for pair in pairs], metrics, [pair.name for pair in pairs], weights=weights
    )
    frame.insert(0, "method", method)
    return frame
