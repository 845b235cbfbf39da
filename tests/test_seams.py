"""What the borders of tiles leave in an image: the meters of metrics/measures.py, and plain sky."""

import pytest
import torch
from torch.nn import functional as F

from omgsr_lib.metrics import measures
from omgsr_lib.model import OMGSR


def test_seam_energy_by_hand():
    """A ramp across columns with a step of `h` at one border: its energy over the 15 pairs less than 8 pixels away."""
    slope, height = 0.01, 0.05
    ramp = slope * torch.arange(64, dtype=torch.float64)
    stepped = ramp + height * (torch.arange(64) >= 24).double()
    pixels = torch.stack([ramp, stepped]).expand(3, 40, 2, 64).movedim(2, 0) - 0.5
    expected = [1, (14 * slope**2 + (slope + height) ** 2) / (15 * slope**2)]
    assert measures.seam_energy(pixels, columns=[24]).tolist() == pytest.approx(expected, rel=1e-9)
    assert measures.seam_energy(pixels.mT, rows=[24]).tolist() == pytest.approx(expected, rel=1e-9)
    assert measures.seam_energy(pixels, columns=[23], width=1).tolist() == pytest.approx(
        [1, 62 / (61 + (1 + height / slope) ** 2)], rel=1e-9
    )


def test_seam_energy_takes_each_direction_for_itself():
    """Noise that is rougher along rows than along columns has no seams, wherever one looks for them."""
    noise = torch.randn(1, 1, 200, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    striped = (0.3 * noise[..., :1, :] + 0.03 * noise).expand(-1, 3, -1, -1)
    assert measures.seam_energy(noise.expand(-1, 3, -1, -1) / 4, [50, 120], [80]).item() == pytest.approx(1, abs=0.03)
    assert measures.seam_energy(striped, rows=[50, 120]).item() == pytest.approx(1, abs=0.05)


def test_seam_energy_of_one_colour():
    pixels = torch.zeros(2, 3, 40, 64)
    pixels[1, ..., 24:] = 0.1
    blank, stepped = measures.seam_energy(pixels, columns=[24]).tolist()
    assert blank == 1 and 1e6 < stepped < float("inf")


def test_seam_lines_by_hand():
    """Two lines of 8 columns, 3 levels darker than the reference; of the 97 around one 8 are its own."""
    reference = torch.rand(1, 3, 60, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    pixels = reference.clone()
    for border in (130, 270):
        pixels[..., border - 4 : border + 4] -= 3 * 2 / 255
    alone = 3 * (1 - 8 / 97)
    for found in (
        measures.seam_lines(pixels, reference, columns=[130, 270]),
        measures.seam_lines(pixels.mT, reference.mT, rows=[130, 270]),
    ):
        assert [value.item() for value in found] == pytest.approx([alone, 0], abs=1e-7)
    at, between = measures.seam_lines(pixels, reference, columns=[200, 340])  # half-way: 100, 270, 370
    assert at.item() == pytest.approx(0, abs=1e-7) and between.item() == pytest.approx(alone / 3**0.5, rel=0.01)


def test_seam_lines_see_what_the_gradient_does_not():
    """A faint grid in noise: seam_energy stays near 1."""
    noise = 0.2 * torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reference = noise.expand(-1, 3, -1, -1) / 4
    pixels = reference.clone()
    pixels[..., 124:132] -= 2 * 2 / 255
    assert measures.seam_energy(pixels, columns=[128]).item() == pytest.approx(1, abs=0.05)
    at, between = measures.seam_lines(pixels, reference, columns=[128])
    assert at.item() > 1.8 and between.item() < 0.2


def test_seam_lines_need_borders():
    with pytest.raises(ValueError, match="at least one border: got none"):
        measures.seam_lines(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64))


def test_seam_energy_needs_borders_and_a_rest():
    pixels = torch.rand(1, 3, 20, 30)
    for rows, columns in (((), ()), ([7, 14], ())):
        with pytest.raises(ValueError, match="so both must exist: got rows"):
            measures.seam_energy(pixels, rows, columns)


@torch.inference_mode()
def test_tiles_leave_no_band_in_plain_sky():
    """The UNet's zero padding is wrong by up to 0.7 levels within 8 latents of a border, where no tile may count."""
    model = OMGSR.from_pretrained("mini-s").merge()
    side = 384
    slope = torch.linspace(0, 1, side)
    start, rise = torch.tensor([90, 140, 210.0]), torch.tensor([60, 50, 25.0])
    sky = (start[:, None, None] + rise[:, None, None] * slope[:, None]).expand(3, side, side) / 127.5 - 1
    latents = model.encode(sky[None])
    tiled, whole = (model.decode(model.predict_clean(latents, tile=tile)) for tile in (64, None))
    difference = 127.5 * (tiled - whole)[0].mean(0).double()
    for profile in (difference.mean(0), difference.mean(1)):
        narrow, wide = (F.avg_pool1d(profile[None], width, stride=1)[0] for width in (17, 97))
        assert (narrow[40:-40] - wide).abs().max() < 0.15
