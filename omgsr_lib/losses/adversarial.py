"""The overlap-chunked GAN loss: small trained heads on frozen features, as vision-aided GANs have."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from .augment import diff_augment
from .chunks import overlap_chunks


SOFT_LABEL = 0.8  # of real pictures, and of the generator's in its own loss


class Discriminator(nn.Module):
    """Logit maps of pictures, one per feature level.

    Args:
        features: frozen module, pixels `(B, 3, H, W)` in `[-1, 1]` to a list of maps.
        widths: channels of each map.
        chunk: side of an overlapping chunk in pixels; None takes the whole picture.
        hidden: channels inside a head.

    `forward(pixels, generator)` augments (DiffAugment), chunks, extracts features and applies the heads. Only the
    heads train; gradients pass through the frozen features to the pixels.
    """

    def __init__(self, features, widths, *, chunk=None, hidden=64):
        super().__init__()
        self.features = features
        self.chunk = chunk
        self.heads = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(width, hidden, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(hidden, 1, 1)),
            )
            for width in widths
        )

    def forward(self, pixels, generator):
        pixels = diff_augment(pixels, generator)
        if self.chunk is not None:
            pixels = overlap_chunks(pixels, self.chunk)
        return [head(feature) for head, feature in zip(self.heads, self.features(pixels), strict=True)]


def generator_loss(logits_fake):
    """Binary cross-entropy of the restored pictures' logits against the soft real label, summed over levels."""
    return _cross_entropy(logits_fake, SOFT_LABEL)


def discriminator_loss(logits_real, logits_fake):
    """Binary cross-entropy of real pictures against 0.8 plus restored ones against 0, summed over levels."""
    return _cross_entropy(logits_real, SOFT_LABEL) + _cross_entropy(logits_fake, 0.0)


def _cross_entropy(logits, label):
    return sum(F.binary_cross_entropy_with_logits(level, torch.full_like(level, label)) for level in logits)
