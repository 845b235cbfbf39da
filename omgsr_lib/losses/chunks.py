"""Overlap-Chunking (OMGSR, version 1): a picture as a grid of equal, overlapping chunks that together cover it."""

import torch


def chunk_offsets(length, chunk):
    """Offsets of the chunks along a side of `length` pixels; `ValueError` if it is shorter than `chunk`.

    The stride is `chunk` if that divides `length`, else `chunk - floor((n chunk - length) / (n - 1))` with
    `n = floor(length / chunk) + 1`, as published. Where the last chunk does not end at the border (1022 with 224) it
    is moved onto it; the release drops it and leaves pixels unseen.
    """
    if length < chunk:
        raise ValueError(
            f"A chunk must fit into the picture: chunk {chunk} px, side {length} px. Use a smaller chunk."
        )
    if length % chunk == 0:
        return list(range(0, length, chunk))
    count = length // chunk + 1
    stride = chunk - (count * chunk - length) // (count - 1)
    return [min(index * stride, length - chunk) for index in range(count)]


def overlap_chunks(pixels, chunk):
    """`(B, C, H, W)` to `(B N, C, chunk, chunk)`: rows of chunks from the top left, all of the first picture first."""
    rows, columns = chunk_offsets(pixels.shape[-2], chunk), chunk_offsets(pixels.shape[-1], chunk)
    chunks = [pixels[..., top : top + chunk, left : left + chunk] for top in rows for left in columns]
    return torch.stack(chunks, dim=1).flatten(0, 1)
