"""tile_size.py: settings that fit a budget, by brute force, and the second attempt when the memory was too little."""

import warnings
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image

from omgsr_lib.memory import LiveMemory
from omgsr_lib.model import OMGSR
from omgsr_lib.restore import restore
from omgsr_lib.tile_size import STEP, VAE_TILES, Settings, fitting_settings, retry_smaller


@pytest.fixture(scope="module", params=["ddpm", "flow"])
def model(request):
    return OMGSR.from_base("tiny", request.param, 250)


@torch.inference_mode()
def peak(function, *shape):
    """Bytes that `function` takes on the CPU for zeros of `shape`, its input included."""
    with LiveMemory() as memory:
        function(torch.zeros(1, *shape))
    return memory.peak


def test_everything_fits_in_much_memory(model):
    assert fitting_settings(model, 512, 256, 1 << 40) == Settings(None, None, None)
    assert fitting_settings(model, 512, 256, 1 << 40, overlap=4) == Settings(None, 4, None)


def test_the_smallest_tiles_where_nothing_fits(model):
    assert fitting_settings(model, 512, 256, 0) == Settings(STEP, None, "flat", VAE_TILES[-1])


def test_the_largest_tile_that_fits(model):
    """Budgets between the peaks of neighbouring tile sizes of the prior, run for real."""

    def needed(side):
        return peak(lambda z: model.prior(z, 250), 4, min(side, 32), min(side, 48))

    for side in (16, 32, 40):
        budget = (needed(side) + needed(side + STEP)) // 2
        assert needed(side) < budget < needed(side + STEP)
        chosen = fitting_settings(model, 32 * 8, 48 * 8, budget)
        assert chosen.tile == side
    assert fitting_settings(model, 32 * 8, 48 * 8, needed(48) + 64).tile is None  # scalars may count


def test_the_autoencoder_is_flat_where_one_piece_does_not_fit(model):
    whole = max(peak(model.encode, 3, 1024, 1024), peak(model.decode, 4, 128, 128))
    part = max(peak(model.encode, 3, 56 * 8, 56 * 8), peak(model.decode, 4, 56, 56))  # a tile of 32 and its halo
    assert fitting_settings(model, 1024, 1024, whole).vae_mode is None
    assert fitting_settings(model, 1024, 1024, whole - 1).vae_mode == "flat"
    assert fitting_settings(model, 1024, 1024, part).vae_tile == 32
    assert fitting_settings(model, 1024, 1024, part - 1).vae_tile == 16


def test_smaller_settings():
    assert Settings(None).smaller(100, 1) == Settings(50, None, "flat", 64)
    assert Settings(None).smaller(102, 2) == Settings(50, None, "flat", 64)
    assert Settings(64, 16, "exact").smaller(200, 2) == Settings(32, 8, "flat", 64)
    assert Settings(64, 16, "flat", 64).smaller(200, 2) == Settings(32, 8, "flat", 32)
    assert Settings(2).smaller(200, 2).tile == 2
    assert str(Settings(None)) == "prediction: one pass, autoencoder: one piece"
    assert str(Settings(8, None, "flat")) == "prediction: tiles of 8 latents, autoencoder: flat"


def test_out_of_memory_is_tried_once_more_and_said():
    tried = []

    def attempt(settings, failures=1, error=MemoryError):
        tried.append(settings)
        if len(tried) <= failures:
            raise error("out of memory")
        return "restored"

    with pytest.warns(UserWarning, match="Out of memory with .*one pass.*Trying once more with .*tiles of 32 latents"):
        assert retry_smaller(attempt, Settings(None), 64, 1) == "restored"
    assert tried == [Settings(None), Settings(32, None, "flat")]
    tried.clear()
    with pytest.warns(UserWarning), pytest.raises(MemoryError):
        retry_smaller(lambda settings: attempt(settings, failures=2), Settings(None), 64, 1)
    assert len(tried) == 2
    tried.clear()
    with warnings.catch_warnings(), pytest.raises(ValueError):
        warnings.simplefilter("error")
        retry_smaller(lambda settings: attempt(settings, error=ValueError), Settings(None), 64, 1)
    assert len(tried) == 1


def test_restore_continues_with_smaller_tiles(model, monkeypatch):
    """The prior refuses more than 150 latents: 16 x 12 fail, the tiles of the second attempt do not."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    expected = restore(model, image, tile=64, vae_mode="flat", progress=False).images[0]
    forward = model.prior.forward

    def limited(latents, timestep):
        if latents.shape[-2] * latents.shape[-1] > 150:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(latents, timestep)

    monkeypatch.setattr(model.prior, "forward", limited)
    with pytest.warns(UserWarning, match="Trying once more with prediction: tiles of 8 latents, autoencoder: flat"):
        result = restore(model, image, progress=False).images[0]
    assert np.array_equal(np.asarray(result), np.asarray(expected))


def test_automatic_tiles_restore(model, monkeypatch):
    """Much memory: one pass. Little: the tiles of `fitting_settings` for half of what is free."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))

    def restored(free):
        monkeypatch.setattr(import_module("omgsr_lib.restore"), "free_memory", lambda device: free)
        return np.asarray(restore(model, image, tile="auto", progress=False).images[0])

    assert np.array_equal(restored(1 << 40), np.asarray(restore(model, image, progress=False).images[0]))
    tiles = restore(model, image, tile=64, vae_mode="flat", progress=False).images[0]
    assert np.abs(restored(0).astype(int) - np.asarray(tiles)).max() <= 1
