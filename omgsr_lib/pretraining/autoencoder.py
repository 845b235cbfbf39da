"""Pre-train the small autoencoder of the `mini` preset: a real diffusers `AutoencoderDC`."""

import torch
from torch.nn import functional as F

from ..precision import native_precision
from .linear_start import start_linear
from .loop import cosine_with_warmup, run_steps


CONFIG = dict(
    latent_channels=24,
    encoder_block_types="ResBlock",
    decoder_block_types="ResBlock",
    encoder_block_out_channels=(3, 12, 48, 192),
    decoder_block_out_channels=(12, 24, 48, 192),
    encoder_layers_per_block=(1, 1, 1, 2),
    decoder_layers_per_block=(1, 2, 2, 3),
    encoder_qkv_multiscales=((), (), (), ()),
    decoder_qkv_multiscales=((), (), (), ()),
    encoder_out_shortcut=False,
    decoder_in_shortcut=False,
)


def new_autoencoder(pixels, seed):
    """An untrained `AutoencoderDC` at the linear optimum of `pixels` `(B, 3, H, W)` in `[-1, 1]`."""
    from diffusers import AutoencoderDC

    torch.manual_seed(seed)
    vae = AutoencoderDC(**CONFIG)
    start_linear(vae, pixels)
    return vae


def train_autoencoder(crops, folder, *, steps, batch_size=8, learning_rate=5e-4, seed=0, perceptual=None, every=100):
    """Train on `crops` (a `CropSampler`) and return the autoencoder; checkpoints in `folder` make it resumable.

    Loss: L1 + 0.5 perceptual + 0.1 (latent power - 1)^2. The decoder sees latents with Gaussian noise of standard
    deviation 0.3 u^2, u ~ U(0, 1), so that it forgives the errors of a one-step prediction.
    """
    vae = new_autoencoder(crops.batch(-1, 512), seed).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=1e-4)
    schedule = cosine_with_warmup(optimizer, steps, warmup=100)

    def step_losses(step):
        pixels = crops.batch(step, batch_size).contiguous(memory_format=torch.channels_last)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        with torch.autocast("cpu", torch.bfloat16, enabled=native_precision() == "bf16"):
            latents = vae.encode(pixels).latent.float()
            deviation = 0.3 * torch.rand(batch_size, 1, 1, 1, generator=generator).square()
            noise = torch.randn(latents.shape, generator=generator)
            decoded = vae.decode(latents + deviation * noise).sample.float()
            losses = {"l1": F.l1_loss(decoded, pixels), "power": 0.1 * (latents.square().mean() - 1).square()}
            if perceptual is not None:
                losses["perceptual"] = 0.5 * perceptual(decoded, pixels).float().mean()
        return losses

    run_steps(folder, steps, step_losses, modules={"vae": vae}, optimizer=optimizer, schedule=schedule, every=every)
    with torch.no_grad():
        latents = vae.eval().encode(crops.batch(steps, 64)).latent
    vae.register_to_config(scaling_factor=float(latents.square().mean().rsqrt()))
    return vae


@torch.no_grad()
def reconstruction_quality(vae, pixels, perceptual=None):
    """Per-image PSNR in dB over RGB, and the perceptual distance where a metric is given; lists of floats."""
    decoded = torch.cat([vae.decode(vae.encode(p).latent).sample for p in pixels.split(8)]).clamp(-1, 1)
    squared = (decoded - pixels).square().mean((1, 2, 3))
    quality = {"psnr": (10 * torch.log10(4 / squared)).tolist()}
    if perceptual is not None:
        quality["lpips_squeeze"] = perceptual(decoded, pixels).flatten().tolist()
    return quality
