"""FLOPs and memory of a computation, on meta tensors too: only shapes run, so a full-size model takes seconds.

FLOPs are twice the multiply-adds of every convolution, matrix product and attention, by torch's own formulas; torch's
`FlopCounterMode` gives the same, but follows modules by hooks that partial backward passes do not allow.
"""

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from .recompute import recompute_activations


# What CUDA's autocast computes in bfloat16 and in float32, of the functions that models and losses here call (the
# kernels that torch 2.13 registers for it).
HALF = {"linear", "conv2d", "matmul", "__matmul__", "bmm", "einsum", "scaled_dot_product_attention"}
FULL = {"group_norm", "layer_norm", "rms_norm", "softmax", "interpolate", "mse_loss", "l1_loss", "norm", "sum", "prod"}
FULL |= {"pow", "__pow__", "square", "rsqrt", "reciprocal", "exp", "log", "binary_cross_entropy_with_logits"}


class Meter(TorchDispatchMode):
    """Counts, while active, FLOPs and the bytes of all tensors made inside that are alive.

    What kernels use inside is not counted. On the meta device attention counts as a fused kernel, without its table of
    weights.

    Args:
        autocast: on the meta device, apply the casts of CUDA's autocast to bfloat16.

    Attributes:
        flops: of all operations so far; in inference mode layers hide theirs (use `torch.no_grad`), and for the
            kernel of attention on a CPU torch has no formula (use the meta device).
        peak: the most bytes at one time.
    """

    def __init__(self, *, autocast=False):
        super().__init__()
        self.flops = self.peak = 0
        self._storages, self._held = {}, 0  # held: at least the bytes that are alive
        self.as_on_gpu = _AsOnGPU(autocast)

    def __enter__(self):
        self.as_on_gpu.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.as_on_gpu.__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        outputs = function(*args, **kwargs)
        formula = flop_registry.get(function.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=outputs)
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in inputs and storage._cdata not in self._storages:
                    self._storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                    self._held += storage.nbytes()
        if self._held > self.peak:  # only then does it matter which of them are gone
            self._storages = {key: entry for key, entry in self._storages.items() if not entry[0].expired()}
            self._held = sum(size for _, size in self._storages.values())
            self.peak = max(self.peak, self._held)
        return outputs


@dataclass(frozen=True)
class Count:
    """What one computation takes.

    Attributes:
        flops: forward and backward, with what is computed again.
        kept: bytes that autograd keeps from the forward pass for the backward pass, without parameters.
        peak: the most that it keeps at any moment of both, as where blocks or chunks have their own backward pass.
    """

    flops: int
    kept: int = 0
    peak: int = 0


def count(function, modules, *, autocast=False, recomputed=None):
    """The `Count` of `function()` and, if its result needs a gradient, of the backward pass from it.

    Args:
        function: takes nothing, returns a tensor; computes on meta tensors with the parameters of `modules`.
        autocast: apply the casts of CUDA's autocast to bfloat16.
        recomputed: diffusers model that recomputes its activations in the backward pass.
    """
    meter, kept = Meter(autocast=autocast), _Kept(modules)
    with (
        _recomputing(recomputed, meter.as_on_gpu) if recomputed else nullcontext(),
        meter,
        torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda packed: packed.value),
    ):
        output = function()
        held = kept.bytes
        if output.requires_grad:
            torch.autograd.backward(output.float().sum())
    return Count(meter.flops, held, kept.peak)


class _Kept:
    """Bytes of the distinct storages that autograd keeps at the moment, parameters and buffers left out."""

    def __init__(self, modules):
        tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        self.parameters = {tensor.untyped_storage() for tensor in tensors}  # torch gives one object per storage
        self.users = {}
        self.bytes = self.peak = 0

    def pack(self, tensor):
        storage = tensor.untyped_storage()
        if storage not in self.parameters:
            self.users[storage] = self.users.get(storage, 0) + 1
            if self.users[storage] == 1:
                self.bytes += storage.nbytes()
                self.peak = max(self.peak, self.bytes)
        return _Packed(tensor, self)

    def drop(self, storage):
        if storage not in self.parameters:
            self.users[storage] -= 1
            if self.users[storage] == 0:
                del self.users[storage]
                self.bytes -= storage.nbytes()


class _Packed:
    """A tensor in autograd's keeping; autograd deletes it when it needs the tensor no longer."""

    def __init__(self, value, kept):
        self.value, self.kept = value, kept

    def __del__(self):
        self.kept.drop(self.value.untyped_storage())


class _Recomputed(torch.autograd.Function):
    """A layer that keeps its inputs only, as under `torch.utils.checkpoint`.

    What the backward pass computes again goes through the counters, from which torch's own hides the tensors it keeps.
    """

    @staticmethod
    def forward(ctx, mode, layer, trained, *arguments):
        ctx.mode, ctx.layer, ctx.arguments = mode, layer, [None if torch.is_tensor(a) else (a,) for a in arguments]
        ctx.save_for_backward(*filter(torch.is_tensor, arguments))
        return layer(*arguments)

    @staticmethod
    def backward(ctx, *gradients):
        saved = iter(ctx.saved_tensors)
        arguments = [next(saved) if other is None else other[0] for other in ctx.arguments]
        arguments = [a.detach().requires_grad_(a.requires_grad) if torch.is_tensor(a) else a for a in arguments]
        with torch.enable_grad(), ctx.mode:  # autograd calls this without the modes around the forward pass
            outputs = tree_leaves(ctx.layer(*arguments))
        wanted = [pair for pair in zip(outputs, gradients, strict=True) if pair[0].requires_grad]
        torch.autograd.backward(*zip(*wanted, strict=True))
        return None, None, None, *(a.grad if torch.is_tensor(a) else None for a in arguments)


def _recomputed(mode, layer, *arguments):
    """The result of a `layer` with a trained parameter needs a gradient, whatever goes in."""
    trained = next((parameter for parameter in layer.parameters() if parameter.requires_grad), None)
    return _Recomputed.apply(mode, layer, trained, *arguments)


@contextmanager
def _recomputing(model, mode):
    recompute_activations(model, partial(_recomputed, mode))
    try:
        yield
    finally:
        if model.is_gradient_checkpointing:
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
        if function is F.scaled_dot_product_attention and (args or [kwargs["query"]])[0].is_meta:
            return _fused_attention(*args, **kwargs)
        return function(*args, **kwargs)


def _cast(argument, dtype):
    half_or_float = isinstance(argument, torch.Tensor) and argument.dtype in (torch.bfloat16, torch.float32)
    return argument.to(dtype) if half_or_float else argument


def _fused_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    if attn_mask is None:
        operator = torch.ops.aten._scaled_dot_product_flash_attention
        return operator(query, key, value, dropout_p, is_causal, scale=scale)[0]
    operator = torch.ops.aten._scaled_dot_product_efficient_attention
    return operator(query, key, value, attn_mask, query.requires_grad, dropout_p, is_causal, scale=scale)[0]
