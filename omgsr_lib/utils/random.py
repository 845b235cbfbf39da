"""Random numbers that belong to an image: the same in whatever batch, process or resumed run it is drawn.

Every function takes `generator`: a `torch.Generator` on the CPU for the whole batch, a list with one per image, or
None for torch's global one. Draws are made on the CPU, so that they do not depend on the device.
"""

import numpy as np
import torch

from .device import to_device


def picture_generators(seed, indices):
    """One CPU generator per image, seeded by `(seed, index)` alone."""
    states = (np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] for index in indices)
    return [torch.Generator().manual_seed(int(state)) for state in states]


def randn(shape, generator, like):
    """Standard normal numbers of `shape` (batch first), drawn in float32, with dtype and device of `like`."""
    return to_device(_batch(torch.randn, shape, generator), like.device).to(like.dtype)


def rand(shape, generator, like):
    """Uniform numbers in [0, 1), otherwise as `randn`."""
    return to_device(_batch(torch.rand, shape, generator), like.device).to(like.dtype)


def randint(stop, batch, generator):
    """Integers `(batch,)` in `0 .. stop - 1`, on the CPU."""
    return _batch(lambda shape, generator: torch.randint(stop, shape, generator=generator), (batch,), generator)


def _batch(draw, shape, generator):
    if isinstance(generator, list):
        return torch.stack([draw(shape[1:], generator=own) for own in generator])
    return draw(shape, generator=generator)
