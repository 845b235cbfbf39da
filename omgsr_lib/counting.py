"""FLOPs and memory of a computation, counted on meta tensors: only shapes run, so a full-size model takes seconds.

FLOPs are twice the multiply-adds of every convolution, matrix product and attention (torch's `FlopCounterMode`).
"""

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode


# What CUDA's autocast computes in bfloat16 and in float32, of the functions that models and losses here call (the
# kernels that torch 2.13 registers for it).
HALF = {"linear", "conv2d", "matmul", "__matmul__", "bmm", "einsum", "scaled_dot_product_attention"}
FULL = {"group_norm", "layer_norm", "rms_norm", "softmax", "interpolate", "mse_loss", "l1_loss", "norm", "sum", "prod"}
FULL |= {"pow", "__pow__", "square", "rsqrt", "reciprocal", "exp", "log", "binary_cross_entropy_with_logits"}


@dataclass(frozen=True)
class Count:
    """What one computation takes.

    Attributes:
        flops: forward and backward, with what checkpointing computes twice.
        saved: bytes kept between forward and backward pass, without parameters.
        recomputed: bytes kept for a while in the backward pass by the largest checkpointed block.
    """

    flops: int
    saved: int = 0
    recomputed: int = 0


def count(function, modules, *, autocast=False, checkpointed=None):
    """The `Count` of `function()` and, if its result needs a gradient, of the backward pass from it.

    Args:
        function: takes nothing, returns a tensor; computes on meta tensors with the parameters of `modules`.
        autocast: apply the casts of CUDA's autocast to bfloat16.
        checkpointed: diffusers model that recomputes its blocks in the backward pass.
    """
    counter = FlopCounterMode(display=False)
    saved = _Saved(modules)
    blocks = _Blocks(counter, saved, modules)
    with (
        _checkpointing(checkpointed, blocks) if checkpointed else nullcontext(),
        _AsOnGPU(autocast),
        counter,
        torch.autograd.graph.saved_tensors_hooks(saved.keep, lambda tensor: tensor),
    ):
        output = function()
        if output.requires_grad:
            torch.autograd.backward(output.float().sum())
    return Count(
        counter.get_total_flops() + blocks.flops, saved.bytes - blocks.inside + blocks.inputs.bytes, blocks.largest
    )


class _Saved:
    """Bytes of the distinct storages that autograd keeps, parameters and buffers left out."""

    def __init__(self, modules):
        tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        self.storages = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in tensors)}
        self.bytes = 0

    def keep(self, tensor):
        storage = tensor.untyped_storage()  # one Python object per storage; held here, so that its id stays its own
        if id(storage) not in self.storages:
            self.storages[id(storage)] = storage
            self.bytes += storage.nbytes()
        return tensor


class _Blocks:
    """In place of diffusers' checkpointing: blocks run once, and what checkpointing would change is counted."""

    def __init__(self, counter, saved, modules):
        self.counter, self.saved, self.inputs = counter, saved, _Saved(modules)
        self.flops = self.inside = self.largest = 0

    def __call__(self, block, *arguments):
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                self.inputs.keep(argument)
        flops, saved = self.counter.get_total_flops(), self.saved.bytes
        output = block(*arguments)
        self.flops += self.counter.get_total_flops() - flops
        self.inside += self.saved.bytes - saved
        self.largest = max(self.largest, self.saved.bytes - saved)
        return output


@contextmanager
def _checkpointing(model, blocks):
    model.enable_gradient_checkpointing(gradient_checkpointing_func=blocks)
    try:
        yield
    finally:
        model.disable_gradient_checkpointing()


class _AsOnGPU(TorchFunctionMode):
    """Two things that the meta device lacks: attention in one fused kernel, and autocast."""

    def __init__(self, autocast):
        super().__init__()
        self.autocast = autocast

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        dtype = torch.bfloat16 if name in HALF else torch.float32 if name in FULL else None
        if self.autocast and dtype is not None:
            args = [_cast(argument, dtype) for argument in args]
            kwargs = {key: _cast(argument, dtype) for key, argument in kwargs.items()}
        if function is F.scaled_dot_product_attention and kwargs.get("attn_mask") is None:
            return _fused_attention(*args, **kwargs)
        return function(*args, **kwargs)


def _cast(argument, dtype):
    half_or_float = isinstance(argument, torch.Tensor) and argument.dtype in (torch.bfloat16, torch.float32)
    return argument.to(dtype) if half_or_float else argument


def _fused_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
