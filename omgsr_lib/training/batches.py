"""The batches of a training: which images each step, process and micro-batch takes."""

import sys
from functools import partial

import torch

from ..data.degradation import Degradation, random_dial
from ..data.degraded_crops import DegradedCrops
from ..data.pairs import Pairs
from ..data.photo_pairs import PhotoPairs
from ..presets import ships
from ..utils.device import to_device


class StepBatches:
    """Iterates over optimiser steps; each is an iterator over micro-batches `(lq, hq, indices)` on the device.

    Images are numbered through the whole run: of `n` images a step, step `s` takes `s n .. (s + 1) n - 1`, micro-batch
    by micro-batch, in each the processes in turn. A resumed run starts at the number it stopped at, and two processes
    take what one takes with the double batch.

    Args:
        pairs: dataset whose item `i` is `{"lq", "hq"}`.
        recipe: its `batch_size` (of one process) and `accumulation`.
        accelerator: device and processes.
        first_step, steps: the steps to iterate over.
        workers: processes that load data.
        degrade_here: whether `DegradedCrops` hand out HQ crops, which are degraded on the device in batches; by
            default on a GPU. The LQ images then differ in rounding ties (`degrade_batch`).
    """

    def __init__(self, pairs, recipe, accelerator, *, first_step, steps, workers, degrade_here=None):
        self.first_step, self.steps, self.micro_batches = first_step, steps, recipe.accumulation
        self.batch_size, self.processes = recipe.batch_size, accelerator.num_processes
        self.rank, self.device = accelerator.process_index, accelerator.device
        on_gpu = self.device.type == "cuda"
        degrade_here = isinstance(pairs, DegradedCrops) and (on_gpu if degrade_here is None else degrade_here)
        self.degrade = pairs.degrade if degrade_here else None
        self.loader = torch.utils.data.DataLoader(
            _Numbered(pairs, crops_only=degrade_here),
            batch_sampler=self._numbers(),
            num_workers=workers,
            pin_memory=on_gpu,
        )

    @property
    def images_per_step(self):
        return self.batch_size * self.processes * self.micro_batches

    def __iter__(self):
        batches = iter(self.loader)
        for _ in range(self.first_step, self.steps):
            yield (self._on_device(next(batches)) for _ in range(self.micro_batches))

    def _numbers(self):
        for micro in range(self.first_step * self.micro_batches, self.steps * self.micro_batches):
            first = (micro * self.processes + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))

    def _on_device(self, batch):
        hq, indices = to_device(batch["hq"], self.device), batch["index"].tolist()
        lq = self.degrade(hq, indices) if self.degrade else to_device(batch["lq"], self.device)
        return lq, hq, indices


class _Numbered(torch.utils.data.Dataset):
    def __init__(self, pairs, *, crops_only):
        self.pairs, self.crops_only = pairs, crops_only

    def __getitem__(self, index):
        return {**({"hq": self.pairs.crop(index)} if self.crops_only else self.pairs[index]), "index": index}


def training_dataset(paths, recipe, *, seed, synthetic=0, portraits=()):
    """Training pairs at the recipe's size: crops of small pyramids held in memory for the priors of this package, else
    crops of photographs at their own size, opened one at a time (`PhotoPairs`, to which `portraits` go too).
    There is no last item.
    """
    options = dict(seed=seed, scale=recipe.scale, length=sys.maxsize)
    if ships(recipe):
        settings = partial(random_dial, seed=seed) if recipe.dial else None
        return Pairs(paths, recipe.resolution, synthetic=synthetic, settings=settings, **options)
    settings = Degradation.for_size(recipe.resolution)
    return PhotoPairs(paths, recipe.resolution, settings=settings, portraits=portraits, **options)
