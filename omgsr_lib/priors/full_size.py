"""The published models at full size, from their configurations alone: no files, no download.

"ddpm": SD-Turbo and Stable Diffusion 2.1-base, which differ in their weights only. "flow": FLUX.1-dev.
On the meta device they take no memory; on a GPU they have random weights.
"""

from contextlib import contextmanager

import torch

from .ddpm import DDPMPrior
from .flow import FlowPrior


AUTOENCODER = dict(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
)
AUTOENCODERS = {
    "ddpm": AUTOENCODER | dict(latent_channels=4, scaling_factor=0.18215),
    "flow": AUTOENCODER
    | dict(
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ),
}
UNET = dict(
    sample_size=64,
    block_out_channels=(320, 640, 1280, 1280),
    attention_head_dim=(5, 10, 20, 20),  # number of heads: diffusers' historical name
    cross_attention_dim=1024,
    use_linear_projection=True,
)
TRANSFORMER = dict(
    in_channels=64,
    num_layers=19,
    num_single_layers=38,
    num_attention_heads=24,
    attention_head_dim=128,
    joint_attention_dim=4096,
    pooled_projection_dim=768,
    guidance_embeds=True,
    axes_dims_rope=(16, 56, 56),
)
PROMPT = {"ddpm": (1, 77, 1024), "flow": (1, 512, 4096)}  # (1, tokens, width) of CLIP's and T5's hidden states


def full_size_autoencoder(family, *, device="meta", dtype=torch.bfloat16, seed=0):
    """The autoencoder of `family` ("ddpm": 83.7 M parameters, 4 channels; "flow": 83.8 M, 16 channels)."""
    from diffusers import AutoencoderKL

    with _building(device, dtype, seed):
        return AutoencoderKL(**AUTOENCODERS[family]).eval()


def full_size_prior(family, *, device="meta", dtype=torch.bfloat16, seed=0):
    """The prior of `family` ("ddpm": 865.9 M parameters; "flow": 11.9 G) with random prompt embeddings."""
    from diffusers import (
        DDPMScheduler,
        FlowMatchEulerDiscreteScheduler,
        FluxTransformer2DModel,
        UNet2DConditionModel,
    )

    with _building(device, dtype, seed):
        prompt_embeds = torch.randn(PROMPT[family])
        if family == "ddpm":
            denoiser = UNet2DConditionModel(**UNET)
        else:
            denoiser = FluxTransformer2DModel(**TRANSFORMER)
            pooled = torch.randn(1, TRANSFORMER["pooled_projection_dim"])
    if family == "ddpm":
        scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
        return DDPMPrior(denoiser.eval(), scheduler, prompt_embeds)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    return FlowPrior(denoiser.eval(), scheduler, prompt_embeds, pooled)


@contextmanager
def _building(device, dtype, seed):
    """New tensors on `device` and in `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(seed)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)
