"""A small training as a program of its own, which tests start several times over, kill and start again.

python training_script.py VARIANT FOLDER [--batch-size N] [--steps N] [--every N] [--sharpen-from X] [--shard]
                          [--photos DIR]
"""

import argparse
import os

import torch
from accelerate import PartialState
from test_train import SmoothPairs, new_model
from torch.distributed.tensor import DTensor

from omgsr_lib.data.photos import find_photos
from omgsr_lib.training import run
from omgsr_lib.training.distributed import shard_frozen
from omgsr_lib.training.loop import set_up, train


def main(variant, folder, *, batch_size=1, steps=20, every=50, sharpen_from=0.0, shard=False, photos=None):
    torch.set_num_threads(1)
    model, chosen = new_model(variant, batch_size=batch_size, learning_rate=2e-5, sharpen_from=sharpen_from)
    if photos:
        finetune_sharded(chosen, find_photos(photos), folder, steps)
        return
    if shard:
        PartialState(cpu=True)
        shard_frozen(model.prior.denoiser)
    train(model, SmoothPairs(), chosen, folder, steps=steps, every=every, progress=False)
    if int(os.environ.get("RANK", 0)) == 0:
        model.save_adapter(f"{folder}/adapter")


def finetune_sharded(chosen, paths, folder, steps):
    """From photographs to the card, with sharded weights as under FSDP; they are sharded again in the end.

    Each process finds another precision the faster one.
    """
    trainings, restored_pairs = [], run.restored_pairs

    def together(model, pairs):
        assert torch.distributed.is_initialized()
        return restored_pairs(model, pairs)

    def sharded(model, *arguments, **options):
        shard_frozen(model.prior.denoiser)
        trainings.append(set_up(model, *arguments, **options))
        return trainings[0]

    run.set_up, run.restored_pairs = sharded, together
    run.fast_precision = lambda *_: ("no", "bf16")[int(os.environ["RANK"])]
    run.finetune(chosen, paths, folder, name="adapter", preset="smoke", command="omgsr", steps=steps)
    (training,) = trainings
    assert training.options.precision == "no"
    frozen = [p for p in training.model.prior.denoiser.transformer_blocks.parameters() if not p.requires_grad]
    assert frozen and all(isinstance(p, DTensor) and p.to_local().numel() < p.numel() for p in frozen)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("variant")
    parser.add_argument("folder")
    for name, default in (("--batch-size", 1), ("--steps", 20), ("--every", 50)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--sharpen-from", type=float, default=0.0)
    parser.add_argument("--shard", action="store_true")
    parser.add_argument("--photos")
    main(**vars(parser.parse_args()))
