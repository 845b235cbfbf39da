"""Work shared by the processes of a launcher (accelerate launch, torchrun): which one this is, what the others found.

Each process takes every n-th piece of a list that all of them have, so that nobody is asked while the work goes on.
They meet before it and after it only, and exchange names and numbers: through gloo, without a GPU.
"""

import os
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import cache

from .journal import alone, joined


WAIT = timedelta(days=30)  # shares end at different times; a process that has died is noticed at once


def processes():
    """`(rank, processes)` of this process, as the launcher says; `(0, 1)` without one."""
    count = _from_launcher("WORLD_SIZE", 1)
    return (_from_launcher("RANK", 0) if count > 1 else 0), count


def processes_here():
    """How many of them run on this machine."""
    return _from_launcher("LOCAL_WORLD_SIZE", 1) if processes()[1] > 1 else 1


def first_process():
    """Whether this process is the first of its launcher's: the one that prints and writes."""
    return processes()[0] == 0


def share(items):
    """Those of the list `items` that this process works on."""
    rank, count = processes()
    return items[rank::count]


def process_device(device="auto"):
    """The device of this process; "auto" is CUDA where there is one, of several GPUs one for each process."""
    import torch

    if device != "auto":
        return torch.device(device)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if processes()[1] == 1:
        return torch.device("cuda")
    number = _from_launcher("LOCAL_RANK", 0) % torch.cuda.device_count()
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def from_first(function):
    """`function()` of the first process, in each of them; an error that it raises is raised in each."""
    rank, count = processes()
    if count == 1:
        return function()
    result = error = None
    if rank == 0:
        try:
            result = function()
        except Exception as err:
            error = err
    found = [(result, error)]
    with _together() as distributed:
        distributed.broadcast_object_list(found, src=0, group=_group())
    result, other = found[0]
    if error or other:
        raise error or other
    return result


def gather(items):
    """The items of the lists of all processes, in each of them."""
    count = processes()[1]
    if count == 1:
        return list(items)
    lists = [None] * count
    with _together() as distributed:
        distributed.all_gather_object(lists, list(items), group=_group())
    return [item for found in lists for item in found]


@contextmanager
def alone_together(folder):
    """As `alone`, of all processes: another run waits for the last of them to leave the block, or to die."""
    if processes()[1] == 1:
        with alone(folder):
            yield
        return
    with ExitStack() as held:
        from_first(lambda: held.enter_context(alone(folder, company=True)))
        if not first_process():
            held.enter_context(joined(folder))
        yield


@contextmanager
def _together():
    """The module `torch.distributed`, for a call that all processes must make."""
    import torch.distributed as distributed

    try:
        yield distributed
    except (RuntimeError, ValueError) as err:  # ValueError: no address of the first process, none to connect to
        raise OSError(
            f"The processes of a launcher do not reach each other ({' '.join(str(err).split())[:200]}). One may have "
            "ended early, and said why. Start all of them again: what is finished is kept."
        ) from err


@cache
def _group():
    """The processes, connected by gloo; beside the connection of a training where there is one."""
    import torch.distributed as distributed

    if distributed.is_initialized():
        return distributed.new_group(backend="gloo", timeout=WAIT)
    distributed.init_process_group("gloo", timeout=WAIT)
    return distributed.group.WORLD


def _from_launcher(name, default):
    """The integer in an environment variable; `default` where it is missing or empty."""
    text = os.environ.get(name) or default
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"A launcher sets {name} to an integer: got {text!r}. Unset it.") from None
