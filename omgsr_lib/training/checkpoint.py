"""Resuming: the checkpoint and the log of a run, the settings that must stay, results that are computed once."""

import hashlib
import io
import json
import os
from pathlib import Path

import torch

from ..utils.files import atomic_write, reading, sha256, write_json, writing


ORIGINS = (  # not every run names them
    *("base_weights", "prompt_embeds", "start_weights", "loss_weights"),
    *("autoencoder_weights", "perceptual_weights"),
)
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


class Checkpoint:
    """The last state of a run in `folder`: `state.pt`, written aside and renamed, and a log that never runs ahead.

    Args:
        folder: of the run; the log is its `log.jsonl`, JSON lines with a step each.
        parts: what the steps change, by name: modules, optimisers, schedules, `Tensors`, or dictionaries of such.
        settings: numbers and strings that a resumed run must share, by name.
    """

    def __init__(self, folder, parts, settings):
        self.folder, self.parts, self.settings = Path(folder), parts, settings

    def resume(self, device="cpu", *, trim=True):
        """Load the last state into the parts and return its step, 0 where there is none.

        `trim` drops the log's lines after that step: they will run again. Raises `ValueError` for other settings or a
        damaged state.
        """
        names = ("settings",) if self.settings else self.parts  # equal settings have equal parts
        state, step = read_checkpoint(self.folder, ("step", *names), device), 0
        if state is not None:
            assert_same_settings(self.folder, state.get("settings", {}), self.settings)
            _load(self.parts, state)
            step = state["step"]
        if trim:
            trim_log(self.folder / "log.jsonl", step)
        return step

    def save(self, step):
        save_state(self.folder / "state.pt", {"step": step, "settings": self.settings, **_states(self.parts)})


class Tensors:
    """Parameters by name, as a part of a checkpoint."""

    def __init__(self, parameters):
        self.parameters = parameters

    def state_dict(self):
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def load_state_dict(self, state):
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])


def _states(parts):
    return {name: _states(part) if isinstance(part, dict) else part.state_dict() for name, part in parts.items()}


def _load(parts, states):
    for name, part in parts.items():
        if isinstance(part, dict):
            _load(part, states[name])
        else:
            part.load_state_dict(states[name])


def read_checkpoint(folder, names, device="cpu"):
    """The state of the run in `folder`, a dictionary with the entries `names`; None where there is none.

    Raises `ValueError` if it is damaged or of something else.
    """
    state = load_state(Path(folder) / "state.pt", device)
    if state is not None and not (isinstance(state, dict) and set(names) <= set(state)):
        raise ValueError(
            f"The state.pt of this run holds {', '.join(names)}: that in '{folder}' belongs to something else. "
            "Delete it, or choose another folder."
        )
    return state


def keep_settings(folder, settings):
    """Write `settings` to `<folder>/settings.json` where a run begins; compare them with it where it resumes.

    Those of a run that left no other file are replaced. Raises `ValueError` that names the first one that differs.
    """
    file = Path(folder) / "settings.json"
    if file.exists() and any(path != file for path in file.parent.iterdir()):
        with reading(file, "Restore a copy of it, or delete the folder and begin again."):
            before = dict(json.loads(file.read_text(encoding="utf-8")))
        assert_same_settings(folder, before, settings)
    else:
        write_json(file, settings)


def weights_of(source, *parts):
    """What tells weights from others: of a folder a hash of the weight files below it, or below its `parts`, by path
    and content; of a hub id or a packaged model its name; None of None."""
    if source is None or not Path(source).is_dir():
        return source and str(source)
    roots = [Path(source, part) for part in parts or [""]]
    files = sorted(file for root in roots for file in root.rglob("*") if file.suffix in WEIGHTS)
    lines = [f"{file.relative_to(source).as_posix()} {sha256(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def assert_same_settings(folder, before, now):
    """Raise `ValueError` that names the first of the settings `now` that differs from those of the run in `folder`.

    A run that names no `ORIGINS` of its weights goes on with any.
    """
    for name, value in now.items():
        if before.get(name, value if name in ORIGINS else None) != value:
            raise ValueError(
                f"A run resumes with the settings it began with: '{folder}' has {name} = {before.get(name)!r}, got "
                f"{value!r}. Choose another folder or delete it."
            )


def cached(folder, key, compute):
    """What `<folder>/<key>.pt` holds; where there is none, `compute()`, written there first."""
    file = Path(folder) / f"{key}.pt"
    if not file.exists():
        save_state(file, compute())
    return load_state(file)


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
    with reading(file, "Restore a copy of it, or delete it and begin again."):
        return torch.load(file, map_location=device, weights_only=True)


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
