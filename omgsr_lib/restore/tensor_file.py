"""Tensors larger than the memory, in a file."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import torch


class TensorFile:
    """A tensor of zeros in the file `path`: parts are read as tensors and written back, and nothing stays in memory.

    `file[index]` copies from the file, `file[index] = tensor` writes to it; an index is made of integers, slices and
    `...`; `shape`, `dtype` and `device` are those of a tensor. Zeros take no space on the disk until something is
    written.

    Read and written run by run rather than through a memory map, whose pages would count as memory of the process: the
    system maps 64 KiB around each row of a part.
    """

    def __init__(self, path, shape, dtype=torch.float32):
        self.path, self.shape, self.dtype = Path(path), torch.Size(shape), dtype
        self.device = torch.device("cpu")  # of what is read
        self._numpy = torch.empty(0, dtype=dtype).numpy().dtype
        with open(self.path, "wb") as file:
            file.truncate(self.shape.numel() * self._numpy.itemsize)

    def __getitem__(self, index):
        shape, offsets, length = self._runs(index)
        values = np.empty((len(offsets), length), self._numpy)
        with open(self.path, "rb", buffering=0) as file:
            for run, offset in zip(values, offsets, strict=True):
                file.seek(offset)
                file.readinto(run)
        return torch.from_numpy(values).view(shape)

    def __setitem__(self, index, value):
        shape, offsets, length = self._runs(index)
        values = torch.as_tensor(value).to("cpu", self.dtype).expand(shape).reshape(len(offsets), length)
        values = values.contiguous().numpy()
        with open(self.path, "r+b") as file:
            for run, offset in zip(values, offsets, strict=True):
                file.seek(offset)
                file.write(run)

    def _runs(self, index):
        """Shape of what `index` selects, and its runs that lie together in the file: offsets (bytes) and length."""
        index = index if isinstance(index, tuple) else (index,)
        given = [entry for entry in index if entry is not ...]
        fill = index.index(...) if len(given) < len(index) else len(given)
        given[fill:fill] = [slice(None)] * (len(self.shape) - len(given))
        chosen = [range(side)[entry] for side, entry in zip(self.shape, given, strict=True)]
        shape = [len(entry) for entry in chosen if isinstance(entry, range)]
        axes = [entry if isinstance(entry, range) else range(entry, entry + 1) for entry in chosen]

        inner = len(axes)  # the first axis of a run: only axes taken whole may follow it
        while inner and axes[inner - 1] == range(self.shape[inner - 1]):
            inner -= 1
        if inner and axes[inner - 1].step == 1:
            inner -= 1
        steps = [math.prod(self.shape[axis + 1 :]) * self._numpy.itemsize for axis in range(len(axes))]
        first = axes[inner].start * steps[inner] if inner < len(axes) else 0
        offsets = [first + sum(map(math.prod, zip(place, steps, strict=False))) for place in product(*axes[:inner])]
        return shape, offsets, math.prod(map(len, axes[inner:]))
