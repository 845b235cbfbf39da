"""Schedule tables against published numbers and diffusers, and the arithmetic built on them."""

import warnings

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from omgsr_lib.schedules import NoiseSchedule, pair_power


SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FLUX = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}


def ddpm(prediction_type="epsilon"):
    return NoiseSchedule.from_scheduler(DDPMScheduler(**SD, prediction_type=prediction_type))


def flow(image_seq_len=None):
    return NoiseSchedule.from_scheduler(FlowMatchEulerDiscreteScheduler(**FLUX), image_seq_len=image_seq_len)


@pytest.fixture(params=[ddpm, flow], ids=["ddpm", "flow"])
def schedule(request):
    return request.param()


def random_latents(count=1, batch=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, 4, 6, 5, generator=generator).to(dtype) for _ in range(count)]


@pytest.mark.parametrize(
    "t, alphas_cumprod, alpha, sigma, snr",
    [
        (191, 0.7675230, 0.8760839, 0.4821587, 3.301501),
        (195, 0.7614000, 0.8725824, 0.4884670, 3.191115),
        (273, 0.6357426, 0.7973347, 0.6035374, 1.745312),
        (369, 0.4749441, 0.6891619, 0.7246074, 0.904559),
        (999, 0.0046601, 0.0682649, 0.9976672, 0.004682),
    ],
)
def test_stable_diffusion_numbers(t, alphas_cumprod, alpha, sigma, snr):
    schedule = ddpm()
    found = [schedule.alphas[t] ** 2, schedule.alphas[t], schedule.sigmas[t], schedule.snr()[t]]
    np.testing.assert_allclose(found, [alphas_cumprod, alpha, sigma, snr], rtol=0, atol=1e-6)
    assert schedule.model_timesteps[t] == t


@pytest.mark.parametrize(
    "t, sigma, snr",
    [
        (173, 0.3981203, 2.285549),
        (180, 0.4097190, 2.075609),
        (244, 0.5051124, 0.959924),
        (295, 0.5695945, 0.570984),
        (346, 0.6259455, 0.357106),
        (433, 0.7072662, 0.171309),
    ],
)
def test_flux_numbers(t, sigma, snr):
    schedule = flow()
    np.testing.assert_allclose([schedule.sigmas[t], schedule.snr()[t]], [sigma, snr], rtol=0, atol=1e-6)
    assert schedule.model_timesteps[t] == 1000 * schedule.sigmas[t]


@pytest.mark.parametrize("tokens, t, sigma", [(1024, 244, 0.377647), (1024, 295, 0.440335), (4096, 244, 0.505112)])
def test_flux_shift_follows_the_number_of_tokens(tokens, t, sigma):
    assert float(flow(tokens).sigmas[t]) == pytest.approx(sigma, abs=1e-6)


def test_flow_ends_are_clean_and_pure_noise():
    schedule = flow()
    assert schedule.sigmas[0] == 0 and schedule.alphas[0] == 1
    assert schedule.sigmas[999] == 1 and schedule.alphas[999] == 0


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_ddpm_table_is_diffusers_own(beta_schedule):
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=beta_schedule)
    schedule = NoiseSchedule.from_scheduler(scheduler)
    assert schedule.alphas.dtype == schedule.sigmas.dtype == torch.float64
    assert (schedule.alphas**2 - scheduler.alphas_cumprod).abs().max() < 1e-6
    assert (schedule.alphas**2 + schedule.sigmas**2 - 1).abs().max() < 1e-15


def test_schedulers_of_one_model_share_their_table():
    euler = NoiseSchedule.from_scheduler(EulerDiscreteScheduler(**SD))
    assert torch.equal(euler.alphas, ddpm().alphas)


@pytest.mark.parametrize("tokens", [256, 1024, 4096, 9216])
def test_flow_table_is_diffusers_own(tokens):
    scheduler = FlowMatchEulerDiscreteScheduler(**FLUX)
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    with np.errstate(divide="ignore"):
        scheduler.set_timesteps(sigmas=np.linspace(1, 0, 1000), mu=mu)
    table = flow(tokens)
    assert (table.sigmas - scheduler.sigmas[:1000].flip(0)).abs().max() < 1e-6
    assert (table.model_timesteps - scheduler.timesteps.flip(0)).abs().max() < 1e-3


def test_fixed_shift_ignores_the_number_of_tokens():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    unshifted = torch.arange(1000).double() / 999
    for tokens in (None, 1024):
        sigmas = NoiseSchedule.from_scheduler(scheduler, image_seq_len=tokens).sigmas
        torch.testing.assert_close(sigmas, 3 * unshifted / (1 + 2 * unshifted), rtol=0, atol=1e-15)


def test_snr_is_infinite_without_noise_and_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert flow().snr()[0] == torch.inf and flow().snr()[999] == 0
        assert torch.isfinite(ddpm().snr()).all()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("t", [0, 273, 999])
def test_ddpm_clean_prediction_equals_diffusers(prediction_type, t):
    scheduler = DDPMScheduler(**SD, prediction_type=prediction_type, clip_sample=False)
    latents, output = random_latents(2, dtype=torch.float64)
    expected = scheduler.step(output, t, latents).pred_original_sample
    found = ddpm(prediction_type).predict_clean(latents, output, t)
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("t", [1, 244, 999])
def test_flow_clean_prediction_is_one_euler_step_of_diffusers(t):
    scheduler = FlowMatchEulerDiscreteScheduler(**FLUX)
    scheduler.set_timesteps(sigmas=[t / 999], mu=1.15)
    latents, output = random_latents(2)
    expected = scheduler.step(output, scheduler.timesteps[0], latents).prev_sample
    torch.testing.assert_close(flow().predict_clean(latents, output, t), expected, rtol=1e-5, atol=1e-5)


def test_noise_equals_diffusers():
    latents, noise = random_latents(2)
    t = torch.tensor([3, 273, 999])
    expected = DDPMScheduler(**SD).add_noise(latents, noise, t)
    torch.testing.assert_close(ddpm().add_noise(latents, noise, t), expected, rtol=1e-5, atol=1e-5)

    scheduler = FlowMatchEulerDiscreteScheduler(**FLUX)
    scheduler.set_timesteps(sigmas=[999 / 999, 273 / 999, 3 / 999], mu=1.15)
    expected = scheduler.scale_noise(latents, scheduler.timesteps.flip(0), noise)
    torch.testing.assert_close(flow().add_noise(latents, noise, t), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "flow_prediction"])
def test_the_true_output_gives_back_the_clean_latents_per_image(prediction_type):
    schedule = flow() if prediction_type == "flow_prediction" else ddpm(prediction_type)
    clean, noise = random_latents(2, dtype=torch.float64)
    t = torch.tensor([5, 273, 900])
    alphas, sigmas = (table[t].view(-1, 1, 1, 1) for table in (schedule.alphas, schedule.sigmas))
    output = {"epsilon": noise, "v_prediction": alphas * noise - sigmas * clean, "flow_prediction": noise - clean}
    noisy = schedule.add_noise(clean, noise, t)
    found = schedule.predict_clean(noisy, output[prediction_type], t)
    torch.testing.assert_close(found, clean, rtol=0, atol=1e-13)


def test_one_timestep_per_image_equals_image_by_image(schedule):
    latents, noise = random_latents(2)
    t = torch.tensor([1, 500, 998], dtype=torch.int32)
    for function in (schedule.add_noise, schedule.predict_clean):
        single = [function(latents[i : i + 1], noise[i : i + 1], int(t[i])) for i in range(3)]
        assert torch.equal(function(latents, noise, t), torch.cat(single))


def test_dtype_and_device_follow_the_latents_and_half_precision_rounds_once(schedule):
    latents, noise = random_latents(2, dtype=torch.bfloat16)
    for function in (schedule.add_noise, schedule.predict_clean):
        exact = function(latents.double(), noise.double(), 244)
        found = function(latents, noise, 244)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-6)
        assert function(latents.to("meta"), noise.to("meta"), 244).device.type == "meta"


def test_gradient_reaches_the_model_output():
    latents, output = random_latents(2, dtype=torch.float64)
    output.requires_grad_()
    flow().predict_clean(latents, output, 244).sum().backward()
    torch.testing.assert_close(output.grad, torch.full_like(output, -flow().sigmas[244].item()))


def test_nearest_timestep_equals_brute_force(schedule):
    generator = torch.Generator().manual_seed(0)
    snr = torch.cat([torch.randn(2000, generator=generator).mul(4).exp(), torch.tensor([0, 1e-30, 1e30])]).double()
    brute = (schedule.snr()[None] - snr[:, None]).abs().argmin(dim=1)  # argmin takes the first of equals
    assert torch.equal(schedule.nearest_timestep(snr), brute)
    assert torch.equal(schedule.nearest_timestep(snr[:6].view(2, 3)), brute[:6].view(2, 3))
    assert int(schedule.nearest_timestep(float(snr[0]))) == int(brute[0])


def test_nearest_timestep_inverts_snr(schedule):
    assert torch.equal(schedule.nearest_timestep(schedule.snr()), torch.arange(1000))
    assert int(schedule.nearest_timestep(torch.inf)) == 0


def test_nearest_timestep_takes_the_cleaner_of_two_equally_near():
    sigmas = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)  # SNR 4, 1, 1/4
    schedule = NoiseSchedule(torch.ones(3).double(), sigmas, "epsilon", torch.arange(3).double())
    assert schedule.nearest_timestep([2.5, 0.625]).tolist() == [0, 1]


@pytest.mark.parametrize("t", [-1, 1000, 0.5, True, torch.tensor([1, 2]), torch.tensor([0, 1, 1000]), torch.zeros(3)])
def test_wrong_timesteps_are_refused(schedule, t):
    latents, noise = random_latents(2)
    for function in (schedule.add_noise, schedule.predict_clean):
        with pytest.raises(ValueError, match="[Tt]imestep"):
            function(latents, noise, t)


def test_wrong_shapes_and_values_are_refused(schedule):
    latents, noise = random_latents(2)
    with pytest.raises(ValueError, match="one shape.*3, 4, 6, 5.*2, 4, 6, 5"):
        schedule.add_noise(latents, noise[:2], 5)
    for snr in (-1.0, torch.nan):
        with pytest.raises(ValueError, match="negative or NaN"):
            schedule.nearest_timestep([1.0, snr])


def test_unknown_schedulers_are_refused():
    with pytest.raises(ValueError, match="prediction_type.*'sample'"):
        ddpm("sample")
    with pytest.raises(ValueError, match="got object"):
        NoiseSchedule.from_scheduler(object())
    with pytest.raises(ValueError, match="shift_terminal=0.1"):
        NoiseSchedule.from_scheduler(FlowMatchEulerDiscreteScheduler(shift_terminal=0.1))


def test_a_scheduler_that_rescales_its_table_is_refused():
    scheduler = DDPMScheduler(**SD)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod / 2
    with pytest.raises(ValueError, match="alphas_cumprod must be the product"):
        NoiseSchedule.from_scheduler(scheduler)


def test_pair_power_is_the_mean_square():
    lq, hq = random_latents(2, batch=5, dtype=torch.float64)
    power, difference = pair_power(lq, hq)
    np.testing.assert_allclose(power, (hq.numpy() ** 2).mean((1, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(difference, ((lq - hq).numpy() ** 2).mean((1, 2, 3)), rtol=1e-14)
    half = pair_power(lq.bfloat16(), hq.bfloat16())
    torch.testing.assert_close(half[0], hq.bfloat16().double().square().mean((1, 2, 3)), rtol=1e-12, atol=0)
