"""train.py: exact resume, what changes and what does not, golden losses.

`PYTHONPATH=. python tests/test_train.py` writes golden_losses.json anew, after a change that is meant to alter it.
"""

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from omgsr_lib.adaptive.timesteps import own_timesteps
from omgsr_lib.data.pairs import EvaluationPair, Pairs
from omgsr_lib.data.photos import to_image
from omgsr_lib.losses.refinement import refinement_loss
from omgsr_lib.losses.views import view_mean
from omgsr_lib.model import OMGSR
from omgsr_lib.presets import recipe
from omgsr_lib.priors import DDPMPrior
from omgsr_lib.priors.tiny import tiny_autoencoder
from omgsr_lib.training.checkpoint import append_log, load_state, read_log, save_state, trim_log
from omgsr_lib.training.loop import TrainOptions, learning_rate_factor, run, set_up, train, watch, watched_recipe
from omgsr_lib.training.step import PIXEL_LOSSES
from omgsr_lib.utils.journal import alone


GOLDEN = Path(__file__).with_name("golden_losses.json")


class SmoothPairs:
    """Endless random images and their blurred twins; raises at `stop`, as a crash would."""

    def __init__(self, side=64, stop=None):
        self.side, self.stop = side, stop

    def __getitem__(self, index):
        if index == self.stop:
            raise KeyboardInterrupt
        coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(index)) * 2 - 1
        size = (self.side, self.side)
        hq = torch.nn.functional.interpolate(coarse, size, mode="nearest")[0]
        return {"lq": torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0], "hq": hq}

    def describe(self):
        return "blurred squares"


def new_model(variant, **changes):
    chosen = recipe("smoke", variant, **changes)
    model = OMGSR.from_recipe(chosen)
    return model.add_adapters(chosen.vae_rank, chosen.denoiser_rank), chosen


def golden_losses(variant, folder):
    model, chosen = new_model(variant, batch_size=1)
    log = train(model, SmoothPairs(), chosen, folder, steps=20, progress=False).log
    return log


@pytest.fixture(params=["s", "f"])
def variant(request):
    return request.param


@pytest.mark.parametrize(("variant", "stop"), [("s", 3), ("s", 4), ("f", 3), ("f", 4), ("z", 3), ("k", 3)])
def test_a_run_that_was_killed_goes_on_exactly(variant, stop, tmp_path):
    options = dict(seed=5, steps=6, every=2, progress=False)
    whole, chosen = new_model(variant, batch_size=1)
    expected = train(whole, SmoothPairs(), chosen, tmp_path / "whole", **options)
    assert len(expected.log) == 6 and set(expected.log[0]) == {
        "step", "pixel", "refinement", "perceptual", "grid", "adversarial", "discriminator"
    }  # fmt: skip

    killed, _ = new_model(variant)
    with pytest.raises(KeyboardInterrupt):
        train(killed, SmoothPairs(stop=stop), chosen, tmp_path / "killed", **options)
    assert len(read_log(tmp_path / "killed" / "log.jsonl")) == stop
    resumed, _ = new_model(variant)
    result = train(resumed, SmoothPairs(), chosen, tmp_path / "killed", **options)

    assert result.log == expected.log
    for name, parameter in whole.trainable_parameters().items():
        assert torch.equal(parameter, resumed.trainable_parameters()[name]), name
    states = [torch.load(tmp_path / run / "state.pt", weights_only=True) for run in ("whole", "killed")]
    assert states[0]["step"] == states[1]["step"] == 6
    assert all(torch.equal(value, states[1]["heads"][name]) for name, value in states[0]["heads"].items())
    again = train(resumed, SmoothPairs(stop=0), chosen, tmp_path / "killed", **options)  # nothing left to do
    assert again.log == result.log


def test_one_training_at_a_time_in_a_folder(tmp_path):
    model, chosen = new_model("s", batch_size=1)
    with alone(tmp_path / "run"), pytest.raises(OSError, match="One run at a time writes into a folder: .*run'. Wait"):
        train(model, SmoothPairs(), chosen, tmp_path / "run", steps=1, progress=False)
    assert len(train(model, SmoothPairs(), chosen, tmp_path / "run", steps=1, progress=False).log) == 1


def test_a_run_goes_on_with_its_own_photographs_alone(tmp_path):
    for name in ("a.png", "b.png", "moved/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        to_image(SmoothPairs()[int(name.startswith("b"))]["hq"]).save(tmp_path / name)

    def run(name, synthetic=0):
        model, chosen = new_model("s", batch_size=1)
        pairs = Pairs([tmp_path / name], 64, seed=0, synthetic=synthetic)
        return train(model, pairs, chosen, tmp_path / "run", steps=1, progress=False)

    run("a.png"), run("moved/a.png")
    for other in dict(name="b.png"), dict(name="a.png", synthetic=1):
        with pytest.raises(ValueError, match="run' has data = '1 photographs, .*', got '1 photographs, "):
            run(**other)


@pytest.mark.parametrize("variant", ["s", "f", "z", "k"])
def test_images_are_compared_with_the_first_model_over_views(variant, tmp_path, monkeypatch):
    """The target of every step, also of a resumed run, comes from the adapters that the training began with."""
    seen, targets = [], []

    def keep(restore, lq, period, noise):
        mean = view_mean(restore, lq, period, noise)
        seen.append((restore(lq), period, mean))
        return mean

    def mse(restored, target):
        targets.append(target)
        return (restored - target).square().mean()

    monkeypatch.setattr("omgsr_lib.training.step.view_mean", keep)
    monkeypatch.setitem(PIXEL_LOSSES, "mse", mse)
    changes = dict(batch_size=1, target="mean", perceptual=0.0, adversarial=0.0)
    options = dict(steps=3, every=1, progress=False)
    model, chosen = new_model(variant, **changes)
    log = train(model, SmoothPairs(), chosen, tmp_path / "whole", **options).log
    killed, _ = new_model(variant)
    with pytest.raises(KeyboardInterrupt):
        train(killed, SmoothPairs(stop=2), chosen, tmp_path / "killed", **options)
    resumed, _ = new_model(variant)
    assert train(resumed, SmoothPairs(), chosen, tmp_path / "killed", **options).log == log

    first, _ = new_model(variant)
    assert len(seen) == 6
    for step, (image, period, mean) in enumerate(seen[:3]):
        with torch.no_grad():
            expected = first(SmoothPairs()[step]["lq"][None]).images
        assert period == first.multiple and not torch.allclose(image, mean, atol=1e-3)
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-4)  # the teacher's adapters are merged
        assert targets[step] is mean


def test_adaptive_training_takes_each_picture_at_its_own_timestep(variant, tmp_path, monkeypatch):
    """The refinement loss is at the timesteps of `own_timesteps`; the scale of the latents follows them."""
    model, chosen = new_model(variant, batch_size=2, adaptive=True)
    seen = []
    monkeypatch.setattr(
        "omgsr_lib.training.step.refinement_loss",
        lambda lq, hq, schedule, t, generator: seen.append((lq.detach(), t)) or refinement_loss(lq, hq, schedule, t),
    )
    train(model, SmoothPairs(), chosen, tmp_path, steps=1, progress=False)
    ((lq_latents, timesteps),) = seen
    pairs = [SmoothPairs()[i] for i in range(2)]
    lq, hq = (torch.stack([pair[name] for pair in pairs]) for name in ("lq", "hq"))
    assert timesteps.tolist() == own_timesteps(model.vae, lq, hq, model.prior.schedule).tolist()
    fresh, _ = new_model(variant)
    gain = model.prior.schedule.alphas[timesteps] / model.prior.schedule.alphas[model.timestep]
    expected = fresh.encode(lq) * gain.float()[:, None, None, None]
    assert model.vae.config.latent_channels == lq_latents.shape[1]
    torch.testing.assert_close(lq_latents.mean((1, 2, 3)), expected.mean((1, 2, 3)), rtol=0.3, atol=0.1)


def test_the_seed_decides(tmp_path):
    def first_line(seed, name):
        model, chosen = new_model("s", batch_size=1)
        return train(model, SmoothPairs(), chosen, tmp_path / name, seed=seed, steps=1, progress=False).log

    assert first_line(1, "a") == first_line(1, "b") != first_line(2, "c")


def test_only_adapters_and_heads_change(variant, tmp_path):
    model, chosen = new_model(variant, batch_size=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, SmoothPairs(), chosen, tmp_path, steps=2, progress=False)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(".lora_" in name for name in changed)
    assert any(name.startswith("lq_vae.encoder.") for name in changed)
    assert any(name.startswith("prior.denoiser.") for name in changed)
    assert {name for name in before if ".lora_B." in name} <= changed
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_frozen_encoder_stays_frozen(tmp_path):
    chosen = recipe("smoke", "s", batch_size=1)
    model = OMGSR.from_base("tiny", "ddpm", 273).add_adapters(0, 4)
    before = {name: value.clone() for name, value in model.lq_vae.state_dict().items()}
    train(model, SmoothPairs(), chosen, tmp_path, steps=1, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.lq_vae.state_dict().items())


def test_bf16_training_leaves_a_float32_model(tmp_path):
    """What is measured after training is what is saved: no autocast stays on the model."""
    model, chosen = new_model("s", batch_size=1)
    train(model, SmoothPairs(), chosen, tmp_path / "a", steps=1, precision="bf16", progress=False)
    pixels = SmoothPairs()[9]["lq"][None]
    reloaded = OMGSR.from_base("tiny", "ddpm", 273).load_adapter(model.save_adapter(tmp_path / "adapter"))
    with torch.no_grad():
        assert torch.equal(model(pixels).images, reloaded(pixels).images)
    train(model, SmoothPairs(), chosen, tmp_path / "b", steps=1, precision="no", progress=False)


def test_accumulation_of_micro_batches_equals_one_batch(tmp_path):
    """Holds for losses that draw no noise: the mean gradient of two batches of one is that of one batch of two."""
    gradients, lines = [], []
    for size, accumulation in ((2, 1), (1, 2)):
        vae = tiny_autoencoder()
        with torch.no_grad():  # log-variance -30: the posterior's sample is its mean
            vae.quant_conv.weight[4:], vae.quant_conv.bias[4:] = 0, -30
        model = OMGSR(vae, DDPMPrior.tiny(), 273).add_adapters(4, 4)
        chosen = recipe("smoke", "s", batch_size=size, accumulation=accumulation, refinement=0.0, adversarial=0.0)
        folder = tmp_path / str(size)
        lines += train(model, SmoothPairs(), chosen, folder, steps=1, progress=False).log
        moments = torch.load(folder / "state.pt", weights_only=True)["generator"]["state"]
        gradients.append(torch.cat([moment["exp_avg"].flatten() for moment in moments.values()]))
    assert set(lines[0]) == {"step", "pixel", "perceptual", "grid"}
    assert lines[0] == pytest.approx(lines[1], rel=1e-5)
    assert gradients[0].norm() > 0.05  # first moment of a gradient of norm 1, by clipping
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-6)


def test_learning_rate_factor():
    mini = recipe("mini", "s")
    factors = [learning_rate_factor(mini, step, 150) for step in range(151)]
    assert factors[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert factors[20:106] == [1.0] * 86
    assert factors[105:] == pytest.approx([(150 - step) / 45 for step in range(105, 151)])
    constant = recipe("paper", "s-512")
    assert {learning_rate_factor(constant, step, 100) for step in range(100)} == {1.0}


def test_other_settings_need_another_folder(tmp_path):
    model, chosen = new_model("s", batch_size=1)
    result = train(model, SmoothPairs(), chosen, tmp_path / "run", steps=1, progress=False)
    before = (tmp_path / "run" / "state.pt").read_bytes()
    for changes, options, name in (
        ({"learning_rate": 1.0}, {}, "learning_rate = 0.0005, got 1.0"),
        ({}, {"seed": 3}, "seed = 0, got 3"),
        ({}, {"steps": 2}, "steps = 1, got 2"),
    ):
        with pytest.raises(ValueError, match=name):
            train(model, SmoothPairs(), replace(chosen, **changes), tmp_path / "run", **{"steps": 1} | options)
    assert (tmp_path / "run" / "state.pt").read_bytes() == before
    result.discard()
    assert not (tmp_path / "run").exists()


def test_arguments_without_a_meaning_are_refused(tmp_path, monkeypatch):
    model, chosen = new_model("s")
    with pytest.raises(ValueError, match="precision must be one of no, bf16: got 'fp16'"):
        train(model, SmoothPairs(), chosen, tmp_path / "run", precision="fp16")
    with pytest.raises(ValueError, match="optimizer must be one of adamw, adamw8bit: got 'sgd'"):
        train(model, SmoothPairs(), chosen, tmp_path / "run", optimizer="sgd")
    with pytest.raises(FileNotFoundError, match="LPIPS-SqueezeNet needs its backbone"):
        train(model, SmoothPairs(), replace(chosen, perceptual_loss="lpips-squeeze"), tmp_path / "run")
    for name, options in (("tensorboard", {"tracker": "tensorboard"}), ("bitsandbytes", {"optimizer": "adamw8bit"})):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(ImportError, match=f"pip install {name}"):
            train(model, SmoothPairs(), chosen, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_before_the_checkpoint(tmp_path):
    model, chosen = new_model("s", batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        train(model, SmoothPairs(stop=2), chosen, tmp_path, steps=4, every=1, progress=False)
    before = (tmp_path / "state.pt").read_bytes()
    broken, _ = new_model("s")
    torch.nn.init.constant_(broken.vae.decoder.conv_out.bias, float("nan"))
    with pytest.raises(FloatingPointError, match="must stay finite: step 3 has pixel nan.*Lower the learning rate"):
        train(broken, SmoothPairs(), chosen, tmp_path, steps=4, every=1, progress=False)
    assert (tmp_path / "state.pt").read_bytes() == before


def test_as_released_the_generator_loss_leaks_into_the_discriminator(tmp_path):
    """The first moment of the heads' gradient, unclipped: with the leak it holds that of the generator's loss too."""

    def moments(**options):
        model, chosen = new_model("s", batch_size=1, clip=1e9)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        train(model, SmoothPairs(), chosen, folder, steps=1, progress=False, **options)
        state = torch.load(folder / "state.pt", weights_only=True)
        return [moment["exp_avg"] / 0.1 for moment in state["discriminator"]["state"].values()], state["generator"]

    (clean, generator), (leaking, same_generator) = moments(), moments(as_released=True)
    assert all(torch.equal(generator["state"][0][name], same_generator["state"][0][name]) for name in ("exp_avg",))
    last_bias = [grad for grad in clean if grad.shape == (1,)], [grad for grad in leaking if grad.shape == (1,)]
    # d/d bias of the logit: sigmoid - label. Clean: (p_real - 0.8) + (p_fake - 0); leaking: + (p_fake - 0.8).
    for without, with_leak in zip(*last_bias, strict=True):
        assert float(without) == pytest.approx(0.5 * (0.5 - 0.8 + 0.5), abs=0.1)
        assert float(with_leak - without) == pytest.approx(0.5 * (0.5 - 0.8), abs=0.1)


def test_an_error_in_the_generators_pass_leaves_the_heads_trainable(tmp_path, monkeypatch):
    model, chosen = new_model("s", batch_size=1)
    training = set_up(model, SmoothPairs(), chosen, tmp_path / "run", TrainOptions(steps=1))
    monkeypatch.setattr("omgsr_lib.training.step.generator_loss", lambda *arguments, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(training)
    assert all(parameter.requires_grad for parameter in training.networks.discriminator.heads.parameters())


def test_adapters_and_previews_on_the_way(tmp_path):
    model, chosen = new_model("s", batch_size=1)
    item = SmoothPairs()[7]
    pair = EvaluationPair("seven", item["lq"], item["lq"][:, ::4, ::4], item["hq"])
    train(model, SmoothPairs(), chosen, tmp_path, steps=3, every=2, export_every=2, previews=[pair], progress=False)
    assert sorted(p.name for p in (tmp_path / "previews").iterdir()) == ["step-000002.png", "step-000003.png"]
    exported = OMGSR.from_base("tiny", "ddpm", 273).load_adapter(tmp_path / "weight-2")
    assert exported.ranks == (8, 16) and not (tmp_path / "weight-3").exists()
    watched, _ = new_model("s")
    log = watch(watched, tmp_path)
    assert [line["step"] for line in log] == [1, 2, 3]
    for name, parameter in model.trainable_parameters().items():
        assert torch.equal(parameter, watched.trainable_parameters()[name])
    assert watched_recipe(tmp_path) == replace(chosen, steps=3)
    with pytest.raises(FileNotFoundError, match="has no state.pt yet"):
        watched_recipe(tmp_path / "none")


def test_golden_losses(variant, tmp_path):
    expected = json.loads(GOLDEN.read_text())[variant]
    found = golden_losses(variant, tmp_path)
    assert len(found) == 20 and all(math.isfinite(value) for line in found for value in line.values())
    for line, wanted in zip(found, expected, strict=True):
        assert line == pytest.approx(wanted, rel=1e-4), f"step {line['step']}"


def test_log_is_trimmed_to_the_checkpoint(tmp_path):
    for step in range(1, 6):
        append_log(tmp_path / "log.jsonl", {"step": step})
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"step": 6, "pix')  # cut off: killed, or the disk was full
    assert len(read_log(tmp_path / "log.jsonl")) == 5
    trim_log(tmp_path / "log.jsonl", 3)
    assert read_log(tmp_path / "log.jsonl") == [{"step": step} for step in (1, 2, 3)]
    assert [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    """The system refuses files beyond a limit, as it refuses them on a full disk."""
    resource = pytest.importorskip("resource")
    file, log = tmp_path / "state.pt", tmp_path / "log.jsonl"
    save_state(file, {"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot write .*state.pt .File too large.: free some space"):
            save_state(file, {"step": 2, "adapters": torch.ones(5000)})
        with pytest.raises(OSError, match="cannot write .*log.jsonl .File too large.: free some space"):
            append_log(log, {"step": 2, "note": "x" * 5000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_state(file) == {"step": 1} and read_log(log) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", "state.pt"]


if __name__ == "__main__":
    import tempfile

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        losses = {variant: golden_losses(variant, Path(scratch) / variant) for variant in "sf"}
    GOLDEN.write_text(json.dumps(losses, indent=1) + "\n")


def test_sharpening_begins_after_its_share_of_the_steps(tmp_path):
    """Until then neither the perceptual loss nor the discriminator takes part."""
    model, _ = new_model("s")
    late = recipe("smoke", "s", sharpen_from=0.5, discriminator="pixels", offset=16, batch_size=1, grid=0.0)
    log = train(model, SmoothPairs(), late, tmp_path, steps=4, progress=False).log
    extra = {"perceptual", "adversarial", "discriminator"}
    assert [extra & set(line) for line in log] == [set(), set(), extra, extra]
    assert all({"pixel", "refinement"} <= set(line) for line in log)
