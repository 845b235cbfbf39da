"""Autoencoders and priors from and to folders in diffusers layout (or hub ids).

    <base>/vae/                     any diffusers autoencoder
    <base>/unet/ | transformer/     the denoiser
    <base>/scheduler/               its scheduler
    <base>/prompt_embeds.safetensors   `prompt_embeds` [, `pooled_prompt_embeds`] of the fixed prompt

Weights are stored in half precision and computed with in `dtype` (float32 by default).
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .ddpm import DDPMPrior
from .flow import FlowPrior


WEIGHTS = Path(__file__).parents[1] / "weights"
DENOISERS = {"ddpm": "unet", "flow": "transformer"}


def load_autoencoder(source, *, subfolder=None, dtype=torch.float32, revision=None):
    """The diffusers autoencoder in a folder or under a hub id, of the class that its `config.json` names; frozen.

    Raises `FileNotFoundError` if `source` can be neither, `ValueError` if it holds another kind of model.
    """
    import diffusers

    if not Path(source).is_dir() and str(source).count("/") != 1:
        raise FileNotFoundError(f"A base must be a folder or a hub id 'owner/name': '{source}' is neither.")
    try:
        config = diffusers.AutoencoderKL.load_config(source, subfolder=subfolder, revision=revision)
    except OSError as err:
        raise FileNotFoundError(
            f"No autoencoder at '{source}': not a folder in diffusers layout, nor a hub id that is cached or can be "
            "reached now. Give a folder, or connect to the hub once."
        ) from err
    name = config["_class_name"]
    if not name.startswith("Autoencoder"):
        raise ValueError(f"An autoencoder's config.json must name an Autoencoder class: '{source}' names {name}.")
    model = getattr(diffusers, name).from_pretrained(
        source, subfolder=subfolder, torch_dtype=dtype, revision=revision, use_safetensors=True
    )
    return model.eval().requires_grad_(False)


def load_prior(source, family, *, prompt="", prompt_embeds=None, dtype=torch.float32, revision=None):
    """The `family` ("ddpm" or "flow") prior in `source`, frozen and in evaluation mode.

    `prompt_embeds` names a safetensors file with `prompt_embeds` [, `pooled_prompt_embeds`]; without it the file
    of that name in the folder `source` is taken, and without that `prompt` is encoded once with the text encoders of
    `source`.
    """
    import diffusers

    options = dict(revision=revision, use_safetensors=True)
    if family == "ddpm":
        denoiser = diffusers.UNet2DConditionModel.from_pretrained(
            source, subfolder="unet", torch_dtype=dtype, **options
        )
        scheduler = diffusers.DDPMScheduler.from_pretrained(source, subfolder="scheduler", revision=revision)
    elif family == "flow":
        denoiser = diffusers.FluxTransformer2DModel.from_pretrained(
            source, subfolder="transformer", torch_dtype=dtype, **options
        )
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(
            source, subfolder="scheduler", revision=revision
        )
    else:
        raise ValueError(f"family must be one of {sorted(DENOISERS)}, got {family!r}.")
    tensors = load_prompt_embeds(source, family, prompt, prompt_embeds, revision)
    denoiser = denoiser.eval().requires_grad_(False)
    if family == "ddpm":
        return DDPMPrior(denoiser, scheduler, tensors["prompt_embeds"].to(dtype))
    pooled = tensors["pooled_prompt_embeds"].to(dtype)
    return FlowPrior(denoiser, scheduler, tensors["prompt_embeds"].to(dtype), pooled)


def randomise(prior, seed):
    """Replace the weights of a prior by a fresh random initialisation: the control of the ablation."""
    torch.manual_seed(seed)
    denoiser = type(prior.denoiser).from_config(prior.denoiser.config)
    prior.denoiser.load_state_dict(denoiser.state_dict())


def load_prompt_embeds(source, family, prompt, file=None, revision=None):
    """Tensors `prompt_embeds` [, `pooled_prompt_embeds`] of `load_prior`: from a file, else from the text encoders."""
    if file is None:
        file = Path(source) / "prompt_embeds.safetensors"
        if not file.is_file():
            return encode_prompt(source, family, prompt, revision)
    elif not Path(file).is_file():
        raise FileNotFoundError(f"prompt_embeds must name a safetensors file: '{file}' is none. Check the path.")
    tensors = load_file(file)
    needed = {"prompt_embeds"} if family == "ddpm" else {"prompt_embeds", "pooled_prompt_embeds"}
    if not needed <= set(tensors):
        raise ValueError(f"'{file}' must hold the tensors {sorted(needed)}: it holds {sorted(tensors)}.")
    return tensors


@torch.no_grad()
def encode_prompt(source, family, prompt, revision=None):
    """Embed `prompt` with the text encoders of `source`; they are freed afterwards."""
    import diffusers

    parts = dict(vae=None, revision=revision)
    if family == "ddpm":
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(source, unet=None, safety_checker=None, **parts)
        embeds, _ = pipe.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds}
    pipe = diffusers.FluxPipeline.from_pretrained(source, transformer=None, **parts)
    embeds, pooled, _ = pipe.encode_prompt(prompt, None, device="cpu", max_sequence_length=512)
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


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
