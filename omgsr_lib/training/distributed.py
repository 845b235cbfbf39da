"""Several processes: equal gradients for every trained parameter, frozen weights sharded between them."""

from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from ..utils.journal import alone


def held(folder):
    """Holds `folder` against a second run (`utils.journal.alone`) for all processes of this one: the first does it."""
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return alone(Path(folder)) if state.is_main_process else nullcontext()


def average_gradients(accelerator, parameters):
    """Replace the gradients of `parameters` by their mean over all processes, in one exchange.

    By parameter and not by module, so that whatever a forward pass went through is averaged: in the authors' code the
    encoder is called past its wrapper and every process trains its own. A parameter without a gradient counts as zero.
    """
    if accelerator.num_processes == 1:
        return
    parameters = list(parameters)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    mean = accelerator.reduce(torch.cat([g.flatten() for g in gradients]), reduction="mean")
    for parameter, part in zip(parameters, mean.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


def shard_frozen(denoiser, mesh=None):
    """Shard the frozen weights of a transformer's or UNet's blocks between the processes (FSDP2), in place.

    A block is put together when it is computed and dropped afterwards. Trainable parameters stay whole in every
    process: optimisers, checkpoints and `average_gradients` treat them as without sharding. Returns the denoiser.
    """
    from torch.distributed.fsdp import fully_shard

    trained = {p for p in denoiser.parameters() if p.requires_grad}
    for block in _blocks(denoiser):
        fully_shard(block, mesh=mesh, ignored_params=trained, reshard_after_forward=True)  # each is its own root
    return denoiser


def _blocks(denoiser):
    return [block for part in denoiser.children() if isinstance(part, nn.ModuleList) for block in part]
