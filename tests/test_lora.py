"""lora.py: the exact sets of adapted layers, and adapters in the official layout."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from omgsr_lib.lora import (
    CONVOLUTIONS_AND_ATTENTION,
    add_lora,
    load_adapter,
    lora_parameters,
    merge_lora,
    remove_lora,
    save_adapter,
    widen_lora,
)
from omgsr_lib.priors import PRIORS, DDPMPrior, FlowPrior
from omgsr_lib.priors.tiny import tiny_autoencoder


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def adapted(module):
    return {name.removesuffix(".lora_A.default.weight") for name in lora_parameters(module) if ".lora_A." in name}


def residual_blocks(folder, shortcuts):
    """Both convolutions of each block, and the shortcut of those that change their width."""
    for block, shortcut in shortcuts.items():
        yield from (
            f"{folder}.{block}.{name}" for name in ("conv1", "conv2", *(["conv_shortcut"] if shortcut else []))
        )


def module_of(kind):
    if kind == "encoder":
        return tiny_autoencoder().encoder, CONVOLUTIONS_AND_ATTENTION
    return PRIORS[kind].tiny().denoiser, PRIORS[kind].lora_targets


def test_adapted_layers_of_the_encoder():
    expected = {"conv_in", "conv_out"}
    expected |= {f"down_blocks.{level}.downsamplers.0.conv" for level in range(3)}
    for level in range(4):
        expected |= set(residual_blocks(f"down_blocks.{level}.resnets", {"0": level == 2}))
    expected |= set(residual_blocks("mid_block.resnets", {"0": False, "1": False}))
    expected |= {f"mid_block.attentions.0.{name}" for name in ATTENTION}
    assert adapted(add_lora(tiny_autoencoder().encoder, 4, CONVOLUTIONS_AND_ATTENTION)) == expected


def test_adapted_layers_of_the_unet():
    expected = {"conv_in", "conv_out", "down_blocks.0.downsamplers.0.conv", "down_blocks.1.downsamplers.0.conv"}
    expected |= {"up_blocks.0.upsamplers.0.conv", "up_blocks.1.upsamplers.0.conv"}
    for level in range(3):
        expected |= set(residual_blocks(f"down_blocks.{level}.resnets", {"0": level == 1}))
        expected |= set(residual_blocks(f"up_blocks.{level}.resnets", {"0": True, "1": True}))
    expected |= set(residual_blocks("mid_block.resnets", {"0": False, "1": False}))
    transformers = ["down_blocks.1.attentions.0", "up_blocks.1.attentions.0", "up_blocks.1.attentions.1"]
    for transformer in (*transformers, "mid_block.attentions.0"):
        block = f"{transformer}.transformer_blocks.0"
        expected |= {f"{block}.{attention}.{name}" for attention in ("attn1", "attn2") for name in ATTENTION}
    assert adapted(add_lora(DDPMPrior.tiny().denoiser, 4, DDPMPrior.lora_targets)) == expected


def test_adapted_layers_of_the_flux_transformer():
    double = {f"attn.{name}" for name in (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")}
    double |= {f"{name}.net.{layer}" for name in ("ff", "ff_context") for layer in ("0.proj", "2")}
    expected = {"x_embedder"} | {f"transformer_blocks.0.{name}" for name in double}
    expected |= {f"single_transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k", "to_v")}
    assert adapted(add_lora(FlowPrior.tiny().denoiser, 4, FlowPrior.lora_targets)) == expected


def test_start_is_gaussian_times_zero_and_all_else_is_frozen():
    torch.manual_seed(0)
    module = add_lora(DDPMPrior.tiny().denoiser, 16, DDPMPrior.lora_targets)
    trainable = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert trainable == set(lora_parameters(module))
    down = torch.cat([p.detach().flatten() for name, p in lora_parameters(module).items() if ".lora_A." in name])
    assert float(down.std()) == pytest.approx(1 / 16, rel=0.02)  # peft's "gaussian": standard deviation 1 / r
    assert all(not p.any() for name, p in lora_parameters(module).items() if ".lora_B." in name)


@pytest.mark.parametrize("kind", ["encoder", *PRIORS])
def test_files_and_round_trip(kind, tmp_path):
    module, targets = module_of(kind)
    torch.manual_seed(3)
    add_lora(module, 4, targets)
    with torch.no_grad():
        for parameter in lora_parameters(module).values():
            parameter.normal_(0, 0.05)
    save_adapter(module, tmp_path / "adapter")

    state = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    expected = {f"base_model.model.{name}.lora_{side}.weight" for name in adapted(module) for side in "AB"}
    assert set(state) == expected
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    wanted = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 4, "lora_dropout": 0.0, "bias": "none",
        "init_lora_weights": "gaussian", "inference_mode": True, "base_model_name_or_path": None,
    }  # fmt: skip
    assert {name: config[name] for name in wanted} == wanted
    assert config["target_modules"] == sorted(config["target_modules"])
    assert set(config["target_modules"]) == set(targets)
    assert config["auto_mapping"]["base_model_class"] == type(module).__name__

    fresh, _ = module_of(kind)
    assert load_adapter(fresh, tmp_path / "adapter") == 4
    for name, parameter in lora_parameters(fresh).items():
        assert parameter.requires_grad and torch.equal(parameter, lora_parameters(module)[name])


def test_shapes_of_the_stored_matrices(tmp_path):
    encoder = add_lora(tiny_autoencoder().encoder, 4, CONVOLUTIONS_AND_ATTENTION)
    save_adapter(encoder, tmp_path / "a")
    shapes = {name: tuple(v.shape) for name, v in load_file(tmp_path / "a" / "adapter_model.safetensors").items()}
    prefix = "base_model.model"
    assert shapes[f"{prefix}.conv_in.lora_A.weight"] == (4, 3, 3, 3)
    assert shapes[f"{prefix}.conv_in.lora_B.weight"] == (8, 4, 1, 1)
    assert shapes[f"{prefix}.down_blocks.2.resnets.0.conv_shortcut.lora_A.weight"] == (4, 8, 1, 1)
    assert shapes[f"{prefix}.mid_block.attentions.0.to_q.lora_A.weight"] == (4, 16)
    assert shapes[f"{prefix}.mid_block.attentions.0.to_q.lora_B.weight"] == (16, 4)


def test_merging_adds_b_times_a():
    torch.manual_seed(0)
    encoder = add_lora(tiny_autoencoder().encoder, 4, CONVOLUTIONS_AND_ATTENTION)
    with torch.no_grad():
        for parameter in lora_parameters(encoder).values():
            parameter.normal_()
    conv, linear = encoder.conv_in, encoder.mid_block.attentions[0].to_q
    a, b = conv.lora_A["default"].weight, conv.lora_B["default"].weight
    expected_conv = conv.base_layer.weight + torch.einsum("or,rikl->oikl", b[:, :, 0, 0], a)
    expected_linear = linear.base_layer.weight + linear.lora_B["default"].weight @ linear.lora_A["default"].weight
    merge_lora(encoder)
    torch.testing.assert_close(encoder.conv_in.weight, expected_conv)
    torch.testing.assert_close(encoder.mid_block.attentions[0].to_q.weight, expected_linear)
    assert lora_parameters(encoder) == {} and type(encoder.conv_in) is torch.nn.Conv2d
    assert set(encoder.state_dict()) == set(tiny_autoencoder().encoder.state_dict())


def half_precision_unet():
    """A UNet in bfloat16 with a random adapter, and the exact sums `W + B A` of its layers in float64."""
    unet = add_lora(DDPMPrior.tiny().denoiser.to(torch.bfloat16), 4, DDPMPrior.lora_targets)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in lora_parameters(unet).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    sums = {}
    for name in adapted(unet):
        layer = unet.get_submodule(name)
        a, b = (getattr(layer, side)["default"].weight.detach().double() for side in ("lora_A", "lora_B"))
        sums[name] = layer.base_layer.weight.double() + (b.flatten(1) @ a.flatten(1)).view(
            layer.base_layer.weight.shape
        )
    return unet, sums


def test_merging_into_half_precision_rounds_once():
    unet, sums = half_precision_unet()
    assert {parameter.dtype for parameter in lora_parameters(unet).values()} == {torch.float32}
    merge_lora(unet)
    assert {parameter.dtype for parameter in unet.parameters()} == {torch.bfloat16}
    coarse = half_precision_unet()[0].to(torch.bfloat16)
    for name in sums:
        coarse.get_submodule(name).merge()  # peft's own, in bfloat16: B A is rounded before it is added
    rounded_alike, errors, coarse_errors = [], [], []
    for name, exact in sums.items():
        merged = unet.get_submodule(name).weight
        rounded_alike.append((merged == exact.to(torch.bfloat16)).flatten())
        errors.append((merged - exact).flatten())
        coarse_errors.append((coarse.get_submodule(name).base_layer.weight - exact).flatten())
    assert torch.cat(rounded_alike).double().mean() > 0.999
    assert torch.cat(errors).norm() < 0.7 * torch.cat(coarse_errors).norm()


@pytest.mark.parametrize(("alpha", "metadata"), [(4, True), (10, True), (4, False)])
@pytest.mark.parametrize("kind", ["ddpm", "flow"])
def test_adapters_written_by_diffusers(kind, alpha, metadata, tmp_path):
    """`save_lora_adapter` of a denoiser: the same merged weights as diffusers' own, alpha / r from its metadata."""
    from peft import LoraConfig

    module, targets = module_of(kind)
    module.add_adapter(LoraConfig(r=4, lora_alpha=alpha, target_modules=list(targets), init_lora_weights=False))
    module.save_lora_adapter(tmp_path)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    if not metadata:
        save_file(load_file(file), file)
    fresh, _ = module_of(kind)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    assert load_adapter(fresh, tmp_path) == 4 and adapted(fresh) == adapted(module)
    merged = merge_lora(fresh).state_dict()
    for name in adapted(module):
        layer = module.get_submodule(name)
        a, b = layer.lora_A["default"].weight.flatten(1), layer.lora_B["default"].weight.flatten(1)
        expected = before[f"{name}.weight"] + alpha / 4 * (b @ a).view(layer.base_layer.weight.shape)
        torch.testing.assert_close(merged[f"{name}.weight"], expected, rtol=0, atol=1e-5)


def test_the_encoder_of_an_adapter_for_a_whole_autoencoder(tmp_path):
    """diffusers adapts the `AutoencoderKL`: keys start with `encoder.`, and so do the keys of its alphas."""
    from peft import LoraConfig

    vae = tiny_autoencoder()
    layers = [f"encoder.{name}" for name in ("conv_in", "mid_block.attentions.0.to_q")]
    pattern = {"encoder.conv_in": 12}
    vae.add_adapter(LoraConfig(r=4, target_modules=layers, alpha_pattern=pattern, init_lora_weights=False))
    vae.save_lora_adapter(tmp_path)
    encoder = tiny_autoencoder().encoder
    load_adapter(encoder, tmp_path)
    assert encoder.conv_in.scaling["default"] == vae.encoder.conv_in.scaling["default"] == 3
    assert encoder.mid_block.attentions[0].to_q.scaling["default"] == 2  # peft's default alpha of 8
    for name, parameter in lora_parameters(encoder).items():
        assert torch.equal(parameter, lora_parameters(vae.encoder)[name])


def test_alpha_survives_loading_and_saving(tmp_path):
    folder = save_adapter(add_lora(DDPMPrior.tiny().denoiser, 4, DDPMPrior.lora_targets), tmp_path / "a")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 12}))
    unet = DDPMPrior.tiny().denoiser
    load_adapter(unet, folder)
    assert unet.conv_in.scaling["default"] == 3
    again = json.loads((save_adapter(unet, tmp_path / "b") / "adapter_config.json").read_text())
    assert (again["r"], again["lora_alpha"], again["inference_mode"]) == (4, 12, True)
    assert set(again["target_modules"]) == set(config["target_modules"])


def test_an_adapter_that_does_not_fit_is_refused(tmp_path):
    folder = save_adapter(add_lora(DDPMPrior.tiny().denoiser, 4, DDPMPrior.lora_targets), tmp_path / "a")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["conv1"]}))
    with pytest.raises(ValueError, match="must fit its base.*tensors without a place"):
        load_adapter(DDPMPrior.tiny().denoiser, folder)

    folder = save_adapter(add_lora(DDPMPrior.tiny().denoiser, 4, DDPMPrior.lora_targets), tmp_path / "b")
    with pytest.raises(ValueError, match="must fit its base.*another shape"):
        load_adapter(DDPMPrior.tiny(latent_channels=6).denoiser, folder)

    file = folder / "adapter_model.safetensors"
    state = load_file(file)
    state.pop("base_model.model.conv_in.lora_A.weight")
    save_file(state, file)
    with pytest.raises(ValueError, match="lacks 1 .first: conv_in"):
        load_adapter(DDPMPrior.tiny().denoiser, folder)

    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged"):
        load_adapter(DDPMPrior.tiny().denoiser, folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="must hold adapter_model.safetensors"):
        load_adapter(DDPMPrior.tiny().denoiser, folder)

    save_file({"lora_unet_conv_in.lora_down.weight": torch.zeros(4, 4)}, folder / "pytorch_lora_weights.safetensors")
    with pytest.raises(ValueError, match="'<layer>.lora_A.weight': .* has none .first: lora_unet_conv_in"):
        load_adapter(DDPMPrior.tiny().denoiser, folder)


def test_folder_names_are_the_official_ones():
    assert {family: prior.adapter_folders for family, prior in PRIORS.items()} == {
        "ddpm": ("unet_lora_adapter", "vae_encoder_lora_adapter"),
        "flow": ("flux_adapter", "vae_encoder_adapter"),
        "z_image": ("z_image_adapter", "vae_encoder_adapter"),
        "flux2": ("flux2_adapter", "vae_encoder_adapter"),
    }


@pytest.mark.parametrize("kind", ["encoder", *PRIORS])
def test_removing_gives_the_module_without_adapters(kind):
    module, targets = module_of(kind)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    add_lora(module, 4, targets)
    for parameter in lora_parameters(module).values():
        torch.nn.init.normal_(parameter)
    after = remove_lora(module).state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("kind", ["encoder", *PRIORS])
def test_widening_keeps_the_function_and_gains_trainable_rows(kind):
    module, targets = module_of(kind)
    add_lora(module, 2, targets)
    for parameter in lora_parameters(module).values():
        torch.nn.init.normal_(parameter)
    merged = merge_lora(copy.deepcopy(module)).state_dict()
    widened = {name: p for name, p in lora_parameters(widen_lora(module, 5)).items()}
    assert all(5 in (p.shape[0], p.shape[1]) for p in widened.values())
    assert all(p[2:].abs().sum() > 0 for name, p in widened.items() if ".lora_A." in name)
    after = merge_lora(copy.deepcopy(module)).state_dict()
    assert all(torch.allclose(after[name], value, atol=1e-6) for name, value in merged.items())
    with pytest.raises(ValueError, match="widened to a larger rank .* got rank 5, alpha 5, to widen to 4"):
        widen_lora(module, 4)


@pytest.mark.parametrize("kind", [dict(use_rslora=True), dict(use_dora=True), dict(alpha_pattern={"to_q": 4})])
def test_adapters_that_would_change_are_not_widened(kind):
    from peft import LoraConfig, inject_adapter_in_model

    unet = DDPMPrior.tiny().denoiser
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k"], **kind), unet)
    with pytest.raises(ValueError, match="plain LoRA, with its rank as alpha .* got rank 2, alpha 2, to widen to 5"):
        widen_lora(unet, 5)


def test_an_adapter_in_half_precision_takes_half_the_bytes_and_loads_in_float32(tmp_path):
    module = add_lora(DDPMPrior.tiny().denoiser, 4, DDPMPrior.lora_targets)
    full, half = (save_adapter(module, tmp_path / str(dtype), dtype=dtype) for dtype in (torch.float32, torch.float16))
    sizes = [(folder / "adapter_model.safetensors").stat().st_size for folder in (full, half)]
    assert 0.4 < sizes[1] / sizes[0] < 0.7
    loaded = DDPMPrior.tiny().denoiser
    load_adapter(loaded, half)
    for name, parameter in lora_parameters(loaded).items():
        expected = lora_parameters(module)[name].half().float()
        assert parameter.dtype == torch.float32 and torch.equal(parameter, expected)


def test_a_block_with_the_name_of_a_layer_is_looked_into(tmp_path):
    """The encoder of the mini recipe begins with a block called conv_in: its convolution is adapted."""
    from diffusers import AutoencoderDC

    from omgsr_lib.pretraining.autoencoder import CONFIG

    def encoder():
        torch.manual_seed(0)
        return AutoencoderDC(**CONFIG).encoder

    first = add_lora(encoder(), 2, CONVOLUTIONS_AND_ATTENTION)
    assert "conv_in.conv.lora_A.default.weight" in lora_parameters(first)
    save_adapter(first, tmp_path / "adapter")
    loaded = encoder()
    assert load_adapter(loaded, tmp_path / "adapter") == 2
    assert lora_parameters(loaded).keys() == lora_parameters(first).keys()
