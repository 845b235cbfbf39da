"""Embeddings of the fixed prompt: from a file, from the cache on disk, or once from the base's text encoders."""

import hashlib
import json
import logging
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..utils.files import atomic_write
from .hub import explained


TENSORS = {"ddpm": {"prompt_embeds"}, "flow": {"prompt_embeds", "pooled_prompt_embeds"}}
PRECISION = {"ddpm": torch.float32, "flow": torch.bfloat16}  # of the text encoders: that of the published weights


def load_prompt_embeds(source, family, prompt, file=None, revision=None):
    """Tensors `prompt_embeds` `(1, tokens, width)` and, for "flow", `pooled_prompt_embeds` `(1, width)`.

    From the safetensors file `file`, else `prompt_embeds.safetensors` in the folder `source`, else of `prompt` by the
    text encoders of `source`, which are asked once: the result is kept in `cache_folder()`.
    Raises `FileNotFoundError` if `file` does not exist and `ValueError` if it lacks a tensor.
    """
    if file is None:
        file = Path(source) / "prompt_embeds.safetensors"
        if not file.is_file():
            return _cached(source, family, prompt, revision)
    elif not Path(file).is_file():
        raise FileNotFoundError(f"prompt_embeds must name a safetensors file: '{file}' is none. Check the path.")
    try:
        tensors = load_file(file)
    except SafetensorError as err:
        raise ValueError(
            f"Prompt embeddings must be a whole safetensors file: '{file}' is empty, cut off or a pointer of Git LFS "
            f"({err}). Copy it again (git lfs pull)."
        ) from err
    if not TENSORS[family] <= set(tensors):
        raise ValueError(f"'{file}' must hold the tensors {sorted(TENSORS[family])}: it holds {sorted(tensors)}.")
    return tensors


def cache_folder():
    """$OMGSR_CACHE, else `omgsr` in $XDG_CACHE_HOME or in ~/.cache."""
    own = os.environ.get("OMGSR_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omgsr"


def cache_file(source, family, prompt, revision=None):
    """Where the embeddings of `prompt` by a base are kept: one file per text, base, revision and family."""
    base = str(Path(source).resolve()) if Path(source).is_dir() else str(source)
    key = json.dumps([prompt, base, revision, family])
    return cache_folder() / "prompts" / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"


@torch.no_grad()
def encode_prompt(source, family, prompt, revision=None):
    """Embed `prompt` with the text encoders of `source`, as diffusers' pipelines do; they are freed afterwards."""
    import diffusers

    options = dict(vae=None, revision=revision, dtype=PRECISION[family], use_safetensors=True)
    with explained(source, revision):
        if family == "ddpm":
            options |= dict(unet=None, safety_checker=None, feature_extractor=None, image_encoder=None)
            pipe = diffusers.StableDiffusionPipeline.from_pretrained(source, **options)
        else:
            pipe = diffusers.FluxPipeline.from_pretrained(source, transformer=None, **options)
    if family == "ddpm":
        embeds, _ = pipe.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds}
    embeds, pooled, _ = pipe.encode_prompt(prompt, None, device="cpu", max_sequence_length=512)
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


def _cached(source, family, prompt, revision):
    file = cache_file(source, family, prompt, revision)
    if file.is_file():
        try:
            tensors = load_file(file)
            if set(tensors) == TENSORS[family]:
                return tensors
        except SafetensorError:
            pass
        logging.getLogger(__name__).warning("Cached prompt embeddings are damaged and computed again: %s", file)
    tensors = {name: value.contiguous() for name, value in encode_prompt(source, family, prompt, revision).items()}
    with atomic_write(file) as part:
        save_file(tensors, part)
    return tensors
