"""Pixels to scaled latents and back: the only place that knows scale, shift, posterior and packing."""

import torch

from ..utils.random import randn


def encode_latents(vae, pixels, *, generator=None):
    """Scaled latents `(B, C, H / f, W / f)` of pixels `(B, 3, H, W)` in `[-1, 1]`.

    Takes every diffusers autoencoder, whether it returns a posterior (`AutoencoderKL`: its mean, or a sample if a
    `generator` is given), a latent (`AutoencoderDC`) or latents (`AutoencoderTiny`); the last two are
    deterministic.
    Scaled as in the pipelines of Stable Diffusion, FLUX and FLUX.2 (`scale_latents`).
    """
    encoded = vae.encode(pixels)
    if hasattr(encoded, "latent_dist"):
        posterior = encoded.latent_dist
        latents = posterior.mean
        if generator is not None:
            latents = latents + posterior.std * randn(latents.shape, generator, latents)
    else:
        latents = encoded.latent if hasattr(encoded, "latent") else encoded.latents
    return scale_latents(vae, latents)


def posterior_latents(vae, encoded, *, noise=None, corner=(0, 0)):
    """Scaled latents of what the encoder of `vae` returned: the moments of `AutoencoderKL`, the latent of others.

    Of a posterior its mean, or the sample that standard normal `noise` of the latents' shape makes; `corner` as in
    `scale_latents`.
    """
    if type(vae).__name__ not in ("AutoencoderKL", "AutoencoderKLFlux2"):
        return scale_latents(vae, encoded, corner)
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    posterior = DiagonalGaussianDistribution(encoded)
    return scale_latents(vae, posterior.mean if noise is None else posterior.mean + posterior.std * noise, corner)


def decode_latents(vae, latents):
    """Pixels `(B, 3, H, W)`, about `[-1, 1]` and not clamped, of scaled latents."""
    return vae.decode(unscale_latents(vae, latents)).sample


def scale_latents(vae, latents, corner=(0, 0)):
    """`(latents - shift) * scale`: from the encoder's to scaled latents.

    With `scaling_factor` and `shift_factor` of the autoencoder's configuration; of FLUX.2's autoencoder with its batch
    normalisation, which has a mean and a deviation for each channel and place in a 2x2 patch. `corner`: row and
    column in the image of the first of `latents`.
    """
    scale, shift = _scale_and_shift(vae, latents, corner)
    return (latents - shift) * scale


def unscale_latents(vae, latents, corner=(0, 0)):
    """The inverse of `scale_latents`: what the decoder takes."""
    scale, shift = _scale_and_shift(vae, latents, corner)
    return latents / scale + shift


def compression(vae):
    """Pixels per latent along a side (8 for Stable Diffusion and FLUX)."""
    config = vae.config
    widths = config.get("block_out_channels") or config["encoder_block_out_channels"]
    return 2 ** (len(widths) - 1)


def pack_latents(latents):
    """`(B, C, H, W)` to FLUX tokens `(B, H/2 * W/2, 4 C)`: one token per 2x2 latents. Sides must be even."""
    batch, channels, height, width = latents.shape
    if height % 2 or width % 2:
        raise ValueError(f"FLUX packs 2x2 latents, so both sides must be even: got {height}x{width}. Pad the image.")
    latents = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return latents.permute(0, 2, 4, 1, 3, 5).reshape(batch, height // 2 * (width // 2), 4 * channels)


def unpack_latents(tokens, height, width):
    """Inverse of `pack_latents` for latents of `height` x `width`."""
    batch, _, channels = tokens.shape
    tokens = tokens.reshape(batch, height // 2, width // 2, channels // 4, 2, 2)
    return tokens.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height, width)


def position_ids(height, width, device=None):
    """FLUX position ids `(H/2 * W/2, 3)` of latents `height` x `width`: (0, row, column)."""
    axes = (torch.arange(length // 2, device=device, dtype=torch.float32) for length in (height, width))
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)


@torch.no_grad()
def encode_pairs(vae, pairs):
    """LQ and HQ latents of `EvaluationPair`s, one image at a time, in float32 whatever the precision of `vae`.

    Raises `ValueError` if a side is no multiple of the autoencoder's factor.
    """
    factor, dtype = compression(vae), next(vae.parameters()).dtype
    for pair in pairs:
        if any(side % factor for side in pair.hq.shape[1:]):
            raise ValueError(
                f"Crops for this autoencoder must measure a multiple of {factor} pixels: '{pair.name}' is "
                f"{pair.hq.shape[2]}x{pair.hq.shape[1]}. Choose another size."
            )
    lq = [encode_latents(vae, pair.lq[None].to(dtype))[0].float() for pair in pairs]
    hq = [encode_latents(vae, pair.hq[None].to(dtype))[0].float() for pair in pairs]
    return torch.stack(lq), torch.stack(hq)


@torch.no_grad()
def decoded_noisy_latents(vae, schedule, hq_latents, timesteps, *, seed=0):
    """Images `(3, H, W)` in `[-1, 1]` of the noisy latents of one photograph `(C, h, w)`, one per timestep."""
    noise = torch.randn(hq_latents.shape, generator=torch.Generator().manual_seed(seed))
    noisy = [schedule.add_noise(hq_latents[None], noise[None], timestep) for timestep in timesteps]
    return [decode_latents(vae, latents)[0].clamp(-1, 1) for latents in noisy]


def _scale_and_shift(vae, latents, corner):
    config = vae.config
    if not hasattr(vae, "bn"):
        return config.scaling_factor or 1.0, getattr(config, "shift_factor", None) or 0.0
    scale, shift = (vae.bn.running_var + config.batch_norm_eps).rsqrt(), vae.bn.running_mean
    rows, columns = (
        (torch.arange(length, device=latents.device) + start) % 2
        for length, start in zip(latents.shape[-2:], corner, strict=True)
    )
    return [table.to(latents).unflatten(0, (-1, 2, 2))[:, rows[:, None], columns] for table in (scale, shift)]
