"""Perceptual distances on pixels `(B, 3, H, W)` in `[-1, 1]`."""

from pathlib import Path

import torch
from torch import nn

from .backbone_weights import squeezenet_features, vgg16_features
from .chunks import chunk_mean


def lpips_squeeze(weights, *, pretrained=True):
    """LPIPS v0.1 with a SqueezeNet backbone from local weights; distances `(B, 1, 1, 1)`.

    `weights` holds `squeezenet/squeezenet1_1_fp16.safetensors` (a torchvision state dict). The linear heads come with
    the `lpips` package (Zhang et al., CVPR 2018). Frozen; gradients reach the images. `pretrained=False` gives a
    random backbone. Values must not be compared with published LPIPS, which is measured with AlexNet.
    """
    return _lpips("squeeze", squeezenet_features(weights) if pretrained else None)


def lpips_vgg(weights=None, *, pretrained=True, as_released=False):
    """LPIPS v0.1 with a VGG16 backbone, the distance of the paper's OC-LPIPS; distances `(B, 1, 1, 1)`, frozen.

    The backbone comes from the folder `weights` or torchvision (`pretrained.vgg16_features`); `pretrained=False` gives
    a random one. `as_released` hands LPIPS pixels in `[0, 1]` where it expects `[-1, 1]`, as the authors' module does.
    """
    model = _lpips("vgg", vgg16_features(weights) if pretrained else None)
    return _HalfRange(model) if as_released else model


class _HalfRange(nn.Module):
    def __init__(self, distance):
        super().__init__()
        self.distance = distance

    def forward(self, predicted, target):
        return self.distance((predicted + 1) / 2, (target + 1) / 2)


def _lpips(net, backbone):
    """LPIPS of the `lpips` package on `backbone`: tensors by their names in torchvision's `features`; None: random.

    Built on the meta device first, because the package would draw random weights for all of VGG16's classifier.
    """
    import lpips

    device = torch.get_default_device()
    with torch.device("meta"):
        model = lpips.LPIPS(net=net, version="0.1", pretrained=False, pnet_rand=True, verbose=False)
    for layer in model.net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to_empty(device="cpu").reset_parameters()
    if backbone is not None:
        model.net.load_state_dict({name: backbone[name.split(".", 1)[1]] for name in model.net.state_dict()})
    heads = Path(lpips.__file__).with_name("weights") / "v0.1" / f"{net}.pth"
    model.load_state_dict(torch.load(heads, map_location="cpu", weights_only=True), strict=False, assign=True)
    return model.eval().requires_grad_(False).to(device)


class FeatureDistance(nn.Module):
    """Distance `(B, 1, 1, 1)` between images in the features of a frozen network: LPIPS without learned weights.

    Each position's feature vector is scaled to unit length; squared differences are summed over channels, averaged
    over positions and levels. `features` maps pixels to a list of maps `(B, C, h, w)`.
    """

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, predicted, target):
        with torch.no_grad():
            wanted = [_unit(f) for f in self.features(target)]
        distances = [
            (_unit(f) - w).square().sum(1, keepdim=True).mean((2, 3), keepdim=True)
            for f, w in zip(self.features(predicted), wanted, strict=True)
        ]
        return sum(distances) / len(distances)


def chunked_distance(distance, predicted, target, chunk, *, at_once=None):
    """Mean of `distance` over the overlapping chunks (OC-LPIPS of the paper, with any perceptual distance).

    `chunk` None takes the whole images; `at_once` chunks at a time go forward and backward (`chunk_mean`).
    """
    return chunk_mean(distance, (predicted, target), chunk, at_once=at_once)


def _unit(features):
    return features / (features.square().sum(1, keepdim=True) + 1e-10).sqrt()
