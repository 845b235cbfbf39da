"""The closed form of the SNR rule against the scan over all timesteps, its statistics, and the older rules."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from omgsr_lib.data.degradation import degrade
from omgsr_lib.data.photos import find_photos, open_photo, to_pixels
from omgsr_lib.midstep import SNRStatistics, historic_mid_timestep, snr_mid_timestep
from omgsr_lib.priors.taef2 import load_encoder
from omgsr_lib.schedules import NoiseSchedule


SCHEDULES = {
    "ddpm": NoiseSchedule.from_scheduler(
        DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    ),
    "flow": NoiseSchedule.from_scheduler(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)),
}


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return SCHEDULES[request.param]


def scan(statistics, schedule):
    """The published rule in exact rational arithmetic; of equal timesteps the first."""
    numbers = statistics.power.tolist(), statistics.difference.tolist()
    pairs = [(Fraction(power), 1 / Fraction(difference)) for power, difference in zip(*numbers, strict=True)]
    ratios = [(t, Fraction(ratio)) for t, ratio in enumerate(schedule.snr().tolist()) if ratio < float("inf")]
    return min((sum(power * abs(ratio - target) for power, target in pairs), t) for t, ratio in ratios)[1]


def heavy_tailed(count, seed, centre=0.0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    power, difference = torch.randn(2, count, generator=generator, dtype=torch.float64) * spread
    return SNRStatistics(power.exp(), (difference + centre).exp())


def latent_pairs(count=6, difference=1.0, seed=0, shape=(4, 8, 8)):
    generator = torch.Generator().manual_seed(seed)
    hq = torch.randn(count, *shape, generator=generator)
    size = torch.randn(count, 1, 1, 1, generator=generator).mul(0.3).exp() * difference**0.5
    return hq + size * torch.randn(hq.shape, generator=generator), hq


@pytest.mark.parametrize("count", [1, 2, 3])
def test_equals_the_scan_for_few_pairs(schedule, count):
    for seed in range(12):
        statistics = heavy_tailed(count, seed)
        assert statistics.mid_timestep(schedule).timestep == scan(statistics, schedule)


def test_equals_the_scan_for_200_heavy_tailed_pairs(schedule):
    statistics = heavy_tailed(200, 3, spread=4.0)
    assert statistics.mid_timestep(schedule).timestep == scan(statistics, schedule)


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_floating_point_scan_of_latents(schedule, seed):
    lq, hq = latent_pairs(200, difference=0.6 + 0.1 * seed, seed=seed)
    power, error = hq.double().square().mean((1, 2, 3)), (lq - hq).double().square().mean((1, 2, 3))
    objective = (schedule.snr()[:, None] * power - power / error).abs().mean(1)
    mid = snr_mid_timestep(lq, hq, schedule)
    assert mid.timestep == int(objective.argmin())
    np.testing.assert_allclose(mid.curve()["objective"], objective, rtol=1e-10)
    assert mid.curve()["timestep"].tolist() == list(range(1000))


@pytest.mark.parametrize("centre, end", [(-60.0, "clean"), (60.0, "noisy")])
def test_optimum_at_either_end(schedule, centre, end):
    statistics = heavy_tailed(5, 0, centre=centre)
    found = statistics.mid_timestep(schedule)
    cleanest = int(torch.isfinite(schedule.snr()).nonzero()[0])
    assert found.timestep == scan(statistics, schedule) == (cleanest if end == "clean" else 999)
    assert found.per_image.tolist() == [found.timestep] * 5 and found.interval == (found.timestep,) * 2


def test_of_equally_good_timesteps_the_smallest_is_taken(schedule):
    # Two equal weights: every timestep between the two targets is equally good.
    for count in (2, 4, 200):
        power = torch.full((count,), 0.1, dtype=torch.float64)
        difference = torch.tensor([0.5, 2.0], dtype=torch.float64).repeat(count // 2)
        statistics = SNRStatistics(power, difference)
        smallest = int((schedule.snr() <= 2.0).nonzero()[0])
        assert statistics.mid_timestep(schedule).timestep == smallest
        assert count > 4 or scan(statistics, schedule) == smallest


def test_a_distant_pair_does_not_blur_the_comparison_of_neighbours(schedule):
    # One target of 1e18 makes objectives of neighbours equal in float64; the median must not notice.
    statistics = heavy_tailed(21, 1, spread=0.3)
    statistics.difference[4] = 1e-18
    assert statistics.mid_timestep(schedule).timestep == scan(statistics, schedule)


def test_ddpm_and_flow_solutions_of_a_single_pair():
    # (1 - abar) / abar = D and sigma / (1 - sigma) = sqrt(D), here to the resolution of the grid.
    statistics = SNRStatistics(torch.tensor([3.0]).double(), torch.tensor([0.573]).double())
    assert statistics.mid_timestep(SCHEDULES["ddpm"]).timestep == 273
    statistics = SNRStatistics(torch.tensor([3.0]).double(), torch.tensor([1.042]).double())
    assert statistics.mid_timestep(SCHEDULES["flow"]).timestep == 244


def test_per_image_is_each_pair_alone(schedule):
    lq, hq = latent_pairs(20)
    found = snr_mid_timestep(lq, hq, schedule).per_image
    alone = [snr_mid_timestep(lq[i : i + 1], hq[i : i + 1], schedule).timestep for i in range(20)]
    assert found.dtype == torch.int64 and found.tolist() == alone


def test_identical_pairs_ask_for_the_cleanest_finite_timestep(schedule):
    lq, hq = latent_pairs(5)
    cleanest = int(torch.isfinite(schedule.snr()).nonzero()[0])
    same = snr_mid_timestep(hq, hq, schedule)
    assert (same.timestep, same.interval) == (cleanest, (cleanest, cleanest))
    assert same.curve()["objective"].idxmin() == cleanest

    lq[0] = hq[0]
    mixed, others = snr_mid_timestep(lq, hq, schedule), SNRStatistics().update(lq, hq)
    others.difference[0] = 1e-12  # nearly identical: the same side of the median
    assert mixed.per_image[0] == cleanest
    assert mixed.timestep == others.mid_timestep(schedule).timestep == mixed.curve()["objective"].idxmin()
    assert not mixed.curve()["objective"].isna().any()


def test_batches_and_workers_give_the_same_as_one_pass(schedule):
    lq, hq = latent_pairs(30)
    whole = snr_mid_timestep(lq, hq, schedule)
    workers = [SNRStatistics().update(lq[i : i + 7], hq[i : i + 7]) for i in range(0, 30, 7)]
    merged = SNRStatistics()
    for worker in reversed(workers):
        merged.merge(worker)
    mid = merged.mid_timestep(schedule)
    assert (mid.timestep, mid.interval) == (whole.timestep, whole.interval)
    assert sorted(mid.per_image.tolist()) == sorted(whole.per_image.tolist())


def test_a_result_does_not_change_when_more_pairs_arrive(schedule):
    lq, hq = latent_pairs(12)
    statistics = SNRStatistics().update(lq[:6], hq[:6])
    early = statistics.mid_timestep(schedule)
    statistics.update(lq[6:], hq[6:])
    assert early.curve().equals(snr_mid_timestep(lq[:6], hq[:6], schedule).curve())


def test_bootstrap_equals_the_rule_on_each_resample(schedule):
    statistics = heavy_tailed(9, 0, spread=0.4)
    order = (1 / statistics.difference).argsort()
    drawn = order[torch.randint(9, (1000, 9), generator=torch.Generator().manual_seed(7))]
    found = statistics.bootstrap(schedule, seed=7)
    for i in range(0, 1000, 20):
        resample = SNRStatistics(statistics.power[drawn[i]], statistics.difference[drawn[i]])
        assert found[i] == resample.mid_timestep(schedule).timestep


def test_interval_covers_the_true_timestep_at_its_rate():
    # Equal powers, log-normal differences of median 1: the target is the timestep with alpha = sigma.
    schedule = SCHEDULES["flow"]
    truth, covered = int(schedule.nearest_timestep(1.0)), 0
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        difference = torch.randn(100, generator=generator, dtype=torch.float64).mul(0.5).exp()
        low, high = SNRStatistics(torch.ones(100).double(), difference).mid_timestep(schedule, seed=seed).interval
        covered += low <= truth <= high
    assert 89 <= covered <= 100


def test_interval_is_seeded():
    statistics = heavy_tailed(200, 0)
    interval = statistics.mid_timestep(SCHEDULES["flow"], seed=5).interval
    assert interval == statistics.mid_timestep(SCHEDULES["flow"], seed=5).interval


@pytest.mark.parametrize("rule", ["mse_difference", "absolute_difference"])
def test_historic_rules_equal_a_plain_loop(schedule, rule):
    lq, hq = (latents.double() for latents in latent_pairs(3, shape=(2, 4, 4)))
    noise = torch.randn(hq.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = []
    for alpha, sigma in zip(schedule.alphas.tolist(), schedule.sigmas.tolist(), strict=True):
        noisy = (alpha * hq + sigma * noise).numpy()
        triples = list(zip(noisy, lq.numpy(), hq.numpy(), strict=True))
        if rule == "mse_difference":
            terms = [abs(((z - h) ** 2).mean() - ((q - h) ** 2).mean()) for z, q, h in triples]
        else:
            terms = [((abs(z - h) - abs(q - h)) ** 2).mean() for z, q, h in triples]
        expected.append(np.mean(terms))
    timestep, curve = historic_mid_timestep(lq, hq, schedule, rule, noise=noise)
    np.testing.assert_allclose(curve["objective"], expected, rtol=1e-12, atol=1e-14)
    assert timestep == int(np.argmin(expected)) and 0 < timestep < 999


@pytest.mark.parametrize("rule", ["mse_difference", "absolute_difference"])
def test_historic_rules_compute_in_float32_at_least(schedule, rule):
    lq, hq = (latents.half() for latents in latent_pairs(3))
    _, half = historic_mid_timestep(lq, hq, schedule, rule)
    assert half.equals(historic_mid_timestep(lq.float(), hq.float(), schedule, rule)[1])


def test_historic_rules_are_seeded():
    lq, hq = latent_pairs(2, shape=(1, 4, 4))
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 3, 4)]
    rule = "mse_difference"
    curves = [historic_mid_timestep(lq, hq, SCHEDULES["flow"], rule, generator=each)[1] for each in generators]
    assert curves[0].equals(curves[1]) and not curves[0].equals(curves[2])


def test_wrong_latents_are_refused(schedule):
    lq, hq = latent_pairs(3)
    spoiled = lq.clone()
    spoiled[1, 0, 0, 0] = torch.nan
    for pair, words in [
        ((lq[:2], hq), "one shape.*2, 4, 8, 8.*3, 4, 8, 8"),
        ((lq[0], hq[0]), "N, C, H, W"),
        ((lq[:0], hq[:0]), "At least one pair"),
        ((spoiled, hq), "finite.*pair 1 has"),
        ((lq, hq / 0), "finite.*pair 0 has"),
        ((lq, 0 * hq), "not all zero"),
    ]:
        with pytest.raises(ValueError, match=words):
            snr_mid_timestep(*pair, schedule)
        with pytest.raises(ValueError, match=words):
            historic_mid_timestep(*pair, schedule, "mse_difference")
    with pytest.raises(ValueError, match="at least one pair.*Call update"):
        SNRStatistics().mid_timestep(schedule)
    with pytest.raises(ValueError, match="rule must be one of.*'snr'"):
        historic_mid_timestep(lq, hq, schedule, "snr")


@torch.no_grad()
def test_flux_latents_of_photographs_give_the_published_noise_level(reference):
    """sigma* with the tiny FLUX.2 autoencoder lies about that of the published t* = 244, sigma = 0.505."""
    encoder = load_encoder(reference / "weights" / "taesd").to(memory_format=torch.channels_last)
    latents = []
    for index, path in enumerate(find_photos(reference / "data" / "eval")[::2]):
        hq = to_pixels(open_photo(path))[:, 128:384, 128:384]
        pair = torch.stack([degrade(hq, seed=0, index=index, scale=4), hq])
        latents.append(encoder((pair.contiguous(memory_format=torch.channels_last) + 1) / 2))
    lq, hq = torch.stack(latents, dim=1)
    mean, deviation = hq.mean((0, 2, 3), keepdim=True), hq.std((0, 2, 3), keepdim=True)
    mid = snr_mid_timestep((lq - mean) / deviation, (hq - mean) / deviation, SCHEDULES["flow"])
    assert 0.47 <= SCHEDULES["flow"].sigmas[mid.timestep] <= 0.55
    assert mid.interval[1] - mid.interval[0] < 60
