"""Random tiny models of the real classes: the `smoke` preset and the tests. Seconds on a CPU, no files."""

import torch

from .ddpm import DDPMPrior
from .flow import FlowPrior


def tiny_autoencoder(latent_channels=4, seed=0):
    """A random `AutoencoderKL` with factor 8, in Stable Diffusion's layout."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=latent_channels,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.18215,
    ).eval()


def tiny_ddpm(latent_channels=4, seed=0):
    """A random `DDPMPrior` with Stable Diffusion's schedule."""
    return new_ddpm(latent_channels, widths=(16, 32, 32), heads=(1, 2, 2), groups=8, prompt_width=16, seed=seed)


def tiny_flow(latent_channels=4, seed=0):
    """A random `FlowPrior` with FLUX's schedule."""
    return new_flow(
        latent_channels, blocks=1, single_blocks=1, heads=2, head_axes=(4, 6, 6), prompt_width=16, seed=seed
    )


def new_ddpm(latent_channels, *, widths, heads, groups, prompt_width, seed, layers=1, attention=1):
    """An untrained `DDPMPrior`: attention at one level and in the middle block, four constant prompt tokens.

    `attention` is the number of that level, from 0 (finest).
    """
    from diffusers import DDPMScheduler, UNet2DConditionModel

    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    kinds = ["CrossAttn" if level == attention else "" for level in range(len(widths))]
    unet = UNet2DConditionModel(
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=widths,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        layers_per_block=layers,
        attention_head_dim=heads,
        norm_num_groups=groups,
        cross_attention_dim=prompt_width,
        use_linear_projection=True,
    )
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    prompt_embeds = torch.randn(1, 4, prompt_width, generator=generator)
    return DDPMPrior(unet.eval(), scheduler, prompt_embeds)


def new_flow(latent_channels, *, blocks, single_blocks, heads, head_axes, prompt_width, seed):
    """An untrained `FlowPrior`: 2x2-packed latents, four constant prompt tokens, guidance embedding as FLUX.1-dev."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    transformer = FluxTransformer2DModel(
        in_channels=4 * latent_channels,
        num_layers=blocks,
        num_single_layers=single_blocks,
        attention_head_dim=sum(head_axes),
        num_attention_heads=heads,
        joint_attention_dim=prompt_width,
        pooled_projection_dim=prompt_width,
        guidance_embeds=True,
        axes_dims_rope=head_axes,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    prompt_embeds = torch.randn(1, 4, prompt_width, generator=generator)
    pooled = torch.randn(1, prompt_width, generator=generator)
    return FlowPrior(transformer.eval(), scheduler, prompt_embeds, pooled)
