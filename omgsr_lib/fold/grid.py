"""A prior folded at several timesteps: one set of weights, and for each timestep the few tensors that depend on it."""

import torch
from torch import nn
from torch.func import functional_call

from . import FOLDED, folded_prompt
from .flux import FoldedFlux


GRID = 24  # timesteps: neighbours are 3.6 degrees of atan(sigma_t / alpha_t) apart


def even_timesteps(schedule, count=GRID):
    """At most `count` timesteps of a `NoiseSchedule`, evenly spaced in the angle `atan(sigma_t / alpha_t)`."""
    angles = torch.atan2(schedule.sigmas, schedule.alphas)
    wanted = torch.linspace(float(angles[0]), float(angles[-1]), count + 2, dtype=angles.dtype)[1:-1]
    return (angles[:, None] - wanted).abs().argmin(0).unique().tolist()


class FoldedGrid(nn.Module):
    """A prior folded at each of `timesteps`, for inference with adaptive models; exact there, closed elsewhere.

    The UNet has one bias per resnet block that depends on the timestep. FLUX keeps its modulation apart from the
    weights (`Affine.keep`): three or six vectors per block, and the text's first keys, queries and values.

    Args:
        prior: `DDPMPrior` or `FlowPrior`, with or without adapters; it stays as it is.
        timesteps: different timesteps of its schedule.
        merge_tokens: as in `fold_prior`.
    """

    def __init__(self, prior, timesteps, *, merge_tokens=True):
        super().__init__()
        self.family, self.latent_multiple = prior.family, prior.latent_multiple
        self.clamps_images = prior.clamps_images
        self.scheduler, self.schedule = prior.scheduler, prior.schedule
        self.timesteps = tuple(sorted({int(timestep) for timestep in timesteps}))
        self.schedule.expand(torch.tensor(self.timesteps), len(self.timesteps))
        prompt = folded_prompt(prior, merge_tokens)
        options = dict(keep=True) if FOLDED[prior.family] is FoldedFlux else {}
        self.denoiser, *others = (
            FOLDED[prior.family](prior, timestep, prompt, **options) for timestep in self.timesteps
        )
        first, states = self.denoiser.state_dict(), [other.state_dict() for other in others]
        self.moving = [name for name in first if any(_differs(first[name], state[name]) for state in states)]
        for name in self.moving:
            self.register_buffer(_flat(name), torch.stack([first[name], *(state[name] for state in states)]))

    def forward(self, latents, timestep):
        """Model output `(B, C, H, W)` for latents at `timestep`, an int or `(B,)`, all of the grid.

        Raises `ValueError` for a timestep that is not in the grid.
        """
        timesteps = self.schedule.expand(timestep, len(latents)).tolist()
        strange = set(timesteps) - set(self.timesteps)
        if strange:
            raise ValueError(
                f"A prior folded on a grid takes its timesteps {self.timesteps}: got {min(strange)}. Take the nearest "
                "one (`nearest`)."
            )
        output = torch.empty_like(latents)
        for number, one in enumerate(self.timesteps):
            chosen = [k for k, t in enumerate(timesteps) if t == one]
            if chosen:
                moved = {name: getattr(self, _flat(name))[number] for name in self.moving}
                output[chosen] = functional_call(self.denoiser, moved, (latents[chosen],))
        return output

    def nearest(self, timesteps):
        """The timesteps of the grid whose `atan(sigma_t / alpha_t)` is nearest, for an int64 tensor of any shape."""
        angles, grid = torch.atan2(self.schedule.sigmas, self.schedule.alphas), torch.tensor(self.timesteps)
        return grid[(angles[timesteps][..., None] - angles[grid]).abs().argmin(-1)]

    @property
    def table_size(self):
        """Numbers that the grid holds for each of its timesteps."""
        return sum(getattr(self, _flat(name))[0].numel() for name in self.moving)


def _differs(first, other):
    return not torch.equal(first, other)


def _flat(name):
    return name.replace(".", "__")
