"""Each distance of the latent gap against a case with a known answer, and the frame they are put in."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from omgsr_lib import gap
from omgsr_lib.gap import gap_minimum, latent_gap
from omgsr_lib.midstep import historic_mid_timestep, snr_mid_timestep
from omgsr_lib.schedules import NoiseSchedule


DDPM = NoiseSchedule.from_scheduler(DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"))
FLOW = NoiseSchedule.from_scheduler(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def pairs():
    hq = randn(6, 5, 8, 8)
    return 0.7 * hq + 0.8 * randn(6, 5, 8, 8, seed=1), hq


def value(frame, distance, timestep):
    row = frame[(frame["distance"] == distance) & (frame["timestep"] == timestep)]
    return row["value"].item()


def test_sliced_wasserstein_of_a_shift():
    latents, shift = randn(10, 6, 8, 8), randn(6, seed=1)
    directions = gap.random_directions(6, 40, torch.Generator().manual_seed(2))
    expected = math.sqrt(float((shift @ directions).square().mean()))
    found = gap.sliced_wasserstein(latents + shift.view(-1, 1, 1), latents, directions)
    assert found == pytest.approx(expected, rel=1e-5)
    assert gap.sliced_wasserstein(latents, latents, directions) == 0


def test_sliced_wasserstein_of_many_directions_is_the_shift_over_root_channels():
    latents = randn(4, 6, 8, 8)
    directions = gap.random_directions(6, 20_000, torch.Generator().manual_seed(2))
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(20_000))
    found = gap.sliced_wasserstein(latents + 3 / math.sqrt(6), latents, directions)
    assert found == pytest.approx(3 / math.sqrt(6), rel=0.01)


def test_sliced_wasserstein_of_two_gaussians_in_one_dimension():
    # W2^2 = (m1 - m2)^2 + (s1 - s2)^2; a set and its permuted affine image have that distance exactly.
    one, latents = torch.ones(1, 1), randn(5, 1, 10, 10)
    latents = (latents - latents.mean()) / latents.std(correction=0)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    moved = (3 * latents + 2).flatten()[order].view_as(latents)
    assert gap.sliced_wasserstein(latents, moved, one) == pytest.approx(math.hypot(2, 2), rel=1e-6)
    first, second = randn(99, 1, 64, 64), 3 * randn(99, 1, 64, 64, seed=1) + 2
    assert gap.sliced_wasserstein(first, second, one) == pytest.approx(math.hypot(2, 2), rel=0.01)


def test_sliced_wasserstein_takes_channel_vectors():
    latents = randn(3, 4, 5, 6)
    positions = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    moved = latents.flatten(2)[..., positions].view_as(latents).flip(0)
    directions = gap.random_directions(4, 8, torch.Generator().manual_seed(1))
    assert gap.sliced_wasserstein(latents, moved, directions) < 1e-6


def test_frechet_equals_the_formula_with_a_matrix_root():
    first = randn(7, 5, 6, 6)
    second = torch.einsum("ij,njhw->nihw", randn(5, 5, seed=1), randn(7, 5, 6, 6, seed=2)) + 0.5
    a, b = (latents.double().movedim(1, -1).reshape(-1, 5).numpy() for latents in (first, second))
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    trace = np.trace(cov_a + cov_b - 2 * scipy.linalg.sqrtm(cov_a @ cov_b).real)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + trace
    assert gap.frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert gap.frechet_distance(first, first) < 1e-12


def test_frechet_of_shifted_and_scaled_latents():
    # Commuting covariances: |m|^2 + sum (s1 - s2)^2.
    latents, shift = randn(9, 3, 8, 8).double(), torch.tensor([1.0, 2.0, 2.0]).view(-1, 1, 1)
    assert gap.frechet_distance(latents, latents + shift) == pytest.approx(9, rel=1e-10)
    variance = latents.movedim(1, -1).reshape(-1, 3).var(0)
    mean = latents.mean((0, 2, 3))
    expected = 4 * variance.sum() + 4 * mean.square().sum()
    assert gap.frechet_distance(latents, 3 * latents) == pytest.approx(float(expected), rel=1e-10)


def test_frechet_of_one_channel_and_of_constant_channels():
    latents = randn(5, 1, 6, 6)
    assert gap.frechet_distance(latents, latents + 2) == pytest.approx(4, rel=1e-6)
    latents = torch.cat([latents, torch.zeros_like(latents)], dim=1)
    assert gap.frechet_distance(latents, latents + 1) == pytest.approx(2, rel=1e-6)


def test_power_spectrum_of_white_noise():
    latents, expected = randn(400, 4, 16, 12), torch.full((4, 7), 9.0, dtype=torch.float64)
    torch.testing.assert_close(gap.radial_power_spectrum(3 * latents), expected, rtol=0.3, atol=0)
    assert gap.power_spectrum_distance(3 * latents, latents) == pytest.approx(math.log(9), rel=1e-5)
    other = 3 * randn(400, 4, 16, 12, seed=1)
    assert gap.power_spectrum_distance(other, latents) == pytest.approx(math.log(9), rel=0.03)


@pytest.mark.parametrize("height, width, periods, radius", [(16, 16, 5, 5), (16, 24, 6, 4), (24, 16, 3, 3)])
def test_power_spectrum_of_a_wave_lies_at_its_radius(height, width, periods, radius):
    wave = torch.cos(2 * math.pi * periods * torch.arange(width) / width).expand(2, 3, height, width)
    spectrum = gap.radial_power_spectrum(wave)
    assert spectrum.shape == (3, 9)
    assert (spectrum[:, radius] > 1).all()
    spectrum[:, radius] = 0
    assert spectrum.max() < 1e-9


def test_power_spectrum_keeps_parseval():
    latents = randn(3, 2, 9, 9).double()
    radius = torch.hypot(*torch.meshgrid(*[torch.fft.fftfreq(9, d=1 / 9)] * 2, indexing="ij")).round().long().flatten()
    spectrum, counts = gap.radial_power_spectrum(latents), radius.bincount()[:5]
    outside = torch.fft.fft2(latents, norm="ortho").abs().square().mean(0).flatten(1)[:, radius > 4].sum(1)
    total = latents.square().mean(0).flatten(1).sum(1)
    torch.testing.assert_close((spectrum * counts).sum(1) + outside, total, rtol=1e-12, atol=0)


def test_snr_curve_is_that_of_the_mid_timestep(pairs):
    for schedule in (DDPM, FLOW):
        for lq, hq in (pairs, (torch.cat([pairs[1][:2], pairs[0][2:]]), pairs[1])):  # the second: two identical pairs
            frame = latent_gap(lq, hq, schedule, range(0, 1000, 37), distances=("snr",))
            expected = snr_mid_timestep(lq, hq, schedule).curve()["objective"][::37]
            np.testing.assert_allclose(frame["value"], expected, rtol=1e-12)


@pytest.mark.parametrize("schedule", [DDPM, FLOW], ids=["ddpm", "flow"])
def test_paired_distances_equal_the_historic_rules(pairs, schedule):
    lq, hq = pairs
    generator = torch.Generator().manual_seed(3)
    rules = ("mse_difference", "absolute_difference")
    frame = latent_gap(lq, hq, schedule, range(0, 1000, 100), distances=rules, generator=generator)
    for rule in rules:
        curve = historic_mid_timestep(lq, hq, schedule, rule, generator=torch.Generator().manual_seed(3))[1]
        found = frame[frame["distance"] == rule]["value"]
        np.testing.assert_allclose(found, curve["objective"][::100], rtol=1e-6)


def test_paired_mse_is_the_mean_square(pairs):
    lq, hq = pairs
    noise = torch.randn(hq.shape, generator=torch.Generator().manual_seed(3))
    frame = latent_gap(lq, hq, FLOW, [244], distances=["paired_mse"], generator=torch.Generator().manual_seed(3))
    noisy = FLOW.alphas[244].numpy() * hq.double().numpy() + FLOW.sigmas[244].numpy() * noise.double().numpy()
    assert value(frame, "paired_mse", 244) == pytest.approx(((noisy - lq.double().numpy()) ** 2).mean(), rel=1e-6)


def test_a_set_that_is_a_noisy_set_has_its_minimum_there():
    """LQ latents made at timestep 400 with other noise: the distances of distributions find it again."""
    for schedule in (DDPM, FLOW):
        hq = randn(60, 3, 16, 16) * torch.linspace(0.3, 3, 16).view(1, 1, 1, -1)
        lq = schedule.add_noise(hq, randn(*hq.shape, seed=9), 400)
        distances = ("sliced_wasserstein", "frechet", "power_spectrum")
        least = gap_minimum(latent_gap(lq, hq, schedule, range(0, 1000, 50), distances=distances))
        assert all(abs(least["timestep"] - 400) <= 50)
        assert all(least["value"] < 0.5 * least[["clean_value", "noisy_value"]].min(axis=1))


def test_frame_is_long_and_seeded(pairs):
    frame = latent_gap(*pairs, FLOW, torch.tensor([10, 500, 999]))
    assert list(frame.columns) == ["timestep", "alpha", "sigma", "distance", "value"]
    assert frame["timestep"].tolist() == [t for t in (10, 500, 999) for _ in gap.DISTANCES]
    assert frame["distance"].tolist() == list(gap.DISTANCES) * 3
    np.testing.assert_array_equal(frame["sigma"].unique(), FLOW.sigmas[[10, 500, 999]])
    np.testing.assert_array_equal(frame["alpha"].unique(), FLOW.alphas[[10, 500, 999]])
    assert frame.equals(latent_gap(*pairs, FLOW, [10, 500, 999], generator=torch.Generator().manual_seed(gap.SEED)))
    other = latent_gap(*pairs, FLOW, [10, 500, 999], generator=torch.Generator().manual_seed(1))
    assert value(other, "paired_mse", 500) != value(frame, "paired_mse", 500)


def test_one_draw_serves_all_timesteps(pairs):
    together = latent_gap(*pairs, DDPM, [100, 700])
    assert together[together["timestep"] == 700].reset_index(drop=True).equals(latent_gap(*pairs, DDPM, [700]))


def test_one_set_of_noisy_latents_at_a_time(pairs, monkeypatch):
    import weakref

    made = []

    def add_noise(self, latents, noise, t, original=NoiseSchedule.add_noise):
        assert all(reference() is None for reference in made)
        noisy = original(self, latents, noise, t)
        made.append(weakref.ref(noisy))
        return noisy

    monkeypatch.setattr(NoiseSchedule, "add_noise", add_noise)
    latent_gap(*pairs, DDPM, range(0, 1000, 200))
    assert len(made) == 5


def test_minimum_of_each_curve(pairs):
    frame = latent_gap(*pairs, FLOW, [700, 0, 300])
    least = gap_minimum(frame).set_index("distance")
    assert list(least.index) == list(gap.DISTANCES)
    for name in gap.DISTANCES:
        values = {t: value(frame, name, t) for t in (0, 300, 700)}
        row = least.loc[name]
        assert row["value"] == min(values.values()) == values[row["timestep"]]
        assert (row["clean_value"], row["noisy_value"]) == (values[0], values[700])
        assert row["sigma"] == FLOW.sigmas[int(row["timestep"])] and row["alpha"] == FLOW.alphas[int(row["timestep"])]
    assert least.loc["snr", "clean_value"] == np.inf


def test_wrong_input_is_refused(pairs):
    lq, hq = pairs
    for arguments, options, words in [
        ((lq, hq, FLOW, [1]), {"distances": ("snr", "kl")}, "distances must be names.*'kl'"),
        ((lq, hq, FLOW, [1]), {"distances": ()}, "distances must be names"),
        ((lq, hq, FLOW, []), {}, "at least one timestep"),
        ((lq, hq, FLOW, [1000]), {}, "0 .. 999: got 1000"),
        ((lq, hq, FLOW, [0.5]), {}, "integer"),
        ((lq[:3], hq, FLOW, [1]), {}, "one shape"),
        ((lq[:0], hq[:0], FLOW, [1]), {}, "At least one pair"),
        ((lq * math.nan, hq, FLOW, [1]), {}, "finite"),
    ]:
        with pytest.raises(ValueError, match=words):
            latent_gap(*arguments, **options)
