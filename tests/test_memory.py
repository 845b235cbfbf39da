"""memory.py: what is free, given back and too little, and copies that take none."""

import os
from pathlib import Path

import pytest
import torch

from omgsr_lib.utils.memory import free_memory, meta_twin, out_of_memory, release_memory


def test_a_meta_twin_keeps_the_structure_and_takes_no_memory():
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4))
    network[2].weight = network[0].weight
    before = {name: value.clone() for name, value in network.state_dict().items()}
    twin = meta_twin(network.half().eval())
    assert all(value.device.type == "meta" for value in twin.state_dict().values())
    assert [(n, v.shape, v.dtype) for n, v in twin.state_dict().items()] == [
        (n, v.shape, v.dtype) for n, v in network.state_dict().items()
    ]
    assert twin[0].weight is twin[2].weight and not twin.training
    assert all(torch.equal(value.half(), before[name].half()) for name, value in network.state_dict().items())


def test_free_memory():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_memory(torch.device("cpu")) <= total
    with pytest.raises(ValueError, match="free memory of meta is not known on this system: give the tile in pixels"):
        free_memory(torch.device("meta"))


def test_out_of_memory_is_told_from_other_errors():
    failed = [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
        RuntimeError("MPS backend out of memory"),
    ]
    assert all(map(out_of_memory, failed))
    assert not any(map(out_of_memory, [RuntimeError("shapes do not match"), ValueError("out of memory")]))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert out_of_memory(caught.value)


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads the memory of the process from /proc")
def test_freed_memory_goes_back_to_the_system():
    """Many blocks below the size that the C library maps on its own, every second one freed and the last kept."""

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    blocks = [bytearray(b"x" * 100_000) for _ in range(800)]
    full = resident()
    kept = blocks[::2]
    del blocks
    release_memory()
    assert resident() < full - 20_000_000 and len(kept) == 400
