"""Autoencoders and priors from and to folders in diffusers layout (or hub ids).

    <base>/vae/                     any diffusers autoencoder
    <base>/unet/ | transformer/     the denoiser
    <base>/scheduler/               its scheduler
    <base>/prompt_embeds.safetensors   `prompt_embeds` [, `pooled_prompt_embeds`] of the fixed prompt; without it
    <base>/tokenizer/, text_encoder/ [, tokenizer_2/, text_encoder_2/] embed it once

Weights are safetensors in any precision and computed with in `dtype` (float32 by default).
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from .ddpm import DDPMPrior
from .flow import FlowPrior
from .hub import check_source, explained
from .prompts import load_prompt_embeds


WEIGHTS = Path(__file__).parents[1] / "weights"
DENOISERS = {"ddpm": "unet", "flow": "transformer"}
CLASSES = {
    "ddpm": ("UNet2DConditionModel", "DDPMScheduler"),
    "flow": ("FluxTransformer2DModel", "FlowMatchEulerDiscreteScheduler"),
}


def load_autoencoder(source, *, subfolder=None, dtype=torch.float32, revision=None):
    """The diffusers autoencoder in a folder or under a hub id, of the class that its `config.json` names; frozen.

    Raises `ValueError` if `source` holds another kind of model, and what `hub.explained` says if it can't be read.
    """
    import diffusers

    check_source(source)
    options = dict(subfolder=subfolder, revision=revision)
    with explained(source, revision):
        name = diffusers.AutoencoderKL.load_config(source, **options)["_class_name"]
        if not name.startswith("Autoencoder"):
            raise ValueError(f"An autoencoder's config.json must name an Autoencoder class: '{source}' names {name}.")
        model = getattr(diffusers, name).from_pretrained(source, dtype=dtype, use_safetensors=True, **options)
    return model.eval().requires_grad_(False)


def load_prior(source, family, *, prompt="", prompt_embeds=None, dtype=torch.float32, revision=None):
    """The `family` ("ddpm" or "flow") prior in a folder or under a hub id, frozen and in evaluation mode.

    `prompt_embeds` names a safetensors file with `prompt_embeds` [, `pooled_prompt_embeds`]; without it the file
    of that name in the folder `source` is taken, and without that `prompt` is encoded once with the text encoders of
    `source` (`prompts`). Raises `ValueError` if `source` is of another family, and what `hub.explained` says if it
    can't be read.
    """
    import diffusers

    _check_denoiser(source, family, revision)
    scheduler = load_scheduler(source, family, revision)
    tensors = load_prompt_embeds(source, family, prompt, prompt_embeds, revision)
    tensors = {name: value.to(dtype) for name, value in tensors.items()}
    with explained(source, revision):
        denoiser = getattr(diffusers, CLASSES[family][0]).from_pretrained(
            source, subfolder=DENOISERS[family], dtype=dtype, revision=revision, use_safetensors=True
        )
    denoiser = denoiser.eval().requires_grad_(False)
    if family == "ddpm":
        return DDPMPrior(denoiser, scheduler, tensors["prompt_embeds"])
    return FlowPrior(denoiser, scheduler, tensors["prompt_embeds"], tensors["pooled_prompt_embeds"])


def load_scheduler(source, family, revision=None):
    """The scheduler of a base, as the class of its `family`: it gives the schedule and the prediction type."""
    import diffusers

    check_source(source)
    with explained(source, revision):
        return getattr(diffusers, CLASSES[family][1]).from_pretrained(source, subfolder="scheduler", revision=revision)


def _check_denoiser(source, family, revision):
    import diffusers

    if family not in DENOISERS:
        raise ValueError(f"family must be one of {sorted(DENOISERS)}, got {family!r}.")
    check_source(source)

    def config_of(kind, **options):
        with explained(source, revision):
            model = getattr(diffusers, CLASSES[kind][0])
            return model.load_config(source, subfolder=DENOISERS[kind], revision=revision, **options)

    try:
        config = config_of(family)
    except (FileNotFoundError, ConnectionError) as err:
        (other,) = set(DENOISERS) - {family}
        try:
            config_of(other, local_files_only=isinstance(err, ConnectionError))
        except OSError:
            raise err from None
        raise ValueError(
            f"A {family} model needs a {family} base (with {DENOISERS[family]}/): '{source}' is a {other} base (with "
            f"{DENOISERS[other]}/). Give another base, or choose a {other} variant."
        ) from None
    name = config["_class_name"]
    if name != CLASSES[family][0]:
        raise ValueError(f"The {family} family needs a {CLASSES[family][0]}: '{source}' has a {name}.")
    if config.get("addition_embed_type") or config.get("out_channels") not in (None, config["in_channels"]):
        raise ValueError(
            f"A {family} base must map latents to latents with a text alone, as Stable Diffusion 2.1 or FLUX.1-dev: "
            f"'{source}' has in_channels {config['in_channels']}, out_channels {config.get('out_channels')}, "
            f"addition_embed_type {config.get('addition_embed_type')}. Give another base."
        )


def empty_prior(source, family, config, embeds):
    """A prior without weights, on the meta device: shapes alone.

    Args:
        source: holds `scheduler/`.
        family: "ddpm" or "flow".
        config: options of its denoiser.
        embeds: shapes of its prompt embeddings, by name.
    """
    import diffusers

    denoiser, scheduler, prior = {
        "ddpm": (diffusers.UNet2DConditionModel, diffusers.DDPMScheduler, DDPMPrior),
        "flow": (diffusers.FluxTransformer2DModel, diffusers.FlowMatchEulerDiscreteScheduler, FlowPrior),
    }[family]
    with torch.device("meta"):
        denoiser = denoiser.from_config(config).eval().requires_grad_(False)
        tensors = {name: torch.empty(shape) for name, shape in embeds.items()}
    return prior(denoiser, scheduler.from_pretrained(source, subfolder="scheduler"), **tensors)


def randomise(prior, seed):
    """Replace the weights of a prior by a fresh random initialisation: the control of the ablation."""
    torch.manual_seed(seed)
    denoiser = type(prior.denoiser).from_config(prior.denoiser.config)
    prior.denoiser.load_state_dict(denoiser.state_dict())


def save_prior(prior, folder, *, dtype=torch.float32):
    """Write denoiser (without adapters), scheduler and prompt embeddings below `folder`; weights in `dtype`."""
    folder = Path(folder)
    save_model(prior.denoiser, folder / DENOISERS[prior.family], dtype)
    prior.scheduler.save_pretrained(folder / "scheduler")
    names = ("prompt_embeds", "pooled_prompt_embeds")
    tensors = {name: buffer.contiguous() for name, buffer in prior.named_buffers() if name in names}
    save_file(tensors, folder / "prompt_embeds.safetensors")


def save_model(model, folder, dtype=torch.float32):
    """Write a diffusers model in its own layout, weights rounded to `dtype`, LoRA wrappers left out."""
    state = {
        name.replace(".base_layer.", "."): value.detach().to(dtype).contiguous()
        for name, value in model.state_dict().items()
        if ".lora_" not in name
    }
    model.save_config(folder)
    save_file(state, Path(folder) / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
