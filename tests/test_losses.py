"""losses/: closed forms, hand computations and where gradients go."""

import numpy as np
import pytest
import torch

from omgsr_lib.losses.adversarial import Discriminator, discriminator_loss, generator_loss
from omgsr_lib.losses.augment import _cut_out, _translate, diff_augment, shifted_views
from omgsr_lib.losses.backbones import EncoderFeatures, Pixels
from omgsr_lib.losses.chunks import overlap_chunks
from omgsr_lib.losses.heads import pixel_head
from omgsr_lib.losses.perceptual import FeatureDistance, chunked_distance, lpips_squeeze
from omgsr_lib.losses.refinement import refinement_floor, refinement_loss
from omgsr_lib.losses.views import view_mean
from omgsr_lib.priors import DDPMPrior, FlowPrior
from omgsr_lib.priors.loading import WEIGHTS, load_autoencoder
from omgsr_lib.priors.tiny import tiny_autoencoder


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=seeded(seed)) * 2 - 1


# Refinement


@pytest.mark.parametrize(("make", "timestep", "five_floors"), [
    (DDPMPrior.tiny, 195, 1.19), (DDPMPrior.tiny, 273, 1.82), (FlowPrior.tiny, 295, 1.62), (FlowPrior.tiny, 244, 1.28),
])  # fmt: skip
def test_refinement_floor_and_minimiser(make, timestep, five_floors):
    """The least expected value is sigma^2, reached at alpha z_H; any offset adds its square."""
    schedule = make().schedule
    alpha, sigma = float(schedule.alphas[timestep]), float(schedule.sigmas[timestep])
    assert refinement_floor(schedule, timestep) == pytest.approx(sigma**2)
    assert 5 * sigma**2 == pytest.approx(five_floors, abs=0.005)
    hq = torch.randn(1, 4, 400, 400, generator=seeded(0), dtype=torch.float64)
    at_minimiser = float(refinement_loss(alpha * hq, hq, schedule, timestep, generator=seeded(1)))
    assert at_minimiser == pytest.approx(sigma**2, rel=0.01)
    offset = float(refinement_loss(alpha * hq + 0.5, hq, schedule, timestep, generator=seeded(1)))
    assert offset == pytest.approx(sigma**2 + 0.25, rel=0.01)


def test_refinement_noise_is_fresh_and_seeded():
    schedule, hq = DDPMPrior.tiny().schedule, uniform(2, 4, 8, 8)
    generator = seeded(3)
    first, second = (refinement_loss(hq, hq, schedule, 273, generator=generator) for _ in range(2))
    assert first != second and first == refinement_loss(hq, hq, schedule, 273, generator=seeded(3))


def test_refinement_gradient_reaches_the_lq_latents():
    schedule, hq = FlowPrior.tiny().schedule, uniform(1, 4, 8, 8)
    lq = uniform(1, 4, 8, 8, seed=1).requires_grad_()
    refinement_loss(lq, hq, schedule, 244, generator=seeded(0)).backward()
    noise = torch.randn(hq.shape, generator=seeded(0))
    noisy = (1 - 0.50511247) * hq + 0.50511247 * noise
    torch.testing.assert_close(lq.grad, 2 * (lq.detach() - noisy) / lq.numel(), rtol=0, atol=1e-7)


# Perceptual


class TwoLevels(torch.nn.Module):
    """Pixels and their halves: features whose distance is computed by hand."""

    def forward(self, pixels):
        return [pixels, torch.nn.functional.avg_pool2d(pixels, 2) * 3]


def test_feature_distance_by_hand():
    a, b = uniform(2, 3, 4, 6), uniform(2, 3, 4, 6, seed=1)
    expected = np.zeros(2)
    for fa, fb in zip(TwoLevels()(a), TwoLevels()(b), strict=True):
        fa, fb = fa.double().numpy(), fb.double().numpy()
        fa, fb = (f / np.sqrt((f**2).sum(1, keepdims=True) + 1e-10) for f in (fa, fb))
        expected += ((fa - fb) ** 2).sum(1).mean((1, 2)) / 2
    distance = FeatureDistance(TwoLevels())
    assert distance(a, b).shape == (2, 1, 1, 1)
    np.testing.assert_allclose(distance(a, b).flatten().numpy(), expected, atol=1e-6)
    torch.testing.assert_close(distance(a, b), distance(b, a))
    assert not distance(a, a).any()


def test_autoencoder_features_and_their_gradient():
    encoder = tiny_autoencoder().encoder
    features = EncoderFeatures(encoder)
    assert features.widths() == [8, 8, 16, 16]
    a = uniform(1, 3, 32, 32).requires_grad_()
    maps = features(a)
    assert torch.equal(maps[0], encoder.down_blocks[0](encoder.conv_in(a)))
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 4]
    FeatureDistance(features)(a, uniform(1, 3, 32, 32, seed=1)).sum().backward()
    assert a.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_chunked_distance_is_the_mean_over_chunks():
    a, b = uniform(2, 3, 20, 20), uniform(2, 3, 20, 20, seed=1)
    distance = FeatureDistance(TwoLevels())
    pieces = [distance(x[None], y[None]) for x, y in zip(overlap_chunks(a, 8), overlap_chunks(b, 8), strict=True)]
    torch.testing.assert_close(chunked_distance(distance, a, b, 8), torch.stack(pieces).mean())


def test_lpips_squeeze_needs_its_backbone(tmp_path):
    with pytest.raises(FileNotFoundError, match="squeezenet1_1_fp16.safetensors' is missing. Give the weights folder"):
        lpips_squeeze(tmp_path)


def test_lpips_squeeze_equals_its_definition(reference):
    """Against the definition written out with torchvision's layers and the heads of the LPIPS release."""
    from safetensors.torch import load_file
    from torch.nn import functional as F

    model = lpips_squeeze(reference / "weights")
    weights = load_file(reference / "weights" / "squeezenet" / "squeezenet1_1_fp16.safetensors")
    heads = torch.load(reference / "weights" / "lpips" / "v0.1" / "squeeze.pth", map_location="cpu", weights_only=True)

    def conv(x, name, **options):
        return F.relu(F.conv2d(x, weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float(), **options))

    def fire(x, index):
        x = conv(x, f"features.{index}.squeeze")
        wide = conv(x, f"features.{index}.expand3x3", padding=1)
        return torch.cat([conv(x, f"features.{index}.expand1x1"), wide], 1)

    def maps(x):
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x = conv((x - shift.view(1, 3, 1, 1)) / scale.view(1, 3, 1, 1), "features.0", stride=2)
        yield x
        for fires in ((3, 4), (6, 7), (9,), (10,), (11,), (12,)):
            if fires[0] in (3, 6, 9):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            for index in fires:
                x = fire(x, index)
            yield x

    a, b = uniform(2, 3, 64, 80), uniform(2, 3, 64, 80, seed=1)
    expected = torch.zeros(2, 1, 1, 1)
    for level, (fa, fb) in enumerate(zip(maps(a), maps(b), strict=True)):
        fa, fb = (f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10) for f in (fa, fb))
        head = heads[f"lin{level}.model.1.weight"]
        expected += F.conv2d((fa - fb).square(), head).mean((2, 3), keepdim=True)
    torch.testing.assert_close(model(a, b), expected, rtol=1e-4, atol=1e-6)
    assert not model(a, a).any()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    a.requires_grad_()
    model(a, b).sum().backward()
    assert a.grad.abs().sum() > 0


# Adversarial


def bce(logits, label):
    probabilities = 1 / (1 + np.exp(-logits.double().numpy()))
    return -(label * np.log(probabilities) + (1 - label) * np.log(1 - probabilities)).mean()


def test_gan_losses_are_soft_label_cross_entropies_summed_over_levels():
    real = [torch.randn(2, 1, 4, 4, generator=seeded(0)), torch.randn(2, 1, 2, 2, generator=seeded(1))]
    fake = [torch.randn(2, 1, 4, 4, generator=seeded(2)), torch.randn(2, 1, 2, 2, generator=seeded(3))]
    answers = iter([fake, real, fake])
    features = torch.nn.Identity()
    features.forward = lambda pixels: next(answers)
    critic = Discriminator(features, [torch.nn.Identity()] * 2)
    pixels, noise = uniform(2, 3, 16, 16), seeded(4)
    expected = sum(bce(level, 0.8) for level in fake)
    assert float(generator_loss(critic, pixels, noise)) == pytest.approx(expected, rel=1e-5)
    expected = sum(bce(level, 0.8) for level in real) + sum(bce(level, 0.0) for level in fake)
    assert float(discriminator_loss(critic, pixels, pixels, noise)) == pytest.approx(expected, rel=1e-5)


def test_discriminator_trains_its_heads_only_and_chunks():
    features = EncoderFeatures(tiny_autoencoder().encoder)
    critic = Discriminator(features, features.widths(), chunk=32)
    assert {name for name, p in critic.named_parameters() if p.requires_grad} == {
        name for name, _ in critic.named_parameters() if name.startswith("heads.")
    }
    pixels = uniform(2, 3, 64, 64).requires_grad_()
    logits = critic(pixels, seeded(0))
    assert [tuple(level.shape) for level in logits] == [(8, 1, side, side) for side in (16, 8, 4, 4)]
    critic.heads.requires_grad_(False)
    generator_loss(critic, pixels, seeded(0)).backward()
    assert pixels.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in critic.parameters())


# DiffAugment


def test_augmentation_is_seeded_and_differentiable():
    pixels = uniform(2, 3, 16, 16).requires_grad_()
    first = diff_augment(pixels, seeded(0))
    assert torch.equal(first, diff_augment(pixels, seeded(0)))
    assert not torch.equal(first, diff_augment(pixels, seeded(1)))
    first.square().sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_colour_draws_cover_their_ranges():
    """A grey image of value v passes saturation and contrast unchanged: what is left is v + u - 0.5."""
    augmented = diff_augment(torch.full((2000, 3, 8, 8), 0.25), seeded(0))
    values = torch.stack([picture[picture != 0].median() for picture in augmented])
    assert float(values.min()) > -0.25 - 1e-4 and float(values.max()) < 0.75 + 1e-4
    assert float(values.mean()) == pytest.approx(0.25, abs=0.02)
    assert float(values.std()) == pytest.approx(12**-0.5, abs=0.01)


def test_saturation_and_contrast_factors():
    """One channel stands out by 1: differences between channels are scaled by 2 u_s (u_c + 0.5), mean 1."""
    pixels = torch.zeros(4000, 3, 8, 8)
    pixels[:, 0] = 1
    augmented = diff_augment(pixels, seeded(0))
    seen = (augmented[:, 0] - augmented[:, 1]).flatten(1).abs().amax(1)
    assert float(seen.max()) <= 3 + 1e-4 and float(seen.max()) > 2.7
    assert float(seen.mean()) == pytest.approx(1.0, abs=0.03)


def test_translation_reaches_an_eighth_and_fills_with_zero():
    pixels = torch.arange(1, 16 * 16 + 1, dtype=torch.float32).view(1, 1, 16, 16).expand(500, 3, 16, 16)
    moved, seen = _translate(pixels, 2, 2, seeded(0)), set()
    for picture in moved[:, 0]:
        y, x = (int(v) for v in (picture == pixels[0, 0, 8, 8]).nonzero()[0] - 8)
        rows, columns = slice(max(0, -y), 16 + min(0, -y)), slice(max(0, -x), 16 + min(0, -x))
        expected = torch.zeros(16, 16)
        expected[max(0, y) : 16 + min(0, y), max(0, x) : 16 + min(0, x)] = pixels[0, 0][rows, columns]
        assert torch.equal(picture, expected)
        seen.add((y, x))
    assert seen == {(y, x) for y in range(-2, 3) for x in range(-2, 3)}


def test_cut_out_is_half_a_side_clipped_at_the_border():
    kept = _cut_out(3000, 16, 24, seeded(0))
    heights = (~kept).any(3).sum(2).flatten()
    widths = (~kept).any(2).sum(2).flatten()
    assert torch.equal((~kept).sum((1, 2, 3)), heights * widths)
    assert int(heights.max()) == 8 and int(heights.min()) == 4  # a centre on the border leaves half of the square
    assert int(widths.max()) == 12 and int(widths.min()) == 6
    assert float((heights == 8).float().mean()) == pytest.approx(9 / 17, abs=0.03)


def test_grid_loss_sees_a_pattern_locked_to_the_tokens_and_not_texture():
    from omgsr_lib.losses.grid import grid_loss

    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(2, 3, 128, 128)
    tile = torch.randn(16, 16, generator=generator)
    pattern, texture = tile.repeat(8, 8).expand(2, 3, -1, -1), torch.randn(2, 3, 128, 128, generator=generator)
    fine = torch.zeros_like(tile)
    for rows in range(-2, 3):
        for columns in range(-2, 3):
            fine = fine - tile.roll((rows, columns), (0, 1)) / 25
    expected = (tile + fine).square().mean()  # away from the border every tile holds the same fine structure
    assert grid_loss(target + pattern, target).item() == pytest.approx(expected.item(), rel=0.05)
    assert grid_loss(target + texture, target) < 1e-3 * texture.square().mean()  # an n-th, 1 / 64, would be a bias
    signs = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    alternating = tile.repeat(8, 8) * signs.repeat_interleave(16, 0).repeat_interleave(16, 1)
    assert grid_loss(target + 10 * alternating, target) == 0  # nothing is gained by errors that cancel
    with pytest.raises(ValueError, match="two tiles of 16 pixels: got images of .16, 20"):
        grid_loss(target[..., :16, :20], target[..., :16, :20])
    assert grid_loss(target + 0.3, target) < 1e-10
    shifted = grid_loss(target + pattern.roll(3, -1), target)
    assert shifted.item() == pytest.approx(expected.item(), rel=0.05)


def test_the_mean_over_views_has_no_pattern_of_the_tokens():
    """What repeats with the period cancels over many draws; what moves with the image stays, in every one."""
    lq = torch.randn(2, 3, 32, 48, generator=seeded(0))
    pattern, noise = torch.randn(8, 8, generator=seeded(1)), seeded(2)
    pattern = pattern - pattern.mean()

    def restore(pixels):
        height, width = pixels.shape[-2:]
        return pixels + pattern.repeat(height // 8, width // 8)

    mean = 0
    for seed in range(16):
        assert torch.equal(view_mean(lambda pixels: pixels, lq, 8, seeded(seed)), lq)
    for _ in range(1000):
        mean = mean + view_mean(restore, lq, 8, noise) / 1000
    assert (mean - lq).abs().max() < 0.15 < pattern.abs().max() / 10


def test_the_mean_over_views_equals_turning_and_shifting_by_hand():
    """A model whose pattern sticks to the tokens and whose kernel knows its directions, on 20 draws."""
    kernel = torch.randn(3, 3, 5, 5, generator=seeded(0))

    def restore(pixels):
        tokens = pixels.unflatten(-1, (-1, 8)).mean(-1, keepdim=True).expand(-1, -1, -1, -1, 8).flatten(-2)
        return torch.nn.functional.conv2d(pixels, kernel, padding=2) + tokens

    lq = torch.randn(1, 3, 40, 40, generator=seeded(1))
    inside = slice(16, 24)  # out of reach of the borders
    for seed in range(20):
        noise, expected = seeded(seed), 0
        draws = [int(torch.randint(stop, (1,), generator=noise)[0]) for stop in [8] * 2 + [2] * 6]
        for shift, (rows, columns, transposed) in (0, draws[2:5]), (4, draws[5:]):
            y, x = ((side + shift) % 8 for side in draws[:2])
            axes = [2] * rows + [3] * columns
            view = lq.roll((-y, -x), (2, 3)).flip(axes)
            image = restore(view.mT).mT if transposed else restore(view)
            expected = expected + image.flip(axes).roll((y, x), (2, 3))[..., inside, inside] / 2
        torch.testing.assert_close(view_mean(restore, lq, 8, seeded(seed))[..., inside, inside], expected)


@pytest.mark.parametrize("period", [0, 7, 32])
def test_a_period_of_shifts_is_even_and_below_the_sides(period):
    with pytest.raises(ValueError, match=f"must be even and below the sides: got {period} for 32x48"):
        view_mean(lambda pixels: pixels, torch.zeros(1, 3, 32, 48), period, seeded(0))


def test_views_are_cut_alike_from_every_corner():
    """Two images that are equal stay equal; each of the 4 x 4 corners, both mirrors and both axes turn up."""
    picture = torch.arange(20 * 24, dtype=torch.float32).reshape(1, 1, 20, 24).expand(2, 3, -1, -1)
    corners, seen = set(), set()
    for seed in range(300):
        first, second = shifted_views([picture, picture + 1], 4, torch.Generator().manual_seed(seed))
        assert torch.equal(second, first + 1)
        transposed = first.shape[-2:] == (20, 16)
        view = first.transpose(-1, -2) if transposed else first
        mirrored = bool(view[0, 0, 0, 0] > view[0, 0, 0, 1])
        view = view.flip(-1) if mirrored else view
        corner = divmod(int(view[0, 0, 0, 0]), 24)
        assert torch.equal(view, picture[..., corner[0] : corner[0] + 16, corner[1] : corner[1] + 20])
        corners.add(corner)
        seen.add((transposed, mirrored))
    assert corners == {(row, column) for row in range(4) for column in range(4)} and len(seen) == 4


def test_a_discriminator_of_pixels_sees_forty_of_them():
    torch.manual_seed(0)
    head = Discriminator(Pixels(), [pixel_head()]).heads[0].eval()
    pixels = torch.randn(1, 3, 96, 96, requires_grad=True)
    logits = head(pixels)
    assert logits.shape == (1, 1, 12, 12)
    logits[0, 0, 6, 6].backward()
    touched = pixels.grad[0].abs().sum(0) > 0
    assert int(touched.any(0).sum()) == int(touched.any(1).sum()) == 40


def test_features_of_the_mini_autoencoder_which_unshuffles_first():
    vae = load_autoencoder(WEIGHTS / "mini-autoencoder")
    features = EncoderFeatures(vae.encoder)
    maps = features(torch.zeros(1, 3, 32, 32))
    assert features.widths() == [feature.shape[1] for feature in maps] and maps[-1].shape[-1] == 8
