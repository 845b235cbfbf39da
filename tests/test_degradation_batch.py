"""The degradation of a batch against that of its images, one by one."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from omgsr_lib.data import degradation
from omgsr_lib.data.degradation import Degradation, degrade, degrade_batch
from omgsr_lib.data.photos import open_photo, packaged_photos, to_pixels


@pytest.fixture(scope="module")
def batch():
    """Sixteen overlapping crops, (16, 3, 64, 80)."""
    photo = to_pixels(open_photo(packaged_photos("eval")[0]))[:, 100:228, 150:310]
    return torch.stack([photo[:, :64, 4 * i : 4 * i + 80] for i in range(16)])


def test_a_batch_has_the_draws_of_its_pictures(batch, monkeypatch):
    """With filters that agree bit by bit (sums in float64, rounded), so do the results, in any order and grouping."""

    def exact(image, kernel):
        filtered = [correlate(channel.double().numpy(), kernel.numpy(), mode="mirror") for channel in image]
        return torch.from_numpy(np.stack(filtered)).float()

    def exact_batch(images, kernels):
        return torch.stack([exact(image, kernel) for image, kernel in zip(images, kernels, strict=True)])

    monkeypatch.setattr(degradation, "filter2d", exact)
    monkeypatch.setattr(degradation, "filter2d_batch", exact_batch)
    indices = [5, 0, 9, 2]
    together = degrade_batch(batch[:4], seed=3, indices=indices)
    for picture, index, lq in zip(batch, indices, together, strict=False):
        assert torch.equal(lq, degrade(picture, seed=3, index=index))


@pytest.mark.parametrize("settings, scale", [(None, None), (Degradation.for_size(1024), None), (None, 2)])
def test_a_batch_differs_from_its_pictures_in_rounding_ties_alone(batch, settings, scale):
    options = dict(settings=settings, scale=scale)
    together = degrade_batch(batch, seed=3, indices=range(16), **options)
    alone = torch.stack([degrade(hq, seed=3, index=i, **options) for i, hq in enumerate(batch)])
    levels = (together - alone).abs() * 127.5
    assert (levels > 0.5).float().mean() < 0.02  # one coefficient on a tie is a fifth of so small an image
    assert (levels > 1.5).float().mean() < 0.001
    assert (levels.amax((1, 2, 3)) < 0.5).sum() >= 8  # no tie in half of the images
    assert together.shape == batch.shape and together.dtype == torch.float32


@pytest.mark.gpu
def test_a_batch_on_a_gpu_without_waiting_for_it(batch):
    expected = degrade_batch(batch, seed=3, indices=range(16))
    images = batch.cuda()
    degrade_batch(images, seed=3, indices=range(16))  # tables and plans
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = degrade_batch(images, seed=3, indices=range(16))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert got.is_cuda
    levels = (got.cpu() - expected).abs() * 127.5
    assert (levels > 0.5).float().mean() < 0.04 and (levels > 1.5).float().mean() < 0.002


@pytest.mark.parametrize(
    "shape, indices, message",
    [
        ((3, 32, 32), [0], r"batch \(B, 3, H, W\)"),
        ((2, 3, 32, 32), [0], "with an index for each image.* and 1 indices"),
        ((0, 3, 32, 32), [], "Give as many of both"),
        ((2, 1, 32, 32), [0, 1], r"float tensor \(3, H, W\)"),
        ((2, 3, 15, 32), [0, 1], "at least 16 pixels"),
    ],
)
def test_wrong_batch(shape, indices, message):
    with pytest.raises(ValueError, match=message):
        degrade_batch(torch.zeros(shape), seed=0, indices=indices)
