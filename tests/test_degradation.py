"""The degradation: kernels against closed forms, each step against a direct computation, draws against their odds."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from scipy.stats import poisson

from omgsr_lib.data import degradation
from omgsr_lib.data.degradation import Degradation, degrade, gaussian_noise, poisson_noise, recipe, resize
from omgsr_lib.data.kernels import filter2d, gaussian_kernel, plateau_kernel, sinc_kernel
from omgsr_lib.data.photos import open_photo, packaged_photos, to_pixels


@pytest.fixture(scope="module")
def photo():
    return to_pixels(open_photo(packaged_photos("eval")[0]))[:, 100:228, 150:310]  # (3, 128, 160)


@pytest.fixture(scope="module")
def recipes():
    """3000 chains for 512 pixels."""
    return [recipe(Degradation(), 512, 512, np.random.default_rng([1, i])) for i in range(3000)]


def steps_named(chain, function):
    return [step for step in chain if step.func is function]


# ---- kernels ----


def test_isotropic_gaussian_is_the_product_of_two_one_dimensional_ones():
    axis = np.exp(-0.5 * (np.arange(-7, 8) / 1.7) ** 2)
    axis /= axis.sum()
    np.testing.assert_allclose(gaussian_kernel(15, 1.7), np.outer(axis, axis), atol=1e-15)


def test_anisotropic_kernels_follow_the_covariance_matrix():
    """Pixel by pixel from the inverse of U diag(sx^2, sy^2) U^T, x being the column."""
    sx, sy, theta, beta = 2.6, 0.9, 0.6, 1.7
    u = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    inverse = np.linalg.inv(u @ np.diag([sx**2, sy**2]) @ u.T)
    d = np.array([[np.array([x, y]) @ inverse @ [x, y] for x in range(-5, 6)] for y in range(-5, 6)])
    for kernel, expected in (
        (gaussian_kernel(11, sx, sy, theta), np.exp(-d / 2)),
        (gaussian_kernel(11, sx, sy, theta, beta=beta), np.exp(-(d**beta) / 2)),
        (plateau_kernel(11, sx, sy, theta, beta=beta), 1 / (1 + d**beta)),
    ):
        np.testing.assert_allclose(kernel, expected / expected.sum(), rtol=1e-12)


def test_a_wide_enough_gaussian_has_the_asked_covariance():
    kernel = gaussian_kernel(41, 3.0, 1.5, math.pi / 3).numpy()
    y, x = np.mgrid[-20:21, -20:21]
    c, s = 0.5, math.sqrt(3) / 2
    expected = [[9 * c * c + 2.25 * s * s, (9 - 2.25) * c * s], [(9 - 2.25) * c * s, 9 * s * s + 2.25 * c * c]]
    moments = [[(kernel * a * b).sum() for b in (x, y)] for a in (x, y)]
    np.testing.assert_allclose(moments, expected, atol=1e-8)


def test_sinc_kernel_equals_its_formula():
    """With the Bessel function from its integral, the mean of cos(angle - x sin(angle)) over the circle."""
    cutoff, angle = 1.9, np.linspace(0, 2 * np.pi, 200, endpoint=False)
    expected = np.empty((13, 13))
    for i in range(13):
        for j in range(13):
            r = math.hypot(i - 6, j - 6)
            bessel = np.cos(angle - cutoff * r * np.sin(angle)).mean()
            expected[i, j] = cutoff * bessel / (2 * math.pi * r) if r else cutoff**2 / (4 * math.pi)
    np.testing.assert_allclose(sinc_kernel(13, cutoff), expected / expected.sum(), atol=1e-14)


def test_a_sinc_passes_low_frequencies_and_stops_high_ones():
    response = torch.fft.fft2(sinc_kernel(101, math.pi / 2)).abs()  # index k is the frequency 2 pi k / 101
    assert response[0, 5:20].sub(1).abs().max() < 0.05
    assert response[0, 32:50].abs().max() < 0.05


def test_kernels_sum_to_one_and_are_symmetric():
    for kernel in (gaussian_kernel(9, 0.2, 3, 1.0, beta=0.5), plateau_kernel(21, 3, beta=2), sinc_kernel(7, math.pi)):
        assert float(kernel.sum()) == pytest.approx(1, abs=1e-14)
        torch.testing.assert_close(kernel, kernel.flip(0, 1))


@pytest.mark.parametrize("size", [0, 8, -3])
def test_even_kernels_are_refused(size):
    with pytest.raises(ValueError, match="odd side"):
        gaussian_kernel(size, 1.0)


# ---- filter and resize ----


@pytest.mark.parametrize("shape, size", [((40, 33), 7), ((64, 50), 21), ((16, 30), 41), ((1, 5), 7), ((2, 2), 21)])
def test_filter_equals_scipy_with_mirrored_borders(shape, size):
    rng = np.random.default_rng(0)
    image, kernel = rng.random((3, *shape)), rng.random((size, size))
    kernel /= kernel.sum()
    expected = np.stack([correlate(channel, kernel, mode="mirror") for channel in image])
    got = filter2d(torch.from_numpy(image), torch.from_numpy(kernel))
    np.testing.assert_allclose(got, expected, atol=1e-12)
    got = filter2d(torch.from_numpy(image).float(), torch.from_numpy(kernel))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_trimmed_kernel_equals_the_zero_padded_one(photo):
    kernel = gaussian_kernel(9, 2.5, 0.7, 0.4)
    padded = torch.nn.functional.pad(kernel, (6, 6, 6, 6))  # 21x21, as BasicSR stores all of them
    image = (photo + 1) / 2
    assert (filter2d(image, kernel) - filter2d(image, padded)).abs().max() < 1e-6


def test_area_resize_to_a_quarter_is_the_block_mean(photo):
    expected = photo.unflatten(2, (40, 4)).unflatten(1, (32, 4)).mean((2, 4))
    torch.testing.assert_close(resize(photo, size=(32, 40), mode="area"), expected)


# ---- noise ----


@pytest.mark.parametrize("grey", [False, True])
def test_gaussian_noise_has_the_asked_deviation(grey):
    image = torch.full((3, 300, 300), 0.5)
    noise = gaussian_noise(image, sigma=10.0, grey=grey, rng=np.random.default_rng(0)) - image
    assert float(noise.std()) == pytest.approx(10 / 255, rel=0.01)
    assert float((noise[0] - noise[1]).std()) == pytest.approx(0 if grey else math.sqrt(2) * 10 / 255, rel=0.01)


def test_poisson_noise_has_the_variance_of_its_rate():
    """Three 8-bit values make 4 photons of white, so the added noise has variance scale^2 * value / 4."""
    image = torch.tensor([51, 102, 153]).div(255).view(3, 1, 1).expand(3, 400, 400)
    scale = 0.2  # small enough for the clamp at 0 and 1 to be rare
    noise = poisson_noise(image, scale=scale, grey=False, rng=np.random.default_rng(0)) - image
    expected = scale**2 * image[:, 0, 0] / 4
    torch.testing.assert_close(noise.var((1, 2)), expected, rtol=0.03, atol=0)


def test_grey_poisson_noise_is_that_of_the_luma():
    image = torch.tensor([0.6, 0.5, 0.4]).view(3, 1, 1).expand(3, 300, 300)
    noise = poisson_noise(image, scale=0.02, grey=True, rng=np.random.default_rng(0)) - image
    torch.testing.assert_close(noise[0], noise[2])
    luma = round((0.2989 * 0.6 + 0.587 * 0.5 + 0.114 * 0.4) * 255) / 255
    expected = poisson.ppf(np.random.default_rng(0).random((300, 300)), luma)  # one value, so white is one photon
    np.testing.assert_allclose(noise[1], 0.02 * (expected - luma), atol=1e-6)


def test_poisson_noise_is_the_inverse_of_the_distribution_function(photo):
    """Against scipy.stats; and a pixel that changes by one level changes no other pixel's noise."""
    levels = ((photo + 1) * 127.5).round()
    white = 2 ** math.ceil(math.log2(len(levels.unique())))
    photons = poisson.ppf(np.random.default_rng(0).random(photo.shape), levels.double() / 255 * white)
    expected = (levels / 255 + 0.3 * (torch.from_numpy(photons) / white - levels / 255)).clamp(0, 1)
    got = poisson_noise(levels / 255, scale=0.3, grey=False, rng=np.random.default_rng(0))
    torch.testing.assert_close(got.double(), expected, atol=1e-6, rtol=0)
    levels[1, 60, 60] += 1
    other = poisson_noise(levels / 255, scale=0.3, grey=False, rng=np.random.default_rng(0))
    assert (got != other).nonzero().tolist() == [[1, 60, 60]]


def test_noise_is_clamped(photo):
    for noisy in (
        gaussian_noise((photo + 1) / 2, sigma=200.0, grey=False, rng=np.random.default_rng(0)),
        poisson_noise((photo + 1) / 2, scale=20.0, grey=False, rng=np.random.default_rng(0)),
    ):
        assert float(noisy.min()) == 0 and float(noisy.max()) == 1


# ---- draws ----


def near(share, odds, draws):
    """Within four standard deviations of a binomial share."""
    return share == pytest.approx(odds, abs=4 * math.sqrt(odds * (1 - odds) / draws))


def test_kernel_mixture():
    rng = np.random.default_rng(0)
    drawn = [degradation.draw_kernel(Degradation(), (0.2, 3.0), rng) for _ in range(20_000)]
    size = Counter(kernel.args[0] for kernel in drawn)
    assert sorted(size) == [7, 9, 11, 13, 15, 17, 19, 21]
    assert all(near(n / 20_000, 1 / 8, 20_000) for n in size.values())

    sinc = [kernel for kernel in drawn if kernel.func is sinc_kernel]
    assert near(len(sinc) / 20_000, 0.1, 20_000)
    for small, lowest in ((True, math.pi / 3), (False, math.pi / 5)):
        cutoffs = [k.args[1] for k in sinc if (k.args[0] < 13) == small]
        assert lowest <= min(cutoffs) < lowest + 0.05 and math.pi - 0.05 < max(cutoffs) <= math.pi

    bells = [kernel for kernel in drawn if kernel.func is not sinc_kernel]
    families = Counter((k.func.__name__, "beta" in k.keywords, "theta" in k.keywords) for k in bells)
    odds = {
        ("gaussian_kernel", False, False): 0.45,
        ("gaussian_kernel", False, True): 0.25,
        ("gaussian_kernel", True, False): 0.12,
        ("gaussian_kernel", True, True): 0.03,
        ("plateau_kernel", True, False): 0.12,
        ("plateau_kernel", True, True): 0.03,
    }
    assert families.keys() == odds.keys()
    assert all(near(families[family] / len(bells), odds[family], len(bells)) for family in odds)

    for name, lowest, highest in (("sigma_x", 0.2, 3), ("sigma_y", 0.2, 3), ("theta", -math.pi, math.pi)):
        values = [k.keywords[name] for k in bells if name in k.keywords]
        tolerance = (highest - lowest) / 50
        assert lowest <= min(values) < lowest + tolerance and highest - tolerance < max(values) <= highest
        assert np.mean(values) == pytest.approx((lowest + highest) / 2, abs=tolerance)

    beta = np.array([k.keywords["beta"] for k in bells if k.func is gaussian_kernel and "beta" in k.keywords])
    assert near(np.mean(beta < 1), 0.5, len(beta))
    assert 0.5 <= min(beta) < 0.52 and 3.9 < max(beta) <= 4
    beta = np.array([k.keywords["beta"] for k in bells if k.func is plateau_kernel])
    assert near(np.mean(beta == 1), 0.5, len(beta))
    assert 1.95 < max(beta) <= 2


def test_the_chain_has_the_published_odds(recipes):
    n = len(recipes)
    names = [[step.func.__name__ for step in chain] for chain in recipes]
    assert all(chain[0] == "blur" and chain[-1] == "resize" and chain.count("jpeg") == 2 for chain in names)
    assert all(sum("noise" in name for name in chain) == 2 for chain in names)

    assert near(np.mean([chain[1] != "resize" for chain in names]), 0.1, n)  # size kept in the first order
    assert near(np.mean([chain[chain.index("jpeg") + 1] == "blur" for chain in names]), 0.5, n)  # second blur
    assert near(np.mean([chain[-2] == "jpeg" for chain in names]), 0.5, n)  # JPEG after the resize to LQ

    final = [[s for s in chain[-3:-1] if s.func is degradation.blur] for chain in recipes]
    assert near(np.mean([len(f) for f in final]), 0.8, n)
    cutoffs = [f[0].keywords["kernel"].args[1] for f in final if f]
    assert math.pi / 3 <= min(cutoffs) < math.pi / 3 + 0.02

    noise = [step for chain in recipes for step in chain if "noise" in step.func.__name__]
    assert near(np.mean([step.func is gaussian_noise for step in noise]), 0.5, 2 * n)
    assert near(np.mean([step.keywords["grey"] for step in noise]), 0.4, 2 * n)
    modes = Counter(step.keywords["mode"] for chain in recipes for step in steps_named(chain, resize))
    assert all(near(modes[mode] / modes.total(), 1 / 3, modes.total()) for mode in ("area", "bilinear", "bicubic"))


def test_the_chain_stays_in_the_published_ranges(recipes):
    def extremes(values):
        return np.array([min(values), max(values)])

    noise = [[step for step in chain if "noise" in step.func.__name__] for chain in recipes]
    jpegs = [steps_named(chain, degradation.jpeg) for chain in recipes]
    for order, (sigma, shot, quality) in enumerate((((1, 15), (0.05, 2), (60, 95)), ((1, 12), (0.05, 1), (60, 100)))):
        drawn = [n[order].keywords for n in noise]
        for values, (lowest, highest) in (
            ([d["sigma"] for d in drawn if "sigma" in d], sigma),
            ([d["scale"] for d in drawn if "scale" in d], shot),
            ([j[order].keywords["quality"] for j in jpegs], quality),
        ):
            slack = (highest - lowest) / 100
            assert lowest <= min(values) < lowest + slack and highest - slack < max(values) <= highest

    factors = np.array([chain[1].keywords["scale_factor"] for chain in recipes if chain[1].func is resize])
    assert np.abs(extremes(factors) - (0.3, 1.5)).max() < 0.01
    assert near(np.mean(factors > 1), 2 / 9, len(factors))

    resizes = [[s.keywords["size"] for s in steps_named(chain, resize) if "size" in s.keywords] for chain in recipes]
    second, to_lq, back = map(np.array, zip(*resizes, strict=True))
    assert (to_lq == 128).all() and (back == 512).all()
    assert second.min() == pytest.approx(0.6 * 128, abs=1) and second.max() == pytest.approx(1.2 * 128, abs=1)
    assert near(
        np.mean(second[:, 0] == 128), 0.3 + 0.3 / (0.2 * 128), len(second)
    )  # kept, or enlarged by under a pixel


def test_the_two_columns():
    small, large = Degradation.for_size(512), Degradation.for_size(1024)
    assert (small.scale, small.kernel_sizes, small.sinc_switch) == (4, (7, 9, 11, 13, 15, 17, 19, 21), 13)
    assert (large.scale, large.kernel_sizes[0], large.kernel_sizes[-1], large.sinc_switch) == (8, 11, 41, 25)
    assert sum(small.isotropic + small.anisotropic) == pytest.approx(1)
    assert dataclasses.replace(large, scale=4, kernel_sizes=small.kernel_sizes, sinc_switch=13) == small
    with pytest.raises(ValueError, match="512 and 1024"):
        Degradation.for_size(128)


# ---- the whole ----


def test_the_same_seed_and_index_give_the_same_bytes_whatever_the_global_state(photo):
    first = [degrade(photo, seed=3, index=i) for i in range(3)]
    torch.manual_seed(99)
    np.random.seed(99)
    again = [degrade(photo, seed=3, index=i) for i in range(3)]
    assert all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(first, again, strict=True))
    others = [first[1], first[2], degrade(photo, seed=4, index=0)]
    assert all((first[0] - other).abs().mean() > 0.005 for other in others)


def test_degrade_is_its_recipe(photo):
    rng = np.random.default_rng([5, 8])
    image = (photo + 1) / 2
    for step in recipe(Degradation(), 128, 160, rng):
        image = step(image)
    expected = (image.clamp(0, 1) * 255).round() / 255 * 2 - 1
    torch.testing.assert_close(degrade(photo, seed=5, index=8), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("height, width", [(128, 160), (97, 61), (16, 16), (16, 47)])
@pytest.mark.parametrize("scale", [None, 2, 8])
def test_sizes_and_the_8_bit_grid(photo, height, width, scale):
    hq = photo[:, :height, :width]
    for index in range(4):
        lq = degrade(hq, seed=0, index=index, scale=scale)
        small = degrade(hq, seed=0, index=index, scale=scale, upscale=False)
        assert lq.shape == hq.shape and small.shape == (3, height // (scale or 4), width // (scale or 4))
        for picture in (lq, small):
            levels = (picture.double() + 1) * 127.5
            assert (levels - levels.round()).abs().max() < 1e-4
            assert levels.min() > -1e-4 and levels.max() < 255 + 1e-4 and picture.dtype == torch.float32


def test_the_small_picture_is_the_large_one_before_the_last_resize(photo):
    for index in range(6):
        last = recipe(Degradation(), 128, 160, np.random.default_rng([0, index]))[-1]
        small = degrade(photo, seed=0, index=index, upscale=False)
        difference = last(small) - degrade(photo, seed=0, index=index)
        assert difference.abs().mean() < 1.5 / 255  # rounding of the small picture, and of the large one
        assert difference.abs().max() < 6 / 127.5 or last.keywords["mode"] == "bicubic"


def test_the_degradation_loses_detail_but_keeps_the_picture(photo):
    """Mean colour stays, PSNR lies where x4 Real-ESRGAN pairs of detailed crops lie."""
    lqs = [degrade(photo, seed=0, index=index) for index in range(24)]
    psnr = [-10 * math.log10(float((lq - photo).square().mean() / 4)) for lq in lqs]
    assert 17 < np.mean(psnr) < 25
    assert max(float((lq.mean((1, 2)) - photo.mean((1, 2))).abs().max()) for lq in lqs) < 0.08


@pytest.mark.parametrize(
    "hq, options, message",
    [
        (torch.zeros(1, 32, 32), {}, r"float tensor \(3, H, W\)"),
        (torch.zeros(2, 3, 32, 32), {}, r"float tensor \(3, H, W\)"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), {}, "torch.uint8"),
        (torch.zeros(3, 15, 32), {}, "at least 16 pixels.*got 32x15"),
        (torch.zeros(3, 32, 32), {"scale": 32}, "at least 64 pixels"),
        (torch.zeros(3, 32, 32), {"scale": 0}, "positive integer"),
        (torch.full((3, 32, 32), 255.0), {}, r"\[-1, 1\], got 255 to 255"),
        (torch.full((3, 32, 32), math.nan), {}, r"\[-1, 1\], got nan"),
    ],
)
def test_wrong_input(hq, options, message):
    with pytest.raises(ValueError, match=message):
        degrade(hq, seed=0, index=0, **options)
