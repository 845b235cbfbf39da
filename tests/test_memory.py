"""memory.py: counted bytes against a count by hand."""

import os
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from omgsr_lib.utils.memory import LiveMemory, free_memory, meta_twin, out_of_memory, release_memory


KIB = 1024


def kib(count, device="cpu"):
    return torch.zeros(count * KIB // 4, device=device)


def peak(function):
    with LiveMemory() as memory:
        function()
    return memory.peak // KIB


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_live_memory_by_hand(device):
    outside = kib(64, device)

    def freed_as_it_goes():  # input not counted; at most two results at a time
        x = outside + 1
        for _ in range(5):
            x = x.exp()

    def kept():
        return [outside.exp() for _ in range(5)]

    def in_place_and_views():
        x = outside + 1
        x.view(2, -1)[0].mul_(2).add_(1)
        return x.t()

    def largest_first():  # at the copy: x, the whole product, its part
        x = outside + 1
        x = (x * 2)[: 2 * KIB].clone()
        return x, x + 1, x + 2

    assert peak(freed_as_it_goes) == 2 * 64
    assert peak(kept) == 5 * 64
    assert peak(in_place_and_views) == 64
    assert peak(largest_first) == 64 + 64 + 8


def test_attention_counts_without_its_table_on_the_meta_device():
    query = torch.empty(1, 2, 1000, 16, device="meta")
    with LiveMemory() as memory:
        F.scaled_dot_product_attention(query, query, query)
        F.scaled_dot_product_attention(query=query, key=query, value=query)
    assert memory.peak == query.nbytes


def test_a_network_counts_alike_on_the_meta_device():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(8, 8, 3, stride=2)]
    network = torch.nn.Sequential(*layers).requires_grad_(False)
    sides = (network, "cpu"), (meta_twin(network), "meta")
    peaks = [peak(lambda m=module, d=device: m(torch.zeros(1, 3, 64, 64, device=d))) for module, device in sides]
    assert peaks == [(3 + 8 + 8) * 64 * 64 * 4 // KIB] * 2  # the input, and both sides of the activation


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
