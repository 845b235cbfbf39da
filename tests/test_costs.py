"""costs.py: full-size models against the counts of a separate study, tiny ones against closed forms."""

import re
from dataclasses import replace

import pytest
import torch

from omgsr_lib.losses.build import build_losses
from omgsr_lib.model import OMGSR
from omgsr_lib.presets import recipe
from omgsr_lib.study.costs import (
    autoencoder_memory,
    dry_run,
    format_dry_run,
    inference_costs,
    meta_model,
    restoration_costs,
    training_costs,
)
from omgsr_lib.utils.meter import count


# TFLOP of a forward pass without adapters: encode, denoiser, decode.
FORWARD = {
    ("release", "s-512"): (1.117, 0.804, 2.515),
    ("release", "f-1024"): (4.879, 74.385, 10.470),
    ("paper", "f-512"): (1.117, 21.503, 2.515),
}


@pytest.mark.parametrize("name", [*list(FORWARD)[:2], pytest.param(list(FORWARD)[2], marks=pytest.mark.slow)])
def test_flops_of_a_restoration(name):
    frame = inference_costs(recipe(*name)).set_index("stage")
    assert list(frame.index) == ["encode", "denoiser", "decode"]
    assert tuple(frame["flops"] / 1e12) == pytest.approx(FORWARD[name], rel=2e-3)
    denoiser = {"s": 865_910_724, "f": 11_901_408_320}[name[1][0]]
    assert frame.loc["denoiser", "parameters"] == denoiser


@pytest.fixture(scope="module")
def plain():
    """Of the smoke recipe of flow matching, without loss networks, under autocast."""
    return training_costs(recipe("smoke", "f"))


def test_memory_of_the_autoencoders_in_one_piece():
    """Five activations of 128 channels at the image's resolution to encode, six to decode; linear in the area."""
    frame = autoencoder_memory(("ddpm",), (1024, 8192), ("one piece",)).set_index(["stage", "side"]).bytes
    activation = 128 * 1024**2 * 2
    assert frame["encode", 1024] == pytest.approx(5 * activation, rel=0.01)
    assert frame["decode", 1024] == pytest.approx(6 * activation, rel=0.01)
    assert frame["encode", 8192] / frame["encode", 1024] == pytest.approx(64, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["ddpm", "flow"])
def test_flat_memory_at_full_size_does_not_grow(family):
    """At 8192 pixels 1.05 times that at 2048, which one piece passes already."""
    frame = autoencoder_memory((family,), (2048, 8192), ("flat",)).set_index(["stage", "side"]).bytes
    for stage in ("encode", "decode"):
        assert frame[stage, 8192] <= 1.05 * frame[stage, 2048]
        whole = autoencoder_memory((family,), (2048,), ("one piece",)).set_index("stage").bytes
        assert frame[stage, 2048] < 0.5 * whole[stage]


def test_costs_of_a_tiny_training():
    chosen = recipe("smoke", "s")
    model = meta_model(chosen, "no")
    with torch.device("meta"):
        perceptual, critic = build_losses(chosen, model.vae, pretrained=False)
    costs = training_costs(chosen, model=model, perceptual=perceptual, discriminator=critic, precision="no")
    parts = costs.parts.set_index("part")
    assert list(parts.index) == [
        "encode HQ", "LoRA encoder", "denoiser", "decoder", "perceptual", "discriminator for G", "discriminator for D"
    ]  # fmt: skip
    adapters = sum(p.numel() for p in model.trainable_parameters().values())
    heads = sum(p.numel() for p in critic.heads.parameters())
    assert parts["trainable"].sum() == adapters + heads and costs.uncounted == ()
    assert all(p.requires_grad for p in critic.heads.parameters())

    # Frozen layers: the backward pass computes gradients of inputs only, as many FLOPs as the forward pass.
    forward = inference_costs(chosen).set_index("stage")["flops"]
    batch = chosen.batch_size
    assert parts.loc["encode HQ", "flops"] == batch * forward["encode"]
    assert 2 * batch * forward["decode"] <= parts.loc["decoder", "flops"] <= 2.1 * batch * forward["decode"]
    assert parts.loc["encode HQ", "kept"] == 0 and costs.flops == parts["flops"].sum()

    # The base in float32, one copy of the encoder; 12 bytes per trained parameter beyond its weight.
    tensors = {id(t): t for m in (model, perceptual, critic) for t in (*m.parameters(), *m.buffers())}
    assert costs.memory["weights"] == sum(t.numel() * t.element_size() for t in tensors.values())
    assert costs.memory["optimizer"] == 12 * (adapters + heads)
    kept = parts["kept"]  # nothing is given back early, so the generator's pass peaks at its end
    assert costs.memory["activations"] == max(kept.drop("discriminator for D").sum(), kept["discriminator for D"])
    assert costs.peak_bytes == sum(costs.memory.values())


def test_what_an_even_and_an_adaptive_recipe_compute_besides():
    """The mean over two views, each larger by a period; another encoding of both images for their timesteps."""
    chosen = recipe("smoke", "f", batch_size=2, perceptual=0.0, adversarial=0.0)
    plain, costs = (training_costs(row) for row in (chosen, replace(chosen, target="mean", adaptive=True)))
    parts = costs.parts.set_index("part")
    assert [*parts.index] == ["encode HQ", "encode both for t*", "teacher", "LoRA encoder", "denoiser", "decoder"]
    model = meta_model(chosen)
    view = inference_costs(replace(chosen, resolution=chosen.resolution + model.multiple), model=model)
    assert parts.loc["teacher", "flops"] == 2 * 2 * view["flops"].sum()
    assert parts.loc["encode both for t*", "flops"] == 2 * parts.loc["encode HQ", "flops"]
    assert costs.flops == plain.flops + parts.loc[["teacher", "encode both for t*"], "flops"].sum()
    assert (parts.loc[["teacher", "encode both for t*"], ["trainable", "kept", "peak"]] == 0).all(axis=None)
    own = {id(t): t for m in (model.lq_vae, model.prior) for t in (*m.parameters(), *m.buffers())}.values()
    assert costs.memory["weights"] - plain.memory["weights"] == sum(t.nbytes for t in own)
    assert costs.memory["optimizer"] == plain.memory["optimizer"] and costs.uncounted == ()


def test_chunks_a_few_at_a_time_take_less_memory():
    costs = {}
    for at_once in (None, 1):
        chosen = recipe("smoke", "s", at_once=at_once, batch_size=1, adversarial=0.0)
        model = meta_model(chosen)
        with torch.device("meta"):
            networks = build_losses(chosen, model.vae, pretrained=False)
        costs[at_once] = training_costs(chosen, model=model, **networks._asdict()).parts.set_index("part")
    all_at_once, one_by_one = costs[None].loc["perceptual"], costs[1].loc["perceptual"]
    chunks = 4  # of 48 pixels in 80
    assert one_by_one["flops"] == pytest.approx(all_at_once["flops"], rel=1e-6)
    picture = 3 * 80 * 80 * 4
    assert one_by_one["kept"] == picture  # the gradient of the predicted image
    assert all_at_once["peak"] / chunks < one_by_one["peak"] < all_at_once["peak"] / chunks + 2 * picture


def test_checkpointing_trades_memory_for_flops(plain):
    """No more than a second forward pass, for less memory in each of the three parts."""
    checkpointed = training_costs(recipe("smoke", "f", checkpointing=True))
    forward = inference_costs(recipe("smoke", "f")).set_index("stage")["flops"] * recipe("smoke", "f").batch_size
    before, after = (costs.parts.set_index("part") for costs in (plain, checkpointed))
    for part, stage in (("LoRA encoder", "encode"), ("denoiser", "denoiser"), ("decoder", "decode")):
        again = after.loc[part, "flops"] - before.loc[part, "flops"]
        assert 0.5 * forward[stage] < again < 0.5 * before.loc[part, "flops"]  # the backward pass is the larger part
        assert after.loc[part, "kept"] < 0.5 * before.loc[part, "kept"]
        assert after.loc[part, "peak"] < 0.8 * before.loc[part, "peak"]
    assert checkpointed.memory["activations"] < 0.5 * plain.memory["activations"]
    assert plain.uncounted == ("perceptual loss", "discriminator")


def test_the_optimizers_states(plain):
    trained = plain.parts["trainable"].sum()
    assert plain.memory["optimizer"] == (4 + 4 + 4) * trained
    eight_bit = training_costs(recipe("smoke", "f"), optimizer="adamw8bit").memory
    assert eight_bit == plain.memory | {"optimizer": (4 + 1 + 1) * trained}


def test_the_report_of_a_dry_run(plain):
    chosen, costs = recipe("smoke", "f", learning_rate=1e-3), plain
    text = format_dry_run(chosen, costs)
    lines = {line.split("  ")[1].strip(): line.split() for line in text.splitlines() if line.startswith("  ")}
    assert lines["learning_rate"] == ["learning_rate", "0.001"] and lines["family"] == ["family", "'flow'"]
    parts = costs.parts.set_index("part")
    for part in parts.index:
        numbers = [float(number.replace(",", "")) for number in lines[part][-4:]]
        row = parts.loc[part]
        expected = [row["parameters"], row["trainable"], row["flops"] / 1e12, row["kept"] / 1e9]
        assert numbers == pytest.approx(expected, rel=5e-3)
    assert f"Estimated peak memory per GPU: {costs.peak_bytes / 1e9:.3g} GB = weights" in text
    assert text.endswith("Not counted: perceptual loss and discriminator.")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "expected", "heads"),
    [
        # TFLOP of encode HQ, LoRA encoder, denoiser, decoder, perceptual and both passes of the discriminator.
        ("s-512", (1.12, 2.52, 1.84, 5.06, 0.99, 0.66, 0.66), 4_729_443),
        # All three trained parts compute their forward pass twice.
        ("f-1024", (4.88, 20.9, 249.5, 32.2, 3.93, 2.65, 2.69), 4_978_563),
    ],
)
def test_a_full_size_training(variant, expected, heads):
    text = dry_run(recipe("release", variant))
    rows = [
        line.split() for line in text.splitlines() if re.match(r"  [a-zA-Z ]+ [\d,]+ +[\d,]+ +[\d.]+ +[\d.]+$", line)
    ]
    assert [float(row[-2]) for row in rows] == pytest.approx(expected, rel=0.04)
    assert rows[-1][-3] == f"{heads:,}" and "Not counted" not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "resolution", "checkpointing", "published"),
    [("s-512", 512, False, 24), ("s-512", 512, True, 21), ("f-1024", 512, True, 42), ("f-1024", 1024, True, 79)],
)
def test_memory_that_the_authors_report(variant, resolution, checkpointing, published):
    """GB in their README, in their precisions: autoencoders, DISTS and the UNet in float32, FLUX in bfloat16, denoiser
    and discriminator under autocast, two copies of the loss backbone. They measured operators' buffers and the CUDA
    context too, which come to 1 to 5 GB. With checkpointing the denoiser alone is recomputed.
    """
    chosen = recipe("release", variant, resolution=resolution)
    model = meta_model(chosen, "no")
    if chosen.family == "flow":
        model.prior.to(torch.bfloat16)
    model.add_adapters(chosen.vae_rank, chosen.denoiser_rank)
    with torch.device("meta"):
        perceptual, critic = (build_losses(chosen, model.vae, pretrained=False)[i] for i in (0, 1))
        pixels, predicted = torch.zeros(2, 1, 3, resolution, resolution)
        latents = torch.zeros(1, model.vae.config.latent_channels, resolution // 8, resolution // 8)
    predicted.requires_grad_()
    latents.requires_grad_()
    modules, denoiser = [model, perceptual, critic], model.prior.denoiser
    encoder = count(lambda: model.encode(pixels), modules)
    options = {"autocast": True, "recomputed": denoiser if checkpointing else None}
    prediction = count(lambda: model.predict_clean(latents), modules, **options)
    decoder = count(lambda: model.decode(latents), modules)
    distance = count(lambda: perceptual(predicted, pixels).mean(), modules)
    logits = count(lambda: critic.loss(predicted, torch.Generator(), 0.8), modules, autocast=True)
    activations = sum(part.kept for part in (encoder, prediction, decoder, distance, logits))
    tensors = {id(t): t for module in modules for t in (*module.parameters(), *module.buffers())}.values()
    trained = sum(t.numel() for t in tensors if t.requires_grad)
    counted = sum(t.nbytes for t in tensors) + 12 * trained + activations
    assert 1 < published - counted / 1e9 < 5


def test_costs_of_a_restoration_are_counts_and_measured_seconds():
    chosen = recipe("smoke", "s")
    model = OMGSR.from_recipe(chosen)
    table = restoration_costs("tiny", chosen, model=model, repeats=1)
    counted = inference_costs(chosen, model=meta_model(chosen, "no"))
    assert table["stage"].tolist() == ["encode", "denoiser", "decode"] and set(table["method"]) == {"tiny"}
    assert table["GMAC"].tolist() == (counted["flops"] / 2e9).tolist()
    assert table["parameters (M)"].sum() * 1e6 == pytest.approx(counted["parameters"].sum())
    assert table["weights (MiB)"].tolist() == (counted["parameters"] * 4 / 2**20).tolist()
    assert table["activations (MiB)"].tolist() == (counted["activations"] / 2**20).tolist()
    assert (table["seconds"] > 0).all() and next(model.parameters()).device.type == "cpu"
