"""fold: equal to the unfolded prior in float64, float32, bfloat16; full-size counts, tokens, folders, errors."""

import copy
import json
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from omgsr_lib.fold import fold_prior
from omgsr_lib.fold.unet import PromptMatrices, PromptTables
from omgsr_lib.lora import merge_lora
from omgsr_lib.model import OMGSR
from omgsr_lib.priors import PRIORS, DDPMPrior, FlowPrior, ZImagePrior
from omgsr_lib.priors.full_size import full_size_prior
from omgsr_lib.priors.loading import WEIGHTS
from omgsr_lib.restore.prepare import prepare
from omgsr_lib.utils.workers import on_threads


TINY = {family: prior.tiny for family, prior in PRIORS.items()}
TIMESTEPS = {"ddpm": 273, "flow": 244, "z_image": 254, "flux2": 244}
SHAPES = [(1, 4, 16, 16), (2, 4, 6, 10), (1, 4, 24, 8)]
# diffusers rotates queries and keys in float32, whatever the precision, and takes Z-Image's variances in it.
EXACT = {"ddpm": 1e-12, "flow": 1e-7, "z_image": 1e-6, "flux2": 1e-7}


@pytest.fixture(params=PRIORS)
def family(request):
    return request.param


def noise(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def difference(found, expected):
    """Root-mean-square difference relative to `expected`."""
    found, expected = found.double(), expected.double()
    return float((found - expected).norm() / expected.norm())


def tuned(family):
    """A tiny model whose adapters change its output."""
    model = OMGSR.from_base("tiny", family, TIMESTEPS[family]).add_adapters(4, 4)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.trainable_parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


@torch.inference_mode()
@pytest.mark.parametrize("timestep", [0, 244, 999])
def test_folded_prior_is_the_prior(family, timestep):
    prior = TINY[family]()
    folded = fold_prior(prior, timestep)
    wide = copy.deepcopy(prior).double()
    exact = fold_prior(wide, timestep)
    assert size(folded) < 0.9 * size(prior)
    for shape in SHAPES:
        latents = noise(shape)
        assert difference(folded(latents, timestep), prior(latents, timestep)) <= 1e-6
        assert difference(exact(latents.double(), timestep), wide(latents.double(), timestep)) <= EXACT[family]


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(1, 4, 9, 13), (2, 4, 8, 8)])
@pytest.mark.parametrize("linear_projection", [False, True])
def test_unet_of_stable_diffusion_s_shape(shape, linear_projection):
    """Four levels of which three attend, several blocks in each, sides that are no multiple of 8."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    options = dict(block_out_channels=(16, 16, 32, 32), norm_num_groups=8, attention_head_dim=(1, 2, 2, 2))
    options |= dict(cross_attention_dim=12, transformer_layers_per_block=(1, 2, 1, 1))
    unet = UNet2DConditionModel(**options, use_linear_projection=linear_projection)
    prior = DDPMPrior(unet.eval(), DDPMPrior.tiny().scheduler, noise((1, 5, 12))).double()
    latents = noise(shape).double()
    assert difference(fold_prior(prior, 273)(latents, 273), prior(latents, 273)) <= 1e-12


@torch.inference_mode()
def test_flux_without_guidance_and_with_one_single_block():
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    options = dict(in_channels=16, num_layers=2, num_single_layers=1, attention_head_dim=16, num_attention_heads=2)
    flux = FluxTransformer2DModel(**options, joint_attention_dim=12, pooled_projection_dim=8, axes_dims_rope=(4, 6, 6))
    prior = FlowPrior(flux.eval(), FlowPrior.tiny().scheduler, noise((1, 5, 12)), noise((1, 8))).double()
    latents = noise((2, 4, 6, 8)).double()
    assert difference(fold_prior(prior, 244)(latents, 244), prior(latents, 244)) <= EXACT["flow"]


@torch.inference_mode()
def test_folded_model_is_the_model(family):
    model = tuned(family).double()
    before = copy.deepcopy(model.state_dict())
    folded = model.fold()
    pixels = noise((2, 3, 64, 96)).clamp(-1, 1).double()
    found, expected = folded(pixels), model(pixels)
    assert difference(found.lq_latents, expected.lq_latents) <= 1e-12
    assert difference(found.clean_latents, expected.clean_latents) <= EXACT[family]
    assert difference(found.images, expected.images) <= EXACT[family]
    tiling = dict(tile=8, overlap=4)
    tiles = folded.predict_clean(found.lq_latents, torch.tensor([folded.timestep] * 2), **tiling)
    assert difference(tiles, model.predict_clean(expected.lq_latents, **tiling)) <= EXACT[family]
    assert folded.trainable_parameters() == {} and size(folded) < size(model)
    after = model.state_dict()
    assert set(after) == set(before) and all(torch.equal(after[name], value) for name, value in before.items())
    folded.float()
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float64}


@torch.inference_mode()
@pytest.mark.parametrize("name", ["mini-s", "mini-f"])
def test_shipped_models(name):
    if not (WEIGHTS / name).is_dir():
        pytest.skip(f"the weights of {name} are not in this package yet")
    model = OMGSR.from_pretrained(name)
    folded, timestep = model.fold(), model.timestep
    assert size(folded.prior) < {"mini-s": 0.92, "mini-f": 0.70}[name] * size(model.merge().prior)
    half, folded_half = (copy.deepcopy(prior).bfloat16() for prior in (model.prior, folded.prior))
    errors = []
    for seed, shape in enumerate([(1, 16, 16, 16), (1, 16, 12, 8), (2, 16, 8, 8), (1, 16, 12, 20)]):
        latents = noise(shape, seed).bfloat16()
        expected = model.prior(latents.float(), timestep)
        assert difference(folded.prior(latents.float(), timestep), expected) <= 2e-6
        errors.append([difference(prior(latents, timestep), expected) for prior in (folded_half, half)])
    folded_error, error = torch.tensor(errors).mean(dim=0)
    assert folded_error <= {"mini-s": 1.01, "mini-f": 0.85}[name] * error < 0.03


@torch.inference_mode()
def test_bfloat16_of_random_models(family):
    """The mean error against float32 of folded models, cast or folded in bfloat16, is not above the unfolded one's."""
    errors, timestep = [], TIMESTEPS[family]
    for seed in range(4):
        prior = TINY[family](seed=seed)
        half = copy.deepcopy(prior).bfloat16()
        priors = half, fold_prior(prior, timestep).bfloat16(), fold_prior(half, timestep)
        for shape in SHAPES:
            latents = noise(shape, seed).bfloat16()
            expected = prior(latents.float(), timestep)
            errors.append([difference(found(latents, timestep), expected) for found in priors])
    unfolded, cast, direct = torch.tensor(errors).mean(dim=0)
    assert max(cast, direct) <= {"ddpm": 1.0, "flow": 0.5, "z_image": 1.0, "flux2": 0.8}[family] * unfolded


@torch.inference_mode()
@pytest.mark.parametrize("family", ["ddpm", "flow"])
@pytest.mark.parametrize(("tokens", "form"), [(6, PromptMatrices), (90, PromptTables)])
def test_equal_tokens_are_merged(family, tokens, form):
    prior, timestep = TINY[family](), TIMESTEPS[family]
    distinct = noise((1, tokens, 16), seed=5)
    counts = torch.arange(tokens) % 4 + 1
    prior.prompt_embeds = distinct.repeat_interleave(counts, dim=1)[:, torch.randperm(int(counts.sum()))]
    folded, unmerged = fold_prior(prior, timestep), fold_prior(prior, timestep, merge_tokens=False)
    stored = folded.embeds["prompt_embeds"], unmerged.embeds["prompt_embeds"]
    assert stored == ([1, tokens, 16], [1, int(counts.sum()), 16])
    for shape in SHAPES:
        latents = noise(shape)
        expected = prior(latents, timestep)
        assert difference(folded(latents, timestep), expected) <= 1e-6
        assert difference(unmerged(latents, timestep), expected) <= 1e-6
    half = copy.deepcopy(prior).bfloat16()
    error = difference(half(latents.bfloat16(), timestep), expected)
    assert difference(copy.deepcopy(folded).bfloat16()(latents.bfloat16(), timestep), expected) <= 1.1 * error
    if family == "ddpm":
        assert {type(module) for module in folded.modules()} & {PromptMatrices, PromptTables} == {form}


@torch.inference_mode()
@pytest.mark.parametrize("family", ["z_image", "flux2"])
def test_equal_tokens_with_positions_are_not_merged(family):
    """A prompt of 40 tokens, which Z-Image pads to 64, in an order that matters."""
    prior, latents = TINY[family](), noise((1, 4, 6, 10))
    prior.prompt_embeds = noise((1, 20, prior.prompt_embeds.shape[-1]), seed=5).repeat(1, 2, 1)
    expected = prior(latents, 244)
    assert difference(fold_prior(prior, 244)(latents, 244), expected) <= 1e-6
    prior.prompt_embeds = prior.prompt_embeds.flip(1)
    assert difference(prior(latents, 244), expected) > 1e-4


class OperationCounter(TorchDispatchMode):
    """Counts dispatched aten operations."""

    def __init__(self):
        super().__init__()
        self.operations = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations[str(function)] += 1
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def operations(prior, timestep, channels):
    """Operations for one image of 512 x 512 pixels, on the meta device in bfloat16."""
    with OperationCounter() as counter:
        prior(torch.empty(1, channels, 64, 64, device="meta", dtype=torch.bfloat16), timestep)
    return counter.operations.total()


GOALS = {
    "ddpm": (865_910_724, 0.945, 0.77),
    "flow": (11_901_408_320, 0.73, 0.40),
    "z_image": (6_154_908_736, 0.921, 0.62),
    "flux2": (3_875_544_576, 0.945, 0.48),
}


def test_full_size(family):
    """Parameters of the published network, and at most which part of them and of its operations is left."""
    parameters, parameters_left, operations_left = GOALS[family]
    timestep, channels = TIMESTEPS[family], PRIORS[family].autoencoder["latent_channels"]
    prior = full_size_prior(family)
    folded = fold_prior(prior, timestep)
    assert size(prior) == parameters and size(folded) <= parameters_left * parameters
    before, after = operations(prior, timestep, channels), operations(folded, timestep, channels)
    assert after <= operations_left * before


@torch.inference_mode()
@pytest.mark.parametrize("repeats", [1, 2])
def test_round_trip(family, repeats, tmp_path):
    model = tuned(family)
    model.prior.prompt_embeds = model.prior.prompt_embeds.repeat(1, repeats, 1)
    folded = model.fold()
    loaded = OMGSR.from_pretrained(folded.save_pretrained(tmp_path / "folded"))
    state, expected = loaded.state_dict(), folded.state_dict()
    assert list(state) == list(expected) and loaded.timestep == model.timestep
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    pixels = noise((1, 3, 64, 32)).clamp(-1, 1)
    assert torch.equal(loaded(pixels).images, folded(pixels).images)
    half = OMGSR.from_pretrained(tmp_path / "folded", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert torch.equal(half(pixels.bfloat16()).images, loaded.bfloat16()(pixels.bfloat16()).images)
    assert [path.name for path in tmp_path.iterdir()] == ["folded"]


@torch.inference_mode()
def test_the_number_of_threads_does_not_change_the_weights():
    model = OMGSR.from_base("tiny", "ddpm", 273).add_adapters(8, 16)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.trainable_parameters().values():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    states = []
    for threads in (1, 2):
        with on_threads(threads):
            states.append(model.fold().state_dict())
    assert [name for name, value in states[0].items() if not torch.equal(value, states[1][name])] == []


@torch.inference_mode()
def test_a_prepared_model_can_be_saved(family, tmp_path):
    prepared = prepare(tuned(family), fold=True)
    loaded = OMGSR.from_pretrained(prepared.save_pretrained(tmp_path / "prepared"))
    pixels = noise((1, 3, 64, 32)).clamp(-1, 1)
    torch.testing.assert_close(loaded(pixels).images, prepared(pixels).images, rtol=0, atol=1e-4)


def test_wrong_folders(family, tmp_path):
    folder = tuned(family).fold().save_pretrained(tmp_path / "folded")
    with pytest.raises(ValueError, match="holds its base, adapter and prompt"):
        OMGSR.from_pretrained(folder, base="tiny")
    about, weights = folder / "omgsr.json", folder / "folded.safetensors"
    text, content = about.read_text(), weights.read_bytes()
    about.write_text(json.dumps(json.loads(text) | {"timestep": 5}))
    with pytest.raises(ValueError, match=f"{family} at 5: .* has {family} at {TIMESTEPS[family]}"):
        OMGSR.from_pretrained(folder)
    about.write_text(text)
    state = load_file(weights)
    del state[next(iter(state))]
    save_file(state, weights, metadata={"family": family, "timestep": str(TIMESTEPS[family])})
    with pytest.raises(ValueError, match="has other tensors"):
        OMGSR.from_pretrained(folder)
    weights.write_bytes(content[:-8])
    with pytest.raises(ValueError, match="is damaged"):
        OMGSR.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="must hold folded.safetensors"):
        OMGSR.from_pretrained(folder)


def test_errors(family, tmp_path):
    prior, timestep = TINY[family](), TIMESTEPS[family]
    folded = fold_prior(prior, timestep)
    for other in (timestep + 1, torch.tensor([timestep, 3])):
        with pytest.raises(ValueError, match=f"has one timestep, {timestep}: got .* Fold the model at that timestep"):
            folded(noise((2, 4, 8, 8)), other)
    with pytest.raises(ValueError, match="folded once: this one is folded at"):
        fold_prior(folded, timestep)
    with pytest.raises(ValueError, match="must lie in 0 .. 999: got 1000"):
        fold_prior(prior, 1000)
    model = tuned(family).fold()
    with pytest.raises(ValueError, match="has one timestep"):
        model(noise((1, 3, 32, 32)), 3)
    with pytest.raises(ValueError, match="must have adapters"):
        model.save_adapter(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [dict(use_dora=True), dict(lora_bias=True)])
def test_adapters_that_are_more_than_a_product_are_refused(kind):
    from peft import LoraConfig, inject_adapter_in_model

    prior = DDPMPrior.tiny()
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=2, target_modules=["conv1"], **kind), prior.denoiser)
    with pytest.raises(ValueError, match="Folding takes plain LoRA"):
        fold_prior(prior, 273)
    merge_lora(prior.denoiser)
    fold_prior(prior, 273)


def test_networks_that_are_not_covered():
    from diffusers import FluxTransformer2DModel, UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(class_embed_type="timestep")
        padded = UNet2DConditionModel(downsample_padding=0)
        simple = UNet2DConditionModel(down_block_types=["SimpleCrossAttnDownBlock2D"] + ["DownBlock2D"] * 3)
        flux = FluxTransformer2DModel(num_layers=1, num_single_layers=0)
        prompt, pooled = torch.empty(1, 4, 1280), torch.empty(1, 768)
    with pytest.raises(ValueError, match="has class_embed_type='timestep', not None"):
        fold_prior(DDPMPrior(unet, DDPMPrior.tiny().scheduler, prompt), 273)
    with pytest.raises(ValueError, match="has downsample_padding=0, not 1"):
        fold_prior(DDPMPrior(padded, DDPMPrior.tiny().scheduler, prompt), 273)
    with pytest.raises(ValueError, match="got .'SimpleCrossAttnDownBlock2D'."):
        fold_prior(DDPMPrior(simple, DDPMPrior.tiny().scheduler, prompt), 273)
    with torch.device("meta"):
        omni = ZImagePrior.classes()[0](n_layers=1, siglip_feat_dim=8)
    with pytest.raises(ValueError, match="has siglip_feat_dim=8, not None"):
        fold_prior(ZImagePrior(omni, ZImagePrior.new_scheduler(), prompt), 254)
    with pytest.raises(ValueError, match="with double and single blocks"):
        fold_prior(FlowPrior(flux, FlowPrior.tiny().scheduler, prompt, pooled), 244)
