"""Independent pieces of work side by side on a CPU, each on one thread.

The operators of a small network do not fill several threads, and threads that share an operator wait for each other:
where another program takes one of two cores, they take longer than one thread alone. Pieces wait for nobody, and where
there is a worker for each core, each stays on its own: a program that takes half a core then slows one worker by half,
instead of all by a third.
"""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from itertools import chain, islice
from threading import Barrier

import torch


def in_order(function, items, workers):
    """Yield `function(item)` of each of `items`, in their order; `workers` threads compute, each one item at a time.

    Torch computes on one thread in each of them, and in the caller until the end. With one item or one worker all is
    computed here, with torch's own threads. At most `workers + 1` items are taken ahead.
    """
    items = iter(items)
    first = list(islice(items, 2))
    if workers == 1 or len(first) < 2:
        yield from map(function, chain(first, items))
        return
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def work(item):
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):  # which each thread has of its own
            return function(item)

    with on_threads(1):
        pool, pending = _pool(workers), deque()
        try:
            for item in chain(first, items):
                pending.append(pool.submit(work, item))
                if len(pending) > workers + 1:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
            wait(pending)


@contextmanager
def on_threads(count):
    """Inside, the operators of the calling thread run on `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _pool(workers):
    """Threads that have started, with torch on one thread; each on a core of its own where there are as many."""
    started, cores = Barrier(workers), _cores()

    def start(core):
        if core is not None:
            os.sched_setaffinity(0, {core})  # 0: this thread
        torch.set_num_threads(1)
        torch.get_num_threads()  # at its first use in a thread torch takes the number set last in any thread
        started.wait()

    pool = ThreadPoolExecutor(workers, "omgsr")
    wait([pool.submit(start, core) for core in (cores if len(cores) == workers else [None] * workers)])
    return pool


def _cores():
    """The cores that this process may use; none where the system does not tell (macOS, Windows)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
