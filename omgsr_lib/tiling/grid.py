"""Tiles: apply a function to overlapping crops of a tensor and blend the results into one."""

import math
from dataclasses import dataclass

import torch

from ..utils.device import to_device
from ..utils.workers import in_order


WINDOWS = ("gaussian", "released", "cosine", "ramp")
PLANNERS = ("smallest", "published")


@dataclass(frozen=True)
class TilePlan:
    """Tiles of one size `tile_h` x `tile_w` that cover `height` x `width`, at every pair of `tops` and `lefts`."""

    height: int
    width: int
    tile_h: int
    tile_w: int
    tops: tuple
    lefts: tuple

    @property
    def overdraw(self):
        """Area of all tiles over the area that they cover: what tiling costs a function that is linear in area."""
        return len(self.tops) * self.tile_h * len(self.lefts) * self.tile_w / (self.height * self.width)

    def slices(self):
        """`(rows, columns)` of every tile, row by row."""
        return [
            (slice(top, top + self.tile_h), slice(left, left + self.tile_w))
            for top in self.tops
            for left in self.lefts
        ]

    def seams(self):
        """`(rows, columns)`: the middles of the overlaps, where two neighbours weigh the same."""

        def middles(offsets, tile):
            return [(left + tile + right) // 2 for left, right in zip(offsets, offsets[1:], strict=False)]

        return middles(self.tops, self.tile_h), middles(self.lefts, self.tile_w)

    def weights(self, window="gaussian"):
        """Blending weights of the tiles along each axis: float64 `(tops, tile_h)` and `(lefts, tile_w)`.

        The weight of a position in a tile is the product of both; over all tiles they sum to 1 everywhere. Along an
        axis, before that normalisation, with T the tile's side:
        "gaussian": `exp(-((i - c) / T)^2 / 0.02)` with `c = (T - 1) / 2`. "released": as the official code has it, the
        same with `c = T / 2` for the rows. "cosine": `sin^2(pi (i + 1/2) / T)`. "ramp": 1, and over each overlap of n
        positions a rise `sin^2(pi (i + 1/2) / 2 n)`, so that a tile alone counts where no other one is.
        """
        if window not in WINDOWS:
            raise ValueError(f"window must be one of {', '.join(WINDOWS)}; got {window!r}.")
        centre = self.tile_h / 2 if window == "released" else (self.tile_h - 1) / 2
        return (
            _axis_weights(self.tops, self.tile_h, centre, window, self.height),
            _axis_weights(self.lefts, self.tile_w, (self.tile_w - 1) / 2, window, self.width),
        )


def _axis_weights(offsets, tile, centre, window, size):
    index = torch.arange(tile, dtype=torch.float64)
    if window == "ramp":
        shape = torch.ones(len(offsets), tile, dtype=torch.float64)
        for k, (left, right) in enumerate(zip(offsets, offsets[1:], strict=False)):
            overlap = left + tile - right
            rise = torch.sin(math.pi * (torch.arange(overlap, dtype=torch.float64) + 0.5) / (2 * overlap)) ** 2
            shape[k, tile - overlap :] *= rise.flip(0)
            shape[k + 1, :overlap] *= rise
    elif window == "cosine":
        shape = (torch.sin(math.pi * (index + 0.5) / tile) ** 2).expand(len(offsets), -1)
    else:
        shape = torch.exp(-(((index - centre) / tile) ** 2) / 0.02).expand(len(offsets), -1)
    total = torch.zeros(size, dtype=torch.float64)
    for offset, weights in zip(offsets, shape, strict=True):
        total[offset : offset + tile] += weights
    return torch.stack([w / total[o : o + tile] for o, w in zip(offsets, shape, strict=True)])


def plan_tiles(height, width, tile, overlap=None, *, planner="smallest", multiple=1, rim=0):
    """A `TilePlan` of tiles of at most `tile` x `tile` that overlap by at least `overlap`.

    planner "smallest": along each axis the smallest count of tiles, then the smallest tile that covers with this
        count, offsets spread evenly. `overlap` is a ninth of the tile by default: the overdraw is near (9/8)^2. It is
        at least twice `rim`, how far from a tile's border the function is wrong there, but no more than a quarter of
        the tile for that.
    planner "published": tiles of `tile`, the smallest count with `(n - 1)(tile - overlap) + tile >= size`, in steps
        of `tile - overlap`, the last offset clamped to `size - tile`. `overlap` is half a tile by default.

    Sides and tiles are multiples of `multiple` (2 for FLUX, which packs 2x2 latents), as are the offsets of
    "smallest"; an axis shorter than a tile has one tile of its size. Raises `ValueError` unless 0 <= overlap < tile:
    tiles must advance.
    """
    if planner not in PLANNERS:
        raise ValueError(f"planner must be one of {', '.join(PLANNERS)}; got {planner!r}.")
    if height % multiple or width % multiple or tile % multiple:
        raise ValueError(
            f"Tiled sides and the tile must be multiples of {multiple}: got {height}x{width}, tile {tile}. "
            "Pad the image, or choose another tile."
        )
    if overlap is None:
        ninth, wanted = max(tile // multiple // 9, 1) * multiple, min(2 * rim, tile // 4)
        overlap = tile // 2 if planner == "published" else min(max(ninth, wanted), tile - multiple)
    if planner == "smallest":
        overlap = -(-overlap // multiple) * multiple
    if not 0 <= overlap < tile:
        raise ValueError(
            f"Tiles advance by tile - overlap, so 0 <= overlap < tile: got tile {tile}, overlap {overlap}."
        )
    along = _smallest if planner == "smallest" else _published
    (tile_h, tops), (tile_w, lefts) = (along(size, tile, overlap, multiple) for size in (height, width))
    return TilePlan(height, width, tile_h, tile_w, tops, lefts)


def _smallest(size, tile, overlap, multiple):
    size, tile, overlap = size // multiple, tile // multiple, overlap // multiple
    count = max(1, -(-(size - overlap) // (tile - overlap)))
    tile = -(-(size + (count - 1) * overlap) // count)
    offsets = [(size - tile) * k // max(count - 1, 1) for k in range(count)]
    return tile * multiple, tuple(offset * multiple for offset in offsets)


def _published(size, tile, overlap, multiple):
    count = max(0, -(-(size - tile) // (tile - overlap))) + 1
    return min(tile, size), tuple(max(0, min(k * (tile - overlap), size - tile)) for k in range(count))


def tiled(
    function,
    latents,
    *,
    tile,
    overlap=None,
    window="gaussian",
    planner=None,
    multiple=1,
    rim=0,
    tile_batch=1,
    workers=1,
    progress=None,
    new=None,
):
    """`function` of `latents` (B, C, H, W), computed tile by tile: weighted mean of the overlapping results.

    `function` maps crops to a tensor of the same height and width (a denoiser's output); `tile_batch` tiles go through
    it at once, along the batch axis, the B images of the first tile first, and `workers` of these batches side by side
    (`utils.workers.in_order`). Latents with `H * W <= tile * tile` pass in one piece. `planner` is "published" where
    an `overlap` is given and "smallest" where none is (see `plan_tiles`, also for `rim`); `window` is described at
    `TilePlan.weights`. Sums are kept in float32 or better and made in the order of the tiles. `progress(done, total)`
    is called after each batch of tiles. `latents` may be any array, and `new` makes that of the result, of zeros (see
    `arrays`).
    """
    height, width = latents.shape[-2:]
    planner = planner or ("smallest" if overlap is None else "published")
    plan = plan_tiles(height, width, tile, overlap, planner=planner, multiple=multiple, rim=rim)
    rows, columns = plan.weights(window)
    if height * width <= tile * tile:
        output = function(latents[...])
        if new is None:
            return output
        result = new(output.shape)
        result[...] = output
        return result

    tiles, weights = plan.slices(), [(y, x) for y in rows for x in columns]
    batch, result = latents.shape[0], None
    starts = range(0, len(tiles), tile_batch)
    groups = [tiles[first : first + tile_batch] for first in starts]
    parts = (torch.cat([latents[..., y, x] for y, x in group]) for group in groups)
    for first, group, outputs in zip(starts, groups, in_order(function, parts, workers), strict=True):
        if outputs.shape[-2:] != (plan.tile_h, plan.tile_w):
            raise ValueError(
                f"A tiled function must keep height and width: a crop of {plan.tile_h}x{plan.tile_w} came back as "
                f"{tuple(outputs.shape[-2:])}."
            )
        precision = torch.promote_types(outputs.dtype, torch.float32)
        if result is None:
            shape = (batch, *outputs.shape[1:-2], height, width)
            result = outputs.new_zeros(shape, dtype=precision) if new is None else new(shape)
        for (y, x), (row, column), output in zip(
            group, weights[first : first + tile_batch], outputs.split(batch), strict=False
        ):
            weight = to_device((row[:, None] * column).to(precision), output.device)
            result[..., y, x] += (output * weight).to(result.device)
        if progress is not None:
            progress(min(first + tile_batch, len(tiles)), len(tiles))
    return result.to(outputs.dtype) if new is None else result
