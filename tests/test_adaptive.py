"""adaptive.py, estimator.py: per-picture timesteps against closed forms and brute force; tiles, dial, saved models."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm

from omgsr_lib import OMGSR, restore
from omgsr_lib.adaptive.estimator import (
    DifferenceEstimator,
    calibrate,
    log_likelihood_loss,
    pixel_statistics,
)
from omgsr_lib.adaptive.model import AdaptiveOMGSR
from omgsr_lib.adaptive.timesteps import difference_map, own_timesteps, predict_adaptive, shifted_timesteps
from omgsr_lib.cli import main
from omgsr_lib.data.photos import to_image, to_pixels
from omgsr_lib.midstep import snr_mid_timestep
from omgsr_lib.priors.latents import encode_latents
from omgsr_lib.restore.prepare import prepare


FAMILIES = {"ddpm": 273, "flow": 244}


@pytest.fixture(params=FAMILIES)
def model(request):
    """A random adaptive model with an estimator of random weights."""
    model = AdaptiveOMGSR.from_base("tiny", request.param, FAMILIES[request.param]).add_adapters(2, 2).eval()
    model.estimator = estimator(model.vae.config.latent_channels)
    return model


def estimator(channels, seed=0):
    torch.manual_seed(seed)
    return DifferenceEstimator(channels, width=8).requires_grad_(False).eval()


def pixels(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def constant_estimator(channels, log_difference):
    """An estimator that says the same of every image."""
    constant = estimator(channels)
    torch.nn.init.zeros_(constant.head[-1].weight)
    constant.head[-1].bias.copy_(torch.tensor([log_difference, 0.0]))
    return constant


@torch.no_grad()
def test_own_timesteps_are_the_mid_timesteps_of_single_pairs(model):
    lq, hq = pixels(3, 3, 64, 64), pixels(3, 3, 64, 64, seed=1)
    hq[1] = lq[1] + 0.05
    schedule = model.prior.schedule
    latents = encode_latents(model.vae, lq), encode_latents(model.vae, hq)
    alone = [snr_mid_timestep(*(part[i : i + 1] for part in latents), schedule).timestep for i in range(3)]
    assert own_timesteps(model.vae, lq, hq, schedule).tolist() == alone
    assert alone[1] < alone[0]


def test_an_identical_pair_asks_for_the_cleanest_timestep(model):
    lq = pixels(1, 3, 64, 64)
    assert own_timesteps(model.vae, lq, lq, model.prior.schedule).tolist() == [0]


def test_the_dial_moves_sigma_over_alpha_by_powers_of_two(model):
    schedule = model.prior.schedule
    ratio = (schedule.sigmas / schedule.alphas).double()
    difference = ratio[200] ** 2
    for strength in (-1.0, 0.0, 0.5):
        timestep = int(shifted_timesteps(difference, schedule, strength))
        assert ratio[timestep] == pytest.approx(float(ratio[200]) * 2**strength, rel=0.01)
    assert [int(shifted_timesteps(difference, schedule, s)) for s in (-1e9, 1e9)] == [0, len(schedule.alphas) - 1]
    moved = [int(shifted_timesteps(difference, schedule, s)) for s in torch.linspace(-3, 3, 25).tolist()]
    assert moved == sorted(moved) and len(set(moved)) > 20


@torch.no_grad()
def test_at_its_fixed_timestep_an_adaptive_model_is_the_fixed_one(model):
    latents = model.encode(pixels(2, 3, 64, 64))
    adaptive = model.predict_clean(model.inject(latents, model.timestep), model.timestep)
    assert torch.equal(adaptive, model.predict_clean(latents))


@torch.no_grad()
def test_latents_are_carried_over_by_the_ratio_of_alphas(model):
    latents, alphas = model.encode(pixels(2, 3, 64, 64)), model.prior.schedule.alphas
    moved = model.inject(latents, torch.tensor([100, 500]))
    for k, timestep in enumerate((100, 500)):
        expected = latents[k].double() * alphas[timestep] / alphas[model.timestep]
        torch.testing.assert_close(moved[k].double(), expected, rtol=1e-6, atol=0)


@torch.no_grad()
def test_the_map_is_bilinear_between_windows_and_one_number_for_a_small_picture(model):
    net = model.estimator
    channels = model.vae.config.latent_channels
    latents = torch.randn(2, channels, 24, 16, generator=torch.Generator().manual_seed(3))
    found = difference_map(net, latents)
    assert found.shape == (2, 1, 24, 16)
    top, bottom = net(latents[:, :, :16])[0], net(latents[:, :, 8:])[0]
    torch.testing.assert_close(found[:, 0, 0, 5], top.exp())
    torch.testing.assert_close(found[:, 0, -1, 5], bottom.exp())
    middle = top + (bottom - top) * 7 / 23
    torch.testing.assert_close(found[:, 0, 7, 0], middle.exp())
    small = difference_map(net, latents[..., :9, :5])
    torch.testing.assert_close(small, net(latents[..., :9, :5])[0].exp()[:, None, None, None].expand(2, 1, 9, 5))


@torch.no_grad()
@pytest.mark.parametrize("tile", [None, 16])
def test_equal_estimates_everywhere_give_the_prediction_at_thinject(model, tile):
    """In one pass exactly; in tiles too, since formula and blend are linear where all tiles share a timestep."""
    latents = model.encode(pixels(2, 3, 192, 128))
    model.estimator = constant_estimator(latents.shape[1], math.log(0.3))
    difference = model.difference(pixels(2, 3, 192, 128))
    timestep = int(model.prior.schedule.nearest_timestep(1 / 0.3))
    got = predict_adaptive(model, latents, difference, tile=tile)
    expected = model.predict_clean(model.inject(latents, timestep), timestep, tile=tile)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_restoring_at_a_timestep_carries_the_latents_over(model):
    """The same image as the model itself makes at that timestep."""
    image = to_image(pixels(3, 64, 64))
    for timestep in (100, model.timestep):
        expected = model(to_pixels(image)[None], timestep).images[0]
        got = restore(model, image, scale=1, timestep=timestep, colour_fix=None, progress=False).images[0]
        assert (to_pixels(got) - expected.clamp(-1, 1)).abs().max() <= 1.01 / 255


@torch.no_grad()
def test_a_batch_gives_each_picture_its_own_timestep(model):
    latents = model.encode(pixels(2, 3, 64, 64))
    difference = torch.tensor([0.1, 1.5])[:, None, None, None].expand(2, 1, *latents.shape[2:])
    together = predict_adaptive(model, latents, difference, strength=0.3)
    alone = [predict_adaptive(model, latents[k : k + 1], difference[k : k + 1], strength=0.3) for k in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert not torch.equal(together, predict_adaptive(model, latents, difference))


def test_a_model_without_estimator_says_which_have_one(model):
    model.estimator = None
    with pytest.raises(ValueError, match="Only a model with an estimator"):
        model.difference(pixels(1, 3, 64, 64))


def test_saved_and_loaded_an_adaptive_model_is_the_same(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    loaded = OMGSR.from_pretrained(tmp_path / "model").eval()
    lq = pixels(1, 3, 64, 64)
    assert isinstance(loaded, AdaptiveOMGSR) and torch.equal(loaded.difference(lq), model.difference(lq))
    with torch.no_grad():
        torch.testing.assert_close(loaded(lq, 100).images, model(lq, 100).images, rtol=0, atol=2e-5)


def test_adapters_for_any_timestep_need_an_adaptive_model(model, tmp_path):
    """Named as the adapter of another base they make one."""
    base, folder = model.save_pretrained(tmp_path / "base"), model.save_adapter(tmp_path / "adapter")
    with pytest.raises(ValueError, match="needs an AdaptiveOMGSR: '.*adapter' has one, the model is OMGSR"):
        OMGSR.from_base("tiny", model.prior.family, model.timestep).load_adapter(folder)
    name = {"ddpm": "omgsr-s-512", "flow": "omgsr-f-512"}[model.prior.family]
    assert isinstance(OMGSR.from_pretrained(name, base=base, adapter=folder), AdaptiveOMGSR)


def test_likelihood_and_calibration():
    mean, deviation = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 2.0])
    target = torch.tensor([0.3, -1.0])
    expected = -norm(mean, deviation).logpdf(target).mean() - math.log(2 * math.pi) / 2
    assert float(log_likelihood_loss(mean, deviation, target)) == pytest.approx(expected, rel=1e-6)
    net, latents = estimator(4), torch.randn(40, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    target = torch.randn(40, generator=torch.Generator().manual_seed(2))
    calibrate(net, latents, target)
    mean, deviation = net(latents)
    assert float(((target - mean) / deviation).square().mean()) == pytest.approx(1, rel=1e-5)


def test_statistics_know_noise_and_sharpness():
    """Immerkaer's estimate of white noise on a flat image is its standard deviation; blur lowers the sharpness."""
    noise = torch.randn(1, 1, 400, 400, generator=torch.Generator().manual_seed(0)).expand(1, 3, -1, -1) * 0.1
    flat = pixel_statistics(noise)
    assert float(flat[0, 2].exp()) == pytest.approx(0.1, rel=0.02)
    blurred = torch.nn.functional.avg_pool2d(noise, 3, stride=1)
    assert pixel_statistics(blurred)[0, 1] < flat[0, 1] - 0.5
    assert (flat[:, 0] == 1).all()


def test_the_estimator_is_small():
    assert sum(p.numel() for p in DifferenceEstimator(24).parameters()) < 1_000_000


def estimated_timestep(model, image, strength):
    """What restoring `image` at its own size takes in one pass, written out."""
    difference = model.difference(to_pixels(image)[None])
    return int(shifted_timesteps(difference.mean(), model.prior.schedule, strength))


@torch.no_grad()
@pytest.mark.parametrize("strength", [0.0, -1.0])
def test_restoring_takes_the_estimated_timestep_of_each_picture(model, strength):
    images = [to_image(pixels(3, 64, 64)), to_image(torch.full((3, 48, 80), 0.8))]
    options = dict(scale=1, colour_fix=None, progress=False)
    got = restore(model, images, timestep="auto", strength=strength, **options).images
    timesteps = [estimated_timestep(model, image, strength) for image in images]
    for image, mine, timestep in zip(images, got, timesteps, strict=True):
        assert mine == restore(model, image, timestep=timestep, **options).images[0]


def test_an_adaptive_model_estimates_by_itself(model):
    image = to_image(pixels(3, 40, 56))
    automatic, by_default, fixed = (
        restore(model, image, scale=2, progress=False, **options).images[0]
        for options in (dict(timestep="auto"), {}, dict(timestep=model.timestep))
    )
    assert automatic == by_default != fixed


@pytest.mark.parametrize("size", [(16, 16), (17, 61), (300, 16)])
@pytest.mark.parametrize("mode", [dict(), dict(vae_mode="flat", tile=64), dict(tile="auto")])
def test_any_size_is_restored_the_same_twice(model, size, mode):
    image = to_image(pixels(3, size[1], size[0])).convert("L")
    one, other = (restore(model, image, scale=1.5, timestep="auto", progress=False, **mode).images[0] for _ in "12")
    assert one.size == tuple(round(1.5 * side) for side in size) and one == other


@torch.no_grad()
def test_strength_runs_through_the_timesteps(model):
    image = to_image(pixels(3, 64, 64))
    found = [estimated_timestep(model, image, strength) for strength in (-40, -1, 0, 1, 40)]
    assert found == sorted(found) and found[0] <= 1 and found[-1] == len(model.prior.schedule.alphas) - 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(timestep=100, strength=0.5), "strength moves the timestep"),
        (dict(strength=float("nan")), "must be a finite number"),
        (dict(timestep=1000), "must lie in 0"),
        (dict(timestep="automatic"), "A timestep is"),
    ],
)
def test_wrong_timesteps_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        restore(model, to_image(pixels(3, 16, 16)), progress=False, **options)


def test_a_fixed_model_has_no_automatic_timestep(model):
    model.estimator = None
    for options, message in ((dict(timestep="auto"), "mini-s-adaptive"), (dict(strength=1.0), "an adaptive model")):
        with pytest.raises(ValueError, match=message):
            restore(model, to_image(pixels(3, 16, 16)), progress=False, **options)


def test_an_adaptive_model_runs_unfolded(model):
    for fold in (model.fold, lambda: prepare(model, fold=True)):
        with pytest.raises(ValueError, match="A folded model has one timestep"):
            fold()


@torch.no_grad()
def test_the_command_line_estimates(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    to_image(pixels(3, 24, 32)).save(tmp_path / "a.png")
    for name, options in (("auto", ["--timestep", "auto", "--strength", "-0.5"]), ("fixed", ["--timestep", "200"])):
        arguments = ["restore", tmp_path / "a.png", "--out", tmp_path / name, "--model", tmp_path / "model", *options]
        assert main([*map(str, arguments), "--scale", "2", "--tile", "0", "--precision", "no"]) == 0
    auto, fixed = (Image.open(tmp_path / name / "a.png") for name in ("auto", "fixed"))
    expected = restore(OMGSR.from_pretrained(tmp_path / "model").merge(), Image.open(tmp_path / "a.png"), scale=2,
                       strength=-0.5, progress=False).images[0]  # fmt: skip
    assert abs(np.asarray(auto, dtype=int) - np.asarray(expected)).max() <= 1 and auto.tobytes() != fixed.tobytes()
