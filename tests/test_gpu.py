"""What differs on a GPU from the CPU: several images at one timestep, gradients of every adapter."""

import pytest
import torch

from omgsr_lib.data.pairs import Pairs
from omgsr_lib.model import OMGSR
from omgsr_lib.presets import recipe
from omgsr_lib.training.loop import train


pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("name", ["mini-s", "mini-f"])
def test_a_batch_at_one_timestep_is_that_of_the_cpu(name):
    model = OMGSR.from_pretrained(name).merge()
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        expected = model(pixels).images
        assert torch.allclose(model.cuda()(pixels.cuda()).images.cpu(), expected, atol=2e-3)


@pytest.mark.parametrize("variant", ["s", "f"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_adapters_stay_finite_in_training(variant, precision, tmp_path):
    chosen = recipe("mini", variant)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = OMGSR.from_recipe(chosen, dtype=dtype).add_adapters(chosen.vae_rank, chosen.denoiser_rank)
    pairs = Pairs([], chosen.resolution, seed=0, synthetic=4)
    result = train(model, pairs, chosen, tmp_path, steps=3, precision=precision, progress=False)
    assert len(result.log) == 3
    assert all(parameter.isfinite().all() for parameter in model.trainable_parameters().values())
