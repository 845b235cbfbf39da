"""Frozen features under the discriminators' heads: pixels `(B, 3, H, W)` in `[-1, 1]` to a list of maps."""

import torch
from torch import nn
from torch.nn import functional as F


CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Standardise(nn.Module):
    """Images in `[0, 1]` less `mean`, over `std`, per channel."""

    def __init__(self, mean=IMAGENET_MEAN, std=IMAGENET_STD):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images):
        return (images - self.mean) / self.std


class Pixels(nn.Module):
    """No features at all: the head is a whole discriminator that sees the pixels."""

    def forward(self, pixels):
        return [pixels]


class EncoderFeatures(nn.Module):
    """Feature maps of an autoencoder's encoder, finest first: what a clone has in place of a pre-trained network.

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
        return [feature.shape[1] for feature in self(next(self.encoder.parameters()).new_zeros(1, 3, side, side))]


class DINOv2Features(nn.Module):
    """Patch tokens after `blocks` of a `Dinov2Model`, as maps `(B, width, 37, 37)` for its input side of 518 pixels.

    Pixels of any other size are resized to it by area. Scaled with CLIP's mean and ImageNet's deviation, as the first
    version does; the outputs of the blocks are taken as they are, without the model's last layer norm. Frozen.
    """

    def __init__(self, model, blocks=(4, 8, 11)):
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.blocks = blocks
        self.width = model.config.hidden_size
        self.standardise = Standardise(mean=CLIP_MEAN)

    def forward(self, pixels):
        side = self.model.config.image_size
        if pixels.shape[-2:] != (side, side):
            pixels = F.interpolate(pixels, (side, side), mode="area")
        states = self.model(self.standardise((pixels + 1) / 2), output_hidden_states=True).hidden_states
        rows = side // self.model.config.patch_size
        return [states[block + 1][:, 1:].mT.unflatten(2, (rows, rows)) for block in self.blocks]


class DINOv3Features(nn.Module):
    """Outputs of the `stages` of a DINOv3-ConvNeXt, 1/4, 1/8 and 1/16 of the side, for ImageNet's scaling. Frozen."""

    def __init__(self, stages):
        super().__init__()
        self.stages = stages.requires_grad_(False).eval()
        self.standardise = Standardise()

    def forward(self, pixels):
        hidden, features = self.standardise((pixels + 1) / 2), []
        for stage in self.stages:
            hidden = stage(hidden)
            features.append(hidden)
        return features

    def widths(self):
        """Channels of each stage."""
        return [len(stage.layers[0].gamma) for stage in self.stages]
