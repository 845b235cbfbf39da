"""priors/full_size.py: sizes of the published models, and exactly which of their layers the adapters train."""

from itertools import product

import pytest
import torch

from omgsr_lib.model import OMGSR


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
RANKS = {"ddpm": (16, 32), "flow": (64, 64)}


@pytest.fixture(scope="module")
def models():
    return {family: OMGSR.full_size(family, 273).add_adapters(*ranks) for family, ranks in RANKS.items()}


def parameters(module):
    return sum(p.numel() for name, p in module.named_parameters() if ".lora_" not in name)


def adapted(module):
    return {name.removesuffix(".lora_A.default.weight") for name, _ in module.named_parameters() if ".lora_A." in name}


def matrix_sizes(module, names, rank):
    """Elements of A and B by hand: rank times (inputs times kernel positions, plus outputs)."""
    shapes = [module.get_submodule(name).base_layer.weight.shape for name in names]
    return sum(rank * (shape[1:].numel() + shape[0]) for shape in shapes)


def names(*parts):
    """Every combination of the parts, joined by dots; a part is a name, names, or a number of indices."""
    options = [
        [part] if isinstance(part, str) else map(str, range(part)) if isinstance(part, int) else part for part in parts
    ]
    return {".".join(combination) for combination in product(*options)}


def test_sizes_of_the_published_models(models):
    s, f = models["ddpm"], models["flow"]
    assert parameters(s.prior.denoiser) == 865_910_724
    assert (parameters(s.vae), parameters(s.vae.encoder), parameters(s.vae.decoder)) == (
        83_653_863, 34_163_592, 49_490_179
    )  # fmt: skip
    assert parameters(f.prior.denoiser) == 11_901_408_320
    assert parameters(f.vae) == 83_819_683 and f.vae.quant_conv is None and f.vae.post_quant_conv is None
    assert (s.prior.prompt_embeds.shape, f.prior.prompt_embeds.shape) == ((1, 77, 1024), (1, 512, 4096))
    assert {p.device.type for model in (s, f) for p in model.parameters()} == {"meta"}
    assert float(s.prior.schedule.alphas[273]) ** 2 == pytest.approx(0.6357426, abs=1e-6)
    assert float(f.prior.schedule.sigmas[244]) == pytest.approx(0.5051124, abs=1e-6)


@pytest.mark.parametrize(("family", "integer"), [("ddpm", 1_477_168), ("flow", 5_910_208)])
def test_adapters_of_the_encoder(models, family, integer):
    """All 27 convolutions and the 4 linear layers of the only attention."""
    expected = {"conv_in", "conv_out"}
    expected |= names("down_blocks", 4, "resnets", 2, ("conv1", "conv2"))
    expected |= {f"down_blocks.{level}.resnets.0.conv_shortcut" for level in (1, 2)}
    expected |= names("down_blocks", 3, "downsamplers.0.conv")
    expected |= names("mid_block.resnets", 2, ("conv1", "conv2"))
    expected |= names("mid_block.attentions.0", ATTENTION)
    encoder = models[family].lq_vae.encoder
    assert adapted(encoder) == expected and len(expected) == 31
    trained = {n: p for n, p in models[family].trainable_parameters().items() if n.startswith("encoder.")}
    assert sum(p.numel() for p in trained.values()) == matrix_sizes(encoder, expected, RANKS[family][0]) == integer


def test_adapters_of_the_unet(models):
    """Convolutions of all blocks, q, k, v and the output of both attentions; no projection, feed-forward or time."""
    transformers = names("down_blocks", 3, "attentions", 2) | {"mid_block.attentions.0"}
    transformers |= names("up_blocks", ("1", "2", "3"), "attentions", 3)
    expected = {"conv_in", "conv_out"}
    expected |= names(transformers, "transformer_blocks.0", ("attn1", "attn2"), ATTENTION)
    expected |= names("down_blocks", 4, "resnets", 2, ("conv1", "conv2"))
    expected |= {f"down_blocks.{level}.resnets.0.conv_shortcut" for level in (1, 2)}
    expected |= names("down_blocks", 3, "downsamplers.0.conv")
    expected |= names("mid_block.resnets", 2, ("conv1", "conv2"))
    expected |= names("up_blocks", 4, "resnets", 3, ("conv1", "conv2", "conv_shortcut"))
    expected |= names("up_blocks", 3, "upsamplers.0.conv")
    unet = models["ddpm"].prior.denoiser
    assert adapted(unet) == expected and len(transformers) == 16 and len(expected) == 194
    trained = {n: p for n, p in models["ddpm"].trainable_parameters().items() if n.startswith("denoiser.")}
    assert sum(p.numel() for p in trained.values()) == matrix_sizes(unet, expected, 32) == 25_257_216


def test_adapters_of_the_flux_transformer(models):
    """In closed form, with d = 3072: the image projection, 19 double blocks, and q, k, v of 38 single blocks."""
    text = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    expected = {"x_embedder"} | names("transformer_blocks", 19, "attn", (*ATTENTION, *text))
    expected |= names("transformer_blocks", 19, ("ff.net", "ff_context.net"), ("0.proj", "2"))
    expected |= names("single_transformer_blocks", 38, "attn", ("to_q", "to_k", "to_v"))
    transformer = models["flow"].prior.denoiser
    assert adapted(transformer) == expected and len(expected) == 1 + 19 * 12 + 38 * 3
    trained = {n: p for n, p in models["flow"].trainable_parameters().items() if n.startswith("denoiser.")}
    d = 3072
    closed_form = 64 * ((64 + d) + 19 * (8 * 2 * d + 4 * 5 * d) + 38 * 3 * 2 * d)
    assert sum(p.numel() for p in trained.values()) == closed_form == 179_507_200
    assert matrix_sizes(transformer, expected, 64) == closed_form


def test_adapters_are_float32_on_the_meta_device(models):
    for model in models.values():
        assert {(p.dtype, p.device.type) for p in model.trainable_parameters().values()} == {(torch.float32, "meta")}


def test_random_weights_come_from_the_seed():
    """The autoencoder of "flow" on a CPU, in the precision asked for; the default precision stays."""
    from omgsr_lib.priors.full_size import full_size_autoencoder

    options = dict(device="cpu", dtype=torch.bfloat16)
    first, again = (full_size_autoencoder("flow", **options, seed=3) for _ in range(2))
    weight = first.encoder.conv_in.weight
    assert weight.dtype == torch.bfloat16 and torch.equal(weight, again.encoder.conv_in.weight)
    assert torch.get_default_dtype() == torch.float32
    other = full_size_autoencoder("flow", **options, seed=4)
    assert not torch.equal(weight, other.encoder.conv_in.weight)
