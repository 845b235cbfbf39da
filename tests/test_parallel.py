"""Training as processes of its own: two equal one with the double batch, and a killed one leaves no trace."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import training_script
from command_case import two_photos
from safetensors.torch import load_file

import omgsr_lib
from omgsr_lib.data import degradation
from omgsr_lib.data.degradation import random_dial
from omgsr_lib.data.pairs import Pairs
from omgsr_lib.data.photo_pairs import PhotoPairs
from omgsr_lib.presets import recipe
from omgsr_lib.training.batches import StepBatches, training_dataset
from omgsr_lib.training.checkpoint import read_log
from omgsr_lib.training.distributed import average_gradients


SCRIPT = Path(training_script.__file__)
ENVIRONMENT = os.environ | {
    "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{SCRIPT.parent}:{SCRIPT.parents[1]}",
}  # fmt: skip
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def adapters(folder):
    files = sorted(Path(folder, "adapter").rglob("*.safetensors"))
    assert len(files) == 2
    return {f"{file.parent.name} {name}": value for file in files for name, value in load_file(file).items()}


def test_the_command_under_torchrun(tmp_path):
    """Without a GPU and without a word about it in the environment."""
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "ACCELERATE_USE_CPU"}
    options = f"--preset smoke --variant f --photos {two_photos(tmp_path / 'photos')} --steps 1 --batch-size 1".split()
    command = [*LAUNCH, "-m", "omgsr_lib.cli", "train", *options, "--out", str(tmp_path / "run")]
    subprocess.run(command, env=environment | {"CUDA_VISIBLE_DEVICES": ""}, check=True, capture_output=True)
    assert "| batch size | 2 |" in (tmp_path / "run" / "smoke-f" / "README.md").read_text()


@pytest.mark.parametrize(("variant", "options"), [("s", []), ("f", ["--shard"])])
def test_two_processes_equal_one_with_the_double_batch(variant, options, tmp_path):
    command = [*LAUNCH, str(SCRIPT), variant, str(tmp_path / "two"), *options]
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True)
    training_script.main(variant, tmp_path / "one", batch_size=2)

    one, two = adapters(tmp_path / "one"), adapters(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5)
    assert max(float(value.abs().max()) for name, value in one.items() if "lora_B" in name) > 1e-4
    equal_logs(tmp_path)


def test_a_discriminator_that_begins_later_begins_alike(tmp_path):
    """Until then its optimiser takes no step, whose moments and weight decay would count."""
    command = [*LAUNCH, str(SCRIPT), "s", str(tmp_path / "two"), "--sharpen-from", "0.5"]
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True)
    training_script.main("s", tmp_path / "one", batch_size=2, sharpen_from=0.5)
    equal_logs(tmp_path)
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("one", "two")]
    one, two = (state["discriminator"]["state"][0] for state in states)
    assert one["step"] == two["step"] == 10
    torch.testing.assert_close(two["exp_avg_sq"], one["exp_avg_sq"], rtol=1e-2, atol=1e-9)


def equal_logs(folder):
    for line, wanted in zip(read_log(folder / "two/log.jsonl"), read_log(folder / "one/log.jsonl"), strict=True):
        assert line == pytest.approx(wanted, rel=1e-5, abs=5e-6)


def test_processes_with_sharded_weights_measure_together(tmp_path):
    photos = two_photos(tmp_path / "photos")
    command = [*LAUNCH, str(SCRIPT), "f", str(tmp_path / "run"), "--steps", "1", "--photos", str(photos)]
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, timeout=300)
    assert "PSNR-Y" in (tmp_path / "run" / "adapter" / "README.md").read_text()


@pytest.mark.parametrize("variant", ["s", "f"])
def test_a_process_that_was_killed_leaves_no_trace(variant, tmp_path):
    training_script.main(variant, tmp_path / "whole", steps=6, every=2)
    command = [sys.executable, str(SCRIPT), variant, str(tmp_path / "killed"), "--steps", "6", "--every", "2"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "killed" / "log.jsonl"
    while len(read_log(log)) < 3 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "adapter").exists()
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True)

    assert log.read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()
    files = sorted(Path(tmp_path, "whole", "adapter").rglob("*.safetensors"))
    for file in files:
        assert file.read_bytes() == (tmp_path / "killed" / file.relative_to(tmp_path / "whole")).read_bytes()
    assert [line["step"] for line in map(json.loads, log.read_text().splitlines())] == [1, 2, 3, 4, 5, 6]


class Processes:
    """As `Accelerator` to the code under test: process `rank` of `count`, whose peers' vectors are `others`."""

    def __init__(self, rank, count, others=()):
        self.process_index, self.num_processes, self.others = rank, count, others
        self.device = torch.device("cpu")

    def reduce(self, tensor, reduction):
        assert reduction == "mean"
        return torch.stack([tensor, *self.others]).mean(0)


def test_gradients_are_averaged_in_one_exchange():
    parameters = [torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(3))]
    parameters[1].grad = torch.tensor([1.0, 2.0, 3.0])  # the first took no part: zero
    other = torch.tensor([4.0, 0.0, 0.0, 8.0, 3.0, 2.0, 1.0])
    average_gradients(Processes(0, 2, [other]), parameters)
    assert parameters[0].grad.tolist() == [[2.0, 0.0], [0.0, 4.0]]
    assert parameters[1].grad.tolist() == [2.0, 2.0, 2.0]


class Numbers(torch.utils.data.Dataset):
    def __getitem__(self, index):
        return {"lq": torch.full((1,), float(index)), "hq": torch.zeros(1)}


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_are_numbered_through_the_run(workers):
    recipe = SimpleNamespace(batch_size=2, accumulation=3)

    def numbers(rank, processes, first_step):
        options = dict(first_step=first_step, steps=4, workers=workers)
        batches = StepBatches(Numbers(), recipe, Processes(rank, processes), **options)
        steps = [[(lq.flatten().tolist(), indices) for lq, _, indices in step] for step in batches]
        assert all(lq == indices for step in steps for lq, indices in step)
        return [[indices for _, indices in step] for step in steps], batches.images_per_step

    one, images = numbers(0, 1, 0)
    assert images == 6 and one[1] == [[6, 7], [8, 9], [10, 11]]
    assert numbers(0, 1, 2)[0] == one[2:]
    (first, images), (second, _) = numbers(0, 2, 0), numbers(1, 2, 0)
    assert images == 12 and first[0] == [[0, 1], [4, 5], [8, 9]] and second[0] == [[2, 3], [6, 7], [10, 11]]


def test_crops_that_are_degraded_in_batches_are_those_of_the_items(monkeypatch):
    """As on a GPU; with filters that agree bit by bit, so do the images (see test_degradation_batch.py)."""
    monkeypatch.setattr(
        degradation,
        "filter2d_batch",
        lambda images, kernels: torch.stack([*map(degradation.filter2d, images, kernels)]),
    )
    recipe = SimpleNamespace(batch_size=3, accumulation=2)
    for pairs in (
        Pairs((), 32, seed=3, synthetic=2, scale=2),
        Pairs((), 32, seed=3, synthetic=2, settings=partial(random_dial, seed=3)),
    ):
        options = dict(first_step=1, steps=2, workers=0, degrade_here=True)
        for lq, hq, indices in next(iter(StepBatches(pairs, recipe, Processes(0, 1), **options))):
            for name, images in (("lq", lq), ("hq", hq)):
                torch.testing.assert_close(images, torch.stack([pairs[i][name] for i in indices]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("chosen", [recipe("smoke", "s"), recipe("paper", "s-512")])
def test_a_training_has_as_many_crops_as_it_takes(chosen, tmp_path):
    """The paper's 50,000 steps of 32 images on eight GPUs are 1.6 million; those before are the same as ever."""
    pairs = training_dataset([two_photos(tmp_path / "photos") / "a.png"], chosen, seed=0)
    assert pairs[1_599_999]["lq"].shape == (3, chosen.resolution, chosen.resolution)
    kind, options = (Pairs, {}) if chosen.resolution == 80 else (PhotoPairs, {"settings": pairs.settings})
    before = kind(pairs.paths, chosen.resolution, seed=0, scale=4, **options)[999_999]
    assert all(torch.equal(value, before[name]) for name, value in pairs[999_999].items())


@pytest.mark.parametrize(("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp", "FSDP")])
def test_launch_configurations_are_accelerates(name, kind):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(Path(omgsr_lib.__file__).parent / "training" / "accelerate" / f"{name}.yaml"))
    assert str(config.distributed_type.value) == kind
    assert (config.num_processes, config.mixed_precision) == (2, "no")
    if kind == "FSDP":
        assert config.fsdp_config == {"fsdp_version": 2}
