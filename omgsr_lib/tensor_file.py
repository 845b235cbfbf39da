"""Tensors larger than the memory, in a file."""

from pathlib import Path

import numpy as np
import torch


class TensorFile:
    """A tensor of zeros in the file `path`: slices are read as tensors and written back, and nothing stays in memory.

    `file[index]` copies from the file, `file[index] = tensor` writes to it; `shape` and `dtype` are those of a tensor.
    Zeros take no space on the disk until something is written.
    """

    def __init__(self, path, shape, dtype=torch.float32):
        self.path, self.shape, self.dtype = Path(path), torch.Size(shape), dtype
        self._numpy = torch.empty(0, dtype=dtype).numpy().dtype
        with open(self.path, "wb") as file:
            file.truncate(self.shape.numel() * self._numpy.itemsize)

    def __getitem__(self, index):
        return torch.from_numpy(np.array(self._map()[index]))

    def __setitem__(self, index, value):
        self._map()[index] = torch.as_tensor(value).to("cpu", self.dtype).numpy()

    def _map(self):  # per access: mapped pages would count as memory of the process for as long as the map lives
        return np.memmap(self.path, dtype=self._numpy, mode="r+", shape=tuple(self.shape))
