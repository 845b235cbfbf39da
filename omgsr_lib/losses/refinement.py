"""Latent Distribution Refinement (LDR; the later release calls the same formula Latent Representation Refinement)."""

from torch.nn import functional as F

from ..utils.random import randn


def refinement_loss(lq_latents, hq_latents, schedule, timestep, *, generator=None):
    """MSE between the LQ latents and the noisy HQ latents at the mid-timestep, with fresh noise in every call.

    `alpha_t z_H + sigma_t eps` is unpredictable in `eps`, so the loss has the floor `refinement_floor` and its
    minimiser is `alpha_t E[z_H | x_L]`: the encoder learns the scale of the noisy latents and their signal.

    Args:
        lq_latents: `(B, C, H, W)` of the adapted encoder; gradients flow into it.
        hq_latents: same shape, of the frozen encoder.
        schedule: `NoiseSchedule`; timestep: int or `(B,)`.
        generator: of the noise, see `utils.random`.
    """
    noise = randn(hq_latents.shape, generator, hq_latents)
    return F.mse_loss(lq_latents, schedule.add_noise(hq_latents, noise, timestep))


def refinement_floor(schedule, timestep):
    """The least value of `refinement_loss` in expectation: sigma_t^2 (1 - abar_t for DDPM)."""
    return float(schedule.sigmas[timestep] ** 2)
