"""Arrays that are read and written part by part: tensors, or files that are larger than the memory.

An array has `shape` and `device`, `array[index]` is a tensor and `array[index] = tensor` writes; indices are made of
integers, slices and `...`. `torch.Tensor` is one, `restore.tensor_file.TensorFile` another. The functions of this
folder take any array, and `new(shape)` makes that of their result; without `new` it is a tensor.
"""

from itertools import pairwise, product

import torch


BLOCK = 512  # side of the squares in which arrays in files are computed


class View:
    """An array of which each part is `function` of that part of `array`."""

    def __init__(self, array, function):
        self.array, self.function, self.shape, self.device = array, function, array.shape, array.device

    def __getitem__(self, index):
        return self.function(self.array[index])


class Joined:
    """Arrays of equal size, joined along the channels in the precision of the first."""

    def __init__(self, first, *others):
        self.arrays, self.device = (first, *others), first.device
        self.shape = torch.Size([first.shape[0], sum(array.shape[1] for array in self.arrays), *first.shape[2:]])

    def __getitem__(self, index):
        first, *others = (array[index] for array in self.arrays)
        return torch.cat([first, *(other.to(first) for other in others)], dim=1)


def read_as(array, like):
    """`array` with precision and device of the tensor `like`; of one in a file its parts, when they are read."""
    return array.to(like) if isinstance(array, torch.Tensor) else View(array, lambda part: part.to(like))


def blocks(size):
    """`(rows, columns)` of the squares that cover `size` (height, width), row by row."""
    spans = [[slice(start, stop) for start, stop in pairwise([*range(0, side, BLOCK), side])] for side in size]
    return list(product(*spans))


def blockwise(function, *arrays):
    """`function` of tensors of equal shape; of arrays in files block by block, its results replacing the last one."""
    *_, last = arrays
    if isinstance(last, torch.Tensor):
        return function(*arrays)
    for rows, columns in blocks(last.shape[-2:]):
        first, *others = (array[..., rows, columns] for array in arrays)
        last[..., rows, columns] = function(first, *(other.to(first) for other in others))
    return last
