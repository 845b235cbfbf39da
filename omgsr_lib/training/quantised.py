"""Training on a base in 8 bits: the denoiser's frozen linear weights in half the memory of bfloat16.

Adapters stay float32, and what they compute with is the weights as they were rounded: adapters trained so make up for
a part of the rounding too, and belong on the base in 16 bits all the same.
"""

from collections import Counter

import torch
from torch import nn

from ..restore.prepare import check_quantise, is_quantised, quantise_linear


def quantise_base(model, recipe, kind):
    """Keep the linear weights of the un-tuned `model`'s denoiser in `kind`, "int8" or "fp8", in place; returns it.

    Autocast does not reach inside these layers, whose outputs have the precision of the input (int8) or of the bias
    (fp8): both are cast around them, so that activations take as much memory as on the base as it was.

    Raises `ValueError` as `check_training`, `ImportError` if torchao is missing.
    """
    check_training(model.prior, recipe, kind)
    quantise_linear(model.prior.denoiser, kind)
    for layer in model.prior.denoiser.modules():
        if isinstance(layer, nn.Linear) and is_quantised(layer):
            layer.register_forward_pre_hook(_cast_input)
            layer.register_forward_hook(_cast_output)
    return model


def _cast_input(layer, inputs):
    return (_as_autocast(inputs[0]),)


def _cast_output(layer, inputs, output):
    return _as_autocast(output)


def _as_autocast(tensor):
    device = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor


def check_training(prior, recipe, kind):
    """Raise `ValueError` unless the adapters of `recipe` can be trained on `prior` in `kind`."""
    check_quantise(prior, kind)
    if not recipe.checkpointing:
        raise ValueError(
            "A training on quantised weights recomputes its activations, or it keeps every weight in 16 bits besides: "
            "checkpointing is off. Add --checkpointing (`checkpointing=True` of the recipe)."
        )
    if recipe.target == "mean":
        raise ValueError(
            "A recipe whose target is the mean over views merges adapters into its base, whose weights must not be "
            f"quantised: got {kind!r}. Leave quantise out."
        )


def quantised_memory(denoiser):
    """Bytes that quantising the frozen linear weights of `denoiser` takes off, and that computing with them adds.

    Off: 16 or 32 bits a value become 8, with a scale in float32 for each output. On: autograd keeps a layer's weights
    in full until its backward pass, where blocks are recomputed those of one, and those outside of blocks.
    """
    off, full = 0, Counter()
    blocks = {name for name, part in denoiser.named_children() if isinstance(part, nn.ModuleList)}
    for name, layer in denoiser.named_modules():
        if isinstance(layer, nn.Linear) and ".lora_" not in name:
            off += layer.weight.nbytes - layer.weight.numel() - 4 * layer.out_features
            part, number = (name.split(".") + [""])[:2]
            full[f"{part}.{number}" if part in blocks else "outside"] += layer.weight.nbytes
    return off, full.pop("outside", 0) + max(full.values(), default=0)
