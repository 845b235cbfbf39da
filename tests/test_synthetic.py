"""Synthetic images: spectra, radii and coverage measured on what is drawn."""

import numpy as np
import pytest
import torch

from omgsr_lib.data.synthetic import AXES, dead_leaves, one_over_f, scatter_leaves, synthetic_pictures


def spectral_slope(picture):
    """Exponent a of power = c / f^a: a least-squares line through log mean power in rings, DC and corners left out."""
    size = picture.shape[-1]
    power = np.abs(np.fft.fft2(picture.double().numpy())) ** 2
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)) * size
    inside = (radius >= 2) & (radius < size / 2)
    ring = np.round(radius[inside]).astype(int)
    mean = np.bincount(ring, power.mean(0)[inside])[2:] / np.bincount(ring)[2:]
    frequency = np.bincount(ring, radius[inside])[2:] / np.bincount(ring)[2:]
    weights = np.sqrt(np.bincount(ring)[2:])  # a ring of n values has relative error 1 / sqrt(n)
    return -np.polyfit(np.log(frequency), np.log(mean), 1, w=weights)[0]


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("size", [128, 201])
def test_one_over_f_has_the_asked_spectrum(exponent, size):
    slopes = [spectral_slope(one_over_f(size, seed=0, index=i, exponent=exponent)) for i in range(4)]
    assert np.mean(slopes) == pytest.approx(exponent, abs=0.05)


def test_one_over_f_colours_vary_mostly_in_brightness():
    """Ten to three to one in standard deviation along the three axes, which are orthonormal."""
    np.testing.assert_allclose(AXES @ AXES.T, np.eye(3), atol=1e-15)
    picture = one_over_f(128, seed=0, index=0).double().flatten(1).numpy()
    brightness, *opponent = (AXES @ picture).std(1)
    np.testing.assert_allclose(np.array(opponent) / brightness, [0.3, 0.1], rtol=1e-5)
    assert np.corrcoef(picture)[0, 1] > 0.8


def test_one_over_f_is_not_clipped():
    for index in range(20):
        picture = one_over_f(64, seed=2, index=index)
        assert (picture.abs() == picture.abs().max()).sum() == 1 and picture.abs().max() <= 1


def test_radii_follow_an_inverse_cube():
    """P(radius > r) = (r^-2 - largest^-2) / (smallest^-2 - largest^-2), by the Kolmogorov-Smirnov distance."""
    smallest, largest = 4.0, 120.0
    radii = np.sort(
        np.concatenate(
            [
                scatter_leaves(256, np.random.default_rng(i), smallest=smallest, largest=largest).radius[:-1]
                for i in range(3)
            ]
        )
    )
    assert smallest <= radii[0] and radii[-1] <= largest
    tail = (radii**-2 - largest**-2) / (smallest**-2 - largest**-2)
    steps = np.arange(len(radii)) / len(radii)
    assert len(radii) > 3000 and np.abs(1 - tail - steps).max() < 1.63 / np.sqrt(len(radii))  # 1 % level


def test_every_pixel_shows_a_leaf_that_reaches_it_and_the_backdrop_is_rarely_seen():
    for i in range(3):
        label, centre, radius = scatter_leaves(200, np.random.default_rng(i), smallest=5, largest=80)
        assert label.min() >= 0 and label.max() < len(radius)
        assert (label == len(radius) - 1).mean() < 0.02
        rows, columns = np.mgrid[:200, :200]
        distance = np.hypot(rows - centre[label, 0], columns - centre[label, 1]) / radius[label]
        assert distance[label < len(radius) - 1].max() <= np.sqrt(2)  # the corner of a box


def test_leaves_in_front_hide_those_behind():
    """A leaf's visible share falls with its place: the first is whole, the late ones are nearly gone."""
    label, _, radius = scatter_leaves(256, np.random.default_rng(0), smallest=6, largest=60)
    visible = np.bincount(label.ravel(), minlength=len(radius))[:-1] / (np.pi * radius[:-1] ** 2)
    third = len(visible) // 3
    assert visible[:third].mean() > 5 * visible[-third:].mean() > 0


def test_dead_leaves_have_edges_and_a_photograph_like_spectrum():
    """Exponent between that of objects of all sizes (2) and that of a single edge (3), as measured on photographs;
    differences of neighbours far more heavy-tailed than a Gaussian field's (kurtosis 3)."""
    pictures = [dead_leaves(128, seed=0, index=i) for i in range(6)]
    assert 2 < np.mean([spectral_slope(p) for p in pictures]) < 3

    def kurtosis(picture):
        step = picture.mean(0).diff(dim=-1).double()
        return float(step.pow(4).mean() / step.square().mean() ** 2)

    assert min(map(kurtosis, pictures)) > 6
    assert kurtosis(one_over_f(128, seed=0, index=0)) == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize("draw", [dead_leaves, one_over_f])
def test_pictures_depend_on_seed_and_index_alone(draw):
    first = draw(48, seed=1, index=2)
    np.random.seed(0)
    assert first.numpy().tobytes() == draw(48, seed=1, index=2).numpy().tobytes()
    assert (first - draw(48, seed=1, index=3)).abs().mean() > 0.05
    assert (first - draw(48, seed=2, index=2)).abs().mean() > 0.05
    assert first.shape == (3, 48, 48) and first.dtype == torch.float32 and first.abs().max() <= 1


def test_synthetic_pictures_extend_one_another():
    many = synthetic_pictures(5, 32, seed=7)
    assert torch.equal(many[:2], synthetic_pictures(2, 32, seed=7))
    assert torch.equal(many[4], dead_leaves(32, seed=7, index=4))
    assert synthetic_pictures(0, 32, seed=7).shape == (0, 3, 32, 32)
    exponent = spectral_slope(synthetic_pictures(4, 128, seed=7)[3])
    assert 1.4 < exponent < 3.1


def test_too_small():
    with pytest.raises(ValueError, match="at least 16 pixels, got 15"):
        dead_leaves(15, seed=0, index=0)
