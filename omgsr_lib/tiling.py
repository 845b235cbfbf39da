"""Tiles: apply a function to overlapping crops of a tensor and blend the results into one."""

import math

import torch


WINDOWS = ("gaussian", "released", "cosine")


def tile_grid(height, width, tile, overlap):
    """`(tops, lefts)`: offsets of the tiles that cover `height` x `width`, in steps of `tile - overlap`.

    Per axis the smallest n with `(n - 1)(tile - overlap) + tile >= size`, the last offset clamped to `size - tile`; an
    axis shorter than a tile has the one offset 0. Raises `ValueError` unless 0 <= overlap < tile: tiles must advance.
    """
    if not 0 <= overlap < tile:
        raise ValueError(
            f"Tiles advance by tile - overlap, so 0 <= overlap < tile: got tile {tile}, overlap {overlap}."
        )

    def offsets(size):
        count = max(0, math.ceil((size - tile) / (tile - overlap))) + 1
        return [max(0, min(k * (tile - overlap), size - tile)) for k in range(count)]

    return offsets(height), offsets(width)


def tile_window(tile_h, tile_w, kind="gaussian"):
    """Blending weights `(tile_h, tile_w)`, float64 and positive.

    "gaussian": `exp(-((i - c) / T)^2 / 0.02)` along each axis with `c = (T - 1) / 2`. "released": as the official
    code has it, the same with `c = T / 2` along y. "cosine": `sin^2(pi (i + 1/2) / T)`, sums to 1 at 50 % overlap.
    """
    if kind not in WINDOWS:
        raise ValueError(f"window must be one of {', '.join(WINDOWS)}; got {kind!r}.")

    def profile(size, centre):
        index = torch.arange(size, dtype=torch.float64)
        if kind == "cosine":
            return torch.sin(math.pi * (index + 0.5) / size) ** 2
        return torch.exp(-(((index - centre) / size) ** 2) / 0.02)

    rows = profile(tile_h, tile_h / 2 if kind == "released" else (tile_h - 1) / 2)
    return rows[:, None] * profile(tile_w, (tile_w - 1) / 2)


def tiled(function, latents, *, tile, overlap=None, window="gaussian", progress=None):
    """`function` of `latents` (B, C, H, W), computed tile by tile: weighted mean of the overlapping results.

    `function` maps a crop to a tensor of the same height and width (a denoiser's output). Latents with
    `H * W <= tile * tile` pass in one piece. `overlap` is half a tile by default, as in the official code; a tile is
    never larger than the latents along either axis. Sums are kept in float64 (float32 on Apple's mps).
    `progress(done, total)` is called after each tile.
    """
    overlap = tile // 2 if overlap is None else overlap
    height, width = latents.shape[-2:]
    tops, lefts = tile_grid(height, width, tile, overlap)
    weights = tile_window(min(tile, height), min(tile, width), window)
    if height * width <= tile * tile:
        return function(latents)

    tile_h, tile_w = weights.shape
    total = weight_sum = dtype = None
    for done, (top, left) in enumerate(((y, x) for y in tops for x in lefts), start=1):
        rows, columns = slice(top, top + tile_h), slice(left, left + tile_w)
        output = function(latents[..., rows, columns])
        if output.shape[-2:] != (tile_h, tile_w):
            raise ValueError(
                f"A tiled function must keep height and width: a crop of {tile_h}x{tile_w} came back as "
                f"{tuple(output.shape[-2:])}."
            )
        if total is None:
            dtype = output.dtype
            weights = (weights.float() if output.device.type == "mps" else weights).to(output.device)
            total = weights.new_zeros(*output.shape[:-2], height, width)
            weight_sum = weights.new_zeros(height, width)
        total[..., rows, columns] += output * weights
        weight_sum[rows, columns] += weights
        if progress is not None:
            progress(done, len(tops) * len(lefts))
    return (total / weight_sum).to(dtype)
