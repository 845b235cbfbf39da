"""Pre-train the small autoencoder of the `mini` preset: a real diffusers `AutoencoderDC`."""

import torch
from torch.nn import functional as F

from .linear_start import start_linear
from .loop import cosine_with_warmup, pretraining_autocast, run_steps


# Factor 4. The encoder unshuffles before it convolves; the decoder's last enlargement repeats pixels and convolves, so
# that latents that are constant decode to a constant image, without a pattern of the latents' period.
CONFIG = dict(
    latent_channels=16,
    encoder_block_types="ResBlock",
    decoder_block_types="ResBlock",
    encoder_block_out_channels=(3, 12, 48),
    decoder_block_out_channels=(16, 16, 64),
    encoder_layers_per_block=(0, 1, 3),
    decoder_layers_per_block=(1, 2, 4),
    encoder_qkv_multiscales=((), (), ()),
    decoder_qkv_multiscales=((), (), ()),
    encoder_out_shortcut=False,
    decoder_in_shortcut=False,
    upsample_block_type="interpolate",
)
ENCODER_RATE = 2 / 15  # of the decoder's learning rate: the encoder is near its optimum from the start
PERCEPTUAL_FROM = 0.6  # share of the steps without the perceptual loss


def new_autoencoder(pixels, seed):
    """An untrained `AutoencoderDC` at the linear optimum of `pixels` `(B, 3, H, W)` in `[-1, 1]`."""
    from diffusers import AutoencoderDC

    torch.manual_seed(seed)
    vae = AutoencoderDC(**CONFIG)
    start_linear(vae, pixels)
    return vae


def train_autoencoder(
    crops, folder, *, steps, batch_size=16, learning_rate=1.5e-3, seed=0, perceptual=None, every=100, device="cpu"
):
    """Train on `crops` (a `CropSampler`) and return the autoencoder; checkpoints in `folder` make it resumable.

    Loss: L1 + 0.1 (latent power - 1)^2, and + 0.15 perceptual for the last 40 % of the steps. The decoder sees
    disturbed latents (`disturb`), so that it forgives the errors of a one-step prediction.
    """
    vae = new_autoencoder(crops.batch(-1, 512), seed).to(device, memory_format=torch.channels_last)
    perceptual = None if perceptual is None else perceptual.to(device)
    rates = ((vae.encoder, ENCODER_RATE), (vae.decoder, 1.0))
    groups = [{"params": list(part.parameters()), "lr": learning_rate * rate} for part, rate in rates]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=1e-4)
    schedule = cosine_with_warmup(optimizer, steps, warmup=100)

    def step_losses(step):
        pixels = crops.batch(step, batch_size).to(device, memory_format=torch.channels_last)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        with pretraining_autocast(device):
            latents = vae.encode(pixels).latent.float()
            decoded = vae.decode(disturb(latents, generator)).sample.float()
        losses = {"l1": F.l1_loss(decoded, pixels), "power": 0.1 * (latents.square().mean() - 1).square()}
        if perceptual is not None and step >= PERCEPTUAL_FROM * steps:
            losses["perceptual"] = 0.15 * perceptual(decoded, pixels).mean()
        return losses

    run_steps(folder, steps, step_losses, modules={"vae": vae}, optimizer=optimizer, schedule=schedule, every=every)
    vae = vae.cpu()
    with torch.no_grad():
        latents = vae.eval().encode(crops.batch(steps, 64)).latent
    vae.register_to_config(scaling_factor=float(latents.square().mean().rsqrt()))
    return vae


def disturb(latents, generator):
    """Latents `(B, C, h, w)` with white noise and a constant offset per channel; three in ten stay as they are.

    Standard deviations are 0.3 u^2 and 0.2 u^2 with u ~ U(0, 1) drawn for each image. The offset is what a pattern
    with the period of the latents looks like: the decoder learns that it is an error.
    """
    batch, channels = latents.shape[:2]

    def deviation(most):
        return most * torch.rand(batch, 1, 1, 1, generator=generator).square()

    noise = deviation(0.3) * torch.randn(latents.shape, generator=generator)
    noise = noise + deviation(0.2) * torch.randn(batch, channels, 1, 1, generator=generator)
    noise = noise * (torch.rand(batch, 1, 1, 1, generator=generator) < 0.7)
    return latents + noise.to(latents.device)


@torch.no_grad()
def reconstruction_quality(vae, pixels, perceptual=None):
    """Per-image PSNR in dB over RGB, and the perceptual distance where a metric is given; lists of floats."""
    decoded = torch.cat([vae.decode(vae.encode(p).latent).sample for p in pixels.split(8)]).clamp(-1, 1)
    squared = (decoded - pixels).square().mean((1, 2, 3))
    quality = {"psnr": (10 * torch.log10(4 / squared)).tolist()}
    if perceptual is not None:
        quality["lpips_squeeze"] = perceptual(decoded, pixels).flatten().tolist()
    return quality
