"""Evaluation of restored pictures, paired by name, into one long data frame that states its conventions.

The field's script pairs by sorted order, where one missing picture shifts all pairs silently; here it is an error.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..data.photos import find_photos, open_photo, to_pixels
from ..losses.perceptual import lpips_squeeze
from . import measures
from .niqe import niqe
from .specs import metric_spec


COLUMNS = ("image", "metric", "value", "lower_better", "backend", "convention")


def evaluate_folder(
    restored_dir, reference_dir, metrics=("psnr_y", "ssim_y"), device="auto", weights=None, *, progress=False
):
    """Score every picture of `restored_dir` against the one of the same name (without suffix) in `reference_dir`.

    `metrics` are names of `specs.SPECS`; `reference_dir` may be None if none of them needs a reference. `weights` is
    the folder with `squeezenet/` (for `lpips_squeeze`) and `niqe/` (for `niqe`). Returns a data frame with the columns
    image, metric, value, lower_better, backend, convention; `fid` gives one row, its image is "all".

    Raises `ValueError` if a name is missing on one side or occurs twice, sizes differ, or a file is not a picture;
    `FileNotFoundError` for a missing or empty folder or weights; `ImportError` for metrics of pyiqa without pyiqa.
    """
    specs, device = _check_metrics(metrics, reference_dir is not None), _device(device)
    restored = _by_name(restored_dir)
    reference = None if reference_dir is None else _by_name(reference_dir)
    if reference is not None and restored.keys() != reference.keys():
        raise ValueError(
            "Pictures are paired by name without suffix, so both folders must hold the same names. Only in "
            f"'{restored_dir}': {_some(restored.keys() - reference.keys())}. Only in '{reference_dir}': "
            f"{_some(reference.keys() - restored.keys())}. Rename, add or remove files."
        )
    scorers = _scorers([spec for spec in specs if spec.name != "fid"], device, weights)
    rows = []
    for name, path in tqdm(restored.items(), disable=not progress, desc="evaluate"):
        pair = [_open(path)] + ([] if reference is None else [_open(reference[name])])
        rows += _score(name, pair, scorers, device)
    for spec in specs:
        if spec.name == "fid":
            value = _pyiqa(spec, device)(str(restored_dir), str(reference_dir))
            rows.append(_row("all", spec, value))
    return pd.DataFrame(rows, columns=COLUMNS)


def evaluate_images(restored, reference, metrics=("psnr_y", "ssim_y"), names=None, *, device="auto", weights=None):
    """As `evaluate_folder`, for pictures in memory: PIL images or tensors `(3, H, W)` in `[-1, 1]`, listed or stacked.

    Tensors are measured as they are; round them to 8 bits first to match files. `reference` may be None if no metric
    needs it. `names` (default "0", "1", ...) fill the column image.
    """
    specs, device = _check_metrics(metrics, reference is not None), _device(device)
    if any(spec.name == "fid" for spec in specs):
        raise ValueError("The metric 'fid' compares folders, not pictures. Write PNG files and use evaluate_folder.")
    names = [str(index) for index in range(len(restored))] if names is None else list(names)
    if len(set(names)) != len(names):
        raise ValueError(f"Each picture needs its own name, got {names}.")
    lengths = {"restored": len(restored), "names": len(names)} | (
        {} if reference is None else {"reference": len(reference)}
    )
    if len(set(lengths.values())) != 1:
        raise ValueError(f"One name and one reference per restored picture are needed, got {lengths}.")
    scorers = _scorers(specs, device, weights)
    rows = []
    for index, name in enumerate(names):
        pictures = [restored[index]] + ([] if reference is None else [reference[index]])
        rows += _score(name, [_as_pixels(picture, name) for picture in pictures], scorers, device)
    return pd.DataFrame(rows, columns=COLUMNS)


def _check_metrics(metrics, has_reference):
    if isinstance(metrics, str):
        raise ValueError(f"metrics must be a sequence of names, got the string {metrics!r}. Write ({metrics!r},).")
    specs = [metric_spec(name) for name in metrics]
    for spec in specs:
        if spec.full_reference and not has_reference:
            raise ValueError(f"The metric {spec.name!r} needs reference pictures and got none. Give them or drop it.")
    return specs


def _by_name(folder):
    paths = {}
    for path in find_photos(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in paths:
            raise ValueError(f"Two files claim the name '{name}': '{paths[name]}' and '{path}'. Remove one.")
        paths[name] = path
    return paths


def _some(names, limit=5):
    names = sorted(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "") or "none"


def _open(path):
    try:
        return to_pixels(open_photo(path))
    except OSError as err:
        raise ValueError(f"A picture must be readable to its end: '{path}' is not ({err}). Replace it.") from err


def _as_pixels(picture, name):
    if not isinstance(picture, torch.Tensor):
        return to_pixels(picture)
    if picture.dim() != 3 or picture.shape[0] != 3:
        raise ValueError(f"A picture must be a tensor (3, H, W): '{name}' has the shape {tuple(picture.shape)}.")
    low, high = float(picture.min()), float(picture.max())
    if not (low >= -1.001 and high <= 1.001):
        raise ValueError(
            f"Pixels must lie in [-1, 1]: '{name}' spans [{low:.4g}, {high:.4g}]. Rescale or clamp it first."
        )
    return picture.detach().float()


def _scorers(specs, device, weights):
    """`(spec, function)` pairs, the function taking the pixels `(1, 3, H, W)` that its metric needs."""
    scorers = []
    for spec in specs:
        if spec.backend.startswith("pyiqa:"):
            function = _pyiqa(spec, device)
            scorers.append((spec, lambda *pixels, function=function: function(*[(p + 1) / 2 for p in pixels])))
        elif spec.name == "lpips_squeeze":
            scorers.append((spec, lpips_squeeze(_weights_folder(spec, weights)).to(device)))
        elif spec.name == "niqe":
            path = _weights_folder(spec, weights) / "niqe" / "niqe_pris_params.npz"
            if not path.is_file():
                raise FileNotFoundError(
                    f"NIQE needs its pristine model: '{path}' is missing. Give the weights folder."
                )
            with np.load(path) as file:
                parameters = dict(file)
            scorers.append((spec, lambda pixels, parameters=parameters: niqe(pixels, parameters)))
        else:
            scorers.append((spec, getattr(measures, spec.name)))
    return scorers


def _weights_folder(spec, weights):
    if weights is None:
        raise FileNotFoundError(
            f"The metric {spec.name!r} needs weights: give their folder as weights=... or drop it."
        )
    return Path(weights)


def _device(device):
    return torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)


def _pyiqa(spec, device):
    """The metric of pyiqa behind `spec`: an optional package, non-commercial licence, with its own downloads."""
    name = spec.backend.removeprefix("pyiqa:")
    try:
        import pyiqa
    except ImportError as err:
        raise ImportError(
            f"The metric {spec.name!r} is computed by pyiqa, which is not installed. "
            "`pip install pyiqa` adds it (PolyForm Noncommercial licence); or drop the metric."
        ) from err
    try:
        return pyiqa.create_metric(name, device=device)
    except (OSError, ImportError) as err:  # URLError and the hub's LocalEntryNotFoundError are OSErrors
        raise OSError(
            f"The metric {spec.name!r} needs pyiqa's weights for '{name}', which could not be loaded ({err}). "
            "Connect once, or place them under TORCH_HOME/hub/pyiqa; or drop the metric."
        ) from err


@torch.no_grad()
def _score(name, pair, scorers, device):
    if len({tuple(pixels.shape) for pixels in pair}) != 1:
        sizes = " and ".join(f"{pixels.shape[-1]}x{pixels.shape[-2]}" for pixels in pair)
        raise ValueError(f"Restored and reference picture must have one size: '{name}' has {sizes}. Resize neither.")
    rows = []
    for spec, function in scorers:
        inputs = [pixels[None].to(device) for pixels in (pair if spec.full_reference else pair[:1])]
        try:
            rows.append(_row(name, spec, function(*inputs)))
        except ValueError as err:
            raise ValueError(f"'{name}': {err}") from err
    return rows


def _row(name, spec, value):
    return (name, spec.name, float(value), spec.lower_better, spec.backend, spec.convention)
