"""pretraining/: the linear start in closed form, exact resume, distributions, samplers, oracles."""

from dataclasses import replace

import pytest
import torch
from command_case import refused
from torch.nn import functional as F

from omgsr_lib.data.photos import packaged_photos
from omgsr_lib.presets import PRETRAINING, Pretraining
from omgsr_lib.pretraining import command as pretraining_command
from omgsr_lib.pretraining import estimator as estimator_training
from omgsr_lib.pretraining.autoencoder import CONFIG, disturb, new_autoencoder, reconstruction_quality
from omgsr_lib.pretraining.command import pretrain, prior_loss
from omgsr_lib.pretraining.linear_start import patch_pca, unshuffle
from omgsr_lib.pretraining.loop import cosine_with_warmup, run_steps
from omgsr_lib.pretraining.prior import (
    cache_latents,
    clean_error,
    latent_windows,
    prior_crops,
    sample,
    window_batch,
)
from omgsr_lib.priors import DDPMPrior, FlowPrior
from omgsr_lib.priors.loading import WEIGHTS, load_autoencoder
from omgsr_lib.priors.tiny import tiny_autoencoder
from omgsr_lib.training.checkpoint import keep_settings, load_state, read_log


@pytest.fixture(scope="module")
def crops():
    """Smooth images: noise of three scales."""
    generator = torch.Generator().manual_seed(0)
    layers = [
        F.interpolate(torch.randn(64, 3, side, side, generator=generator), (64, 64), mode="bicubic")
        for side in (4, 8, 32)
    ]
    return (0.3 * layers[0] + 0.2 * layers[1] + 0.05 * layers[2]).clamp(-1, 1)


# Linear start


def test_unshuffle_moves_every_pixel_once():
    pixels = torch.arange(2 * 3 * 16 * 24, dtype=torch.float32).reshape(2, 3, 16, 24)
    patches = unshuffle(pixels, 8)
    assert patches.shape == (2, 192, 2, 3)
    assert set(patches[0, :, 1, 2].tolist()) == set(pixels[0, :, 8:16, 16:24].flatten().tolist())


def test_principal_components_of_patches(crops):
    mean, deviations, components = patch_pca(crops, 4, 16)
    patches = unshuffle(crops, 4).permute(0, 2, 3, 1).reshape(-1, 48).double()
    _, singular, vectors = torch.linalg.svd(patches - patches.mean(0), full_matrices=False)
    torch.testing.assert_close(mean, patches.mean(0))
    torch.testing.assert_close(deviations, singular[:16] / (len(patches) - 1) ** 0.5, rtol=1e-8, atol=0)
    torch.testing.assert_close(components @ components.T, vectors[:16].T @ vectors[:16], rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_new_autoencoder_is_the_principal_component_reconstruction_at_half_the_size(crops):
    """The encoder is the exact projection; the decoder undoes it and repeats the mean of each 2x2 pixels."""
    vae = new_autoencoder(crops, seed=0).eval()
    mean, deviations, components = patch_pca(crops, 4, 16)
    patches = unshuffle(crops, 4).double()
    centred = patches - mean.view(1, -1, 1, 1)
    weights = torch.einsum("bphw,pc->bchw", centred, components)
    gains = (deviations.rsqrt() / deviations.mean().sqrt()).view(1, -1, 1, 1)
    latents = vae.encode(crops).latent
    torch.testing.assert_close(latents, (gains * weights).float(), rtol=0, atol=1e-4)
    assert float(latents.square().mean()) == pytest.approx(1, rel=0.01)

    projected = torch.einsum("bchw,pc->bphw", weights, components) + mean.view(1, -1, 1, 1)
    for _ in range(2):
        projected = F.pixel_shuffle(projected, 2)
    projected = F.interpolate(F.avg_pool2d(projected, 2), scale_factor=2, mode="nearest")
    expected = 10 * torch.log10(4 / (projected.clamp(-1, 1) - crops).square().mean((1, 2, 3)))
    found = torch.tensor(reconstruction_quality(vae, crops)["psnr"])
    assert float((found - expected).abs().max()) < 0.05
    assert len(found) == len(crops) and vae.config.latent_channels == CONFIG["latent_channels"] == 16
    assert vae.config.upsample_block_type == "interpolate"


def test_disturbed_latents_are_seeded_and_partly_left_alone():
    latents = torch.zeros(4000, 2, 4, 4)
    disturbed = disturb(latents, torch.Generator().manual_seed(0))
    assert torch.equal(disturbed, disturb(latents, torch.Generator().manual_seed(0)))
    untouched = (disturbed == 0).flatten(1).all(1)
    assert float(untouched.float().mean()) == pytest.approx(0.3, abs=0.03)
    offsets = disturbed.mean((2, 3))  # of 16 positions: the white noise counts a sixteenth
    fifth = 1 / 5  # E u^4
    assert float(offsets.square().mean()) == pytest.approx(0.7 * fifth * (0.2**2 + 0.3**2 / 16), rel=0.1)
    within = (disturbed - offsets[..., None, None]).square().mean()
    assert float(within) == pytest.approx(0.7 * fifth * 0.3**2 * 15 / 16, rel=0.1)


# The loop


def least_squares(folder, steps, *, stop=None):
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 1)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    schedule = cosine_with_warmup(optimizer, 10, warmup=2)

    def step_losses(step):
        if step == stop:
            raise KeyboardInterrupt
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return {
            "fit": (layer(x) - x.sum(1, keepdim=True)).square().mean(),
            "decay": 1e-3 * layer.weight.square().sum(),
        }

    run_steps(folder, steps, step_losses, modules={"layer": layer}, optimizer=optimizer, schedule=schedule, every=3)
    return layer.weight.detach()


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, capsys):
    whole = least_squares(tmp_path / "whole", 10)
    with pytest.raises(KeyboardInterrupt):
        least_squares(tmp_path / "killed", 10, stop=7)
    assert load_state(tmp_path / "killed" / "state.pt")["step"] == 6
    assert torch.equal(least_squares(tmp_path / "killed", 10), whole)
    logs = [read_log(tmp_path / run / "log.jsonl") for run in ("whole", "killed")]
    for log in logs:
        assert [line["step"] for line in log] == [3, 6, 9, 10]
        assert all(line.pop("seconds_per_step") > 0 for line in log)
    assert logs[0] == logs[1]
    assert capsys.readouterr().out.splitlines()[0].startswith("step 3 fit ")


def test_learning_rate_of_the_loop():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, rates = cosine_with_warmup(optimizer, 100, warmup=10, flat=0.5), []
    for _ in range(101):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert rates[10:51] == [1.0] * 41
    expected = [0.5 * (1 + torch.cos(torch.tensor(torch.pi * (k - 50) / 50)).item()) for k in range(51, 101)]
    assert rates[51:] == pytest.approx(expected, abs=1e-6)


# Priors


def test_ddpm_timesteps_are_uniform_with_a_quarter_high():
    timesteps = DDPMPrior.tiny().draw_timesteps(200_000, torch.Generator().manual_seed(0))
    assert int(timesteps.min()) == 0 and int(timesteps.max()) == 999
    assert float((timesteps >= 700).float().mean()) == pytest.approx(0.25 + 0.75 * 0.3, abs=0.005)
    assert float((timesteps < 350).float().mean()) == pytest.approx(0.75 * 0.35, abs=0.005)


def test_flow_timesteps_have_logit_normal_sigmas():
    prior = FlowPrior.tiny()
    timesteps = prior.draw_timesteps(200_000, torch.Generator().manual_seed(0))
    assert int(timesteps.min()) >= 0 and int(timesteps.max()) <= 999
    sigmas = prior.schedule.sigmas[timesteps]
    for quantile, logit in ((0.1587, -1), (0.5, 0), (0.8413, 1)):
        expected = 1 / (1 + 2.718281828**-logit)
        assert float(sigmas.quantile(quantile)) == pytest.approx(expected, abs=0.006)


def test_windows_depend_on_seed_and_step_alone():
    maps = [torch.arange(4 * 20 * 30).reshape(4, 20, 30).half(), torch.randn(4, 40, 17).half()]
    first, generator = latent_windows(maps, 5, 6, 16, seed=1)
    again, other = latent_windows(maps, 5, 6, 16, seed=1)
    assert first.shape == (6, 4, 16, 16) and first.dtype == torch.float32
    assert torch.equal(first, again) and torch.equal(
        torch.rand(3, generator=generator), torch.rand(3, generator=other)
    )
    assert not torch.equal(first, latent_windows(maps, 6, 6, 16, seed=1)[0])
    for window in first:
        assert any(
            (m.float().unfold(1, 16, 1).unfold(2, 16, 1).permute(1, 2, 0, 3, 4) == window).flatten(2).all(2).any()
            for m in maps
        )


def test_windows_grow_at_equal_cost():
    assert window_batch(0, 100, 16) == window_batch(74, 100, 16) == (16, 16)
    assert window_batch(75, 100, 16) == window_batch(99, 100, 16) == (32, 4)
    assert prior_crops(100, 16) == 75 * 16 + 25 * 4


@pytest.mark.parametrize("part", ["ddpm", "flow"])
def test_a_prior_of_the_recipe_sees_a_million_crops(part):
    on_cpu = PRETRAINING[part]
    for row in (on_cpu, on_cpu.on_gpu()):
        assert prior_crops(row.steps, row.batch_size) >= 1_000_000


@pytest.mark.parametrize("kind, millions", [(DDPMPrior, 9.4), (FlowPrior, 11.2)])
@torch.no_grad()
def test_new_priors_predict_latents_of_any_size(kind, millions):
    prior = kind.mini(16, seed=0)
    assert sum(p.numel() for p in prior.denoiser.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert prior(torch.zeros(1, 16, 8, 12), 300).shape == (1, 16, 8, 12)


@torch.no_grad()
def test_latents_are_cached_once(tmp_path):
    from PIL import Image

    from omgsr_lib.data.photos import to_pixels
    from omgsr_lib.priors.latents import encode_latents

    vae, photo = tiny_autoencoder(), Image.effect_noise((40, 60), 60).convert("RGB")
    photo.save(tmp_path / "photo.png")
    maps = cache_latents(vae, [tmp_path / "photo.png"], tmp_path / "cache" / "latents.pt", short_sides=(16, 32))
    assert [tuple(m.shape) for m in maps] == [(4, 3, 2), (4, 3, 2), (4, 6, 4), (4, 6, 4)]
    pixels = to_pixels(photo.resize((32, 48), Image.LANCZOS))[None]
    assert torch.equal(maps[2], encode_latents(vae, pixels)[0].half())
    assert torch.equal(maps[3], encode_latents(vae, pixels.flip(-1))[0].half())
    again = cache_latents(None, ["missing.png"], tmp_path / "cache" / "latents.pt")
    assert all(torch.equal(a, b) for a, b in zip(maps, again, strict=True))
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["latents.pt"]


@pytest.mark.parametrize("make", [DDPMPrior.tiny, FlowPrior.tiny])
def test_samples_are_seeded(make):
    prior, shape = make(), (2, 4, 8, 8)
    first = sample(prior, shape, steps=4, seed=1)
    assert torch.equal(first, sample(prior, shape, steps=4, seed=1))
    assert torch.isfinite(first).all() and not torch.equal(first, sample(prior, shape, steps=4, seed=2))


class Oracle:
    """A prior that knows the clean latents: its output is the exact one for the latents it is given."""

    def __init__(self, prior, clean):
        self.target, self.sampler, self.schedule, self.clean = prior.target, prior.sampler, prior.schedule, clean
        self.draw_timesteps, self.loss_weights = prior.draw_timesteps, prior.loss_weights

    def __call__(self, latents, timestep):
        alpha, sigma = float(self.schedule.alphas[timestep]), float(self.schedule.sigmas[timestep])
        return self.target(self.clean, (latents - alpha * self.clean) / sigma)


class Zero(Oracle):
    def __call__(self, latents, timestep):
        return torch.zeros_like(latents)


@pytest.mark.parametrize("make", [DDPMPrior.tiny, FlowPrior.tiny])
def test_an_oracle_has_no_error_and_its_samples_are_the_clean_latents(make):
    clean = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    oracle = Oracle(make(), clean)
    errors = clean_error(oracle, clean, (25, 273, 999))
    assert list(errors) == [25, 273, 999] and max(errors.values()) < 1e-6
    drawn = sample(oracle, clean.shape, steps=20, seed=3)
    assert float((drawn - clean).abs().max()) < 0.05


def test_predicting_no_velocity_leaves_the_noise():
    """With output 0 a flow prior returns its input: error sigma^2 (1 + E[z^2]) over the variance."""
    prior = FlowPrior.tiny()
    clean = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    error = clean_error(Zero(prior, clean), clean, (244,))[244]
    assert error == pytest.approx(2 * 0.5051**2, rel=0.05)


def test_the_loss_of_a_prior_that_knows_the_answer_is_zero():
    """Without an answer it is that of the noise: E[(noise - latents)^2] = 2 for unit latents, at weight 1."""
    latents = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    class Knows(Oracle):
        def __call__(self, noisy, timesteps):
            alpha, sigma = (
                v[timesteps].float().view(-1, 1, 1, 1) for v in (self.schedule.alphas, self.schedule.sigmas)
            )
            noise = (noisy - alpha * self.clean) / sigma
            return self.target(self.clean, noise)

    for make in (DDPMPrior.tiny, FlowPrior.tiny):
        assert prior_loss(Knows(make(), latents), latents, draws=2) < 1e-3
    assert prior_loss(Zero(FlowPrior.tiny(), latents), latents) == pytest.approx(2, rel=0.05)


def test_pretraining_resumes_with_its_own_photographs_alone(tmp_path):
    """And with its own recipe and seed; a run that stopped before it kept anything may begin anew with others."""
    paths, row, command = packaged_photos("eval")[:2], Pretraining(steps=1, batch_size=8, learning_rate=1e-3), "omgsr"
    settings = {"part": "autoencoder", "seed": 9}
    keep_settings(tmp_path, settings)
    keep_settings(tmp_path, settings | {"seed": 0})
    pretrain("autoencoder", paths, tmp_path, row, command=command)
    state = (tmp_path / "state.pt").read_bytes()
    for other in (dict(paths=paths[:1]), dict(seed=1), dict(row=replace(row, steps=2)), dict(part="ddpm")):
        name = {"paths": "data", "row": "steps"}.get(*other, *other)
        arguments = dict(part="autoencoder", paths=paths, row=row) | other
        with pytest.raises(ValueError, match=f" has {name} = .* got "):
            pretrain(out=tmp_path, command=command, **arguments)
    assert (tmp_path / "state.pt").read_bytes() == state
    assert command in (tmp_path / "mini-autoencoder" / "README.md").read_text()


def test_pretraining_resumes_with_its_own_weights_alone(tmp_path, monkeypatch):
    """The autoencoder with its perceptual loss, the others with their autoencoder, wherever the folders lie."""
    paths, row = packaged_photos("eval")[:2], Pretraining(steps=1, batch_size=8, learning_rate=1e-3)
    monkeypatch.setattr(pretraining_command, "lpips_squeeze", lambda weights: None)
    for name in ("a", "b"):
        (tmp_path / name / "squeezenet").mkdir(parents=True)
        (tmp_path / name / "squeezenet" / "weights.safetensors").write_text(name)
    options = dict(paths=paths, row=row, command="omgsr")
    pretrain("autoencoder", out=tmp_path / "vae", perceptual=tmp_path / "a", **options)
    (tmp_path / "a").rename(tmp_path / "moved")
    pretrain("autoencoder", out=tmp_path / "vae", perceptual=tmp_path / "moved", **options)
    for other in (tmp_path / "b", None):
        with pytest.raises(ValueError, match="vae' has perceptual_weights = '[0-9a-f]{12}', got "):
            pretrain("autoencoder", out=tmp_path / "vae", perceptual=other, **options)

    monkeypatch.setattr(pretraining_command, "cache_latents", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pretrain("ddpm", out=tmp_path / "prior", **options)
    (tmp_path / "prior" / "log.jsonl").touch()
    with pytest.raises(ValueError, match="prior' has autoencoder_weights = '[0-9a-f]{12}', got '[0-9a-f]{12}'"):
        pretrain("ddpm", out=tmp_path / "prior", autoencoder=tmp_path / "vae" / "mini-autoencoder", **options)
    with pytest.raises(ZeroDivisionError):
        pretrain("ddpm", out=tmp_path / "prior", autoencoder=WEIGHTS / "mini-autoencoder", **options)


def test_devices_that_cannot_train_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refused(capsys, "pretrain", "ddpm", "--photos", "none", "--out", tmp_path / "run", "--device", "cuda")
    assert line.endswith("--device cuda needs a GPU that torch can use: there is none here. Take --device cpu.\n")
    row = PRETRAINING["estimator"]
    with pytest.raises(ValueError, match="The estimator is trained on a CPU: got device cuda. Take cpu"):
        pretrain("estimator", [], tmp_path / "run", row, command="omgsr", device="cuda")
    assert not (tmp_path / "run").exists()


# Estimator


def test_the_estimator_learns_resumes_and_fits_its_baseline(tmp_path, monkeypatch):
    """Pairs are made once; a resumed run equals an uninterrupted one; the line is that of least squares."""
    monkeypatch.setattr(estimator_training, "PAIRS", 20)
    vae, photos = load_autoencoder(WEIGHTS / "mini-autoencoder"), packaged_photos("eval")
    options = dict(batch_size=8)
    whole = estimator_training.train_estimator(vae, photos, tmp_path / "whole", steps=150, **options)
    data, found = (load_state(tmp_path / "whole" / name) for name in ("pairs.pt", "statistics.pt"))
    assert [len(data[part]["latents"]) for part in ("fit", "held_out")] == [20, 2]
    expected = torch.linalg.pinv(data["fit"]["statistics"]) @ data["fit"]["log_difference"].double()
    torch.testing.assert_close(found["line"], expected)
    assert found["constant"] == data["fit"]["log_difference"].median()
    whole.requires_grad_(False)
    mean, deviation = whole(data["held_out"]["latents"].float())
    surprise = (data["held_out"]["log_difference"] - mean) / deviation
    assert float(surprise.square().mean()) == pytest.approx(1, rel=1e-4)
    mean, _ = whole(data["fit"]["latents"].float())
    target = data["fit"]["log_difference"]
    assert (mean - target).square().mean() < 0.5 * (target - target.mean()).square().mean()
    monkeypatch.setattr(estimator_training, "difference_data", lambda *arguments, **options: 1 / 0)
    again = estimator_training.train_estimator(vae, photos, tmp_path / "whole", steps=150, **options)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
