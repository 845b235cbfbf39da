"""Memory: how much is free, how much a computation takes, and whether it was too little."""

import ctypes
import os
from itertools import chain
from pathlib import Path

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .copying import copied_with


def free_memory(device):
    """Bytes that `device` can still give: of a CUDA device with what torch holds unused, of the CPU what is available.

    Raises `ValueError` where the system does not say.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "cpu":
        linux = Path("/proc/meminfo")
        if linux.is_file():  # unlike the free pages, this counts the file cache that can be dropped
            lines = dict(line.split(":") for line in linux.read_text().splitlines())
            return int(lines["MemAvailable"].split()[0]) * 1024
        if "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    raise ValueError(f"The free memory of {device.type} is not known on this system: give the tile in pixels.")


def release_memory():
    """Give memory that was freed back to the system, where the C library keeps it (glibc).

    It keeps freed blocks in pieces into which the next large tensors do not fit, so that a process with many tiles
    grows although it holds no more. Takes about a millisecond.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def out_of_memory(error):
    """Whether `error` says that an allocation failed, on any device."""
    texts = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error).lower() for text in texts)
    )


class LiveMemory(TorchDispatchMode):
    """Counts, while active, the bytes of all tensors made inside that are alive; `peak` is the most at one time.

    Works on the meta device, where nothing is computed: the peak of a full-size network in a second, on any machine.
    What kernels use inside is not counted. Attention counts as a fused kernel, without its table of weights.
    """

    def __init__(self):
        super().__init__()
        self.storages, self.held, self.peak = {}, 0, 0  # held: at least the bytes that are alive
        self._fused = _FusedAttention()

    def __enter__(self):
        self._fused.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._fused.__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        outputs = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in inputs and storage._cdata not in self.storages:
                    self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                    self.held += storage.nbytes()
        if self.held > self.peak:  # only then does it matter which of them are gone
            self.storages = {key: entry for key, entry in self.storages.items() if not entry[0].expired()}
            self.held = sum(size for _, size in self.storages.values())
            self.peak = max(self.peak, self.held)
        return outputs


class _FusedAttention(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.nn.functional.scaled_dot_product_attention:
            query = args[0] if args else kwargs["query"]
            if query.device.type == "meta":
                return torch.empty_like(query)
        return function(*args, **kwargs)


def meta_twin(module):
    """A copy of `module` on the meta device; its weights take no memory.

    Raises `ValueError` if layers are offloaded (`restore.prepare`).
    """
    if any(hasattr(layer, "_diffusers_hook") for layer in module.modules()):
        raise ValueError("Memory cannot be counted of a model with offloaded layers. Give the tile in pixels.")
    empty = {}
    for tensor in chain(module.parameters(), module.buffers()):
        twin = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")  # of quantised weights too
        empty[tensor] = nn.Parameter(twin, requires_grad=False) if isinstance(tensor, nn.Parameter) else twin
    return copied_with(module, empty)
