"""`omgsr train`: train the adapters of a recipe, write them in the official layout with their model card."""

from pathlib import Path

import pandas as pd

from .analysis import restored_pairs, score_pairs
from .cards import adapter_card
from .data.pairs import Pairs, assert_disjoint, evaluation_pairs
from .losses.perceptual import lpips_squeeze
from .model import OMGSR
from .precision import native_precision
from .train import train


METRICS = ("psnr_y", "ssim_y", "gmsd", "checkerboard")


def finetune(
    recipe, paths, out, *, name, steps=None, perceptual=None, precision=None, evaluation=None, data="", seed=0
):
    """Train the adapters of `recipe` on photographs `paths` and return the `TrainResult`; resumable in `out`.

    Writes `<out>/<name>/`: both adapters and the model card, which measures on the photographs `evaluation` (on crops
    of the training photographs without them, and says so) and calls the training photographs what `data` says.
    `perceptual` is a weights folder: LPIPS-SqueezeNet then is the perceptual loss and one of the measures. `precision`
    is that of `train`, by default `native_precision()`.
    """
    if evaluation:
        assert_disjoint(paths, evaluation)
    model = OMGSR.from_base(recipe.base, recipe.family, recipe.timestep, prompt=recipe.prompt)
    model.add_adapters(recipe.vae_rank, recipe.denoiser_rank, seed=seed)
    pairs = Pairs(paths, recipe.resolution, seed=seed, scale=recipe.scale)
    distance = lpips_squeeze(perceptual) if perceptual else None
    result = train(
        model,
        pairs,
        recipe,
        out,
        seed=seed,
        steps=steps,
        perceptual=distance,
        precision=precision or native_precision(),
    )
    folder = model.save_adapter(Path(out) / name)
    held_out = evaluation_pairs(evaluation or paths, recipe.resolution, seed=0, scale=recipe.scale, short_side=256)
    restored = {"bicubic": [pair.lq for pair in held_out], "omgsr": restored_pairs(model.eval(), held_out)}
    metrics = (*METRICS, "lpips_squeeze") if perceptual else METRICS
    scores = pd.concat(
        score_pairs(pictures, held_out, method=method, metrics=metrics, weights=perceptual)
        for method, pictures in restored.items()
    )
    facts = {
        "steps": len(result.log),
        "batch size": recipe.batch_size * recipe.accumulation,
        "learning rate": recipe.learning_rate,
        "ranks (encoder, denoiser)": f"{recipe.vae_rank}, {recipe.denoiser_rank}",
        "seed": seed,
        "perceptual loss": "LPIPS-SqueezeNet" if perceptual else recipe.perceptual_loss,
        "photographs": f"{len(paths)}, {data or 'licence not stated'}",
        "measured on": "other photographs" if evaluation else "the same photographs",
    }
    adapter_card(folder, model, held_out, restored["omgsr"], scores, result.log, facts)
    return result
