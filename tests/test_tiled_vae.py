"""tiled_vae.py: both modes against the autoencoder in one piece; memory counted at full size."""

import pytest
import torch
from torch.nn import functional as F

from omgsr_lib.priors.latents import decode_latents, encode_latents
from omgsr_lib.tiled_vae import decode_tiled, encode_tiled


def stable_diffusion_layout(latent_channels=4, layers=2):
    """The layers of the Stable Diffusion VAE, or with 16 channels of FLUX's without quantising convolutions; narrow."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=latent_channels,
        layers_per_block=layers,
        norm_num_groups=4,
        use_quant_conv=latent_channels == 4,
        use_post_quant_conv=latent_channels == 4,
        shift_factor=None if latent_channels == 4 else 0.1159,
    ).eval()


def residual_autoencoder():
    """An `AutoencoderDC` with the blocks of the mini autoencoder."""
    from diffusers import AutoencoderDC

    torch.manual_seed(0)
    return AutoencoderDC(
        latent_channels=8,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(3, 12, 24, 48),
        decoder_block_out_channels=(12, 12, 24, 48),
        encoder_layers_per_block=(1, 1, 1, 2),
        decoder_layers_per_block=(1, 2, 2, 3),
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
        encoder_out_shortcut=True,
        decoder_in_shortcut=True,
    ).eval()


def tiny():
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8), latent_channels=4
    ).eval()


AUTOENCODERS = {
    "sd": stable_diffusion_layout,
    "flux": lambda: stable_diffusion_layout(16),
    "dc": residual_autoencoder,
    "tiny": tiny,
}


def picture(height, width, batch=1, seed=0):
    """Smooth shapes and fine noise in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 6, 6, generator=generator) * 2 - 1
    fine = torch.randn(batch, 3, height, width, generator=generator)
    return (F.interpolate(coarse, (height, width), mode="bicubic") + 0.1 * fine).clamp(-1, 1)


def latents_like(vae, height, width, batch=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, vae.config.latent_channels, height, width, generator=generator)


def psnr(a, b):
    """Decibels, for pixels in [-1, 1]."""
    return 20 * torch.log10(2 / (a - b).square().mean().sqrt()).item()


@torch.no_grad()
@pytest.mark.parametrize("name", AUTOENCODERS)
def test_exact_mode_equals_one_piece(name):
    """Batches, sides that no strip divides, and in float64 far below the rounding of float32."""
    vae = AUTOENCODERS[name]()
    pixels, latents = picture(200, 136, batch=2), latents_like(vae, 25, 17, batch=2)
    assert (encode_tiled(vae, pixels, mode="exact") - encode_latents(vae, pixels)).abs().max() <= 1e-5
    assert (decode_tiled(vae, latents, mode="exact") - decode_latents(vae, latents)).abs().max() <= 1e-5
    vae, pixels, latents = vae.double(), pixels.double(), latents.double()
    assert (encode_tiled(vae, pixels, mode="exact") - encode_latents(vae, pixels)).abs().max() <= 1e-11
    assert (decode_tiled(vae, latents, mode="exact") - decode_latents(vae, latents)).abs().max() <= 1e-11
