"""Memory: how much is free, how much a computation takes, and whether it was too little."""

import ctypes
import os
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from .copying import copied_with
from .processes import processes_here


def free_memory(device):
    """Bytes that `device` can still give: of a CUDA device with what torch holds unused, of the CPU what is available.

    Of several processes of a launcher on one device each is given its part. Raises `ValueError` where the system does
    not say.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] // -(-processes_here() // torch.cuda.device_count()) + unused
    if device.type == "cpu":
        linux = Path("/proc/meminfo")
        if linux.is_file():  # unlike the free pages, this counts the file cache that can be dropped
            lines = dict(line.split(":") for line in linux.read_text().splitlines())
            return int(lines["MemAvailable"].split()[0]) * 1024 // processes_here()
        if "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // processes_here()
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
