"""State of a run on disk: one file, written aside and renamed, and a JSON-lines log that never runs ahead of it."""

import json
import os
from pathlib import Path

import torch


def save_state(file, state):
    """Write `state` (tensors, numbers, containers) to `file`; a crash leaves the previous state whole."""
    part = f"{file}.part"
    torch.save(state, part)
    os.replace(part, file)


def load_state(file):
    """The state in `file`, or None where there is none."""
    return torch.load(file, weights_only=True) if Path(file).exists() else None


def append_log(file, line):
    """Add one JSON line."""
    with open(file, "a") as handle:
        handle.write(json.dumps(line) + "\n")


def read_log(file):
    """All lines of a log, oldest first."""
    return [json.loads(line) for line in Path(file).read_text().splitlines()] if Path(file).exists() else []


def trim_log(file, step):
    """Drop the lines after `step`: they are of steps that the saved state does not hold and that will run again."""
    lines = [line for line in read_log(file) if line["step"] <= step]
    part = Path(f"{file}.part")
    part.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.replace(part, file)
