import itertools

import pytest
import torch

from omgsr_lib.tiling import WINDOWS, tile_grid, tile_window, tiled


def picture(height, width, batch=2, channels=3, seed=0):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tile, overlap", [(8, 0), (8, 4), (8, 7), (7, 3), (16, 5)])
def test_grid_is_the_smallest_count_that_covers(tile, overlap):
    step = tile - overlap
    for size in range(1, 60):
        offsets = tile_grid(size, tile, tile, overlap)[0]
        count = next(n for n in itertools.count(1) if (n - 1) * step + tile >= size)
        assert len(offsets) == count
        assert offsets == [min(k * step, max(size - tile, 0)) for k in range(count)]
        assert {i for y in offsets for i in range(y, min(y + tile, size))} == set(range(size))


def test_windows_have_their_closed_forms():
    for kind in WINDOWS:
        window = tile_window(12, 9, kind)
        assert window.dtype == torch.float64 and window.shape == (12, 9) and window.min() > 0
    gaussian = tile_window(8, 8)
    i, j = 2, 5
    expected = torch.exp(torch.tensor(-(((i - 3.5) / 8) ** 2 + ((j - 3.5) / 8) ** 2) / 0.02, dtype=torch.float64))
    assert gaussian[i, j].item() == pytest.approx(expected.item(), rel=1e-14)
    assert torch.equal(gaussian, gaussian.flip(0)) and torch.equal(gaussian, gaussian.T)
    released = tile_window(8, 8, "released")
    assert released[:, 0].argmax() == 4
    assert released[3].sum() == pytest.approx(released[5].sum().item(), rel=1e-14)  # centred on row T / 2 = 4
    assert torch.equal(released, released.flip(1))
    cosine = tile_window(8, 8, "cosine")
    halves = cosine[:4] + cosine[4:]
    assert torch.allclose(halves, halves[:1].expand(4, 8), atol=1e-15)  # 50 % overlap sums to a constant


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("height, width", [(17, 23), (31, 8), (5, 90), (64, 64), (33, 47)])
def test_identity_stays_identity(window, height, width):
    latents = picture(height, width)
    for tile, overlap in ((8, 4), (8, 0), (16, 5), (9, 7)):
        result = tiled(lambda crop: crop, latents, tile=tile, overlap=overlap, window=window)
        assert (result - latents).abs().max() < 1e-6


@pytest.mark.parametrize("window", WINDOWS)
def test_blend_equals_brute_force(window):
    """A function that depends on the crop as a whole, so that neighbouring tiles disagree."""
    latents, tile, overlap = picture(19, 26).double(), 10, 4

    def function(crop):
        return crop - crop.mean((2, 3), keepdim=True)

    weights = tile_window(tile, tile, window)
    total, weight_sum = torch.zeros_like(latents), torch.zeros(19, 26, dtype=torch.float64)
    for y in (0, 6, 9):
        for x in (0, 6, 12, 16):
            output = function(latents[:, :, y : y + tile, x : x + tile])
            for i, j in itertools.product(range(tile), range(tile)):
                total[:, :, y + i, x + j] += weights[i, j] * output[:, :, i, j]
                weight_sum[y + i, x + j] += weights[i, j]
    seen = []
    result = tiled(
        function, latents, tile=tile, overlap=overlap, window=window, progress=lambda *state: seen.append(state)
    )
    assert torch.allclose(result, total / weight_sum, atol=1e-13)
    assert seen == [(k, 12) for k in range(1, 13)]


def test_small_latents_pass_in_one_piece():
    sizes = []

    def function(crop):
        sizes.append(tuple(crop.shape[-2:]))
        return crop * 2

    latents = picture(16, 16)
    assert torch.equal(tiled(function, latents, tile=16), latents * 2)
    assert torch.equal(
        tiled(function, picture(10, 25), tile=16), picture(10, 25) * 2
    )  # 250 <= 256: untiled, as released
    assert sizes == [(16, 16), (10, 25)]
    sizes.clear()
    tiled(function, picture(10, 40), tile=16, overlap=8)  # a tile larger than one side shrinks along that side only
    assert set(sizes) == {(10, 16)} and len(sizes) == 4


def test_half_precision_loses_nothing():
    latents = picture(40, 40).half()
    result = tiled(lambda crop: crop, latents, tile=16)
    assert result.dtype == torch.float16 and torch.equal(result, latents)


def test_gradients_pass():
    latents = picture(20, 20).requires_grad_()
    tiled(lambda crop: 3 * crop, latents, tile=8).sum().backward()
    assert torch.allclose(latents.grad, torch.full_like(latents, 3.0), atol=1e-5)


@pytest.mark.parametrize("overlap", [8, 9, -1])
def test_tiles_that_cannot_advance_are_refused(overlap):
    with pytest.raises(ValueError, match=f"0 <= overlap < tile: got tile 8, overlap {overlap}"):
        tiled(lambda crop: crop, picture(20, 20), tile=8, overlap=overlap)


def test_wrong_window_and_wrong_function_are_refused():
    with pytest.raises(ValueError, match="window must be one of gaussian, released, cosine; got 'hann'"):
        tiled(lambda crop: crop, picture(20, 20), tile=8, window="hann")
    with pytest.raises(ValueError, match="a crop of 8x8 came back as \\(4, 4\\)"):
        tiled(lambda crop: crop[..., ::2, ::2], picture(20, 20), tile=8)
