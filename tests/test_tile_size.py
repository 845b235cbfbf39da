"""tile_size.py: settings that fit a budget, by brute force, and the second attempt when the memory was too little."""

import warnings
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image

from omgsr_lib.model import OMGSR
from omgsr_lib.priors.latents import compression
from omgsr_lib.restore import auto_tile as tile_size
from omgsr_lib.restore.auto_tile import STEP, VAE_TILES, Peaks, Settings, retry_smaller
from omgsr_lib.restore.pipeline import restore
from omgsr_lib.tiling.grid import plan_tiles
from omgsr_lib.tiling.vae import FlatPass
from omgsr_lib.tiling.vae_layers import decoder_layers, encoder_layers
from omgsr_lib.utils.meter import Meter


def fitting_settings(*arguments, best=128, **options):
    """Of a model trained on larger images than those here."""
    return tile_size.fitting_settings(*arguments, best=best, **options)


@pytest.fixture(scope="module", params=["ddpm", "flow"])
def model(request):
    return OMGSR.from_base("tiny", request.param, 250)


@pytest.fixture(scope="module")
def peaks(model):
    """Shared, as each tile of an autoencoder takes seconds to count; of these the two smallest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tile_size, "VAE_TILES", VAE_TILES[-2:])
        yield Peaks(model)


@torch.inference_mode()
def peak(function, *shape):
    """Bytes that `function` takes on the CPU for zeros of `shape`, its input included."""
    with Meter() as memory:
        function(torch.zeros(shape if len(shape) == 4 else (1, *shape)))
    return memory.peak


def test_everything_fits_in_much_memory(peaks):
    assert fitting_settings(peaks, 512, 256, 1 << 40) == Settings(None)
    assert fitting_settings(peaks, 512, 256, 1 << 40, 4, 3) == Settings(None, 4, tile_batch=3)


def test_the_smallest_tiles_where_nothing_fits(peaks):
    assert fitting_settings(peaks, 512, 256, 0) == Settings(STEP, None, "flat", VAE_TILES[-1])
    assert fitting_settings(peaks, 512, 256, 0, STEP).tile == 2 * STEP  # tiles advance
    assert fitting_settings(peaks, 16, 16, 0).tile == STEP


def test_the_largest_tile_that_fits(model, peaks):
    """Budgets between the peaks of neighbouring tile sizes of the prior, run for real, one and three tiles at once."""

    def needed(side, count=1):
        return peak(lambda z: model.prior(z, 250), count, 4, min(side, 32), min(side, 48))

    for side, count in ((16, 1), (32, 1), (40, 1), (16, 3)):
        budget = (needed(side, count) + needed(side + STEP, count)) // 2
        assert needed(side, count) < budget < min(needed(side + STEP, count), needed(48))
        chosen = fitting_settings(peaks, 32 * 8, 48 * 8, budget, tile_batch=count)
        assert (chosen.tile, chosen.tile_batch) == (side, count)
    assert fitting_settings(peaks, 32 * 8, 48 * 8, needed(48) + 64).tile is None  # scalars may count


def test_tiles_are_of_the_training_size_where_memory_is_no_question(peaks):
    """One pass over more would take longer: its attention grows with the square of the area."""
    assert fitting_settings(peaks, 512, 256, 1 << 40, best=32) == Settings(32)
    assert fitting_settings(peaks, 512, 256, 1 << 40, STEP, best=32) == Settings(32, STEP)
    assert fitting_settings(peaks, 512, 256, 1 << 40, best=64) == Settings(None)


def test_of_the_tiles_that_fit_the_fewest_pixels_are_computed():
    """16 x 32 latents that overlap by 8: three tiles of 16 or two of 24; of a square by brute force."""

    class Fitting:
        factor, autoencoder = 8, staticmethod(lambda *size: 0)

        @staticmethod
        def prediction(count, height, width):
            return max(height, width)

    found = [fitting_settings(Fitting, 256, 128, budget, 8, best=32).tile for budget in (16, 24, 31)]
    assert found == [16, 24, 24]
    plans = {tile: plan_tiles(104, 104, tile, planner="smallest").overdraw for tile in range(8, 65, 8)}
    chosen = fitting_settings(Fitting, 832, 832, 64, best=96).tile
    assert plans[chosen] == min(plans.values())


def test_twelve_megapixels_at_four_times_are_in_parts_by_themselves(monkeypatch):
    """One piece of the autoencoder takes more than half of what is free, and that half is for activations."""
    pipeline = import_module("omgsr_lib.restore.pipeline")
    restorer = pipeline.Restorer(OMGSR.from_pretrained("mini-s"), tile=512)
    factor = compression(restorer.model.vae)
    assert restorer._peaks.autoencoder(12000 // factor, 16000 // factor) > 23 << 29
    monkeypatch.setattr(pipeline, "free_memory", lambda device: 23 << 30)
    settings = restorer.settings(12000, 16000)
    assert (settings.tile, settings.vae_mode) == (512 // factor, "flat")
    assert restorer._peaks.flat(settings.vae_tile) < 23 << 29


@torch.inference_mode()
@pytest.mark.parametrize("model", ["ddpm"], indirect=True)
def test_memory_of_a_flat_autoencoder(model, peaks):
    """What is counted is what an image of 25 tiles takes for real, the passes beforehand included."""
    found = []
    for layers, channels, side in ((encoder_layers(model.lq_vae), 3, 576), (decoder_layers(model.vae), 4, 72)):

        def crop(rows, columns, channels=channels):
            return torch.zeros(1, channels, rows.stop - rows.start, columns.stop - columns.start)

        with Meter() as memory:
            for _ in FlatPass(layers, crop, side, side, tile=16).tiles():
                pass
        found.append(memory.peak)
    assert peaks.flat(16) == pytest.approx(max(found), rel=0.02)


def test_the_autoencoder_is_flat_where_one_piece_does_not_fit(model, peaks):
    whole = max(peak(model.encode, 3, 1024, 1024), peak(model.decode, 4, 128, 128))
    assert fitting_settings(peaks, 1024, 1024, whole).vae_mode is None
    assert fitting_settings(peaks, 1024, 1024, whole - 1).vae_mode == "flat"
    assert fitting_settings(peaks, 1024, 1024, peaks.flat(32)).vae_tile == 32
    assert fitting_settings(peaks, 1024, 1024, peaks.flat(32) - 1).vae_tile == 16


def test_each_shape_is_counted_once(peaks, monkeypatch):
    counted = []
    monkeypatch.setattr(Meter, "__exit__", lambda *_, leave=Meter.__exit__: counted.append(1) or leave(*_))
    first = fitting_settings(peaks, 1040, 1040, 1 << 22)
    before = len(counted)
    assert fitting_settings(peaks, 1040, 1040, 1 << 22) == first and len(counted) == before > 0


def test_smaller_settings():
    assert Settings(None).smaller(100, 1) == Settings(50, None, "flat", 64)
    assert Settings(None).smaller(102, 2) == Settings(50, None, "flat", 64)
    assert Settings(64, 16, "exact", tile_batch=9).smaller(200, 2) == Settings(32, 8, "flat", 64)
    assert Settings(64, 16, "flat", 64).smaller(200, 2) == Settings(32, 8, "flat", 32)
    assert Settings(10, 8).smaller(200, 2) == Settings(4, 2, "flat", 64)  # tiles still advance
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


def test_automatic_tiles_restore(model, peaks, monkeypatch):
    """Much memory: one pass. Little: the tiles of `fitting_settings` for half of what is free."""
    monkeypatch.setattr(import_module("omgsr_lib.restore.pipeline"), "Peaks", lambda model: peaks)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))

    def restored(free):
        monkeypatch.setattr(import_module("omgsr_lib.restore.pipeline"), "free_memory", lambda device: free)
        return np.asarray(restore(model, image, tile="auto", progress=False).images[0])

    assert np.array_equal(restored(1 << 40), np.asarray(restore(model, image, progress=False).images[0]))
    tiles = restore(model, image, tile=64, vae_mode="flat", progress=False).images[0]
    assert np.abs(restored(0).astype(int) - np.asarray(tiles)).max() <= 1
