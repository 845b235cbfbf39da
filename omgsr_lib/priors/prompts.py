"""Embeddings of the fixed prompt: from a file, from the cache on disk, or once from the base's text encoders."""

import hashlib
import json
import logging
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..utils.files import atomic_write, reading
from . import prior_class
from .hub import explained


def load_prompt_embeds(source, family, prompt, file=None, revision=None):
    """The `prompt_tensors` of the prior of `family`, by name.

    From the safetensors file `file`, else `prompt_embeds.safetensors` in the folder `source`, else of `prompt` by the
    text encoders of `source`, which are asked once: the result is kept in `cache_folder()`.
    Raises `FileNotFoundError` if `file` does not exist and `ValueError` if it lacks a tensor.
    """
    file = prompt_embeds_file(source, file)
    if file is None:
        return _cached(source, family, prompt, revision)
    if not Path(file).is_file():
        raise FileNotFoundError(f"prompt_embeds must name a safetensors file: '{file}' is none. Check the path.")
    with reading(file, "Copy the prompt's embeddings again."):
        tensors = load_file(file)
    names = prior_class(family).prompt_tensors
    if not set(names) <= set(tensors):
        raise ValueError(f"'{file}' must hold the tensors {sorted(names)}: it holds {sorted(tensors)}.")
    return {name: tensors[name] for name in names}


def prompt_embeds_file(source, file=None):
    """`file`, else `prompt_embeds.safetensors` in the folder `source`; None where the text encoders are asked."""
    if file is None:
        file = Path(source) / "prompt_embeds.safetensors"
        return file if file.is_file() else None
    return file


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
    with explained(source, revision):
        return prior_class(family).embed_prompt(source, prompt, vae=None, revision=revision, use_safetensors=True)


def _cached(source, family, prompt, revision):
    file = cache_file(source, family, prompt, revision)
    if file.is_file():
        try:
            tensors = load_file(file)
            if set(tensors) == set(prior_class(family).prompt_tensors):
                return tensors
        except SafetensorError:
            pass
        logging.getLogger(__name__).warning("Cached prompt embeddings are damaged and computed again: %s", file)
    tensors = {name: value.contiguous() for name, value in encode_prompt(source, family, prompt, revision).items()}
    with atomic_write(file) as part:
        save_file(tensors, part)
    return tensors
