"""`omgsr benchmark`: a test set of the field restored by several models and scored into one long CSV.

Restored images and the scores of each image stay in a work folder, so that a stopped run goes on; what is kept
with the results are numbers.
"""

import hashlib
import json
from pathlib import Path

import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from ..data.photos import open_photo
from ..data.test_sets import TEST_SETS, open_test_set
from ..metrics.evaluate import evaluate_folder
from ..metrics.scorers import metric_scorer
from ..metrics.specs import metric_spec
from ..model import OMGSR
from ..presets import MODELS, default_tile
from ..priors.loading import WEIGHTS
from ..report.published import read_published, read_published_cost
from ..restore.pipeline import restore
from ..utils.files import HASHES, atomic_write, sha256
from .peers import PEERS, Peer, model_files
from .run_record import start_run


BICUBIC = "bicubic"  # a method beside the models
CROP = 128  # side of the centre that is restored of low-quality images of various sizes
TILE = 128
MEASURES = {
    True: ("psnr_y", "ssim_y", "gmsd", "checkerboard", "lpips_squeeze", "niqe"),
    False: ("niqe", "checkerboard"),
}  # with and without references
NEED_WEIGHTS = ("lpips_squeeze", "niqe")


def benchmark(
    name, data, out, *, models=(BICUBIC, "mini-s", "mini-f"), work="runs/benchmarks", metrics=None, weights=None,
    published=None, tile=None, overlap=None, progress=True,
):  # fmt: skip
    """Restore the benchmark `name` in the folder `data` with each of `models` and write `<out>/<name>/scores.csv`.

    Images of `lq_size` are restored whole (the field's crops, 128 to 512 pixels), those of various sizes in their
    centre of `CROP` pixels. Columns of the CSV: dataset, method and those of `evaluate_folder`. Rows of methods that
    are in that file already and not among `models` stay.

    Args:
        models: "bicubic", names of `PEERS`, and names or folders that `OMGSR.from_pretrained` takes.
        work: folder for restored images and per-picture scores.
        metrics: names; by default `MEASURES` as far as they can be computed with `weights`.
        weights: folder of metric weights.
        published: folder with published numbers, whose rows of this benchmark go to `published.csv` beside ours.
        tile, overlap: those of `restore`, in pixels of the output; by default a model's own (`presets.TILES`, else
            `TILE`) and a quarter of it.

    Returns the data frame. Raises what `open_test_set`, `evaluate_folder`, `Peer` and `restore` raise, before
    anything is written to `out`.
    """
    names = _checked_names(models)
    about, pairs = TEST_SETS.get(name), open_test_set(name, data)
    with_reference = about.hq is not None
    if metrics is None:
        metrics = [metric for metric in MEASURES[with_reference] if weights or metric not in NEED_WEIGHTS]
    for metric in metrics:
        metric_scorer(metric_spec(metric), "cpu", weights)  # a missing file is refused before hours of restoring
    for peer in set(models) & set(PEERS):
        Peer(peer)  # likewise a missing package
    rows, costs = read_published(published, name), read_published_cost(published)
    frames = []
    for model in models:
        tiling = _tiling(model, tile, overlap)
        folder = Path(work) / name / f"{Path(model).name}-{_fingerprint(model, **tiling)}"
        pictures = {image: lq for image, (lq, _) in pairs.items()}
        _restore_all(model, pictures, folder / "restored", about, progress, **tiling)
        reference = Path(data) / about.hq if with_reference else None
        scores = evaluate_folder(
            folder / "restored", reference, metrics, weights=weights, cache=folder / "scores", progress=progress
        )
        scores.insert(0, "method", Path(model).name)
        scores.insert(0, "dataset", name)
        frames.append(scores)
    kept = _other_methods(Path(out) / name / "scores.csv", names)
    frame = pd.concat([*kept, *frames], ignore_index=True)
    config = dict(
        benchmark=name, source=about.source, pictures=len(pairs), models=names, metrics=list(metrics), tile=tile,
        overlap=overlap, crop=None if about.lq_size else CROP, kept=[rows["method"].iloc[0] for rows in kept],
    )  # fmt: skip
    record = start_run(f"benchmarks/{name}", config, seed=0, folder=Path(out) / name)
    tables = {"scores.csv": frame}
    if rows is not None and len(rows):
        tables |= {"published.csv": rows, "published_cost.csv": costs}
    for file, table in tables.items():
        with atomic_write(record.path(file)) as part:
            table.to_csv(part, index=False, float_format="%.6g")
    record.finish()
    return frame


def _checked_names(models):
    """The names of the methods, by which rows and folders are told apart; `ValueError` for unknown or equal ones."""
    known = (BICUBIC, *PEERS, *MODELS)
    for model in models:
        if model not in known and not (Path(model) / "omgsr.json").is_file():
            raise ValueError(
                f"A method must be one of {', '.join(known)} or a folder with omgsr.json: got {str(model)!r}."
            )
    names = [Path(model).name for model in models]
    if len(set(names)) < len(names):
        raise ValueError(f"Methods must have names of their own: got {', '.join(names)}. Rename one of the folders.")
    return names


def _tiling(name, tile, overlap):
    """The options of `restore` for a method: what is not given is that of the model itself."""
    tile = tile or default_tile(name) or TILE
    return {"tile": tile, "overlap": tile // 4 if overlap is None else overlap}


def _restore_all(name, pictures, folder, about, progress, **tiling):
    """Restore what `folder` does not hold yet; every file in it is complete but those of a run that was killed."""
    for part in folder.glob(".part-*"):
        part.unlink()
    missing = {image: path for image, path in pictures.items() if not (folder / f"{image}.png").exists()}
    if not missing:
        return
    enlarge = _restorer(name, about.scale, tiling)
    for image, path in tqdm(missing.items(), disable=None if progress else True, desc=f"restore {name}"):
        lq = open_photo(path)
        if not about.lq_size:
            lq = _centre(lq, CROP)
        restored = enlarge(lq)
        with atomic_write(folder / f"{image}.png") as part:
            restored.save(part, format="PNG")


def _restorer(name, scale, tiling):
    """The function of a method: a low-quality image to the restored one, `scale` times as large."""
    if name == BICUBIC:
        return lambda lq: lq.resize([scale * side for side in lq.size], Image.BICUBIC)
    if name in PEERS:
        return Peer(name)
    model = OMGSR.from_pretrained(name).merge()
    return lambda lq: restore(model, lq, scale=scale, progress=False, **tiling).images[0]


def _other_methods(file, methods):
    """The rows of an earlier `scores.csv` whose method is none of `methods`, a data frame for each."""
    if not file.is_file():
        return []
    frame = pd.read_csv(file)
    return [rows for method, rows in frame.groupby("method", sort=False) if method not in methods]


def _centre(image, size):
    width, height = (min(size, side) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _fingerprint(name, tile, overlap):
    """Eight digits that change with the weights and the tile: images of another model are not taken for these."""
    folder = Path(name)
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else [WEIGHTS / HASHES]
    if name in PEERS:
        content = [*map(sha256, model_files(name))]
    else:
        content = [] if name == BICUBIC else [tile, overlap, *map(sha256, files)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]
