"""fold/grid.py: priors folded at several timesteps against the unfolded ones; what each timestep costs."""

import pytest
import torch

from omgsr_lib import OMGSR
from omgsr_lib.fold.grid import FoldedGrid


TIMESTEPS = (100, 273, 500)


@pytest.fixture(params=["ddpm", "flow"], scope="module")
def prior(request):
    """A random prior with adapters that do something, in float64."""
    model = OMGSR.from_base("tiny", request.param, 273).add_adapters(0, 2)
    torch.manual_seed(1)
    for parameter in model.trainable_parameters().values():
        torch.nn.init.normal_(parameter, std=0.05)
    return model.prior.eval().double()


def latents(prior, batch=4):
    channels = prior.denoiser.config.in_channels // (4 if prior.family == "flow" else 1)
    return torch.randn(batch, channels, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@torch.inference_mode()
def test_every_timestep_of_the_grid_equals_the_prior(prior):
    """A batch of different timesteps, in an order of its own, one of them twice."""
    grid, z, timesteps = FoldedGrid(prior, TIMESTEPS), latents(prior), torch.tensor([500, 100, 273, 100])
    expected = prior(z, timesteps)
    assert (grid(z, timesteps) - expected).abs().max() <= 1e-6 * expected.abs().max()
    torch.testing.assert_close(grid(z, 273), prior(z, 273), rtol=1e-5, atol=1e-6)


def test_a_timestep_beside_the_grid_is_refused_and_the_nearest_named(prior):
    grid = FoldedGrid(prior, TIMESTEPS)
    with pytest.raises(ValueError, match=r"takes its timesteps \(100, 273, 500\): got 101"):
        grid(latents(prior), torch.tensor([100, 101, 500, 273]))
    assert grid.nearest(torch.tensor([0, 101, 260, 999])).tolist() == [100, 100, 273, 500]


def test_a_timestep_costs_little_beside_the_weights(prior):
    """UNet: a number per channel of each resnet block. FLUX: modulation, and the first layer of the constant text."""
    grid = FoldedGrid(prior, TIMESTEPS)
    weights = sum(parameter.numel() for parameter in grid.denoiser.parameters())
    assert grid.table_size < weights / 10
    if prior.family == "ddpm":
        resnets = [m for m in prior.denoiser.modules() if type(m).__name__ == "ResnetBlock2D"]
        assert grid.table_size == sum(block.out_channels for block in resnets)
    two = FoldedGrid(prior, TIMESTEPS[:2])
    stored = [sum(buffer.numel() for buffer in g.buffers(recurse=False)) for g in (grid, two)]
    assert stored[0] - stored[1] == grid.table_size
