"""Autoencoders and priors from and to folders in diffusers layout (or hub ids).

    <base>/vae/                     any diffusers autoencoder
    <base>/<subfolder>/             the denoiser: unet/, transformer/
    <base>/scheduler/               its scheduler
    <base>/prompt_embeds.safetensors   `prompt_tensors` of the fixed prompt; without it
    <base>/tokenizer/, text_encoder/ [, tokenizer_2/, text_encoder_2/] embed it once

Weights are safetensors in any precision and computed with in `dtype` (float32 by default).
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from . import PRIORS, prior_class
from .hub import check_source, explained
from .prompts import load_prompt_embeds


WEIGHTS = Path(__file__).parents[1] / "weights"


def load_autoencoder(source, *, subfolder=None, dtype=torch.float32, revision=None):
    """The diffusers autoencoder in a folder or under a hub id, of the class that its `config.json` names; frozen.

    Raises `ValueError` if `source` holds another kind of model, and what `hub.explained` says if it can't be read.
    """
    import diffusers
    from diffusers import AutoencoderKL  # where diffusers itself cannot be imported, that is the error

    check_source(source)
    options = dict(subfolder=subfolder, revision=revision)
    with explained(source, revision):
        name = AutoencoderKL.load_config(source, **options)["_class_name"]
        if not name.startswith("Autoencoder"):
            raise ValueError(f"An autoencoder's config.json must name an Autoencoder class: '{source}' names {name}.")
        model = getattr(diffusers, name).from_pretrained(source, dtype=dtype, use_safetensors=True, **options)
    return model.eval().requires_grad_(False)


def load_prior(source, family, *, prompt="", prompt_embeds=None, dtype=torch.float32, revision=None):
    """The prior of `family`, a key of `PRIORS`, in a folder or under a hub id, frozen and in evaluation mode.

    `prompt_embeds` names a safetensors file with the prior's `prompt_tensors`; without it the file of that name in
    the folder `source` is taken, and without that `prompt` is encoded once with the text encoders of `source`
    (`prompts`). Raises `ValueError` if `source` is of another family, and what `hub.explained` says if it
    can't be read.
    """
    prior = prior_class(family)
    _check_denoiser(source, prior, revision)
    scheduler = load_scheduler(source, family, revision)
    tensors = load_prompt_embeds(source, family, prompt, prompt_embeds, revision)
    tensors = {name: value.to(dtype) for name, value in tensors.items()}
    with explained(source, revision):
        denoiser = prior.classes()[0].from_pretrained(
            source, subfolder=prior.subfolder, dtype=dtype, revision=revision, use_safetensors=True
        )
    return prior(denoiser.eval().requires_grad_(False), scheduler, **tensors)


def load_scheduler(source, family, revision=None):
    """The scheduler of a base, as the class of its `family`: it gives the schedule and the prediction type."""
    _, scheduler = prior_class(family).classes()
    check_source(source)
    with explained(source, revision):
        return scheduler.from_pretrained(source, subfolder="scheduler", revision=revision)


def _check_denoiser(source, prior, revision):
    check_source(source)

    def config_of(kind, **options):
        with explained(source, revision):
            config = kind.classes()[0].load_config(source, subfolder=kind.subfolder, revision=revision, **options)
            return {"_class_name": config["_class_name"], **config}

    def is_base_of(kind, **options):
        try:
            return config_of(kind, **options)["_class_name"] == kind.classes()[0].__name__
        except OSError:
            return False

    try:
        config = config_of(prior)
    except (FileNotFoundError, ConnectionError) as err:
        offline = isinstance(err, ConnectionError)
        for other in PRIORS.values():
            if other is not prior and is_base_of(other, local_files_only=offline):
                raise ValueError(
                    f"A {prior.family} model needs a {prior.family} base (with {prior.subfolder}/): '{source}' is a "
                    f"{other.family} base (with {other.subfolder}/). Give another base, or choose a {other.family} "
                    "variant."
                ) from None
        raise
    name, expected = config["_class_name"], prior.classes()[0].__name__
    if name != expected:
        raise ValueError(f"The {prior.family} family needs a {expected}: '{source}' has a {name}.")
    inputs, outputs, addition = (config.get(key) for key in ("in_channels", "out_channels", "addition_embed_type"))
    if addition or outputs not in (None, inputs):
        raise ValueError(
            f"A {prior.family} base must map latents to latents with a text alone, as Stable Diffusion 2.1 or "
            f"FLUX.1-dev: '{source}' has in_channels {inputs}, out_channels {outputs}, "
            f"addition_embed_type {addition}. Give another base."
        )


def empty_prior(source, family, config, embeds):
    """A prior without weights, on the meta device: shapes alone.

    Args:
        source: holds `scheduler/`.
        family: a key of `PRIORS`.
        config: options of its denoiser.
        embeds: shapes of its prompt embeddings, by name.
    """
    prior = prior_class(family)
    denoiser, scheduler = prior.classes()
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
    save_model(prior.denoiser, folder / prior.subfolder, dtype)
    prior.scheduler.save_pretrained(folder / "scheduler")
    tensors = {name: getattr(prior, name).contiguous() for name in prior.prompt_tensors}
    save_file(tensors, folder / "prompt_embeds.safetensors")


def save_model(model, folder, dtype=torch.float32):
    """Write a diffusers model in its own layout, weights rounded to `dtype`, LoRA wrappers left out."""
    state = {
        name.replace(".base_layer.", "."): (value.to(dtype) if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
        if ".lora_" not in name
    }
    model.save_config(folder)
    save_file(state, Path(folder) / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
