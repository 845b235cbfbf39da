"""The degradation: each step against a direct computation, draws against their odds."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import poisson

from omgsr_lib.data import degradation
from omgsr_lib.data.degradation import (
    Degradation,
    degrade,
    draw_chain,
    gaussian_noise,
    poisson_noise,
    random_dial,
    resize,
)
from omgsr_lib.data.kernels import gaussian_kernel, plateau_kernel, sinc_kernel
from omgsr_lib.data.photos import open_photo, packaged_photos, to_pixels


RANGES = ("sigma", "factor", "gaussian", "poisson", "jpeg")


@pytest.fixture(scope="module")
def photo():
    return to_pixels(open_photo(packaged_photos("eval")[0]))[:, 100:228, 150:310]  # (3, 128, 160)


@pytest.fixture(scope="module")
def recipes():
    """3000 chains for 512 pixels."""
    return [draw_chain(Degradation(), 512, 512, np.random.default_rng([1, i])) for i in range(3000)]


def steps_named(chain, function):
    return [step for step in chain if step.func is function]


def psnr(first, second):
    """Of images in [-1, 1]."""
    return -10 * math.log10(float((first - second).square().mean() / 4))


# ---- resize ----


def test_area_resize_to_a_quarter_is_the_block_mean(photo):
    expected = photo.unflatten(2, (40, 4)).unflatten(1, (32, 4)).mean((2, 4))
    torch.testing.assert_close(resize(photo, size=(32, 40), mode="area"), expected)


def plain_weights(length, out, step, mode):
    """What each of `out` pixels takes from each of `length` pixels, `step` input pixels apart, `(out, length)`."""
    weights = np.zeros((out, length))
    for i in range(out):
        if mode == "area":  # all pixels that the cell touches, alike
            first, stop = math.floor(i * length / out), math.ceil((i + 1) * length / out)
            weights[i, first:stop] = 1 / (stop - first)
            continue
        centre = (i + 0.5) * step - 0.5
        centre = max(centre, 0) if mode == "bilinear" else centre
        for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
            x = abs(centre - tap)
            if mode == "bilinear":
                weight = max(0, 1 - x)
            else:  # Keys' cubic with a = -3/4
                inner, outer = 1.25 * x**3 - 2.25 * x**2 + 1, -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
                weight = inner if x <= 1 else outer if x < 2 else 0
            weights[i, min(max(tap, 0), length - 1)] += weight
    return weights


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize(
    "how", [{"size": (50, 201)}, {"size": (16, 20)}, {"scale_factor": 1.37}, {"scale_factor": 0.31}]
)
def test_resize_equals_its_weights_pixel_by_pixel(photo, mode, how):
    """A given factor sets the distance of the samples, though the size is rounded down."""
    got, expected = resize(photo, mode=mode, **how), photo.double().numpy()
    for axis in (1, 2):
        factor = how.get("scale_factor") or how["size"][axis - 1] / photo.shape[axis]
        out = int(photo.shape[axis] * factor)
        weights = plain_weights(photo.shape[axis], out, 1 / factor, mode)
        expected = np.moveaxis(np.tensordot(weights, expected, (1, axis)), 0, axis)
    np.testing.assert_allclose(got, expected, atol=3e-5)  # coordinates in float32


# ---- noise ----


@pytest.mark.parametrize("grey", [False, True])
def test_gaussian_noise_is_the_generators_normal_numbers(photo, grey):
    image = (photo + 1) / 2
    normal = np.random.default_rng(7).standard_normal((1 if grey else 3, 128, 160), dtype=np.float32)
    got = gaussian_noise(image, sigma=12.5, grey=grey, rng=np.random.default_rng(7))
    np.testing.assert_allclose(got, np.clip(image.double().numpy() + 12.5 / 255 * normal, 0, 1), atol=1e-6)


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


def test_steps_leave_their_picture_alone(photo):
    image = (photo[:, :32, :32] + 1) / 2
    before = image.clone()
    for seed in range(8):
        for step in draw_chain(Degradation(), 32, 32, np.random.default_rng(seed)):
            step(image)
            assert torch.equal(image, before)


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


def test_degrade_is_its_chain(photo):
    rng = np.random.default_rng([5, 8])
    image = (photo + 1) / 2
    for step in draw_chain(Degradation(), 128, 160, rng):
        image = step(image)
    expected = (image.clamp(0, 1) * 255).round() / 255 * 2 - 1
    torch.testing.assert_close(degrade(photo, seed=5, index=8), expected, atol=1e-6, rtol=0)


def test_the_number_of_threads_changes_no_bit(photo):
    one = [degrade(photo, seed=2, index=index) for index in range(12)]
    torch.set_num_threads(3)
    try:
        three = [degrade(photo, seed=2, index=index) for index in range(12)]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert all(map(torch.equal, one, three))


def test_the_memory_layout_changes_no_bit(photo):
    strided = photo.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for index in range(6):
        assert torch.equal(degrade(photo, seed=2, index=index), degrade(strided, seed=2, index=index))


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
        last = draw_chain(Degradation(), 128, 160, np.random.default_rng([0, index]))[-1]
        small = degrade(photo, seed=0, index=index, upscale=False)
        difference = last(small) - degrade(photo, seed=0, index=index)
        assert difference.abs().mean() < 1.5 / 255  # rounding of the small image, and of the large one
        assert difference.abs().max() < 6 / 127.5 or last.keywords["mode"] == "bicubic"


def test_strengths_part_every_range_in_thirds():
    full = Degradation()
    levels = [Degradation.of_strength(strength) for strength in ("mild", "medium", "extreme")]
    for name in ("first", "second"):
        whole, orders = getattr(full, name), [getattr(level, name) for level in levels]
        for field in ("sigma", "gaussian", "poisson", "jpeg"):
            ranges = [getattr(order, field) for order in orders]
            ranges = ranges[::-1] if field == "jpeg" else ranges
            edges = [ranges[0][0], *(high for _, high in ranges)]
            np.testing.assert_allclose(edges, np.linspace(*getattr(whole, field), 4), rtol=1e-12)
            assert [low for low, _ in ranges] == pytest.approx(edges[:-1])
        smallest = [order.factor[0] for order in orders]
        np.testing.assert_allclose(smallest, np.linspace(1, whole.factor[0], 4)[1:], rtol=1e-12)
        for order in orders:
            assert dataclasses.replace(order, **{f: getattr(whole, f) for f in RANGES}) == whole
    assert {dataclasses.replace(level, first=full.first, second=full.second) for level in levels} == {full}
    with pytest.raises(ValueError, match="one of mild, medium, extreme: got 'severe'"):
        Degradation.of_strength("severe")


def test_a_stronger_degradation_is_the_same_chain_farther_along_and_loses_more(photo):
    levels = [Degradation.of_strength(strength) for strength in ("mild", "medium", "extreme")]
    for index in range(50):
        chains = [draw_chain(level, 128, 160, np.random.default_rng([4, index])) for level in levels]
        assert len({tuple(step.func for step in chain) for chain in chains}) == 1
        for steps in zip(*chains, strict=True):
            drawn = [step.keywords.get("sigma") or step.keywords.get("quality") or 0 for step in steps]
            assert drawn == sorted(drawn, reverse="quality" in steps[0].keywords)
    quality = [np.mean([psnr(photo, degrade(photo, seed=4, index=i, settings=s)) for i in range(8)]) for s in levels]
    assert quality[0] > quality[1] + 0.2 and quality[1] > quality[2] + 0.2


def test_the_dial_goes_from_nearly_nothing_to_far_beyond_the_published_chain(photo):
    mild, published, extreme = (Degradation.dial(strength) for strength in (0, 0.5, 1))
    assert (mild.scale, published.scale, extreme.scale) == (1, 4, 6)
    assert mild.first.sigma == pytest.approx((0.2, 0.2 + 2.8 / 6)) and extreme.second.jpeg[0] == 60
    settings = [Degradation.dial(strength) for strength in np.linspace(0, 1, 5)]
    quality = [np.mean([psnr(photo, degrade(photo, seed=4, index=i, settings=s)) for i in range(8)]) for s in settings]
    assert quality == sorted(quality, reverse=True) and quality[0] > quality[-1] + 4
    drawn = [random_dial(index, seed=3).scale for index in range(200)]
    assert set(drawn) == {1, 2, 3, 4, 5, 6} and drawn == [random_dial(index, seed=3).scale for index in range(200)]
    with pytest.raises(ValueError, match="between 0 and 1: got 1.1"):
        Degradation.dial(1.1)


def test_the_degradation_loses_detail_but_keeps_the_picture(photo):
    """Mean colour stays, PSNR lies where x4 Real-ESRGAN pairs of detailed crops lie."""
    lqs = [degrade(photo, seed=0, index=index) for index in range(24)]
    assert 17 < np.mean([psnr(lq, photo) for lq in lqs]) < 25
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
