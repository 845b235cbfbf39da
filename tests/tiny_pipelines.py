"""Whole pipelines of diffusers with random tiny models and tokenizers: what a base folder of a user looks like."""

import torch

from omgsr_lib.priors import PRIORS
from omgsr_lib.priors.tiny import tiny_autoencoder


LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
WIDTH = 16  # of the text encoders: `prompt_width` of the tiny priors


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


def qwen3(seed=0):
    """A tokenizer of single letters with a template of chats, and Qwen3 with more than 27 layers."""
    from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

    tokens = ["<|endoftext|>", *LETTERS, "\u0120"]
    tokenizer = Qwen2Tokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}"
        "{% if add_generation_prompt %}assistant{% endif %}{% if not enable_thinking %} think{% endif %}"
    )
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokens),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=28,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return tokenizer, Qwen3ForCausalLM(config).eval()


def save_pipeline(family, folder):
    """Write the diffusers pipeline of `family`, a key of `PRIORS`, to `folder`; returns it and the folder."""
    import diffusers

    prior = PRIORS[family].tiny()
    parts = dict(vae=tiny_autoencoder(kind=prior.autoencoder_class), scheduler=prior.scheduler)
    parts["tokenizer"], parts["text_encoder"] = clip() if family in ("ddpm", "flow") else qwen3()
    if family == "ddpm":
        parts |= dict(unet=prior.denoiser, safety_checker=None, feature_extractor=None)
        pipe = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    elif family == "flow":
        parts["tokenizer_2"], parts["text_encoder_2"] = t5()
        pipe = diffusers.FluxPipeline(**parts, transformer=prior.denoiser)
    else:
        kind = {"z_image": diffusers.ZImagePipeline, "flux2": diffusers.Flux2KleinPipeline}[family]
        pipe = kind(**parts, transformer=prior.denoiser)
    pipe.save_pretrained(folder)
    return pipe, folder
