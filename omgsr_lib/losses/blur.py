"""Depth-wise low-pass filters in place of plain pooling: blur pool (Zhang, 2019) and the L2 pool of DISTS."""

import torch
from torch import nn
from torch.nn import functional as F


class BlurPool(nn.Module):
    """Maps `(B, C, H, W)` filtered with `taps` along both axes (their sum scaled to 1), then every `stride`-th value.

    `padding` is of zeros, one number for all sides or `(left, right, top, bottom)`.
    """

    def __init__(self, stride, padding, taps=(1.0, 3.0, 3.0, 1.0)):
        super().__init__()
        taps = torch.tensor(taps) / sum(taps)
        self.register_buffer("kernel", taps[:, None] * taps, persistent=False)
        self.stride = stride
        self.padding = (padding,) * 4 if isinstance(padding, int) else padding

    def forward(self, maps):
        channels = maps.shape[1]
        kernel = self.kernel.to(maps.dtype).expand(channels, 1, -1, -1)
        return F.conv2d(F.pad(maps, self.padding), kernel, stride=self.stride, groups=channels)


class L2Pool(nn.Module):
    """Root of the blurred square, `sqrt(blur(x^2) + 1e-12)`, with the inner taps [1, 2, 1] of a Hanning window."""

    def __init__(self, stride):
        super().__init__()
        self.blur = BlurPool(stride, padding=1, taps=(1.0, 2.0, 1.0))

    def forward(self, maps):
        return (self.blur(maps.square()) + 1e-12).sqrt()
