"""precision.py: bfloat16 only where the device multiplies it."""

import pytest
import torch

from omgsr_lib.utils import precision
from omgsr_lib.utils.precision import native_precision


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True}, "no"),
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "no"),
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ({}, "no"),
    ],
)
def test_a_cpu_needs_the_instructions(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert native_precision() == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "no")])
def test_emulation_on_a_gpu_does_not_count(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native
    )
    assert native_precision() == expected


def test_this_machine_answers():
    assert native_precision() in ("bf16", "no")


class Prior(torch.nn.Module):
    """A denoiser that takes longer in one precision."""

    def __init__(self, slow, clock):
        super().__init__()
        self.weight, self.slow, self.clock, self.calls = torch.nn.Parameter(torch.ones(1)), slow, clock, 0

    def __deepcopy__(self, memo):
        twin = Prior(self.slow, self.clock)
        self.twin = twin
        return twin

    def forward(self, latents, timestep):
        self.calls += 1
        used = torch.bfloat16 if torch.is_autocast_enabled("cpu") else self.weight.dtype
        self.clock[0] += 2.0 if used == self.slow else 1.0
        return latents * self.weight


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("slow", "expected"), [(torch.bfloat16, "no"), (torch.float32, "bf16")])
def test_the_faster_precision_is_taken_and_kept(monkeypatch, tmp_path, slow, expected, training):
    clock = [0.0]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(precision, "native_precision", lambda: "bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision.time, "process_time", lambda: clock[0])
    prior = Prior(slow, clock)
    assert precision.faster_precision(prior, (1, 4, 8, 8), training=training) == expected
    again = Prior(slow, clock)
    assert precision.faster_precision(again, (1, 4, 8, 8), training=training) == expected and again.calls == 0
    (tmp_path / "omgsr" / "precision.json").write_text("{")
    assert precision.faster_precision(again, (1, 4, 8, 8), training=training) == expected and again.calls > 0


def test_without_bfloat16_hardware_nothing_is_timed(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(precision, "native_precision", lambda: "no")
    prior = Prior(torch.float32, [0.0])
    assert precision.faster_precision(prior, (1, 4, 8, 8)) == "no" and prior.calls == 0
