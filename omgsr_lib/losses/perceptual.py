"""Perceptual distances on pixels `(B, 3, H, W)` in `[-1, 1]`."""

from pathlib import Path

import torch
from torch import nn

from .chunks import overlap_chunks


def lpips_squeeze(folder):
    """LPIPS v0.1 with a SqueezeNet backbone from local weights; distances `(B, 1, 1, 1)`.

    `folder` holds `squeezenet/squeezenet1_1_fp16.safetensors` (a torchvision state dict). The linear heads come with
    the `lpips` package (Zhang et al., CVPR 2018). Frozen; gradients reach the pictures.
    Values must not be compared with published LPIPS, which is measured with AlexNet.
    """
    import lpips
    from safetensors.torch import load_file

    path = Path(folder) / "squeezenet" / "squeezenet1_1_fp16.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"LPIPS-SqueezeNet needs its backbone: '{path}' is missing. Give the weights folder.")
    model = lpips.LPIPS(net="squeeze", version="0.1", pnet_rand=True, verbose=False)
    backbone = {name.removeprefix("features."): value.float() for name, value in load_file(path).items()}
    own = model.net.state_dict()
    model.net.load_state_dict({name: backbone[name.split(".", 1)[1]] for name in own})
    return model.eval().requires_grad_(False)


class FeatureDistance(nn.Module):
    """Distance `(B, 1, 1, 1)` between pictures in the features of a frozen network: LPIPS without learned weights.

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


def chunked_distance(distance, predicted, target, chunk):
    """Mean of `distance` over the overlapping chunks (OC-LPIPS of the paper, with any perceptual distance)."""
    return distance(overlap_chunks(predicted, chunk), overlap_chunks(target, chunk)).mean()


def _unit(features):
    return features / (features.square().sum(1, keepdim=True) + 1e-10).sqrt()
