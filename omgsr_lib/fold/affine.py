"""Linear layers as float64 matrices: read with their adapters, folded with constants, rounded once."""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Affine:
    """`x -> weight x + bias`.

    Attributes:
        weight: `(out, in)` float64; of a convolution `(out, in, height, width)`.
        bias: `(out,)` float64.
        dtype: of the layer it was read from and of those that it makes.
        keep: whether modulation stays apart, `gate * (weight (scale * x + shift) + bias)`, as tensors that differ from
            timestep to timestep beside weights that do not.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    dtype: torch.dtype
    keep: bool = False
    scale: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    gate: torch.Tensor | None = None

    @classmethod
    def of(cls, layer, keep=False):
        """The map of a linear layer or convolution, its active adapters added."""
        base = _base_layer(layer)
        weight = base.weight.detach().double()
        if base is not layer and not (layer.merged or layer.disable_adapters):
            for name in layer.active_adapters:
                weight = weight + layer.get_delta_weight(name).double()
        bias = weight.new_zeros(len(weight)) if base.bias is None else base.bias.detach().double()
        return cls(weight, bias, base.weight.dtype, keep)

    @classmethod
    def stacked(cls, *maps):
        """The maps of one input side by side: their outputs one after the other."""
        weight, bias = torch.cat([m.weight for m in maps]), torch.cat([m.bias for m in maps])
        return cls(weight, bias, maps[0].dtype, maps[0].keep)

    def __call__(self, x):
        x = x if self.scale is None else x * self.scale + self.shift
        return F.linear(x, self.weight, self.bias) * (1 if self.gate is None else self.gate)

    def flat(self):
        """A 1x1 convolution as the linear map of each pixel; of a linear map itself."""
        return replace(self, weight=self.weight.flatten(1))

    def after(self, scale, shift):
        """`x -> self(scale * x + shift)`: takes in the affine part of the norm before it."""
        if self.keep:
            return replace(self, scale=scale, shift=shift)
        return replace(self, weight=self.weight * scale, bias=self.bias + self.weight @ shift)

    def gated(self, gate):
        """`x -> gate * self(x)`."""
        if self.keep:
            return replace(self, gate=gate)
        return replace(self, weight=gate[:, None] * self.weight, bias=gate * self.bias)

    def linear(self, norm_eps=None):
        """As a frozen `nn.Linear`; with `norm_eps` a `NormedLinear`, with `keep` a `ModulatedLinear`."""
        out, inputs = self.weight.shape
        if self.keep:
            layer = ModulatedLinear(inputs, out, norm_eps)
            for name in ("scale", "shift", "gate"):
                value = getattr(self, name)
                setattr(layer, name, None if value is None else frozen(value.to(self.dtype)))
            return _filled(layer, self.weight, self.bias, self.dtype)
        layer = nn.Linear(inputs, out, device="meta") if norm_eps is None else NormedLinear(inputs, out, norm_eps)
        return _filled(layer, self.weight, self.bias, self.dtype)


class NormedLinear(nn.Linear):
    """A linear layer after a layer norm without weights."""

    def __init__(self, in_features, out_features, eps):
        super().__init__(in_features, out_features, device="meta")
        self.eps = eps

    def forward(self, x):
        return super().forward(F.layer_norm(x, (self.in_features,), eps=self.eps))


class ModulatedLinear(nn.Linear):
    """`gate * linear(scale * x + shift)`, parts that are None left out; with `eps` after a layer norm."""

    def __init__(self, in_features, out_features, eps):
        super().__init__(in_features, out_features, device="meta")
        self.eps = eps
        for name in ("scale", "shift", "gate"):
            self.register_parameter(name, None)

    def forward(self, x):
        if self.eps is not None:
            x = F.layer_norm(x, (self.in_features,), self.scale, self.shift, self.eps)
        elif self.scale is not None:
            x = torch.addcmul(self.shift, x, self.scale)
        x = super().forward(x)
        return x if self.gate is None else x.mul_(self.gate)


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
