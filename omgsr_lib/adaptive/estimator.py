"""Estimates D = E[(z_L - z_H)^2], which decides an image's mid-timestep, from its LQ latents alone."""

import math

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn


class DifferenceEstimator(ModelMixin, ConfigMixin):
    """A small convolutional head on the latents of the frozen encoder; a normal distribution of log D.

    Args:
        channels: of the latents.
        width: of the first convolution; the others have twice as many channels.
        spread: what the network's standard deviation is multiplied by, found on held-out photographs (`calibrate`).
    """

    @register_to_config
    def __init__(self, channels, width=64, spread=1.0):
        super().__init__()
        wide = 2 * width
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.SiLU(),
            nn.Conv2d(width, wide, 3, padding=1, stride=2), nn.SiLU(),
            nn.Conv2d(wide, wide, 3, padding=1), nn.SiLU(),
            nn.Conv2d(wide, wide, 3, padding=1), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(2 * wide, wide), nn.SiLU(), nn.Linear(wide, 2))

    def forward(self, lq_latents):
        """Mean and standard deviation of log D, each `(B,)` float32, of latents `(B, C, h, w)` of any size."""
        features = self.body(lq_latents.to(self.dtype)).flatten(2)
        pooled = torch.cat([features.mean(2), features.var(2, correction=0).add(1e-6).sqrt()], dim=1)
        mean, log_deviation = self.head(pooled).float().unbind(1)
        return mean, self.config.spread * log_deviation.clamp(-5, 2).exp()

    @torch.no_grad()
    def timesteps(self, lq_latents, schedule):
        """The estimated mid-timestep of each image `(B,)`: the timestep with `(sigma_t / alpha_t)^2 = D`."""
        return schedule.nearest_timestep((-self(lq_latents)[0].double()).exp())


def load_estimator(folder):
    """The frozen `DifferenceEstimator` in `folder`."""
    return DifferenceEstimator.from_pretrained(folder).requires_grad_(False).eval()


def log_likelihood_loss(mean, deviation, target):
    """Negative log-likelihood of `target` `(B,)` under the normal distributions, without its constant."""
    return (((target - mean) / deviation).square() / 2 + deviation.log()).mean()


def calibrate(estimator, lq_latents, log_difference):
    """Set `spread` so that on held-out pairs errors in units of the estimated deviation have a mean square of 1."""
    estimator.register_to_config(spread=1.0)
    with torch.no_grad():
        mean, deviation = estimator(lq_latents)
    estimator.register_to_config(spread=float(((log_difference - mean) / deviation).square().mean().sqrt()))


def pixel_statistics(lq):
    """`(B, 3)` float64: 1, log of the sharpness and log of the noise of pixels `(B, 3, H, W)`.

    Sharpness is the mean absolute difference of neighbouring lumas, noise Immerkaer's estimate (1996): the mean
    absolute response to the difference of two Laplacians. With a fitted line the baseline for the estimator.
    """
    luma = (lq.double() * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]).sum(1, keepdim=True)
    sharpness = luma.diff(dim=2).abs().mean((1, 2, 3)) + luma.diff(dim=3).abs().mean((1, 2, 3))
    mask = torch.tensor([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=torch.float64)[None, None]
    noise = nn.functional.conv2d(luma, mask).abs().mean((1, 2, 3)) * math.sqrt(math.pi / 2) / 6
    return torch.stack([torch.ones_like(noise), sharpness.clamp(min=1e-6).log(), noise.clamp(min=1e-6).log()], dim=1)
