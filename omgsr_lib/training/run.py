"""`omgsr train`: train the adapters of a recipe, write them in the official layout with their model card."""

import warnings
from pathlib import Path

import pandas as pd
import torch
from accelerate import PartialState

from ..data.pairs import assert_disjoint, evaluation_pairs
from ..metrics.evaluate import score_pairs
from ..midstep import snr_mid_timestep
from ..model import OMGSR
from ..presets import PACKAGED_PRIORS, ships
from ..priors.latents import compression, encode_pairs
from ..priors.loading import WEIGHTS
from ..restore.pairs import restored_pairs
from ..utils.files import sha256
from ..utils.precision import faster_precision, native_precision
from ..utils.processes import from_first
from .batches import training_dataset
from .checkpoint import weights_of
from .distributed import held
from .loop import TrainOptions, run, set_up
from .model_card import adapter_card
from .quantised import quantise_base


METRICS = ("psnr_y", "ssim_y", "gmsd", "checkerboard")
PREVIEWS = 4  # images of a preview
LOSS_WEIGHTS = {  # folders of weights that a perceptual loss or a discriminator reads
    "lpips": ("vgg16",),
    "lpips-squeeze": ("squeezenet",),
    "ea-dists": ("vgg16", "dists"),
    "dinov2": ("dinov2",),
    "dinov3": ("dinov3",),
    "dinov3-dists": ("dinov3",),
}


def finetune(
    recipe,
    paths,
    out,
    *,
    name,
    preset,
    command,
    base=None,
    start=None,
    prompt_embeds=None,
    portraits=(),
    evaluation=(),
    data="",
    seed=0,
    measure_timestep=False,
    quantise=None,
    precision=None,
    weights=None,
    **options,
):
    """Train the adapters of `recipe` on photographs `paths` and return the `TrainResult`; resumable in `out`.

    `out` is held until adapters and card are written: a second run in it raises `OSError`.

    Args:
        name: of the folder `<out>/<name>/` with both adapters and the model card; `preset`, `command`: the card's.
        start: folder of the adapters to continue from, instead of the recipe's; at the timestep that they were trained
            for, where their `omgsr.json` names it (a warning says so if the recipe has another), and no narrower.
        base: folder or mirror, instead of the recipe's hub id; prompt_embeds: see `OMGSR.from_pretrained`.
        portraits: photographs, of `paths` or besides, that are resized instead of cropped (`PhotoPairs`).
        evaluation: photographs of the previews and of the card's measures. Without them the small priors are measured
            on crops of the training photographs, which the card says, and full-size ones are not.
        data: what the card calls the training photographs.
        measure_timestep: whether the mid-timestep is that of the training photographs (SNR rule, the published
            degradation), instead of the recipe's, which belongs to its own base.
        quantise: "int8" or "fp8", the precision of the denoiser's frozen linear weights (`quantised.quantise_base`).
        weights: folder of the loss networks' weights; with LPIPS-SqueezeNet in it that is one of the measures.
        precision, options: of `TrainOptions`; the precision is by default the faster one (`fast_precision`). In
            bf16 on a GPU frozen weights are loaded in bf16.
    """
    assert_disjoint([*paths, *portraits], evaluation)
    with held(out):
        on_gpu = torch.cuda.is_available() and (precision or native_precision()) == "bf16"
        dtype = torch.bfloat16 if on_gpu else torch.float32
        model = OMGSR.from_recipe(recipe, base=base, prompt_embeds=prompt_embeds, dtype=dtype)
        if quantise is not None:
            quantise_base(model, recipe, quantise)
        if start is None and recipe.start:
            start = WEIGHTS / recipe.start
        if start is not None:
            model.load_adapter(start).widen_adapters(recipe.vae_rank, recipe.denoiser_rank, seed=seed)
            if not measure_timestep and model.timestep != recipe.timestep:
                warnings.warn(
                    f"The adapters in '{start}' were trained at timestep {model.timestep} and continue there, not at "
                    f"the recipe's {recipe.timestep}. To train at {recipe.timestep} leave the start out.",
                    stacklevel=2,
                )
        else:
            model.add_adapters(recipe.vae_rank, recipe.denoiser_rank, seed=seed)
        precision = precision or from_first(lambda: fast_precision(model, recipe))
        small = 256 if ships(recipe) else None  # short side of the photographs that crops are cut from
        if measure_timestep:
            crops = evaluation_pairs(paths, recipe.resolution, seed=seed, scale=recipe.scale, short_side=small)
            model.timestep = snr_mid_timestep(*encode_pairs(model.vae, crops), model.prior.schedule).timestep
        pairs = training_dataset(paths, recipe, seed=seed, portraits=portraits)
        measured_on = evaluation or (paths if ships(recipe) else ())
        held_out = evaluation_pairs(measured_on, recipe.resolution, seed=0, scale=recipe.scale, short_side=small)
        options |= {"seed": seed, "precision": precision, "weights": weights}
        options["previews"] = held_out[:PREVIEWS] if evaluation else ()
        origins = from_first(
            lambda: _origins(recipe, base or recipe.base, start, model.prior.subfolder, prompt_embeds, weights)
        )
        origins["quantise"] = quantise
        training = set_up(model, pairs, recipe, out, TrainOptions(**options), origins=origins)
        result = run(training)
        main = PartialState().is_main_process
        if main:
            folder = model.save_adapter(Path(out) / name, dtype=torch.float16 if ships(recipe) else torch.float32)
        restored = restored_pairs(model.eval(), held_out) if held_out else []  # sharded weights need every process
        training.accelerator.end_training()
        if not main:
            return result
        scores = _scores(restored, held_out, weights) if held_out else None
        facts = {
            "preset": preset,
            "steps": len(result.log),
            "batch size": recipe.batch_size * recipe.accumulation * PartialState().num_processes,
            "learning rate": recipe.learning_rate,
            "ranks (encoder, denoiser)": ", ".join(map(str, model.ranks)),
            "seed": seed,
            "photographs": f"{len(paths) + len(portraits)}, {data or 'licence not stated'}",
        }
        if recipe.perceptual:
            facts["perceptual loss"] = recipe.perceptual_loss
        if recipe.target == "mean":
            facts["target"] = "the first model's mean over views"
        if start is not None:
            facts["start"] = f"adapters {Path(start).name}"
        if recipe.dial:
            facts["degradations"] = "from mild to extreme"
        if quantise is not None:
            facts["base"] = f"linear weights in {quantise}"
        if recipe.adaptive:
            facts["timesteps"] = "one per image; measured below at the mid-timestep"
        adapter_card(folder, model, held_out, restored, scores, result.log, facts, command=command)
        return result


def fast_precision(model, recipe):
    """`"bf16"` or `"no"`, in which the denoiser of `model` trains faster on this machine at the recipe's size.

    That of a full-size base is not measured: bf16 where the machine multiplies it in hardware.
    """
    if not ships(recipe):
        return native_precision()
    side = recipe.resolution // compression(model.vae)
    shape = (recipe.batch_size, model.vae.config.latent_channels, side, side)
    return faster_precision(model.prior, shape, training=True)


def _origins(recipe, base, start, denoiser, prompt_embeds, weights):
    """The settings `checkpoint.ORIGINS`: what a run reads and trains with, but does not train."""
    packaged = base in (*PACKAGED_PRIORS, "tiny")
    prompt = Path(prompt_embeds or Path(base, "prompt_embeds.safetensors"))
    names = recipe.perceptual and recipe.perceptual_loss, recipe.adversarial and recipe.discriminator
    parts = sorted({part for name in names for part in LOSS_WEIGHTS.get(name, ())})
    own = [part for part in parts if weights and Path(weights, part).is_dir()]  # the others are those of the hub
    return {
        "base_weights": base if packaged else weights_of(base, "vae", denoiser),
        "prompt_embeds": sha256(prompt)[:12] if prompt.is_file() else None,
        "start_weights": weights_of(start),
        "loss_weights": weights_of(weights, *own) if own else None,
    }


def _scores(restored, pairs, weights):
    metrics = (*METRICS, "lpips_squeeze") if weights and (Path(weights) / "squeezenet").is_dir() else METRICS
    methods = {"lq": [pair.lq for pair in pairs], "omgsr": restored}
    return pd.concat(
        score_pairs(images, pairs, method=method, metrics=metrics, weights=weights)
        for method, images in methods.items()
    )
