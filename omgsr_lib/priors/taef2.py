"""Encoder of the tiny FLUX.2 autoencoder (madebyollin/taesd, MIT), no diffusers class: a latent space to study.

A block is three 3x3 convolutions and a skip; the blocks beside the latent first add a 1x1 branch of four times the
width with group normalisation.
"""

import torch
from torch import nn


WIDTH, LATENT_CHANNELS = 64, 32


class Block(nn.Module):
    def __init__(self, branch=False):
        super().__init__()
        convolutions = [module for _ in range(3) for module in (nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU())]
        self.conv = nn.Sequential(*convolutions[:-1])
        self.pool = None
        if branch:
            self.pool = nn.Sequential(
                nn.Conv2d(WIDTH, 4 * WIDTH, 1, bias=False),
                nn.GroupNorm(4, 4 * WIDTH),
                nn.ReLU(),
                nn.Conv2d(4 * WIDTH, WIDTH, 1, bias=False),
            )

    def forward(self, x):
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


def load_encoder(folder):
    """Encoder `(B, 3, H, W)` in [0, 1] -> `(B, 32, H/8, W/8)` with the weights in `folder`; all keys must match."""
    layers = [nn.Conv2d(3, WIDTH, 3, padding=1), Block()]
    for level in range(3):
        layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1, stride=2, bias=False)]
        layers += [Block(branch=level == 2) for _ in range(3)]
    layers += [nn.Conv2d(WIDTH, LATENT_CHANNELS, 3, padding=1)]
    encoder = nn.Sequential(*layers)
    state = torch.load(folder / "taef2_encoder.pth", map_location="cpu", weights_only=True)
    encoder.load_state_dict({name: value.float() for name, value in state.items()})
    return encoder.eval().requires_grad_(False)
