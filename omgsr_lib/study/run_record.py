"""Where a result came from: one `run.json` beside each result, with its configuration, seed, versions and files.

run = start_run("01_latent_gap", {"preset": "mini"}, seed=0, results="results/mini")
run.add_input("results/mini/00_start_here/pairs.csv")
run.save("gap.csv", frame)
run.save("gap.png", figure)
run.finish()
"""

import dataclasses
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath

from ..utils.files import atomic_write, part_hashes, sha256, write_json


PROJECT_ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = PROJECT_ROOT / "omgsr_lib" / "weights"  # the shipped ones, whose hashes every record holds
ELSEWHERE = "<elsewhere>"
JPEG = {"quality": 92, "subsampling": 0}  # of images; a PNG ignores it
PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "numpy",
    "scipy",
    "pandas",
    "pillow",
    "lpips",
    "pyiqa",
)


def seed_everything(seed):
    """Seed Python, NumPy and torch (every device). Code that draws numbers should still be given a generator."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def versions():
    """Versions of Python and of the packages that shape a result; None for those that are not installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def git_state():
    """`(commit, dirty)` of the project; `(None, None)` outside a git clone. Changed results do not make it dirty."""
    if not (PROJECT_ROOT / ".git").exists():
        return None, None
    try:
        commit = _git("rev-parse", "HEAD")
        return commit, bool(_git("status", "--porcelain", "--", ".", ":!results"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _git(*arguments):
    command = ["git", "-C", str(PROJECT_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def device_name():
    """The CUDA device's name, or `cpu` with the number of threads; a run that never imported torch ran on `cpu`."""
    torch = sys.modules.get("torch")
    if torch is None:
        return "cpu"
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} thread(s)"


def peak_memory_mib():
    """Peak resident memory of this process in MiB; None on Windows, which does not report it this way."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 2**20 if sys.platform == "darwin" else peak / 2**10, 1)


def start_run(name, config, *, seed, results=None, folder=None):
    """Seed everything and open the record of one step: a notebook's in `<results>/<name>`, any other's in `folder`.

    Args:
        name: the step's name.
        config: resolved configuration, a dictionary or dataclass of JSON values; paths in it are relative.
        seed: given to `seed_everything`.
        results: of a notebook, the folder of its preset, relative to the project root. That root becomes the working
            folder, so that relative paths mean the same in JupyterLab as under `omgsr reproduce`.
        folder: where the step writes, and where `Run.finish` puts `run.json`. One left from before is removed, so that
            a step that stops half-way has none.

    Raises:
        ValueError: a string in `config` is an absolute path: it would publish a machine's folders.
        OSError: the folder cannot be written.
    """
    config = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else dict(config)
    _refuse_absolute_paths(config)
    if folder is None:
        os.chdir(PROJECT_ROOT)
        folder = Path(results, name)
    run = Run(name, config, seed, Path(folder))
    write_json(run.folder / "run.json", None)  # fails here, with one clear line, where the folder cannot be written
    (run.folder / "run.json").unlink()
    seed_everything(seed)
    return run


def _refuse_absolute_paths(value, name="config"):
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_absolute_paths(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_absolute_paths(item, name)
    elif isinstance(value, str | PurePath) and os.path.isabs(value):
        raise ValueError(
            f"run.json holds relative paths only, got {name}: {value}. Give it relative to the project root"
        )


class Run:
    """The record of one step: made by `start_run`, closed by `finish`."""

    def __init__(self, name, config, seed, folder):
        self.name = name
        self.config = config
        self.seed = seed
        self.folder = folder
        self._inputs = {}
        self._outputs = set()
        self._started = time.monotonic()

    def path(self, name):
        """Path of an output file or folder `name` inside the run's folder; it must exist when the run finishes."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return self.add_output(path)

    def save(self, name, content, **options):
        """Write `content` to the output file `name`, whole or not at all, and return what shows it in a notebook.

        Args:
            name: `.csv` for a data frame (six significant digits, no index), `.png` for a figure of lines and text,
                `.jpg` for photographs.
            content: data frame, matplotlib figure, PIL image, or the bytes of an image file.
            options: of `report.plots.save_figure`, such as `dpi`.

        Returns the data frame itself, or an `IPython.display.Image` of the file.
        """
        path = self.path(name)
        if path.suffix == ".csv":
            with atomic_write(path) as part:
                content.to_csv(part, index=False, float_format="%.6g")
            return content
        from IPython.display import Image

        from ..report.plots import save_figure

        if hasattr(content, "savefig"):
            save_figure(content, path, **options)
        else:
            with atomic_write(path) as part:
                part.write_bytes(content) if isinstance(content, bytes) else content.save(part, **JPEG)
        return Image(filename=str(path))

    def add_output(self, path):
        """Record an output inside the run's folder (of a folder: every file in it). Returns it as a `Path`."""
        path = Path(path)
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise ValueError(f"outputs of a run lie in its folder {self.folder}, got {path}. Use run.path(name)")
        self._outputs.add(path.resolve().relative_to(self.folder.resolve()))
        return path

    def add_input(self, path):
        """Record a file (or every file of a folder) that the run reads, with its SHA-256 now. Returns it as a `Path`.

        Inside the working folder it is named by its relative path, outside as `<elsewhere>/name`.
        """
        path = Path(path)
        here = Path.cwd()
        for file in _files(path):
            absolute = file.resolve()
            shown = absolute.relative_to(here) if absolute.is_relative_to(here) else Path(ELSEWHERE, absolute.name)
            self._inputs[absolute] = {"path": shown.as_posix(), "sha256": sha256(file)}
        return path

    def finish(self):
        """Write `run.json` and return the names of the outputs in it, relative to the run's folder.

        Raises:
            FileNotFoundError: an output named by `path` or `add_output` was never written.
        """
        files = sorted({file for path in self._outputs for file in _files(self.folder / path)})
        commit, dirty = git_state()
        content = {
            "name": self.name,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit,
            "dirty": dirty,
            "config": self.config,
            "seed": self.seed,
            "versions": versions(),
            "weights": part_hashes(WEIGHTS),
            "device": device_name(),
            "seconds": round(time.monotonic() - self._started, 2),
            "peak_memory_mib": peak_memory_mib(),
            "inputs": sorted(self._inputs.values(), key=lambda item: (item["path"], item["sha256"])),
            "outputs": [{"path": file.relative_to(self.folder).as_posix(), "sha256": sha256(file)} for file in files],
        }
        write_json(self.folder / "run.json", content)
        return [item["path"] for item in content["outputs"]]


def _files(path):
    """The file itself, or the files of a folder at any depth in the order of their names."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if not path.exists():
        raise FileNotFoundError(f"a run records files that exist, got {path}. Write it first, or do not name it")
    return [path]
