"""`out_of_core`: equal to `restore` with a flat autoencoder, within the rounding to 8 bits."""

import numpy as np
import pytest
import torch
from PIL import Image

from omgsr_lib.adaptive.estimator import DifferenceEstimator
from omgsr_lib.adaptive.model import AdaptiveOMGSR
from omgsr_lib.model import OMGSR
from omgsr_lib.restore.out_of_core import restore_array
from omgsr_lib.restore.pipeline import restore
from omgsr_lib.restore.tensor_file import TensorFile
from omgsr_lib.tiling.arrays import BLOCK


def lq_picture(height, width, seed=0):
    """Smooth colours with noise, uint8."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.BICUBIC), dtype=float)
    return (smooth + generator.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)


def difference(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
    return np.abs(a.astype(int) - b).max()


@pytest.mark.parametrize(("name", "colour_fix", "scale"), [("mini-s", "adain", 3.4), ("mini-f", "wavelet", 3.7)])
def test_shipped_models_at_odd_sizes(name, colour_fix, scale):
    """Wider than a block, so that enlargement, tiles and colour fix all cross borders; both sides need padding."""
    model = OMGSR.from_pretrained(name).merge()
    picture = lq_picture(29, 151)
    assert 151 * scale > BLOCK and round(29 * scale) % model.multiple
    options = dict(scale=scale, tile=64, colour_fix=colour_fix)
    expected = restore(model, Image.fromarray(picture), vae_mode="flat", progress=False, **options).images[0]
    assert difference(restore_array(model, picture, vae_tile=256, **options), np.asarray(expected)) <= 1


@pytest.mark.parametrize("family", ["ddpm", "flow"])
@pytest.mark.parametrize("seed", [None, 5])
def test_autoencoders_with_statistics_and_a_posterior(family, seed):
    """The published layout of tiles with an overlap, and the sample of the posterior that `restore` draws."""
    model = OMGSR.from_base("tiny", family, 250)
    picture = lq_picture(21, 140)
    options = dict(tile=96, overlap=32, window="cosine", seed=seed)
    expected = restore(model, Image.fromarray(picture), vae_mode="flat", progress=False, **options).images[0]
    assert difference(restore_array(model, picture, **options), np.asarray(expected)) <= 1
    if seed is not None:
        options["seed"] = 6
        assert difference(restore_array(model, picture, **options), np.asarray(expected)) > 1


@pytest.mark.parametrize("family", ["ddpm", "flow"])
@pytest.mark.parametrize("strength", [0.0, 0.7])
def test_timesteps_that_are_estimated(family, strength):
    """Each tile at its own timestep, with a fixed one far off; in one pass too."""
    model, picture = AdaptiveOMGSR.from_base("tiny", family, 250), lq_picture(21, 60)
    torch.manual_seed(0)
    model.estimator = DifferenceEstimator(model.vae.config.latent_channels, width=8).eval()
    for tile in (96, 512):
        options = dict(tile=tile, strength=strength, timestep="auto")
        expected = restore(model, Image.fromarray(picture), vae_mode="flat", progress=False, **options).images[0]
        got = restore_array(model, picture, **options)
        assert difference(got, np.asarray(expected)) <= 1
        assert difference(restore_array(model, picture, tile=tile, timestep=900), got) > 1


def test_files_in_and_out(tmp_path):
    """The input may be a file, the output is written to one, progress is told, the files between are removed."""
    model, picture = OMGSR.from_base("tiny", "ddpm", 250), lq_picture(9, 14)
    source = TensorFile(tmp_path / "lq", picture.shape, torch.uint8)
    source[...] = torch.from_numpy(picture)
    target = TensorFile(tmp_path / "restored", (27, 42, 3), torch.uint8)
    (tmp_path / "scratch").mkdir()
    seen = []
    options = dict(scale=3, tile=24, colour_fix=None, scratch=tmp_path / "scratch")
    result = restore_array(model, source, target, progress=lambda *state: seen.append(state), **options)
    assert result is target and list((tmp_path / "scratch").iterdir()) == []
    assert np.array_equal(target[...].numpy(), restore_array(model, picture, **options))
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages == ["enlarge", "encode", "predict", "decode"]
    for stage in stages:
        counts = [(done, total) for name, done, total in seen if name == stage]
        assert counts == [(k, counts[0][1]) for k in range(1, counts[0][1] + 1)]


def test_wrong_arguments():
    model, picture = OMGSR.from_base("tiny", "ddpm", 250), lq_picture(8, 8)
    with pytest.raises(ValueError, match='must be "adain", "wavelet" or None, got \'sepia\''):
        restore_array(model, picture, colour_fix="sepia")
    with pytest.raises(ValueError, match=r"The output must measure \(32, 32, 3\): got \(32, 31, 3\)"):
        restore_array(model, picture, np.empty((32, 31, 3), np.uint8))
