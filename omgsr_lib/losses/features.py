"""Features of a frozen autoencoder's encoder: what a clone has in place of a pre-trained feature network."""

import torch
from torch import nn


class EncoderFeatures(nn.Module):
    """Feature maps of `encoder`'s levels for pixels `(B, 3, H, W)` in `[-1, 1]`, finest first.

    Takes the encoder of any diffusers autoencoder with `conv_in` and `down_blocks`. Frozen; gradients reach the
    pixels. Sides must be multiples of the autoencoder's compression.
    """

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder.requires_grad_(False).eval()

    def forward(self, pixels):
        hidden, features = self.encoder.conv_in(pixels), []
        for block in self.encoder.down_blocks:
            hidden = block(hidden)
            features.append(hidden)
        return features

    @torch.no_grad()
    def widths(self, side=32):
        """Channels of each feature map."""
        return [feature.shape[1] for feature in self(torch.zeros(1, 3, side, side))]
