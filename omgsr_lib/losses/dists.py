"""The DISTS family: structure and texture of feature maps compared per channel (Ding et al., 2020)."""

import torch
from torch import nn
from torch.nn import functional as F

from .backbone_weights import dists_weights, vgg16_features
from .backbones import Standardise
from .blur import L2Pool


VGG16_WIDTHS = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
GREY = (0.2989, 0.5870, 0.1140)


class DISTS(nn.Module):
    """`1 - sum(alpha S1 + beta S2)` over the channels of `maps`; distances `(B, 1, 1, 1)`, 0 for equal images.

    S1 = (2 mu_x mu_y + c) / (mu_x^2 + mu_y^2 + c) and S2 = (2 sigma_xy + c) / (sigma_x^2 + sigma_y^2 + c), c = 1e-6,
    with means and biased (co)variances over each map, computed in float32 or better under autocast too.

    Args:
        maps: frozen module, images `(B, 3, H, W)` in `[0, 1]` to a list of maps with C channels in all.
        alpha, beta: non-negative weights `(C,)`; scaled so that they sum to 1 together.

    `forward` takes pixels in `[-1, 1]`; gradients reach the first argument.
    """

    def __init__(self, maps, alpha, beta):
        super().__init__()
        self.maps = maps.requires_grad_(False).eval()
        total = alpha.sum() + beta.sum()
        self.register_buffer("alpha", alpha / total)
        self.register_buffer("beta", beta / total)

    def forward(self, predicted, target):
        return self.compare((predicted + 1) / 2, (target + 1) / 2)

    def compare(self, predicted, target):
        """The distance between images in `[0, 1]`."""
        maps = zip(self.maps(predicted), self.maps(target.detach()), strict=True)
        similarities = zip(*[_similarities(x, y) for x, y in maps], strict=True)
        texture, structure = (torch.cat(parts, 1) for parts in similarities)
        return (self.alpha * (1 - texture) + self.beta * (1 - structure)).sum(1).view(-1, 1, 1, 1)


def _similarities(x, y, c=1e-6):
    """S1 and S2 `(B, C)` of the maps; the centred forms equal E[xy] - E[x] E[y] without its cancellation."""
    x, y = (maps.to(torch.promote_types(maps.dtype, torch.float32)) for maps in (x, y))
    (variance_x, mean_x), (variance_y, mean_y) = (torch.var_mean(maps, (2, 3), correction=0) for maps in (x, y))
    covariance = (x * (y - mean_y[..., None, None])).mean((2, 3))
    texture = (2 * mean_x * mean_y + c) / (mean_x.square() + mean_y.square() + c)
    return texture, (2 * covariance + c) / (variance_x + variance_y + c)


class VGG16Maps(nn.Module):
    """The image and relu1_2, 2_2, 3_3, 4_3, 5_3 of a VGG16 with L2 pooling of stride 2 in place of its max pooling.

    `widths` are the channels of each stage's convolutions; 1475 maps in all for VGG16's. `convolutions` lists them in
    the order of torchvision's `features`.
    """

    def __init__(self, widths=VGG16_WIDTHS):
        super().__init__()
        self.standardise, self.pool = Standardise(), L2Pool(stride=2)
        self.stages, channels = nn.ModuleList(), 3
        for stage in widths:
            layers = []
            for width in stage:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            self.stages.append(nn.Sequential(*layers))

    @property
    def convolutions(self):
        return [layer for stage in self.stages for layer in stage if isinstance(layer, nn.Conv2d)]

    def forward(self, images):
        maps, hidden = [images], self.standardise(images)
        for index, stage in enumerate(self.stages):
            hidden = stage(hidden if index == 0 else self.pool(hidden))
            maps.append(hidden)
        return maps


class DINOv3Maps(nn.Module):
    """The image and the L2-pooled (stride 1) outputs of the `stages` of a DINOv3-ConvNeXt: the release's loss.

    The pooled map, a magnitude without sign, is also what enters the next stage there.
    """

    def __init__(self, stages):
        super().__init__()
        self.standardise, self.pool = Standardise(), L2Pool(stride=1)
        self.stages = stages

    def forward(self, images):
        maps, hidden = [images], self.standardise(images)
        for stage in self.stages:
            hidden = self.pool(stage(hidden))
            maps.append(hidden)
        return maps


def vgg16_dists(weights=None, *, pretrained=True):
    """`DISTS` as published: VGG16 and the learned alpha and beta, from the folder `weights`.

    `pretrained=False` gives random convolutions and equal weights.
    """
    maps = VGG16Maps()
    if not pretrained:
        return _equal_weights(maps, 3 + sum(widths[-1] for widths in VGG16_WIDTHS))
    alpha, beta = dists_weights(weights)
    features = vgg16_features(weights)
    indices = sorted({int(name.split(".")[0]) for name in features})
    for layer, index in zip(maps.convolutions, indices, strict=True):
        layer.load_state_dict({part: features[f"{index}.{part}"] for part in ("weight", "bias")})
    return DISTS(maps, alpha, beta)


def dinov3_dists(stages):
    """`DISTS` on `DINOv3Maps` with the weight 1 / (2 C) for all C channels, 1347 of the large network's."""
    return _equal_weights(DINOv3Maps(stages), 3 + sum(len(s.layers[0].gamma) for s in stages))


def _equal_weights(maps, channels):
    return DISTS(maps, torch.ones(channels), torch.ones(channels))


class EdgeAware(nn.Module):
    """`DISTS` of the images plus `DISTS` of their edge maps, repeated to three channels (EA-DISTS)."""

    def __init__(self, dists):
        super().__init__()
        self.dists = dists

    def forward(self, predicted, target):
        images = (predicted + 1) / 2, (target + 1) / 2
        edges = (edge_map(image).expand(-1, 3, -1, -1) for image in images)
        return self.dists.compare(*images) + self.dists.compare(*edges)


def edge_map(images):
    """Magnitude `(B, 1, H, W)` of the Sobel gradient of the grey image, `sqrt(gx^2 + gy^2 + 1e-6)`, zeros outside.

    Three channels are weighted 0.2989, 0.5870, 0.1140; one channel is taken as it is.
    """
    if images.shape[1] == 3:
        images = sum(weight * channel for weight, channel in zip(GREY, images.split(1, 1), strict=True))
    padded = F.pad(images, (1, 1, 1, 1))
    across = padded[..., 2:] - padded[..., :-2]
    down = padded[..., 2:, :] - padded[..., :-2, :]
    x = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    y = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return (x.square() + y.square() + 1e-6).sqrt()
