import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from omgsr_lib.model import OMGSR
from omgsr_lib.restore.colour import REACH, ROWS, fix_colour, low_pass, wavelet
from omgsr_lib.restore.pipeline import restore


def random_pair(height, width):
    generator = torch.Generator().manual_seed(height)
    return torch.rand(2, 2, 3, height, width, generator=generator, dtype=torch.float64) * 2 - 1


@pytest.fixture
def pair():
    return random_pair(45, 70)


def five_levels(restored, reference):
    """The definition: peel off five levels of detail, add them to the blurred rest of the reference."""
    row = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    kernel = (row[:, None] * row / 16).expand(3, 1, 3, 3)

    def decompose(pixels):
        detail = torch.zeros_like(pixels)
        for level in range(5):
            padded = F.pad(pixels, (2**level,) * 4, mode="replicate")
            blurred = F.conv2d(padded, kernel, groups=3, dilation=2**level)
            detail, pixels = detail + pixels - blurred, blurred
        return detail, pixels

    return decompose(restored)[0] + decompose(reference)[1]


def test_wavelet_equals_the_five_level_definition(pair):
    restored, reference = pair
    assert torch.allclose(wavelet(restored, reference), five_levels(restored, reference), atol=1e-12)
    single = wavelet(restored.float(), reference.float())
    assert (single.double() - five_levels(restored, reference)).abs().max() < 1e-6


@pytest.mark.parametrize("height", [1, 2, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + REACH + 1])
@pytest.mark.parametrize("width", [1, 9])
def test_strips_leave_no_trace(height, width):
    """Heights around those of a strip, down to a row and a pixel, whose deviation counts as 0."""
    restored, reference = random_pair(height, width)
    found = fix_colour(restored, reference, "wavelet")
    assert torch.allclose(found, five_levels(restored, reference), atol=1e-12)
    mean, target = (x.mean((2, 3), keepdim=True) for x in (restored, reference))
    scale, wanted = (
        ((x - m).square().sum((2, 3), keepdim=True) / max(height * width - 1, 1) + 4e-5).sqrt()
        for x, m in ((restored, mean), (reference, target))
    )
    assert torch.allclose(fix_colour(restored, reference), (restored - mean) / scale * wanted + target, atol=1e-12)


def test_low_pass_of_an_impulse_has_unit_sum_and_the_width_of_five_blurs():
    impulse = torch.zeros(1, 3, 161, 161, dtype=torch.float64)
    impulse[..., 80, 80] = 1
    response = low_pass(impulse)[0, 0]
    assert response.sum().item() == pytest.approx(1, abs=1e-12)
    position = torch.arange(-80.0, 81.0, dtype=torch.float64)
    variance = (response.sum(0) * position**2).sum().item()  # [1 2 1] / 4 dilated by r has the variance r^2 / 2
    assert variance == pytest.approx(sum(r * r for r in (1, 2, 4, 8, 16)) / 2, abs=1e-9)


@pytest.mark.parametrize("method", ["adain", "wavelet"])
def test_a_constant_colour_shift_is_removed_exactly(pair, method):
    reference = pair[0]
    shift = torch.tensor([0.3, -0.2, 0.05], dtype=torch.float64).view(1, 3, 1, 1)
    assert (fix_colour(reference + shift, reference, method) - reference).abs().max() < 1e-12


def test_adain_equals_the_fields_formula_on_unit_pixels(pair):
    restored, reference = pair
    x, y = (restored + 1) / 2, (reference + 1) / 2
    expected = torch.empty_like(x)
    for image in range(2):
        for channel in range(3):
            a, b = x[image, channel], y[image, channel]
            scale = ((b.var() + 1e-5) / (a.var() + 1e-5)).sqrt()
            expected[image, channel] = (a - a.mean()) * scale + b.mean()
    assert torch.allclose((fix_colour(restored, reference) + 1) / 2, expected, atol=1e-12)


def test_fix_colour_chooses_the_method_and_refuses_others(pair):
    restored, reference = pair
    assert fix_colour(restored, reference, None) is restored
    assert torch.equal(fix_colour(restored, reference), fix_colour(restored, reference, "adain"))
    assert torch.equal(fix_colour(restored, reference, "wavelet"), wavelet(restored, reference))
    with pytest.raises(ValueError, match='"adain", "wavelet" or None, got \'lab\''):
        fix_colour(restored, reference, "lab")
    with pytest.raises(ValueError, match="Up-scale the LQ image first"):
        fix_colour(restored, reference[..., 1:])


def cut_twice(restored, reference, method):
    """The released order in NumPy, `(3, h, w)`: [0, 1], clamp, cut to 8 bits, fix against the 8-bit reference, cut."""
    levels = np.floor(np.clip((restored + 1) / 2, 0, 1) * 255)
    if method is None:
        return levels
    x, y = levels / 255, np.round((reference + 1) / 2 * 255) / 255
    if method == "adain":
        scale, wanted = (np.sqrt(z.var((1, 2), ddof=1, keepdims=True) + 1e-5) for z in (x, y))
        fixed = (x - x.mean((1, 2), keepdims=True)) / scale * wanted + y.mean((1, 2), keepdims=True)
    else:
        fixed = (five_levels(torch.from_numpy(2 * x[None] - 1), torch.from_numpy(2 * y[None] - 1))[0].numpy() + 1) / 2
    return np.floor(np.clip(fixed, 0, 1) * 255 + 1e-9)


@pytest.mark.parametrize("method", ["adain", "wavelet", None])
def test_as_released_cuts_before_and_after_the_fix(pair, method):
    restored, reference = (1.1 * pair).float()
    found = (fix_colour(restored, reference.clamp(-1, 1), method, as_released=True) + 1) * 127.5
    assert found.dtype == torch.float32 and (found - found.round()).abs().max() < 1e-4
    for image, source, target in zip(found.round(), restored, reference.clamp(-1, 1), strict=True):
        assert np.array_equal(image.numpy(), cut_twice(source.double().numpy(), target.double().numpy(), method))


@pytest.mark.parametrize("method", ["adain", "wavelet", None])
def test_restoring_as_released_equals_the_released_order_byte_for_byte(method):
    model = OMGSR.from_base("tiny", "ddpm", 273)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8))
    enlarged = torch.from_numpy(np.array(image.resize((48, 32), Image.BICUBIC))).permute(2, 0, 1) / 127.5 - 1
    with torch.no_grad():
        decoded = model(enlarged[None]).images[0]
    expected = cut_twice(decoded.double().numpy(), enlarged.double().numpy(), method)
    options = dict(scale=2, colour_fix=method, progress=False)
    found = np.asarray(restore(model, image, as_released=True, **options).images[0])
    assert np.array_equal(found.transpose(2, 0, 1), expected)
    rounded = np.asarray(restore(model, image, **options).images[0], int)
    assert 0 < (rounded - found).mean() < 1.5  # cutting is darker, by about half a level


def test_as_released_leaves_constant_images_at_the_level_of_the_reference():
    levels = torch.arange(256.0)[:, None, None, None].expand(-1, 3, 4, 4) / 127.5 - 1
    for method in ("adain", "wavelet"):
        assert (fix_colour(levels.flip(0), levels, method, as_released=True) - levels).abs().max() < 1e-6
