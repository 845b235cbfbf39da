"""Trained heads of the discriminators: one per level of frozen features, from a map to a map of logits."""

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from .blur import BlurPool


# Heads on DINOv3-ConvNeXt by training resolution; per level (1/4, 1/8, 1/16 of the side) the blocks as (ratio of
# channels, stride of the convolution) and the least side of an image in pixels that leaves one logit per level.
DINOV3_BLOCKS = {
    512: (
        ((0.5, 2), (1, 2), (1, 2)),
        ((0.5, 1), (0.5, 2), (1, 2)),
        ((0.5, 1), (0.5, 1), (0.5, 2)),
    ),
    1024: (
        ((0.5, 1), (1, 2), (1, 2), (1, 2)),
        ((0.5, 1), (0.5, 1), (1, 2), (1, 2)),
        ((0.5, 1), (0.5, 1), (0.5, 1), (1, 2)),
    ),
}
DINOV3_LEAST_SIDE = {512: 384, 1024: 768}


def plain_head(width, hidden=64):
    """Two spectrally normalised convolutions at the resolution of the map."""
    return nn.Sequential(
        spectral_norm(nn.Conv2d(width, hidden, 3, padding=1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(hidden, 1, 1)),
    )


def pixel_head(width=32):
    """A patch discriminator on pixels: logits at an eighth of the side, each of which sees 40 pixels."""
    layers, channels = [spectral_norm(nn.Conv2d(3, width, 3, padding=1)), nn.LeakyReLU(0.2)], width
    for wider in (2 * width, 4 * width, 4 * width):
        layers += [spectral_norm(nn.Conv2d(channels, wider, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        channels = wider
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(channels, 1, 3, padding=1)))


def dinov2_heads(width=768, hidden=128):
    """The three heads of the first version: two that halve the 37x37 map twice, then one linear head per token.

    The blur of the first two adds one pixel per side to the padding that keeps the size; the convolution after it has
    none. The linear layers of the third are written as 1x1 convolutions: logits 10x10, 10x10 and 37x37.
    """
    blurred = [
        nn.Sequential(
            BlurPool(1, (2, 3, 2, 3)),
            spectral_norm(nn.Conv2d(width, hidden, 3, stride=2)),
            nn.LeakyReLU(0.2),
            BlurPool(1, (1, 2, 1, 2)),
            spectral_norm(nn.Conv2d(hidden, 1, 1, stride=2)),
        )
        for _ in range(2)
    ]
    tokens = nn.Sequential(
        spectral_norm(nn.Conv2d(width, hidden, 1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(hidden, 1, 1)),
    )
    return [*blurred, tokens]


def dinov3_heads(widths, resolution):
    """The release's three heads for maps of `widths` channels: one logit per image of `resolution` (512, 1024)."""
    return [_chain(width, blocks) for width, blocks in zip(widths, DINOV3_BLOCKS[resolution], strict=True)]


def _chain(width, blocks):
    layers = []
    for ratio, stride in blocks:
        narrower = int(width * ratio)
        convolution = nn.Conv2d(width, narrower, 3, stride=stride, padding=1)
        layers += [BlurPool(2, 1), spectral_norm(convolution), nn.LeakyReLU(0.2)]
        width = narrower
    return nn.Sequential(*layers, BlurPool(2, 1), spectral_norm(nn.Conv2d(width, 1, 1)))
