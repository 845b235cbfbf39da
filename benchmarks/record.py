"""What the benchmarks share: timing both sides interleaved, memory of a process, and one JSON file per run."""

import json
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import torch


def best_in_turns(sides, repeats, times=None, clock=time.perf_counter):
    """`(seconds, results)` per name of `sides`, functions without arguments run interleaved: the best of the repeats.

    `times`: how often a side runs in each repeat, by name; once by default. `clock`: what counts as time.
    """
    best, results = dict.fromkeys(sides, float("inf")), {}
    for repeat in range(repeats):
        for name in list(sides)[:: 1 if repeat % 2 == 0 else -1]:
            for _ in range((times or {}).get(name, 1)):
                start = clock()
                results[name] = sides[name]()
                best[name] = min(best[name], clock() - start)
    return best, results


def peak_memory():
    """Most bytes of memory that this process ever held (resident set), as the system counts them."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_a_process(function, *args):
    """`function(*args)`, of the script's own module, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(function, *args).result()


def record_name(*parts):
    """The name of a record of these parts of a run, as a file name without spaces."""
    return "_".join(parts).replace(", ", "-").replace(" ", "-")


def write_record(folder, name, content, quiet=False):
    """Write `<folder>/<name>.json`: `content` with date, versions and machine. Without a folder do nothing.

    `quiet`: do not say so, as of a record that is written again after each row.
    """
    if folder is None:
        return
    record = {
        "benchmark": name,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        **content,
    }
    path = Path(folder) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(part, path)
    if not quiet:
        print(f"written to {path}")
