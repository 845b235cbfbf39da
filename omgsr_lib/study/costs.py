"""What a training step and a restoration cost: parameters, FLOPs and memory, counted without weights or a GPU."""

import copy
import time
from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch

from ..losses.adversarial import SOFT_LABEL
from ..losses.build import build_losses
from ..losses.perceptual import chunked_distance
from ..losses.views import view_mean
from ..model import OMGSR
from ..presets import PACKAGED_PRIORS
from ..priors import PRIORS
from ..priors.full_size import full_size_autoencoder
from ..priors.latents import compression, decode_latents, encode_latents
from ..tiling.vae import flat_peak, run_exact
from ..tiling.vae_layers import decoder_layers, encoder_layers
from ..training.loop import teacher_of
from ..training.quantised import check_training, quantised_memory
from ..utils.meter import Meter, count


AUTOENCODER_MODES = ("one piece", "exact", "flat")  # of an autoencoder
OPTIMIZER_BYTES = {"adamw": 12, "adamw8bit": 6}  # per trained parameter: gradient in float32, both moments of Adam


@dataclass(frozen=True)
class TrainingCosts:
    """Costs of one micro-batch on one GPU.

    Attributes:
        parts: data frame with a row per part of the step: part, parameters, trainable, flops, kept, peak (`Count`).
        memory: bytes by name: weights, optimizer, activations, with `quantise` weights in full. Their sum is the
            estimated peak.
        uncounted: the recipe's loss networks that were not given.
    """

    parts: pd.DataFrame
    memory: dict
    uncounted: tuple

    @property
    def flops(self):
        """Of a micro-batch, forward and backward."""
        return int(self.parts["flops"].sum())

    @property
    def peak_bytes(self):
        """Estimated peak memory, without operators' buffers, the allocator's reserve and the CUDA context."""
        return sum(self.memory.values())


def dry_run(recipe, *, precision="bf16", optimizer="adamw", quantise=None):
    """What `omgsr train --dry-run` prints, with the recipe's own base and loss networks; nothing is downloaded."""
    model = meta_model(recipe, precision)
    with torch.device("meta"):
        networks = build_losses(recipe, model.vae, pretrained=False)
    options = dict(precision=precision, optimizer=optimizer, quantise=quantise)
    costs = training_costs(recipe, model=model, **options, **networks._asdict())
    return format_dry_run(recipe, costs)


def training_costs(
    recipe, *, model=None, perceptual=None, discriminator=None, precision="bf16", optimizer="adamw", quantise=None
):  # fmt: skip
    """The `TrainingCosts` of a `presets.Recipe`, in seconds for any size.

    Args:
        model: `OMGSR` on the meta device, by default `meta_model`. It gets the recipe's adapters if it has none.
        perceptual, discriminator: the `LossNetworks` on the meta device; the parts of those not given are left out.
        precision, optimizer: as in `train`; precision "bf16" with the casts of autocast, or "no".
        quantise: as in `finetune`; what computing with 8-bit weights keeps in full comes on top, at most.

    FLOPs are those of convolutions, matrix products and attention. With `recipe.checkpointing` the layers that
    `recompute_activations` names keep their inputs only and are computed twice. Activations are the most that autograd
    keeps at any moment of the generator's and the discriminator's pass.
    """
    model = meta_model(recipe, precision) if model is None else model
    if model.ranks is None:
        model.add_adapters(recipe.vae_rank, recipe.denoiser_rank)
    teacher = teacher_of(model) if recipe.target == "mean" else None
    modules = [module for module in (model, perceptual, discriminator, teacher) if module is not None]
    dtype = torch.float32 if precision == "bf16" else next(model.vae.parameters()).dtype
    pixels = _pixels(recipe, recipe.batch_size, dtype)
    target, predicted = (_pixels(recipe, recipe.batch_size, torch.float32) for _ in range(2))
    latents = _latents(recipe, model, recipe.batch_size)
    predicted.requires_grad_()
    latents.requires_grad_()
    rows = []

    def part(name, module, function, **options):
        found = count(function, modules, autocast=precision == "bf16", **options)
        numbers = {"parameters": _parameters(module), "trainable": _trainable(module), **vars(found)}
        rows.append({"part": name, **numbers})

    def recomputed(module):
        return module if recipe.checkpointing else None

    denoiser = model.prior.denoiser
    part("encode HQ", model.vae.encoder, lambda: encode_latents(model.vae, pixels))
    if recipe.adaptive:
        part("encode both for t*", model.vae.encoder, lambda: encode_latents(model.vae, torch.cat([pixels] * 2)))
    if teacher is not None:
        own, noise = torch.nn.ModuleList([teacher.lq_vae, teacher.prior.denoiser]), torch.Generator().manual_seed(0)
        part("teacher", own, lambda: view_mean(lambda view: teacher(view).images, pixels, teacher.multiple, noise))
    part("LoRA encoder", model.lq_vae, lambda: model.encode(pixels), recomputed=recomputed(model.lq_vae))
    part("denoiser", denoiser, lambda: model.predict_clean(latents), recomputed=recomputed(denoiser))
    part("decoder", model.vae.decoder, lambda: model.decode(latents), recomputed=recomputed(model.vae))
    chunks = {"at_once": recipe.at_once}
    if perceptual is not None:
        distances = [perceptual, predicted, target, recipe.chunk]
        part("perceptual", perceptual, lambda: chunked_distance(*distances, **chunks))
    if discriminator is not None:
        noise = torch.Generator().manual_seed(0)

        def loss(pictures, label):
            return discriminator.loss(pictures, noise, label, **chunks)

        discriminator.heads.requires_grad_(False)
        part("discriminator for G", discriminator, lambda: loss(predicted, SOFT_LABEL))
        discriminator.heads.requires_grad_(True)
        part("discriminator for D", discriminator, lambda: loss(target, SOFT_LABEL) + loss(predicted.detach(), 0.0))
    passes = [[row for row in rows if (row["part"] == "discriminator for D") == last] for last in (False, True)]
    memory = {
        "weights": _bytes(modules),
        "optimizer": OPTIMIZER_BYTES[optimizer] * sum(row["trainable"] for row in rows),
        "activations": max(map(_peak, passes)),
    }
    if quantise is not None:
        check_training(model.prior, recipe, quantise)
        off, memory["weights in full"] = quantised_memory(denoiser)
        memory["weights"] -= off
    given = {"perceptual loss": perceptual, "discriminator": discriminator}
    wanted = {"perceptual loss": recipe.perceptual, "discriminator": recipe.adversarial}
    uncounted = tuple(name for name in given if wanted[name] and given[name] is None)
    return TrainingCosts(pd.DataFrame(rows), memory, uncounted)


def inference_costs(recipe, *, model=None):
    """Stages of a restoration at the recipe's resolution: data frame with stage, parameters, flops and activations.

    Activations are bytes, the most at one time, without the input (`Meter`).

    `model` is an `OMGSR` on the meta device; by default the recipe's base with merged adapters, one image.
    """
    model = meta_model(recipe) if model is None else model
    pixels, latents = _pixels(recipe, 1, next(model.vae.parameters()).dtype), _latents(recipe, model, 1)
    stages = {
        "encode": (model.lq_vae, lambda: model.encode(pixels)),
        "denoiser": (model.prior.denoiser, lambda: model.predict_clean(latents)),
        "decode": (model.vae.decoder, lambda: model.decode(latents)),
    }
    rows = []
    for stage, (module, function) in stages.items():
        with torch.no_grad(), Meter() as meter:  # in inference mode layers are not taken apart into what is counted
            function()
        numbers = {"parameters": _parameters(module), "flops": meter.flops, "activations": meter.peak}
        rows.append({"stage": stage, **numbers})
    return pd.DataFrame(rows)


def restoration_costs(method, recipe, *, model=None, repeats=2):
    """Costs of restoring one image at the recipe's resolution, by stage, as a table prints them.

    Columns: method, stage, parameters (M), GMAC, weights (MiB), activations (MiB, the peak as counted), and seconds,
    the least of `repeats` runs of `model`. Without one nothing is run: the recipe's full-size base is counted with
    16-bit weights on the meta device.
    """
    counted = inference_costs(recipe, model=None if model is None else copy.deepcopy(model).to("meta"))
    weight = torch.bfloat16 if model is None else next(model.parameters()).dtype
    table = pd.DataFrame({"method": method, "stage": counted["stage"]})
    table["parameters (M)"] = counted["parameters"] / 1e6
    table["GMAC"] = counted["flops"] / 2e9
    table["weights (MiB)"] = counted["parameters"] * weight.itemsize / 2**20
    table["activations (MiB)"] = counted["activations"] / 2**20
    table["seconds"] = float("nan") if model is None else _stage_seconds(model, recipe.resolution, repeats)
    return table


@torch.inference_mode()
def _stage_seconds(model, size, repeats):
    device = next(model.parameters()).device
    runs = []
    for _ in range(repeats):
        value, seconds = torch.zeros(1, 3, size, size, device=device), []
        for stage in (model.encode, model.predict_clean, model.decode):
            began = time.perf_counter()
            value = stage(value)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - began)
        runs.append(seconds)
    return [min(stage) for stage in zip(*runs, strict=True)]


@torch.inference_mode()
def autoencoder_memory(families=tuple(PRIORS), sides=(1024, 2048, 4096), modes=AUTOENCODER_MODES):
    """Peak bytes of the full-size autoencoders' activations in bfloat16 for square images, counted without a GPU.

    Data frame with autoencoder ("SD", "FLUX"), stage ("encode", "decode"), mode ("one piece" or of
    `tiling.vae.MODES`), side (pixels) and bytes. In one piece and exact mode the input counts; flat mode reads it in
    crops, with the defaults of `FlatPass`.
    """
    rows = []
    for family, stage in product(families, ("encode", "decode")):
        vae = full_size_autoencoder(family)
        for mode, side in product(modes, sides):
            peak = _autoencoder_peak(vae, stage, mode, side)
            row = {"autoencoder": PRIORS[family].label, "stage": stage, "mode": mode, "side": side, "bytes": peak}
            rows.append(row)
    return pd.DataFrame(rows)


def _autoencoder_peak(vae, stage, mode, side):
    encodes = stage == "encode"
    layers = encoder_layers(vae) if encodes else decoder_layers(vae)
    channels, length = (3, side) if encodes else (vae.config.latent_channels, side // compression(vae))

    whole = torch.empty(1, channels, length, length, dtype=vae.dtype, device=vae.device)
    if mode == "flat":
        return flat_peak(layers, whole)
    with Meter() as meter:
        if mode == "exact":
            run_exact(layers, whole.clone())
        else:
            (encode_latents if encodes else decode_latents)(vae, whole.clone())
    return meter.peak


def format_dry_run(recipe, costs):
    """What `omgsr train --dry-run` prints: the resolved recipe, trained parameters, FLOPs and peak memory per GPU."""
    lines = ["Recipe", *(f"  {name:16} {value!r}" for name, value in vars(recipe).items()), ""]
    title = f"Micro-batch of {recipe.batch_size}"
    lines += [f"{title:22} {'parameters':>15} {'trained':>13} {'TFLOP':>9} {'kept (GB)':>9}"]
    for row in costs.parts.itertuples():
        numbers = f"{row.flops / 1e12:9.4g} {row.kept / 1e9:9.3g}"
        lines += [f"  {row.part:20} {row.parameters:15,} {row.trainable:13,} {numbers}"]
    trained, step = costs.parts["trainable"].sum(), costs.flops * recipe.accumulation
    memory = " + ".join(f"{name} {value / 1e9:.3g}" for name, value in costs.memory.items())
    lines += [
        f"  {'sum':20} {'':15} {trained:13,} {costs.flops / 1e12:9.4g}",
        "",
        f"A step of {recipe.accumulation} micro-batches: {step / 1e12:.4g} TFLOP; {recipe.steps:,} steps: "
        f"{recipe.steps * step / 1e18:.3g} EFLOP on each GPU.",
        f"Estimated peak memory per GPU: {costs.peak_bytes / 1e9:.3g} GB = {memory}, and 2 to 5 GB for the operators' "
        "own buffers and the CUDA context.",
    ]
    if costs.uncounted:
        lines += [f"Not counted: {' and '.join(costs.uncounted)}."]
    return "\n".join(lines)


def meta_model(recipe, precision="bf16"):
    """The un-tuned model of a recipe on the meta device: shapes of weights in the precision that a GPU trains on."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if recipe.base == "tiny" or recipe.base in PACKAGED_PRIORS:
        return OMGSR.from_recipe(recipe).to("meta", dtype)
    return OMGSR.full_size(recipe.family, recipe.timestep, dtype=dtype)


def _pixels(recipe, batch_size, dtype):
    return torch.empty(batch_size, 3, recipe.resolution, recipe.resolution, dtype=dtype, device="meta")


def _latents(recipe, model, batch_size):
    channels, side = model.vae.config.latent_channels, recipe.resolution // compression(model.vae)
    return torch.empty(batch_size, channels, side, side, dtype=next(model.vae.parameters()).dtype, device="meta")


def _peak(rows):
    """The most kept in one pass: at each part, what those before it keep and the most that itself keeps."""
    moments = (sum(before["kept"] for before in rows[:i]) + row["peak"] for i, row in enumerate(rows))
    return max(moments, default=0)


def _parameters(module):
    return sum(p.numel() for p in module.parameters())


def _trainable(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _bytes(modules):
    tensors = {id(t): t for module in modules for t in (*module.parameters(), *module.buffers())}
    return sum(t.nbytes for t in tensors.values())
