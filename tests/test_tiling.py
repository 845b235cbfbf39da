import itertools
import math

import pytest
import torch

from omgsr_lib.tiling.grid import WINDOWS, plan_tiles, tiled


def picture(height, width, batch=2, channels=3, seed=0):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def covered(offsets, tile):
    return {i for offset in offsets for i in range(offset, offset + tile)}


@pytest.mark.parametrize("tile, overlap", [(8, 0), (8, 4), (8, 7), (7, 3), (16, 5)])
def test_published_plan_is_the_smallest_count_that_covers(tile, overlap):
    step = tile - overlap
    for size in range(1, 60):
        plan = plan_tiles(size, tile, tile, overlap, planner="published")
        count = next(n for n in itertools.count(1) if (n - 1) * step + tile >= size)
        assert plan.tops == tuple(min(k * step, max(size - tile, 0)) for k in range(count))
        assert plan.tile_h == min(tile, size) and covered(plan.tops, plan.tile_h) == set(range(size))


@pytest.mark.parametrize("multiple", [1, 2])
def test_smallest_plan_by_brute_force(multiple):
    """No smaller count covers with tiles of at most `tile`, no smaller tile covers with that count."""
    for tile, overlap in ((8, 0), (8, 2), (16, 2), (16, 14), (12, 4)):
        for size in range(multiple, 90, multiple):
            plan = plan_tiles(size, tile, tile, overlap, multiple=multiple)
            sides = range(multiple, tile + 1, multiple)
            count = next(n for n in itertools.count(1) if max(sides) * n - (n - 1) * overlap >= size)
            side = next(t for t in sides if t * count - (count - 1) * overlap >= size)
            assert (len(plan.tops), plan.tile_h) == (count, side)
            assert plan.tops[0] == 0 and plan.tops[-1] + side == size
            steps = [b - a for a, b in itertools.pairwise(plan.tops)]
            assert all(side - step >= overlap and step % multiple == 0 for step in steps)
            assert not steps or max(steps) - min(steps) <= multiple


@pytest.mark.parametrize("tile, multiple", [(64, 1), (128, 2), (32, 1), (16, 1)])
def test_overdraw_of_the_default_plan(tile, multiple):
    sizes = range(2 * tile, 16 * tile + 1, multiple)
    worst = max(plan_tiles(size, size, tile, multiple=multiple).overdraw for size in sizes)
    assert worst <= 1.30
    published = [plan_tiles(k * tile, k * tile, tile, planner="published").overdraw for k in (2, 4, 8, 16)]
    assert published == [(2 - 1 / k) ** 2 for k in (2, 4, 8, 16)]  # 2.25 .. 3.75


def test_overdraw_is_area_of_tiles_over_area():
    plan = plan_tiles(30, 45, 16, 4)
    counted = torch.zeros(30, 45)
    for rows, columns in plan.slices():
        counted[rows, columns] += 1
    assert counted.min() == 1 and plan.overdraw == pytest.approx(counted.mean().item(), rel=1e-6)


def test_windows_have_their_closed_forms():
    def weights(window, k=1):
        return [axis[k] for axis in plan_tiles(20, 20, 8, 4, planner="published").weights(window)]  # tiles at 0 4 8 12

    def gaussian(i, centre):
        return math.exp(-(((i - centre) / 8) ** 2) / 0.02)

    for window, centres in (("gaussian", (3.5, 3.5)), ("released", (4.0, 3.5))):
        for axis, c in zip(weights(window), centres, strict=True):
            # position 4 + i of the image is i of the second tile, i + 4 of the first and i - 4 of the third
            expected = [gaussian(i, c) / (gaussian(i, c) + gaussian(i + 4 if i < 4 else i - 4, c)) for i in range(8)]
            assert axis.tolist() == pytest.approx(expected, rel=1e-13)
    sine = [math.sin(math.pi * (i + 0.5) / 8) ** 2 for i in range(8)]
    assert weights("cosine")[0].tolist() == pytest.approx(sine, abs=1e-15)  # sums to 1 at 50 % overlap as it is

    first, second, _ = plan_tiles(18, 18, 8, 3, planner="published").weights("ramp")[0]  # tiles at 0, 5, 10
    rise = [math.sin(math.pi * (i + 0.5) / 6) ** 2 for i in range(3)]
    assert first.tolist() == pytest.approx([1] * 5 + rise[::-1], abs=1e-15)
    assert second.tolist() == pytest.approx([*rise, 1, 1, *rise[::-1]], abs=1e-15)


@pytest.mark.parametrize("window", WINDOWS)
def test_weights_are_positive_and_sum_to_one(window):
    for height, width, tile, overlap in ((33, 47, 16, 5), (64, 9, 16, 0), (50, 50, 16, 13)):
        for planner in ("smallest", "published"):
            plan = plan_tiles(height, width, tile, overlap, planner=planner)
            rows, columns = plan.weights(window)
            assert rows.dtype == torch.float64 and rows.min() > 0 and columns.min() > 0
            total = torch.zeros(height, width, dtype=torch.float64)
            for (y, x), (row, column) in zip(plan.slices(), itertools.product(rows, columns), strict=True):
                total[y, x] += row[:, None] * column
            assert (total - 1).abs().max() < 1e-14


def test_seams_are_the_middles_of_the_overlaps():
    plan = plan_tiles(40, 20, 16, 4, planner="published")  # rows at 0, 12, 24; columns at 0, 4
    assert plan.seams() == ([14, 26], [10])
    rows, _ = plan.weights("gaussian")
    assert rows[0, 13] > 0.5 > rows[0, 14]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("height, width", [(17, 23), (31, 8), (5, 90), (64, 64), (33, 47)])
def test_identity_stays_identity(window, height, width):
    latents = picture(height, width)
    for tile, overlap in ((8, 4), (8, 0), (16, 5), (9, 7), (16, None)):
        for planner in ("smallest", "published"):
            result = tiled(
                lambda crop: crop, latents, tile=tile, overlap=overlap, window=window, planner=planner, tile_batch=3
            )
            assert (result - latents).abs().max() < 1e-6


@pytest.mark.parametrize("window", ("gaussian", "released", "cosine"))
def test_blend_with_an_overlap_is_the_published_one(window):
    """A function that depends on the crop as a whole, so that neighbouring tiles disagree; weighted mean by hand."""
    latents, tile, overlap = picture(19, 26).double(), 10, 4

    def function(crop):
        return crop - crop.mean((2, 3), keepdim=True)

    def profile(centre):
        i = torch.arange(tile, dtype=torch.float64)
        return torch.sin(math.pi * (i + 0.5) / tile) ** 2 if window == "cosine" else (-((i - centre) ** 2) / 2).exp()

    weights = profile(5.0 if window == "released" else 4.5)[:, None] * profile(4.5)
    total, weight_sum = torch.zeros_like(latents), torch.zeros(19, 26, dtype=torch.float64)
    for y in (0, 6, 9):
        for x in (0, 6, 12, 16):
            total[:, :, y : y + tile, x : x + tile] += weights * function(latents[:, :, y : y + tile, x : x + tile])
            weight_sum[y : y + tile, x : x + tile] += weights
    seen = []
    result = tiled(
        function, latents, tile=tile, overlap=overlap, window=window, progress=lambda *state: seen.append(state)
    )
    assert torch.allclose(result, total / weight_sum, atol=1e-13)
    assert seen == [(k, 12) for k in range(1, 13)]


def test_batches_of_tiles_change_nothing_and_keep_pictures_apart():
    latents, sizes = picture(40, 29), []

    def function(crops):
        sizes.append(len(crops))
        return crops - crops.mean((2, 3), keepdim=True)

    single = tiled(function, latents, tile=16)
    assert sizes == [2] * 6
    sizes.clear()
    assert torch.allclose(tiled(function, latents, tile=16, tile_batch=4), single, atol=1e-6)
    assert sizes == [8, 4]
    alone = tiled(function, latents[1:], tile=16, tile_batch=4)
    assert torch.allclose(alone, single[1:], atol=1e-6)


def test_small_latents_pass_in_one_piece():
    sizes = []

    def function(crop):
        sizes.append(tuple(crop.shape[-2:]))
        return crop * 2

    latents = picture(16, 16)
    assert torch.equal(tiled(function, latents, tile=16), latents * 2)
    assert torch.equal(tiled(function, picture(10, 25), tile=16), picture(10, 25) * 2)  # 250 <= 256, as released
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


def test_a_tile_as_small_as_the_multiple_has_no_overlap_by_default():
    plan = plan_tiles(4, 6, 2, multiple=2)
    assert (plan.tops, plan.lefts, plan.tile_h, plan.tile_w) == ((0, 2), (0, 2, 4), 2, 2)


@pytest.mark.parametrize("overlap", [8, 9, -1])
def test_tiles_that_cannot_advance_are_refused(overlap):
    with pytest.raises(ValueError, match=f"0 <= overlap < tile: got tile 8, overlap {overlap}"):
        tiled(lambda crop: crop, picture(20, 20), tile=8, overlap=overlap)


def test_wrong_arguments_and_functions_are_refused():
    def identity(crop):
        return crop

    with pytest.raises(ValueError, match="window must be one of gaussian, released, cosine, ramp; got 'hann'"):
        tiled(identity, picture(20, 20), tile=8, window="hann")
    with pytest.raises(ValueError, match="planner must be one of smallest, published; got 'square'"):
        tiled(identity, picture(20, 20), tile=8, planner="square")
    with pytest.raises(ValueError, match="must be multiples of 2: got 20x21, tile 8"):
        tiled(identity, picture(20, 21), tile=8, multiple=2)
    with pytest.raises(ValueError, match="a crop of 8x8 came back as \\(4, 4\\)"):
        tiled(lambda crop: crop[..., ::2, ::2], picture(20, 20), tile=8, overlap=4)
