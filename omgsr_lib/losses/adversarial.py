"""The GAN loss, plain or overlap-chunked (OC-GAN): small trained heads on frozen features (vision-aided GAN)."""

import torch
from torch import nn
from torch.nn import functional as F

from .augment import diff_augment
from .chunks import chunk_mean, overlap_chunks
from .heads import plain_head


SOFT_LABEL = 0.8  # of real images, and of restored ones in the generator's loss


class Discriminator(nn.Module):
    """Logit maps of images, one per feature level.

    Args:
        features: frozen module, pixels `(B, 3, H, W)` in `[-1, 1]` to a list of maps.
        heads: one per map: a module to logits, or the map's number of channels for a `plain_head`.
        chunk: side of an overlapping chunk in pixels; None takes the whole image.
        least_side: of what the heads see, in pixels; smaller images or chunks raise `ValueError`.

    `forward(pixels, generator)` augments (DiffAugment), chunks, extracts features and applies the heads. Only the
    heads train; gradients pass through the frozen features to the pixels.
    """

    def __init__(self, features, heads, *, chunk=None, least_side=1):
        super().__init__()
        self.features = features
        self.heads = nn.ModuleList(plain_head(head) if isinstance(head, int) else head for head in heads)
        self.chunk = chunk
        self.least_side = least_side

    def forward(self, pixels, generator):
        pixels = diff_augment(pixels, generator)
        return self._logits(pixels if self.chunk is None else overlap_chunks(pixels, self.chunk))

    def loss(self, pixels, generator, label, *, at_once=None):
        """Cross-entropy of the logits against `label`, a number in [0, 1].

        Equals that of `forward`, also in its gradients to pixels and trainable heads, and holds the activations of
        `at_once` chunks only (`chunk_mean`). All parts see the same weights: the spectral norm's power iteration
        advances once per call.
        """
        training = self.heads.training

        def entropies(chunks):
            logits = self._logits(chunks)
            self.heads.eval()
            return _cross_entropies(logits, label)

        trained = [parameter for parameter in self.heads.parameters() if parameter.requires_grad]
        augmented = diff_augment(pixels, generator)
        value = chunk_mean(entropies, [augmented], self.chunk, at_once=at_once, parameters=trained)
        self.heads.train(training)
        return value

    def _logits(self, pixels):
        height, width = pixels.shape[-2:]
        if min(height, width) < self.least_side:
            raise ValueError(
                f"These heads need {self.least_side} px per side for a logit: got {width}x{height}. Use larger crops, "
                "or the discriminator of a smaller resolution."
            )
        return [head(feature) for head, feature in zip(self.heads, self.features(pixels), strict=True)]


def generator_loss(discriminator, restored, generator, *, at_once=None):
    """Cross-entropy of restored images against the soft real label; arguments as those of `Discriminator.loss`."""
    return discriminator.loss(restored, generator, SOFT_LABEL, at_once=at_once)


def discriminator_loss(discriminator, real, restored, generator, *, at_once=None):
    """Cross-entropy of real images against 0.8 plus that of restored ones against 0."""
    real_loss = discriminator.loss(real, generator, SOFT_LABEL, at_once=at_once)
    return real_loss + discriminator.loss(restored, generator, 0.0, at_once=at_once)


def _cross_entropies(logits, label):
    """One value per image `(B,)`, at least float32: mean over positions, sum over levels."""
    levels = [level.to(torch.promote_types(level.dtype, torch.float32)).flatten(1) for level in logits]
    return sum(
        F.binary_cross_entropy_with_logits(level, torch.full_like(level, label), reduction="none").mean(1)
        for level in levels
    )
