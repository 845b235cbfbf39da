"""State of a run on disk: one file, written aside and renamed, and a JSON-lines log that never runs ahead of it."""

import io
import json
import os
import pickle
from pathlib import Path

import torch

from ..utils.files import atomic_write, writing


def save_state(file, state):
    """Write `state` (tensors, numbers, containers) to `file`; a crash or a full disk leaves the previous one whole."""
    content = io.BytesIO()  # torch.save reports a full disk as an internal error
    torch.save(state, content)
    with atomic_write(file) as part, open(part, "wb") as handle:
        handle.write(content.getbuffer())
        handle.flush()
        os.fsync(handle.fileno())


def load_state(file, device="cpu"):
    """The state in `file` with its tensors on `device`, or None where there is none; `ValueError` if it is damaged."""
    if not Path(file).exists():
        return None
    try:
        return torch.load(file, map_location=device, weights_only=True)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as err:
        raise ValueError(
            f"A saved state must be whole: '{file}' is empty, cut off, a pointer of Git LFS or no state. Restore a "
            "copy of it (git lfs pull), or delete it and begin again."
        ) from err


def append_log(file, line):
    """Add one JSON line."""
    with writing(file), open(file, "a") as handle:
        handle.write(json.dumps(line) + "\n")


def read_log(file):
    """All lines of a log, oldest first; a last line that was cut off while it was written does not count.

    Raises `ValueError` if another line is no object with a step.
    """
    if not Path(file).exists():
        return []
    entries = []
    for number, line in enumerate(Path(file).read_bytes().split(b"\n")[:-1], start=1):
        try:
            entries.append(json.loads(line))
            entries[-1]["step"]
        except (ValueError, TypeError, KeyError) as err:
            raise ValueError(
                f"A log holds a JSON object with its step on each line: line {number} of '{file}' is damaged. Remove "
                "the line, or restore a copy of the file."
            ) from err
    return entries


def trim_log(file, step):
    """Drop the lines after `step`: they are of steps that the saved state does not hold and that will run again."""
    lines = [line for line in read_log(file) if line["step"] <= step]
    with atomic_write(file) as part:
        part.write_text("".join(json.dumps(line) + "\n" for line in lines))
