"""Whole pipelines of diffusers with random tiny models and tokenizers: what a base folder of a user looks like."""

import torch

from omgsr_lib.priors import DDPMPrior, FlowPrior
from omgsr_lib.priors.tiny import tiny_autoencoder


LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
WIDTH = 16  # of both text encoders: `prompt_width` of the tiny priors


def clip(seed=0):
    """A CLIP tokenizer of single letters and a text model."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    tokens = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    return tokenizer, CLIPTextModel(config).eval()


def t5(seed=0):
    """A T5 tokenizer of single letters and an encoder."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -1.0), *((letter, -2.0) for letter in LETTERS)]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)
    torch.manual_seed(seed)
    config = T5Config(vocab_size=len(pieces), d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=2)
    return tokenizer, T5EncoderModel(config).eval()


def save_pipeline(family, folder):
    """Write a `StableDiffusionPipeline` ("ddpm") or `FluxPipeline` ("flow") to `folder`; returns it and the folder."""
    from diffusers import FluxPipeline, StableDiffusionPipeline

    tokenizer, text_encoder = clip()
    parts = dict(vae=tiny_autoencoder(), tokenizer=tokenizer, text_encoder=text_encoder)
    if family == "ddpm":
        prior = DDPMPrior.tiny()
        parts |= dict(unet=prior.denoiser, scheduler=prior.scheduler, safety_checker=None, feature_extractor=None)
        pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    else:
        prior = FlowPrior.tiny()
        tokenizer_2, text_encoder_2 = t5()
        parts |= dict(tokenizer_2=tokenizer_2, text_encoder_2=text_encoder_2)
        pipe = FluxPipeline(**parts, transformer=prior.denoiser, scheduler=prior.scheduler)
    pipe.save_pretrained(folder)
    return pipe, folder
