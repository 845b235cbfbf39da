"""LoRA: adapters added, merged and on disk. Which layers of a denoiser are adapted is a fact of its prior.

<folder>/<adapter_folders of the prior>/             one of the denoiser, one of the autoencoder's encoder
    adapter_config.json  adapter_model.safetensors   peft's files, as in the authors' release; written and read
    pytorch_lora_weights.safetensors                 diffusers' `save_lora_adapter`; read
"""

import copy
import json
import warnings
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .utils.files import atomic_folder, reading
from .utils.workers import on_threads


# Suffixes of the adapted layers of the autoencoder's encoder, as in the authors' adapters.
CONVOLUTIONS_AND_ATTENTION = [
    "conv1", "conv2", "conv_in", "conv_shortcut", "conv", "conv_out",
    "to_k", "to_q", "to_v", "to_out.0",
]  # fmt: skip
PREFIX = "base_model.model."
AGAIN = "Copy the adapter again."
WEIGHTS = {"peft": "adapter_model.safetensors", "diffusers": "pytorch_lora_weights.safetensors"}


def add_lora(module, rank, targets):
    """Add a trainable adapter (alpha = rank, Gaussian A, zero B) to the layers of `module` that end in `targets`.

    In place; everything else of `module` is frozen. B = 0, so outputs do not change until training. The adapter is
    float32 on a base in half precision too.
    """
    from peft import LoraConfig

    # A block may bear the name of a layer, such as the first one of an encoder that begins with an unshuffle.
    blocks = [name for name, part in module.named_modules() if _ends_in(name, targets) and any(part.children())]
    options = dict(target_modules=list(targets), exclude_modules=blocks or None, init_lora_weights="gaussian")
    return _inject(module, LoraConfig(r=rank, lora_alpha=rank, **options))


def lora_parameters(module):
    """The trainable parameters of an adapted module, by name."""
    return {name: p for name, p in module.named_parameters() if ".lora_" in name}


def merge_lora(module):
    """Add every adapter to its layer's weight and remove the wrappers, in place.

    `W + (alpha / r) B A` is computed in float32 at least and rounded once to the precision of `W`; on a CPU on one
    thread, since rounding depends on the number of threads, and with it the bytes of restored images would.
    Raises `ValueError` for quantised weights.
    """
    adapted = _adapted_layers(module)
    if any(type(layer).__name__ == "TorchaoLoraLinear" for layer in adapted.values()):
        raise ValueError(
            "Adapters are merged into weights of 16 or 32 bits: these are quantised. Save the adapters and load them "
            "onto the base as it was."
        )
    with on_threads(1):
        for name, layer in adapted.items():
            dtype = layer.get_base_layer().weight.dtype
            layer.to(torch.promote_types(dtype, torch.float32)).merge()
            module.set_submodule(name, layer.get_base_layer().to(dtype))
    return module


def widen_lora(module, rank):
    """Give the adapter of `module` a larger `rank` with the same function, in place; alpha stays equal to the rank.

    A gains Gaussian rows and B zero columns, as a new adapter has them. Raises `ValueError` for one that is wider
    already, or in which some layer has another rank than alpha or is no plain LoRA (`is_plain`; rsLoRA).
    """
    from peft import get_peft_model_state_dict

    config, layers = module.peft_config["default"], _adapted_layers(module).values()
    alike = all(layer.r["default"] == config.r and layer.scaling["default"] == 1 for layer in layers)
    if config.r > rank or not (alike and all(map(is_plain, layers))):
        raise ValueError(
            "An adapter can be widened to a larger rank if it is plain LoRA, with its rank as alpha in all layers: "
            f"got rank {config.r}, alpha {config.lora_alpha}, to widen to {rank}. Train at its own rank."
        )
    narrow = get_peft_model_state_dict(module)
    wide = add_lora(remove_lora(module), rank, config.target_modules)
    for name, parameter in lora_parameters(wide).items():
        value = narrow[name.replace(".default", "")]
        parameter.data[tuple(map(slice, value.shape))] = value
    return module


def is_plain(layer):
    """Whether what an adapted `layer` adds to its weight is `(alpha / r) B A` alone: no DoRA, no trained bias."""
    return not (layer.lora_variant or any(layer.lora_bias.values()))


def remove_lora(module):
    """Take every adapter off its layer, in place: `module` as it was before `add_lora` or `load_adapter`."""
    for name, layer in _adapted_layers(module).items():
        module.set_submodule(name, layer.get_base_layer())
    del module.peft_config
    return module


def save_adapter(module, folder, *, dtype=torch.float32):
    """Write the adapter of `module` as peft does, in `dtype`, keys without an adapter name; returns the folder."""
    from peft import get_peft_model_state_dict

    with atomic_folder(folder) as part:
        state = {
            PREFIX + name: value.to(dtype).contiguous() for name, value in get_peft_model_state_dict(module).items()
        }
        save_file(state, part / WEIGHTS["peft"], metadata={"format": "pt"})
        config = copy.copy(module.peft_config["default"])
        config.inference_mode = True
        config.target_modules = sorted(config.target_modules)  # peft writes a set, in another order each time
        config.exclude_modules = config.exclude_modules and sorted(config.exclude_modules)
        config.auto_mapping = {"base_model_class": type(module).__name__, "parent_library": type(module).__module__}
        config.save_pretrained(part)
    return Path(folder)


def load_adapter(module, folder):
    """Inject the adapter in `folder` into `module`, trainable and in float32; returns its rank.

    Reads peft's two files (as in the authors' release) or diffusers' one, whose metadata give alpha and the ranks of
    single layers; without any, alpha is the rank. An adapter of a whole autoencoder (`encoder.conv_in`) fits its bare
    encoder.

    Raises `FileNotFoundError` if there is none and `ValueError` if a tensor finds no place or has another shape.
    """
    from peft import LoraConfig, set_peft_model_state_dict

    folder = Path(folder)
    if (folder / WEIGHTS["diffusers"]).is_file():
        state, metadata = _read(folder / WEIGHTS["diffusers"])
        with reading(folder / WEIGHTS["diffusers"], AGAIN):
            about = dict(json.loads(metadata.get("lora_adapter_metadata", "{}")))
        config = _diffusers_config(folder, state, about)
    else:
        for name in ("adapter_config.json", WEIGHTS["peft"]):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"An adapter folder must hold {name}: '{folder}' does not. Check the path.")
        state, _ = _read(folder / WEIGHTS["peft"])
        with reading(folder / "adapter_config.json", AGAIN):
            config = LoraConfig.from_pretrained(folder)
            if not (isinstance(config.r, int) and config.r > 0 and config.target_modules):
                raise ValueError(f"rank {config.r!r}, layers {config.target_modules!r}")
        config.inference_mode = False
    _inject(module, config)
    try:
        result = set_peft_model_state_dict(module, state)
    except RuntimeError as err:
        raise ValueError(
            f"An adapter must fit its base: '{folder}' has tensors of another shape. Check that they belong together."
        ) from err
    missing = [name for name in result.missing_keys if ".lora_" in name]
    if result.unexpected_keys or missing:
        raise ValueError(
            f"An adapter must fit its base: '{folder}' has {len(result.unexpected_keys)} tensors without a place and "
            f"lacks {len(missing)} (first: {(result.unexpected_keys or missing)[0]}). Check that they belong together."
        )
    return config.r


def _adapted_layers(module):
    """The layers of `module` with an adapter, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: layer for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)}


def _ends_in(name, targets):
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _inject(module, config):
    from peft import inject_adapter_in_model

    module.requires_grad_(False)
    on_meta = next(module.parameters()).is_meta
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TorchaoLoraLinear was instantiated without")  # `merge_lora` refuses them
        inject_adapter_in_model(config, module, low_cpu_mem_usage=on_meta)
    for parameter in lora_parameters(module).values():
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    return module


def _read(file):
    """Tensors of an adapter file, by their names inside the adapted module, and its metadata."""
    with reading(file, AGAIN), safe_open(file, "pt") as opened:
        state = {name: opened.get_tensor(name) for name in opened.keys()}
        metadata = opened.metadata() or {}
    return {_inside(name): value for name, value in state.items()}, metadata


def _inside(name):
    return name.removeprefix(PREFIX).removeprefix("encoder.")


def _diffusers_config(folder, state, about):
    """The `LoraConfig` of an adapter that diffusers wrote: its layers from the tensors, alpha from the metadata."""
    from peft import LoraConfig

    ranks = {
        name.removesuffix(".lora_A.weight"): value.shape[0] for name, value in state.items() if ".lora_A." in name
    }
    if not ranks:
        raise ValueError(
            f"An adapter must hold tensors '<layer>.lora_A.weight': '{folder}' has none (first: {next(iter(state))}). "
            "Save it with diffusers' save_lora_adapter or with peft."
        )
    rank = about.get("r", next(iter(ranks.values())))
    patterns = {
        name: {_inside(layer): value for layer, value in about.get(name, {}).items()}
        for name in ("rank_pattern", "alpha_pattern")
    }
    return LoraConfig(
        r=rank,
        lora_alpha=about.get("lora_alpha", rank),
        use_rslora=about.get("use_rslora", False),
        target_modules=list(ranks),
        init_lora_weights="gaussian",
        **patterns,
    )
