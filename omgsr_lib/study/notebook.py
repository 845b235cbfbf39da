"""What the notebooks of a preset start from: recipe, model and photographs."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from PIL import Image

from .. import presets
from ..adaptive.estimator import DifferenceEstimator
from ..adaptive.model import AdaptiveOMGSR
from ..data.pairs import evaluation_pairs
from ..data.photos import find_photos, packaged_photos, to_image, to_pixels
from ..model import OMGSR
from ..presets import MODELS, preset_recipe, ships
from ..training.batches import training_dataset
from ..training.loop import watched_recipe
from ..utils.files import sha256
from .costs import restoration_costs


def study_photos(photos, split):
    """Photographs of the "train" or "eval" part of the user's folder `photos`, or of those inside the dependencies.

    In the order of their contents' SHA-256 every fourth photograph of a folder is for evaluation, the others for
    training, so that no image is in both. Raises `ValueError` if the folder holds fewer than two different ones.
    """
    if not photos:
        return packaged_photos(split)
    by_content = {sha256(path): path for path in find_photos(photos)}
    if len(by_content) < 2:
        raise ValueError(f"A study needs two different photographs, to train and to evaluate on: '{photos}' has one.")
    paths = [by_content[digest] for digest in sorted(by_content)]
    held_out = paths[::4]
    return held_out if split == "eval" else [path for path in paths if path not in held_out]


def study_pairs(photos, *, size, seed=0, scale=4, crops_per_photo=6, split="eval", settings=None):
    """`EvaluationPair`s of a part of the photographs: centres of the user's, several crops of the packaged ones."""
    paths, crops = study_photos(photos, split), 1 if photos else crops_per_photo
    return evaluation_pairs(paths, size, seed=seed, scale=scale, crops_per_photo=crops, settings=settings)


def as_restored(pairs):
    """`EvaluationPair`s whose `lq` is the bicubic enlargement of `lq_small`, the input that `restore` makes of a file.

    Training enlarges in random modes: of a pair as it is, `lq` may be enlarged by nearest neighbour.
    """
    small = [to_image(pair.lq_small) for pair in pairs]
    sizes = [tuple(pair.hq.shape[:0:-1]) for pair in pairs]
    large = [image.resize(size, Image.BICUBIC) for image, size in zip(small, sizes, strict=True)]
    return [replace(pair, lq=to_pixels(image)) for pair, image in zip(pairs, large, strict=True)]


def training_pairs(photos, recipe, *, synthetic, seed):
    """Training pairs at the recipe's size from the user's photographs, or the dependencies' training photographs."""
    return training_dataset(study_photos(photos, "train"), recipe, seed=seed, synthetic=synthetic)


def training_recipe(preset, variant, mids, *, steps=0, watch=None):
    """The recipe of notebooks 03 and 04: that of the run in the folder `watch`, or the preset's.

    `steps`: instead of the preset's, if not 0. For the priors of this package t* is that of notebook 02, in its file
    `mids`; full-size bases keep the published one.
    """
    if watch:
        return watched_recipe(watch)
    chosen = preset_recipe(preset, variant, steps=steps or None)
    return replace(chosen, timestep=mid_timestep_of(mids, variant)) if ships(chosen) else chosen


def untuned_model(recipe, *, base=None):
    """The prior of a recipe at its mid-timestep, without adapters; `base`: a folder or mirror, instead of its own."""
    return OMGSR.from_recipe(recipe, base=base)


def preset_model(preset, variant):
    """The best model a preset has without training: the shipped adapters of `mini`, else the un-tuned prior."""
    names = {chosen: name for name, chosen in MODELS.items()}
    if preset == "mini":
        return OMGSR.from_pretrained(names[preset, variant])
    return untuned_model(preset_recipe(preset, variant))


def adaptive_model(preset, variant):
    """The shipped adaptive model of `mini`, merged; elsewhere the un-tuned prior with a random estimator."""
    if preset == "mini":
        return OMGSR.from_pretrained(f"mini-{variant}-adaptive").merge()
    model = AdaptiveOMGSR.from_recipe(preset_recipe(preset, variant))
    torch.manual_seed(0)
    model.estimator = DifferenceEstimator(model.vae.config.latent_channels).eval()
    return model


def mid_timestep_of(file, variant):
    """t* of a variant by the SNR rule, from the `midstep.csv` of notebook 02."""
    table = pd.read_csv(file)
    return int(table[(table.variant == variant) & (table.rule == "snr")].timestep.iloc[0])


def evaluated_models(preset, folder):
    """The models that notebook 06 compares: each variant's un-tuned prior, short training, and shipped adapters.

    The short trainings are those of notebooks 03 and 04 in `folder`. Yields `(name, model)`, one model in memory at a
    time.
    """
    folder = Path(folder)
    mids = folder / "02_mid_timestep" / "midstep.csv"
    for variant, number in (("s", "03"), ("f", "04")):
        chosen = preset_recipe(preset, variant, timestep=mid_timestep_of(mids, variant))
        yield f"prior-{variant}", untuned_model(chosen)
        adapter = folder / f"{number}_train_omgsr_{variant}" / "adapter"
        yield f"short-{variant}", untuned_model(chosen).load_adapter(adapter)
        if preset == "mini":
            yield f"omgsr-{variant}", preset_model(preset, variant)


def preset_costs(preset, size, *, repeats=2):
    """Costs of restoring one image of `size` pixels with the preset's models; with `mini` also the full-size bases.

    Those are counted at 512 pixels on the meta device, not run (`study.costs.restoration_costs`).
    """
    frames = []
    for variant in ("s", "f"):
        chosen = replace(preset_recipe(preset, variant), resolution=size)
        model = preset_model(preset, variant).merge()
        frames.append(restoration_costs(f"omgsr-{variant}", chosen, model=model, repeats=repeats))
    if preset == "mini":
        for name, base in (("SD2.1-base", ("release", "s-512")), ("FLUX.1-dev", ("paper", "f-512"))):
            frames.append(restoration_costs(f"{name}, counted", presets.recipe(*base)))
    return pd.concat(frames, ignore_index=True)
