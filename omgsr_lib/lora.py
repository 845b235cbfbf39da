"""LoRA: which layers are adapted, and adapters in the official layout (two peft folders).

<folder>/unet_lora_adapter/ | flux_adapter/              the denoiser's
<folder>/vae_encoder_lora_adapter/ | vae_encoder_adapter/   the autoencoder's encoder's
    adapter_config.json  adapter_model.safetensors
"""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .files import atomic_folder


CONVOLUTIONS_AND_ATTENTION = [
    "conv1", "conv2", "conv_in", "conv_shortcut", "conv", "conv_out",
    "to_k", "to_q", "to_v", "to_out.0",
]  # fmt: skip
FLUX_LAYERS = [
    "x_embedder", "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
]  # fmt: skip

# Suffixes of the adapted layers, as in the authors' adapters. The encoder's list serves both families.
TARGETS = {"ddpm": CONVOLUTIONS_AND_ATTENTION, "flow": FLUX_LAYERS}
FOLDERS = {
    "ddpm": ("unet_lora_adapter", "vae_encoder_lora_adapter"),
    "flow": ("flux_adapter", "vae_encoder_adapter"),
}
PREFIX = "base_model.model."


def add_lora(module, rank, targets):
    """Add a trainable adapter (alpha = rank, Gaussian A, zero B) to the layers of `module` that end in `targets`.

    In place; everything else of `module` is frozen. B = 0, so outputs do not change until training.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets), init_lora_weights="gaussian")
    module.requires_grad_(False)
    inject_adapter_in_model(config, module)
    return module


def lora_parameters(module):
    """The trainable parameters of an adapted module, by name."""
    return {name: p for name, p in module.named_parameters() if ".lora_" in name}


def merge_lora(module):
    """Add every adapter to its layer's weight (in the layer's precision) and remove the wrappers, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(module.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            module.set_submodule(name, layer.get_base_layer())
    return module


def save_adapter(module, folder, *, rank, targets):
    """Write the adapter of `module` as peft does, keys without an adapter name; returns the folder."""
    from peft import LoraConfig, get_peft_model_state_dict

    with atomic_folder(folder) as part:
        state = {PREFIX + name: value.contiguous() for name, value in get_peft_model_state_dict(module).items()}
        save_file(state, part / "adapter_model.safetensors", metadata={"format": "pt"})
        config = LoraConfig(
            r=rank,
            lora_alpha=rank,
            target_modules=list(targets),
            init_lora_weights="gaussian",
            inference_mode=True,
            auto_mapping={"base_model_class": type(module).__name__, "parent_library": type(module).__module__},
        )
        config.save_pretrained(part)
    return Path(folder)


def load_adapter(module, folder):
    """Inject the adapter in `folder` (official or peft layout) into `module`, trainable; returns its rank.

    Raises `FileNotFoundError` if there is none and `ValueError` if a tensor finds no place or has another shape.
    """
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    folder = Path(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"An adapter folder must hold {name}: '{folder}' does not. Check the path.")
    config = LoraConfig.from_pretrained(folder)
    config.inference_mode = False
    try:
        state = load_file(folder / "adapter_model.safetensors")
    except SafetensorError as err:
        raise ValueError(f"'{folder}/adapter_model.safetensors' is damaged ({err}). Copy the adapter again.") from err
    module.requires_grad_(False)
    inject_adapter_in_model(config, module)
    stripped = {name.removeprefix(PREFIX): value for name, value in state.items()}
    try:
        result = set_peft_model_state_dict(module, stripped)
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
