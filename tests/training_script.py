"""A small training as a program of its own, which tests start several times over, kill and start again.

python training_script.py VARIANT FOLDER [--batch-size N] [--steps N] [--every N] [--shard]
"""

import argparse
import os

import torch
from accelerate import PartialState
from test_train import SmoothPairs, new_model

from omgsr_lib.training.distributed import shard_frozen
from omgsr_lib.training.loop import train


def main(variant, folder, *, batch_size=1, steps=20, every=50, shard=False):
    torch.set_num_threads(1)
    model, chosen = new_model(variant, batch_size=batch_size, learning_rate=2e-5)
    if shard:
        PartialState(cpu=True)
        shard_frozen(model.prior.denoiser)
    train(model, SmoothPairs(), chosen, folder, steps=steps, every=every, progress=False)
    if int(os.environ.get("RANK", 0)) == 0:
        model.save_adapter(f"{folder}/adapter")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("variant")
    parser.add_argument("folder")
    for name, default in (("--batch-size", 1), ("--steps", 20), ("--every", 50)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--shard", action="store_true")
    main(**vars(parser.parse_args()))
