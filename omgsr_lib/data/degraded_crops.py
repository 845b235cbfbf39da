"""What training pairs have in common: a crop by its number, and its degraded twin, one by one or in batches."""

import hashlib
from pathlib import Path

import torch

from .degradation import degrade, degrade_batch


class DegradedCrops(torch.utils.data.Dataset):
    """Crops and their degraded twins; item `index` depends on `(seed, index)` and the files alone.

    An item is a dict of float32 tensors `lq` and `hq`, both `(3, size, size)` in `[-1, 1]`. A subclass defines
    `_crop(index)` and `describe()`, a string that a resumed run must share, and sets `seed`, `length` and `settings`:
    a `Degradation`, or a function of the index that gives one. Raises `IndexError` for an index outside
    `0 <= index < length`.
    """

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        hq = self.crop(index)
        settings = self.settings(index) if callable(self.settings) else self.settings
        return {"lq": degrade(hq, seed=self.seed, index=index, settings=settings), "hq": hq}

    def crop(self, index):
        """The `hq` of an item."""
        if not 0 <= index < self.length:
            raise IndexError(f"Pair {index} does not exist: there are {self.length}. Raise `length` for a longer run.")
        return self._crop(index)

    def degrade(self, hq, indices):
        """The `lq` of the items `indices`, from their `hq` `(B, 3, H, W)` on its device (see `degrade_batch`)."""
        return degrade_batch(hq, seed=self.seed, indices=indices, settings=self.settings)


def describe_photos(paths, *facts):
    """How many photographs `paths` are, and a hash of their names and sizes and of `facts`."""
    lines = [f"{Path(path).name} {Path(path).stat().st_size}" for path in paths] + [str(fact) for fact in facts]
    text = "\n".join(lines).encode(errors="surrogateescape")  # names need not be UTF-8
    return f"{len(paths)} photographs, {hashlib.sha256(text).hexdigest()[:12]}"
