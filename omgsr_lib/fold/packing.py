"""Weights of linear layers in oneDNN's layout, where that is faster than PyTorch's BLAS: on processors of AMD."""

import time
from functools import cache

import torch

from .affine import FoldedLinear


GAIN = 1.3  # how much faster it must be: no noise of the clock reaches that, so a machine always takes the same
RUNS = 5


def pack_linear(module):
    """Pack the folded linear layers of `module`, float32 on a CPU, if this processor gains from it; in place."""
    if packing_pays():
        for layer in module.modules():
            if isinstance(layer, FoldedLinear):
                layer.pack()


@cache
def packing_pays():
    """Whether a packed layer of 256 to 1,024 values computes 256 tokens `GAIN` times faster than one that is not.

    Measured once per process, in some 20 ms of the processor.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    plain, packed = (FoldedLinear(256, 1024).to_empty(device="cpu").requires_grad_(False) for _ in range(2))
    packed.pack()
    x, seconds = torch.ones(1, 256, 256), {plain: [], packed: []}
    for layer in (plain, packed) * RUNS:
        started = time.process_time()
        layer(x)
        seconds[layer].append(time.process_time() - started)
    return min(seconds[plain]) > GAIN * min(seconds[packed])
