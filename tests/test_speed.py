"""speed.py: what each preparation leaves equal, how far quantised weights go, and what is refused."""

import sys

import pytest
import torch

from omgsr_lib.cli.restore import prepared_model
from omgsr_lib.fold import FoldedPrior
from omgsr_lib.model import OMGSR
from omgsr_lib.restore.pipeline import restore
from omgsr_lib.restore.prepare import compile_stages, fast_dtype, offload_layers, prepare, quantise_linear
from omgsr_lib.utils.device import KERNELS, fast_attention
from omgsr_lib.utils.memory import meta_twin


TIMESTEPS = {"ddpm": 273, "flow": 244, "z_image": 254, "flux2": 244}


def tuned(family):
    """A tiny model in float64 whose adapters change its output."""
    model = OMGSR.from_base("tiny", family, TIMESTEPS[family]).double().add_adapters(4, 4)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.trainable_parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.double()


def output(model, pixels):
    with torch.inference_mode():
        return model(pixels.to(next(model.parameters()).dtype)).images


@pytest.fixture(params=TIMESTEPS)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("fold", [False, True])
def test_a_prepared_model_gives_the_same_pictures(family, fold, pixels):
    model = tuned(family)
    expected = output(model, pixels)
    untuned = OMGSR.from_base("tiny", family, TIMESTEPS[family]).double()
    assert (output(untuned, pixels) - expected).abs().max() > 1e-3
    prepared = prepare(model, fold=fold)
    assert not any(".lora_" in name for name, _ in prepared.named_parameters())
    torch.testing.assert_close(output(prepared, pixels), expected, rtol=0, atol=2e-6 if fold else 1e-12)


def test_convolutions_are_channels_last(family):
    prepared = prepare(tuned(family))
    weights = [p for p in prepared.parameters() if p.ndim == 4 and min(p.shape) > 1]
    assert weights and all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


def test_adapters_are_merged_before_weights_are_rounded(family):
    exact = dict(tuned(family).merge().named_parameters())
    prepared = dict(prepare(tuned(family), dtype=torch.bfloat16).named_parameters())
    assert all(torch.equal(prepared[name], value.bfloat16()) for name, value in exact.items())
    assert fast_dtype(OMGSR.from_base("tiny", "ddpm", 273)) in (torch.float32, torch.bfloat16)


@pytest.mark.slow
def test_compiled_stages_do_not_compile_again_within_a_plan(family, pixels):
    model = prepare(tuned(family), fold=True)
    expected = output(model, pixels)
    compile_stages(model, backend="eager")
    names = set(model.state_dict())
    settings = dict(tile=8, window="cosine")
    with torch.inference_mode():
        latents = torch.randn(1, 4, 12, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        first = model.predict_clean(latents, **settings)
        torch.testing.assert_close(output(model, pixels), expected, rtol=0, atol=1e-12)
    with torch.inference_mode(), torch.compiler.set_stance("fail_on_recompile"):
        assert torch.equal(model.predict_clean(latents, **settings), first)
    assert set(model.state_dict()) == names and meta_twin(model) is not None
    torch.compiler.reset()


def test_folder_for_compiled_code(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    compile_stages(OMGSR.from_base("tiny", "ddpm", 273), cache=tmp_path, backend="eager")
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    assert cache_dir() == str(tmp_path)


def test_attention_on_a_gpu_takes_the_kernels_in_a_fixed_order(monkeypatch):
    """FlashAttention where cuDNN refuses; elsewhere than on a GPU torch chooses."""
    orders = []
    monkeypatch.setattr("omgsr_lib.utils.device.sdpa_kernel", lambda order, **options: orders.append((order, options)))
    fast_attention(torch.device("cuda", 0))
    fast_attention(torch.device("cpu"))
    assert [kernel.name.split("_")[0] for kernel in KERNELS] == ["CUDNN", "FLASH", "EFFICIENT", "MATH"]
    assert orders == [(KERNELS, {"set_priority": True})]


class Poison:
    """Stands in for the transfers of diffusers' group offloading: an offloaded tensor holds no numbers."""

    def __init__(self, monkeypatch):
        from diffusers.hooks.group_offloading import ModuleGroup

        self.kept = {}
        monkeypatch.setattr(ModuleGroup, "offload_", lambda group: self.offload(group))
        monkeypatch.setattr(ModuleGroup, "onload_", lambda group: self.onload(group))

    def tensors(self, group):
        inside = [t for module in group.modules for t in (*module.parameters(), *module.buffers())]
        return inside + group.parameters + group.buffers

    def offload(self, group):
        for tensor in self.tensors(group):
            self.kept.setdefault(id(tensor), tensor.data.clone())
            tensor.data.fill_(float("nan"))

    def onload(self, group):
        for tensor in self.tensors(group):
            tensor.data.copy_(self.kept[id(tensor)])


@pytest.mark.parametrize("fold", [False, True])
def test_every_offloaded_weight_is_there_when_it_is_used(family, fold, pixels, monkeypatch):
    poison = Poison(monkeypatch)
    model = prepare(tuned(family), fold=fold)
    expected = output(model, pixels)
    offload_layers(model.prior.denoiser, torch.device("cpu"))
    assert sum(kept.numel() for kept in poison.kept.values()) == sum(
        p.numel() for p in (*model.prior.denoiser.parameters(), *model.prior.denoiser.buffers())
    )
    assert all(p.isnan().all() for p in model.prior.denoiser.parameters())
    for _ in range(2):
        assert torch.equal(output(model, pixels), expected)
    assert all(p.isnan().all() for p in model.prior.denoiser.parameters())


def test_offloaded_models_need_a_tile_in_pixels():
    from PIL import Image

    model = OMGSR.from_base("tiny", "ddpm", 273)
    offload_layers(model.prior.denoiser, torch.device("cpu"))
    with pytest.raises(ValueError, match="offloaded layers. Give the tile in pixels"):
        restore(model, Image.new("RGB", (32, 32)), tile="auto", progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(quantise="int4"), "one of int8, fp8: got 'int4'"),
        (dict(offload=True), "the device is cpu"),
        (dict(offload=True, compile=True, device="cuda"), "Give offload alone"),
        (dict(offload=True, quantise="int8", device="cuda"), "Give offload alone"),
    ],
)
def test_options_that_exclude_each_other(options, message):
    model = OMGSR.from_base("tiny", "flow", 244)
    with pytest.raises(ValueError, match=message):
        prepare(model, **options)


def test_the_model_of_the_command():
    model = prepared_model("mini-f", fold=True, precision="bf16")
    assert isinstance(model.prior, FoldedPrior)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with pytest.raises(ValueError, match="Give offload alone" if torch.cuda.is_available() else "the device is cpu"):
        prepared_model("mini-f", fold=True, precision="bf16", offload=True, quantise="int8")


def test_the_unet_is_not_quantised():
    with pytest.raises(ValueError, match="quantised.* a ddpm prior"):
        prepare(OMGSR.from_base("tiny", "ddpm", 273), quantise="int8")


def test_without_torchao_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match="pip install torchao"):
        prepare(OMGSR.from_base("tiny", "flow", 244), quantise="int8")


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_quantised_weights(kind):
    """Each weight is off by at most half a step: of the row's largest weight / 127, or relative 2^-4 (e4m3)."""
    pytest.importorskip("torchao")
    layer = torch.nn.Linear(64, 32).requires_grad_(False)
    weight = layer.weight.clone()
    quantise_linear(layer, kind)
    x = torch.eye(64)
    found = (layer(x) - layer.bias).T
    largest = weight.abs().amax(dim=1, keepdim=True)
    bound = largest / 254 if kind == "int8" else (weight.abs() / 16).maximum(largest * 2e-5)
    assert ((found - weight).abs() <= 1.01 * bound).all()
    packed = sum(getattr(layer.weight, name).nbytes for name in layer.weight.__tensor_flatten__()[0])
    assert packed == 32 * 64 + 32 * (4 + (kind == "int8"))  # and a scale per row, and a zero point of int8
