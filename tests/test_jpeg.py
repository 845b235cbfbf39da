"""JPEG simulation against a brute force with SciPy's DCT in float64, and against Pillow's coder."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn, idctn

from omgsr_lib.data.jpeg import CHROMA, DCT, LUMA, jpeg, quality_factor
from omgsr_lib.data.photos import open_photo, packaged_photos


@pytest.fixture(scope="module")
def photo():
    array = np.asarray(open_photo(packaged_photos("eval")[0]))[64:240, 128:336]
    return torch.from_numpy(array / 255).permute(2, 0, 1)  # (3, 176, 208), float64


def brute_force(image, quality):
    """Every 8x8 block by itself, in float64."""
    factor = (200 - 2 * quality) / 100 if quality >= 50 else 50 / quality
    _, height, width = image.shape
    rows, columns = 16 * math.ceil(height / 16), 16 * math.ceil(width / 16)
    red, green, blue = np.pad(image.numpy() * 255, ((0, 0), (0, rows - height), (0, columns - width)))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = [luma, 128 - 0.168736 * red - 0.331264 * green + 0.5 * blue]
    planes += [128 + 0.5 * red - 0.418688 * green - 0.081312 * blue]
    planes[1:] = [(p[::2, ::2] + p[1::2, ::2] + p[::2, 1::2] + p[1::2, 1::2]) / 4 for p in planes[1:]]
    for plane, table in zip(planes, (LUMA.numpy().T, CHROMA.numpy(), CHROMA.numpy()), strict=True):
        for i in range(0, plane.shape[0], 8):
            for j in range(0, plane.shape[1], 8):
                coefficients = dctn(plane[i : i + 8, j : j + 8] - 128, norm="ortho")
                levels = np.round(coefficients / (table * factor))
                plane[i : i + 8, j : j + 8] = idctn(levels * table * factor, norm="ortho") + 128
    luma, cb, cr = planes[0], *(np.repeat(np.repeat(p, 2, 0), 2, 1) - 128 for p in planes[1:])
    rgb = np.stack([luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb])
    return torch.from_numpy(np.clip(rgb, 0, 255)[:, :height, :width] / 255)


@pytest.mark.parametrize("quality", [12.5, 50.0, 60.3, 94.99])
def test_equals_the_brute_force_in_float64(photo, quality):
    crop = photo[:, :77, :90]  # no multiple of 16: padding counts
    assert (jpeg(crop, quality=quality) - brute_force(crop, quality)).abs().max() < 1e-9


def test_float32_differs_only_where_a_coefficient_lies_on_a_rounding_tie(photo):
    error = (jpeg(photo.float(), quality=75.5).double() - jpeg(photo, quality=75.5)).abs()
    assert error.median() < 1e-6
    assert (error > 1e-4).double().mean() < 0.01


def test_the_luma_table_is_transposed():
    """A grey image of one horizontal frequency is quantised with the table's entry for the vertical one."""
    wave = 20 * math.sqrt(2) * torch.cos((2 * torch.arange(16, dtype=torch.float64) + 1) * 3 * math.pi / 16)
    before, after = 128 + wave.expand(3, 16, 16), jpeg((128 + wave.expand(3, 16, 16)) / 255, quality=50) * 255
    sent, kept = (dctn(x[0, :8, :8].numpy() - 128, norm="ortho") for x in (before, after))
    assert sent[0, 3] == pytest.approx(160)  # amplitude * sqrt(8) * sqrt(8 / 2); all others are 0
    assert LUMA[0, 3] == 16 and LUMA[3, 0] == 14  # 160 is a multiple of 16, which a real coder would use
    assert kept[0, 3] == pytest.approx(11 * 14)


def test_tables_and_transform():
    assert torch.allclose(DCT @ DCT.T, torch.eye(8, dtype=DCT.dtype), atol=1e-14)
    assert torch.equal(CHROMA, CHROMA.T) and not torch.equal(LUMA, LUMA.T)
    assert [quality_factor(q) for q in (10, 49, 50, 75, 95)] == pytest.approx([5, 50 / 49, 1, 0.5, 0.1])


def test_pillow_uses_the_same_tables(photo):
    """At quality 50 Pillow writes the unscaled tables (in zigzag order they hold the same numbers)."""
    file = io.BytesIO()
    Image.fromarray((photo.permute(1, 2, 0) * 255).byte().numpy()).save(file, "JPEG", quality=50)
    tables = Image.open(file).quantization
    assert sorted(tables[0]) == sorted(LUMA.flatten().tolist())
    assert sorted(tables[1]) == sorted(CHROMA.flatten().tolist())


@pytest.mark.parametrize("quality", [60, 80, 95])
def test_close_to_pillow(photo, quality):
    """Within 0.3 dB of Pillow's fidelity, and nearer to its image than that is to the original by 2 dB."""
    array = (photo.permute(1, 2, 0) * 255).round().byte().numpy()
    file = io.BytesIO()
    Image.fromarray(array).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    pillow = torch.from_numpy(np.array(Image.open(file)) / 255).permute(2, 0, 1)
    ours = jpeg(photo, quality=quality)
    assert psnr(ours, photo) == pytest.approx(psnr(pillow, photo), abs=0.3)
    assert psnr(ours, pillow) > psnr(pillow, photo) + 2


def test_a_flat_grey_that_the_coder_can_represent_stays(photo):
    flat = torch.full((3, 32, 48), 128 / 255, dtype=torch.float64)
    assert (jpeg(flat, quality=30) - flat).abs().max() < 1e-12
    assert psnr(jpeg(photo, quality=95), photo) > psnr(jpeg(photo, quality=60), photo) + 3


@pytest.mark.parametrize("quality", [0, -3, 100, 101, math.nan])
def test_wrong_quality(photo, quality):
    with pytest.raises(ValueError, match="JPEG quality must lie between 0 and 100"):
        jpeg(photo, quality=quality)


def psnr(a, b):
    return -10 * math.log10((a - b).square().mean())
