"""Linear layers as float64 matrices: read with their adapters, folded with constants, rounded once."""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from ..lora import is_plain
from ..utils.workers import on_threads


@dataclass(frozen=True)
class Affine:
    """`x -> weight x + bias`.

    Attributes:
        weight: `(out, in)` float64; of a convolution `(out, in, height, width)`.
        bias: `(out,)` float64.
        dtype: of the layer it was read from and of those that it makes.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, layer):
        """The map of a linear layer or convolution, its active adapters added.

        `B A` is computed as in `lora.merge_lora`: on one thread, since rounding depends on their number. Raises
        `ValueError` for adapters that are no plain LoRA (`lora.is_plain`).
        """
        base = _base_layer(layer)
        weight = base.weight.detach().double()
        if base is not layer and not (layer.merged or layer.disable_adapters):
            if not is_plain(layer):
                raise ValueError(
                    "Folding takes plain LoRA: this adapter is DoRA or has biases. Merge it first (`OMGSR.merge`)."
                )
            with on_threads(1):
                for name in layer.active_adapters:
                    weight = weight + layer.get_delta_weight(name).double()
        bias = weight.new_zeros(len(weight)) if base.bias is None else base.bias.detach().double()
        return cls(weight, bias, base.weight.dtype)

    @classmethod
    def stacked(cls, *maps):
        """The maps of one input side by side: their outputs one after the other."""
        weight, bias = torch.cat([m.weight for m in maps]), torch.cat([m.bias for m in maps])
        return cls(weight, bias, maps[0].dtype)

    def __call__(self, x):
        return F.linear(x, self.weight, self.bias)

    def flat(self):
        """A 1x1 convolution as the linear map of each pixel; of a linear map itself."""
        return replace(self, weight=self.weight.flatten(1))

    def after(self, scale, shift):
        """`x -> self(scale * x + shift)`: takes in the affine part of the norm before it."""
        return replace(self.scaled(scale), bias=self.bias + self.weight @ shift)

    def scaled(self, scale):
        """`x -> self(scale * x)`."""
        return replace(self, weight=self.weight * scale)

    def split(self, sizes):
        """The maps to parts of the output of these `sizes`."""
        parts = zip(self.weight.split(sizes), self.bias.split(sizes), strict=True)
        return [replace(self, weight=weight, bias=bias) for weight, bias in parts]

    def gated(self, gate):
        """`x -> gate * self(x)`."""
        return replace(self, weight=gate[:, None] * self.weight, bias=gate * self.bias)

    def linear(self, norm_eps=None):
        """As a frozen `FoldedLinear`, with `norm_eps` after a layer norm without weights."""
        out, inputs = self.weight.shape
        return _filled(FoldedLinear(inputs, out, norm_eps), self.weight, self.bias, self.dtype)


class FoldedLinear(nn.Linear):
    """A linear layer, with `norm_eps` after a layer norm without weights.

    `pack` gives it its weights a second time, in oneDNN's layout. Then oneDNN multiplies instead of PyTorch's BLAS:
    equal up to rounding, and in half the time on a processor of AMD. Moved layers, copies and files are unpacked.
    """

    def __init__(self, in_features, out_features, norm_eps=None):
        super().__init__(in_features, out_features, device="meta")
        self.norm_eps = norm_eps
        self.register_buffer("packed", None, persistent=False)

    def forward(self, x):
        if self.norm_eps is not None:
            x = F.layer_norm(x, (self.in_features,), eps=self.norm_eps)
        if self.packed is None:
            return super().forward(x)
        return torch._C._nn.mkldnn_linear(x.to_mkldnn(), self.packed, self.bias.to_mkldnn()).to_dense()

    def pack(self):
        """Pack the weights, float32 on a CPU; for inference."""
        self.packed = self.weight.detach().to_mkldnn()

    def _apply(self, function, recurse=True):
        self.packed = None
        return super()._apply(function, recurse)

    def __getstate__(self):
        return self.__dict__ | {"_buffers": self._buffers | {"packed": None}}


def convolution(layer, shift=0):
    """A frozen copy of the convolution `layer` with its active adapters; `shift` `(out,)` is added to its output."""
    base, affine = _base_layer(layer), Affine.of(layer)
    options = dict(stride=base.stride, padding=base.padding, device="meta")
    copy = nn.Conv2d(base.in_channels, base.out_channels, base.kernel_size, **options)
    return _filled(copy, affine.weight, affine.bias + shift, affine.dtype)


def frozen(tensor):
    """`tensor` as a parameter without a gradient."""
    return nn.Parameter(tensor, requires_grad=False)


def embed(embedder, x):
    """The two-layer embedding of a timestep, guidance or pooled prompt by diffusers' `embedder`, in float64."""
    return Affine.of(embedder.linear_2)(F.silu(Affine.of(embedder.linear_1)(x.double())))


def _base_layer(layer):
    """The layer inside a peft adapter, or `layer` itself."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer


def _filled(module, weight, bias, dtype):
    module.weight, module.bias = frozen(weight.to(dtype)), frozen(bias.to(dtype))
    return module
