"""Gradient checkpointing: layers keep their inputs only, and the backward pass computes the rest of them again."""

import warnings
from functools import partial

from torch.utils.checkpoint import checkpoint


def recompute_activations(model, keep_inputs=None):
    """Let `model`, a diffusers denoiser or autoencoder, recompute its activations in the backward pass.

    Of a denoiser the blocks do, as diffusers divides it; of an autoencoder the single layers of its blocks, since a
    block at the image's resolution keeps more than a whole denoiser. Results and gradients stay what they are. A model
    that cannot is left as it is, and a warning says so: `AutoencoderDC`, and `AutoencoderTiny`, whose encoder scales
    its input in diffusers only without checkpoints.

    `keep_inputs(layer, *arguments)` runs a layer; by default `torch.utils.checkpoint`.
    """
    name = type(model).__name__
    if name == "AutoencoderTiny" or not model._supports_gradient_checkpointing:
        warnings.warn(f"{name} cannot recompute its activations: checkpointing leaves them in memory.", stacklevel=2)
        return
    keep_inputs = keep_inputs or partial(checkpoint, use_reentrant=False)
    model.enable_gradient_checkpointing(partial(_by_layers, keep_inputs))


def _by_layers(keep_inputs, block, hidden, *others):
    """In place of diffusers' function, which takes every block as one layer; `others`: embeddings and the like."""
    layers = _layers(block) if all(other is None for other in others) else None
    if layers is None:
        return keep_inputs(block, hidden, *others)
    for layer in layers:
        no_time = (None,) if type(layer).__name__ == "ResnetBlock2D" else ()
        hidden = keep_inputs(layer, hidden, *no_time)
    return hidden


def _layers(block):
    """The layers of an autoencoder's block, one after another; None for other blocks."""
    match type(block).__name__:
        case "DownEncoderBlock2D":
            return [*block.resnets, *(block.downsamplers or ())]
        case "UpDecoderBlock2D":
            return [*block.resnets, *(block.upsamplers or ())]
        case "UNetMidBlock2D":
            pairs = zip(block.attentions, block.resnets[1:], strict=True)
            return [block.resnets[0], *(layer for pair in pairs for layer in pair if layer is not None)]
    return None
