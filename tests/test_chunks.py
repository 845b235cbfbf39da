"""losses/chunks.py: the published offsets, and every pixel covered."""

import pytest
import torch

from omgsr_lib.losses.chunks import chunk_offsets, overlap_chunks


@pytest.mark.parametrize(
    ("length", "chunk", "offsets"),
    [
        (512, 224, [0, 144, 288]),
        (1024, 224, [0, 200, 400, 600, 800]),
        (1024, 518, [0, 506]),
        (1022, 224, [0, 200, 400, 600, 798]),
        (448, 224, [0, 224]),
        (224, 224, [0]),
        (128, 48, [0, 40, 80]),
    ],
)
def test_offsets(length, chunk, offsets):
    assert chunk_offsets(length, chunk) == offsets


def test_every_pixel_is_covered_at_every_size():
    for chunk in (7, 16, 224):
        for length in range(chunk, 5 * chunk):
            offsets = chunk_offsets(length, chunk)
            assert offsets[0] == 0 and offsets[-1] + chunk == length, (length, chunk)
            assert all(0 < b - a <= chunk for a, b in zip(offsets, offsets[1:], strict=False)), (length, chunk)


def test_order_is_row_by_row_picture_by_picture():
    pixels = torch.arange(2 * 3 * 10 * 14, dtype=torch.float32).reshape(2, 3, 10, 14)
    rows, columns = [0, 4], [0, 4, 8]  # 10 with 6: stride 6 - 2 = 4; 14 with 6: stride 6 - 4 // 2 = 4
    expected = [p[:, top : top + 6, left : left + 6] for p in pixels for top in rows for left in columns]
    assert torch.equal(overlap_chunks(pixels, 6), torch.stack(expected))


def test_a_picture_of_one_chunk_passes_unchanged():
    pixels = torch.rand(2, 3, 16, 16)
    assert torch.equal(overlap_chunks(pixels, 16), pixels)


def test_too_small_a_picture_is_refused():
    with pytest.raises(ValueError, match="chunk 224 px, side 200 px. Use a smaller chunk"):
        overlap_chunks(torch.zeros(1, 3, 200, 300), 224)
