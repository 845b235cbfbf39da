"""quantised.py: adapters trained on a base in 8 bits, what is refused, and the memory it takes."""

import copy
import re
from importlib.util import find_spec

import pytest
import torch
from command_case import two_photos

from omgsr_lib.data.photos import find_photos
from omgsr_lib.lora import lora_parameters, merge_lora
from omgsr_lib.model import OMGSR
from omgsr_lib.presets import recipe
from omgsr_lib.restore.prepare import is_quantised, quantise_linear
from omgsr_lib.study.costs import training_costs
from omgsr_lib.training import loop
from omgsr_lib.training.quantised import check_training, quantise_base, quantised_memory
from omgsr_lib.training.run import finetune
from omgsr_lib.training.step import train_step


needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="quantised weights need pip install torchao")


def small(variant, **changes):
    return recipe("smoke", variant, batch_size=1, checkpointing=True, **changes)


@pytest.fixture
def photos(tmp_path):
    return find_photos(two_photos(tmp_path / "photos"))


def trained(photos, out, chosen, quantise, **options):
    options |= dict(name="adapters", preset="smoke", command="omgsr train", precision="no", progress=False, seed=3)
    return finetune(chosen, photos, out, quantise=quantise, **options)


def linear_layers(denoiser):
    found = denoiser.named_modules()
    return {name: x for name, x in found if isinstance(x, torch.nn.Linear) and ".lora_" not in name}


def full_weights(denoiser):
    """`denoiser` with the values that its quantised weights stand for."""
    for layer in linear_layers(denoiser).values():
        layer.weight = torch.nn.Parameter(layer.weight.dequantize(), requires_grad=False)
    return denoiser


@needs_torchao
@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_gradients_are_those_of_the_rounded_weights(kind):
    model = OMGSR.from_recipe(small("f"))
    quantise_linear(model.prior.denoiser, kind)
    rounded = copy.deepcopy(model)
    full_weights(rounded.prior.denoiser)
    assert is_quantised(model.prior.denoiser) and not is_quantised(rounded.prior.denoiser)
    gradients, latents = [], torch.randn(1, model.vae.config.latent_channels, 8, 8)
    for each in (model, rounded):
        each.add_adapters(4, 4, seed=1)
        for parameter in lora_parameters(each.prior.denoiser).values():
            torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(parameter.numel()))
        each.predict_clean(latents).square().sum().backward()
        gradients.append({name: p.grad for name, p in lora_parameters(each.prior.denoiser).items()})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-5 * gradient.abs().max().item())


@needs_torchao
@pytest.mark.parametrize("variant", ["f", "z", "k"])
def test_a_run_resumes_and_its_adapters_fit_the_base(photos, tmp_path, monkeypatch, variant):
    chosen, steps = small(variant, steps=2), []

    def stopped_at_the_second(*arguments, **options):
        steps.append(None)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return train_step(*arguments, **options)

    whole = trained(photos, tmp_path / "whole", chosen, "int8")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "train_step", stopped_at_the_second)
        trained(photos, tmp_path / "parts", chosen, "int8", every=1)
    trained(photos, tmp_path / "parts", chosen, "int8", every=1)
    adapters = [tmp_path / run / "adapters" for run in ("whole", "parts")]
    weights = [{p.relative_to(a): p.read_bytes() for p in a.rglob("*.safetensors")} for a in adapters]
    assert len(whole.log) == 2 and weights[0] == weights[1] and len(weights[0]) == 2
    assert "| base | linear weights in int8 |" in (adapters[0] / "README.md").read_text()
    model = OMGSR.from_recipe(chosen).load_adapter(adapters[0])
    assert not is_quantised(model.merge())
    with pytest.raises(ValueError, match="has quantise = 'int8', got None"):
        trained(photos, tmp_path / "whole", chosen, None)


@needs_torchao
def test_narrower_adapters_continue_on_quantised_weights(photos, tmp_path):
    chosen = small("f", steps=1)
    OMGSR.from_recipe(chosen).add_adapters(2, 2).save_adapter(tmp_path / "start")
    trained(photos, tmp_path / "run", chosen, "int8", start=str(tmp_path / "start"))
    model = OMGSR.from_recipe(chosen).load_adapter(tmp_path / "run" / "adapters")
    assert model.ranks == (chosen.vae_rank, chosen.denoiser_rank)


@needs_torchao
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize("variant", ["f", "z", "k"])
def test_activations_under_autocast_have_the_precision_of_the_plain_base(variant, kind, dtype):
    """In float32 they would take up to twice the memory that a dry run counts."""
    chosen, found = small(variant), []
    for quantise in (None, kind):
        model = OMGSR.from_recipe(chosen).to(dtype)
        if quantise:
            quantise_base(model, chosen, quantise)
        model.add_adapters(4, 4, seed=1)
        found.append({})
        for name, layer in linear_layers(model.prior.denoiser).items():
            layer.register_forward_hook(lambda *a, name=name, seen=found[-1]: seen.update({name: a[2].dtype}))
        latents = torch.randn(1, model.vae.config.latent_channels, 8, 8, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            clean = model.predict_clean(latents)
        clean.float().sum().backward()
    assert found[0] == found[1] and torch.bfloat16 in found[0].values()


@needs_torchao
def test_adapters_on_quantised_weights_are_not_merged():
    model = OMGSR.from_recipe(small("f"))
    quantise_linear(model.prior.denoiser, "int8")
    model.add_adapters(2, 2)
    with pytest.raises(ValueError, match="these are quantised. Save the adapters"):
        merge_lora(model.prior.denoiser)


@needs_torchao
@pytest.mark.parametrize("variant", ["f", "z", "k"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bytes_taken_off_are_those_of_the_tensors(variant, dtype):
    denoiser = OMGSR.from_recipe(small(variant)).to(dtype).prior.denoiser
    counted, _ = quantised_memory(denoiser)
    linear = linear_layers(denoiser).values()
    before = sum(layer.weight.nbytes for layer in linear)
    quantise_linear(denoiser, "int8")
    assert counted == before - sum(layer.weight.qdata.nbytes + layer.weight.scale.nbytes for layer in linear)


@needs_torchao
@pytest.mark.parametrize("variant", ["f", "z", "k"])
def test_autograd_keeps_no_more_copies_than_are_counted(variant):
    """It keeps fewer: none of the layers before which nothing is trained."""
    chosen = small(variant)
    model = OMGSR.from_recipe(chosen).to(torch.bfloat16)
    _, counted = quantised_memory(model.prior.denoiser)
    quantise_base(model, chosen, "int8").add_adapters(4, 4)
    blocks, current = {}, []
    for name, layer in linear_layers(model.prior.denoiser).items():
        block = re.match(r"(\w+\.\d+\.)?", name)[0]
        layer.register_forward_pre_hook(lambda layer, _, block=block: current.append((block, layer.weight.qdata)))
        layer.register_forward_hook(lambda *arguments: current.clear())

    def keep(tensor):
        for block, weight in current:
            if torch.equal(tensor, weight.mT.to(tensor.dtype)):
                blocks[block] = blocks.get(block, 0) + tensor.nbytes
        return tensor

    latents = torch.randn(1, model.vae.config.latent_channels, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        model.predict_clean(latents)
    assert 0 < blocks.pop("", 0) + max(blocks.values()) <= counted


def test_a_training_is_counted_with_smaller_weights():
    chosen = small("f")
    plain, quantised = (training_costs(chosen, quantise=kind).memory for kind in (None, "int8"))
    assert quantised["weights"] < plain["weights"] and "weights in full" not in plain
    assert quantised["activations"] == plain["activations"] and quantised["optimizer"] == plain["optimizer"]
    assert 0 < quantised["weights in full"] < plain["weights"]


@pytest.mark.parametrize(
    ("variant", "changes", "kind", "message"),
    [
        ("f", {}, "int4", "one of int8, fp8: got 'int4'"),
        ("s", {}, "int8", "a ddpm prior has convolutions"),
        ("f", {"checkpointing": False}, "int8", "Add --checkpointing"),
        ("f", {"target": "mean"}, "int8", "target is the mean over views"),
    ],
)
def test_what_cannot_be_trained_is_refused(variant, changes, kind, message):
    chosen = recipe("smoke", variant, **{"checkpointing": True} | changes)
    with pytest.raises(ValueError, match=message):
        check_training(OMGSR.from_recipe(chosen).prior, chosen, kind)
