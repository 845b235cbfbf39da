"""State of a run on disk: one file, written aside and renamed, and a JSON-lines log that never runs ahead of it."""

import io
import json
import os
from pathlib import Path

import torch

from .provenance import atomic_write, writing


def save_state(file, state):
    """Write `state` (tensors, numbers, containers) to `file`; a crash or a full disk leaves the previous one whole."""
    content = io.BytesIO()  # torch.save reports a full disk as an internal error
    torch.save(state, content)
    with atomic_write(file) as part, open(part, "wb") as handle:
        handle.write(content.getbuffer())
        handle.flush()
        os.fsync(handle.fileno())


def load_state(file, device="cpu"):
    """The state in `file` with its tensors on `device`, or None where there is none."""
    return torch.load(file, map_location=device, weights_only=True) if Path(file).exists() else None


def append_log(file, line):
    """Add one JSON line."""
    with writing(file), open(file, "a") as handle:
        handle.write(json.dumps(line) + "\n")


def read_log(file):
    """All lines of a log, oldest first; a last line that was cut off while it was written does not count."""
    return [json.loads(line) for line in Path(file).read_text().split("\n")[:-1]] if Path(file).exists() else []


def trim_log(file, step):
    """Drop the lines after `step`: they are of steps that the saved state does not hold and that will run again."""
    lines = [line for line in read_log(file) if line["step"] <= step]
    with atomic_write(file) as part:
        part.write_text("".join(json.dumps(line) + "\n" for line in lines))
