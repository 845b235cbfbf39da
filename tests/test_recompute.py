"""recompute.py: the same training in less memory; the counted memory is that of torch's own checkpoints."""

import weakref

import pytest
import torch
from torch import nn

from omgsr_lib.lora import CONVOLUTIONS_AND_ATTENTION, add_lora
from omgsr_lib.model import OMGSR
from omgsr_lib.presets import recipe
from omgsr_lib.priors import PRIORS
from omgsr_lib.priors.latents import decode_latents, encode_latents
from omgsr_lib.priors.tiny import tiny_autoencoder
from omgsr_lib.training.loop import train
from omgsr_lib.utils.meter import count
from omgsr_lib.utils.recompute import recompute_activations


class Squares:
    """Endless coarse random images and their halves in contrast."""

    def __getitem__(self, index):
        coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(index)) * 2 - 1
        hq = nn.functional.interpolate(coarse, (64, 64), mode="nearest")[0]
        return {"lq": hq / 2, "hq": hq}

    def describe(self):
        return "squares"


@pytest.mark.parametrize(
    ("variant", "precision"), [("s", "no"), ("f", "no"), ("z", "no"), ("k", "no"), ("s", "bf16"), ("f", "bf16")]
)
def test_a_training_is_the_same_to_the_last_bit(variant, precision, tmp_path):
    """Losses, adapters and the optimiser's first moments, which are the gradients."""
    runs = []
    for checkpointing in (False, True):
        chosen = recipe("smoke", variant, batch_size=1, checkpointing=checkpointing)
        model = OMGSR.from_recipe(chosen).add_adapters(chosen.vae_rank, chosen.denoiser_rank)
        folder, options = tmp_path / str(checkpointing), dict(steps=2, precision=precision, progress=False)
        log = train(model, Squares(), chosen, folder, **options).log
        state = torch.load(folder / "state.pt", weights_only=True)
        moments = {(name, i, key): value for name in ("generator", "discriminator")
                   for i, entry in state[name]["state"].items() for key, value in entry.items()}  # fmt: skip
        runs.append((log, state["adapters"] | moments))
        parts = (model.prior.denoiser, model.lq_vae, model.vae)
        assert [part.is_gradient_checkpointing for part in parts] == [checkpointing] * 3
    (log, tensors), (same_log, same_tensors) = runs
    assert log == same_log and tensors.keys() == same_tensors.keys()
    assert all(torch.equal(value, same_tensors[name]) for name, value in tensors.items())


def kept_by_torch(function, modules):
    """Bytes that autograd keeps on the CPU after `function`: what it packs, by storage, but no parameters."""
    parameters = {t.untyped_storage().data_ptr() for m in modules for t in (*m.parameters(), *m.buffers())}
    packed = weakref.WeakSet()

    class Packed:
        def __init__(self, tensor):
            self.tensor = tensor
            packed.add(self)

    with torch.autograd.graph.saved_tensors_hooks(Packed, lambda box: box.tensor):
        output = function()
    assert output.requires_grad
    storages = {box.tensor.untyped_storage().data_ptr(): box.tensor.untyped_storage() for box in packed}
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in parameters)


def part(name, kind="AutoencoderKL"):
    """A tiny module with adapters, what checkpointing applies to, a function of the two and its input."""
    if name in ("encoder", "decoder"):
        vae = tiny_autoencoder(kind=kind)
        if name == "encoder":
            add_lora(vae.encoder, 4, CONVOLUTIONS_AND_ATTENTION)
            return vae, vae, encode_latents, torch.randn(2, 3, 64, 64)
        return vae.requires_grad_(False), vae, decode_latents, torch.randn(2, 4, 8, 8, requires_grad=True)
    prior = PRIORS[name].tiny()
    add_lora(prior.denoiser, 4, prior.lora_targets)
    return prior, prior.denoiser, lambda p, x: p(x, 200), torch.randn(2, 4, 16, 16, requires_grad=True)


PARTS = [("encoder", "AutoencoderKL"), ("decoder", "AutoencoderKL"), ("decoder", "AutoencoderKLFlux2")]
PARTS += [(family, None) for family in PRIORS]


@pytest.mark.parametrize(("name", "kind"), PARTS)
def test_counted_memory_is_that_of_torchs_checkpoints(name, kind):
    """What the forward pass keeps on the CPU, and on the meta device by count; less than without checkpoints."""
    module, model, function, batch = part(name, kind)
    without = kept_by_torch(lambda: function(module, batch), [module])
    recompute_activations(model)
    kept = kept_by_torch(lambda: function(module, batch), [module])
    model.disable_gradient_checkpointing()
    module, batch = module.to("meta"), batch.detach().to("meta").requires_grad_(batch.requires_grad)
    found = count(lambda: function(module, batch), [module], recomputed=model)
    assert found.kept == pytest.approx(kept, rel=0.01) and kept < 0.6 * without
    plain = count(lambda: function(module, batch), [module])
    assert found.kept < found.peak < plain.peak
    assert not model.is_gradient_checkpointing


class Kept(nn.Module):
    """A layer whose backward pass needs its result, and `width` times as much memory as its input."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x):
        return x.expand(self.width, *x.shape).tanh().sum(0)


class Stack(nn.Sequential):
    """Layers with checkpoints as those of diffusers."""

    _supports_gradient_checkpointing, is_gradient_checkpointing, run = True, False, None

    def enable_gradient_checkpointing(self, function):
        self.is_gradient_checkpointing, self.run = True, function

    def disable_gradient_checkpointing(self):
        self.is_gradient_checkpointing, self.run = False, None

    def forward(self, x):
        for layer in self:
            x = self.run(layer, x) if self.run else layer(x)
        return x


def test_the_peak_is_that_of_a_layer_and_the_inputs_before_it():
    layers, x = Stack(Kept(3), Kept(6), Kept(4)), torch.empty(1000, device="meta", requires_grad=True)
    tensor = 4000
    found = count(lambda: layers(x), [layers], recomputed=layers)
    assert (found.kept, found.peak) == (3 * tensor, max(1 + 3, 2 + 6, 3 + 4) * tensor)
    plain = count(lambda: layers(x), [layers])
    assert plain.kept == plain.peak == (3 + 6 + 4) * tensor


def test_autocast_and_fused_attention_reach_the_recomputation():
    """As in the forward pass: the peak of one checkpointed layer is what it keeps without, beside its input."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear = nn.GroupNorm(2, 8), nn.Linear(8, 8)

        def forward(self, x):
            tokens = self.linear(self.norm(x).flatten(2).transpose(1, 2))[:, None]
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    layers = Stack(Attention()).to("meta", torch.bfloat16).requires_grad_(False)
    x = torch.empty(1, 8, 32, 32, dtype=torch.bfloat16, device="meta", requires_grad=True)
    plain = count(lambda: layers(x), [layers], autocast=True)
    found = count(lambda: layers(x), [layers], autocast=True, recomputed=layers)
    assert found.kept == x.nbytes and found.peak == plain.peak + x.nbytes
    assert plain.flops < found.flops < 2 * plain.flops


def residual_autoencoder():
    from diffusers import AutoencoderDC

    sides = dict(block_out_channels=(8, 8), layers_per_block=(1, 1), qkv_multiscales=((), ()), block_types="ResBlock")
    options = {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in sides.items()}
    return AutoencoderDC(attention_head_dim=4, latent_channels=4, **options)


def layered_autoencoder():
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)


@pytest.mark.parametrize("build", [residual_autoencoder, layered_autoencoder])
def test_an_autoencoder_that_cannot_recompute_says_so_and_stays_as_it_is(build):
    vae, pixels = build(), torch.rand(1, 3, 32, 32) * 2 - 1
    expected = encode_latents(vae, pixels).detach()
    message = f"{type(vae).__name__} cannot recompute its activations: checkpointing leaves them in memory"
    with pytest.warns(UserWarning, match=message):
        recompute_activations(vae)
    assert torch.equal(encode_latents(vae, pixels).detach(), expected)
    vae, pixels = vae.to("meta"), pixels.to("meta")
    plain = count(lambda: encode_latents(vae, pixels), [vae])
    with pytest.warns(UserWarning, match=message):
        assert count(lambda: encode_latents(vae, pixels), [vae], recomputed=vae) == plain
