"""benchmarks/gpu_*.py: the parts that need no GPU, in closed form, one case at mini size, and what a stop leaves."""

import json
import sys

import pytest
import torch
from benchmark_case import load_benchmark
from torch.utils.flop_counter import FlopCounterMode

from omgsr_lib.model import OMGSR
from omgsr_lib.utils.memory import meta_twin


@pytest.fixture(scope="module")
def script():
    return load_benchmark("gpu_restore")


def test_operations_of_a_convolution_and_an_attention(script):
    x, weight = torch.empty(2, 8, 6, 6, device="meta"), torch.empty(8, 8, 3, 3, device="meta")
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.conv2d(x, weight, padding=1)
    assert script.convolution_flops(2, 8, 6) == counter.get_total_flops()
    q, k = torch.empty(3, 10, 4, device="meta"), torch.empty(3, 4, 10, device="meta")
    with FlopCounterMode(display=False) as counter:
        q @ k @ q
    assert script.attention_flops(3, 10, 4) == counter.get_total_flops()


def test_limit_takes_the_slower_of_operations_and_weights(script):
    counts = {"encode": (10e12, 1e9), "denoiser": (1e12, 50e9), "decode": (0, 0)}
    assert script.limit(counts, flops=1e15, bandwidth=5e12) == pytest.approx(10 + 10)


def test_counted_operations_of_the_published_size(script):
    """The table of the design: 1.117, 0.804 and 2.515 TFLOP at 512 pixels, 1.73 GB of UNet."""
    model = OMGSR.full_size("ddpm", 273)
    values = [torch.empty(1, c, s, s, dtype=torch.bfloat16, device="meta") for c, s in ((3, 512), (4, 64), (4, 64))]
    counts = script.counted(model, values)
    assert [round(counts[stage][0] / 1e12, 3) for stage in script.STAGES] == [1.117, 0.804, 2.515]
    assert counts["denoiser"][1] == 2 * 865_910_724


def test_variants_that_cannot_run_say_why(script):
    assert script.why_not({}, cuda=False, torchao=False) is None
    assert script.why_not({"offload": True}, cuda=False, torchao=True) == "needs a GPU"
    assert script.why_not({"quantise": "fp8"}, cuda=True, torchao=False) == "torchao is not installed"
    assert script.why_not({"quantise": "fp8"}, cuda=True, torchao=True) is None


def test_goals_are_for_the_fastest_variant(script):
    rows = [{"case": "S 512", "over_limit": {"named": value}} for value in (3.0, 1.9)]
    rows += [{"case": "F 512", "out_of_memory": True}, {"case": "F 1024", "over_limit": {"named": 1.5}}]
    assert script.missed_goals(rows) == ["F 1024: 1.50 times the limit, goal 1.45"]


def test_unequal_pictures_are_a_problem_unless_the_variant_changes_them(script):
    expected, picture = torch.ones(1, 3, 4, 4), torch.full((1, 3, 4, 4), 1.5)
    row = {}
    assert script.judge(row, "F", "folded", expected, picture, torch.float32) == ["F, folded: images differ by 0.5"]
    assert row["difference"] == 0.5
    assert script.judge({}, "F", "int8, folded, compiled", expected, picture, torch.float32) == []
    assert script.judge({}, "F", "folded", expected, picture * float("nan"), torch.float32)


def test_a_stopped_run_keeps_its_rows(script, monkeypatch, tmp_path):
    """Under a name of its own, where it is a part."""

    def run_case(name, *_):
        yield {"case": name, "variant": "folded", "left_out": "needs a GPU"}, []
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "run_case", run_case)
    options = ["--size", "mini", "--repeats", "1", "--out", str(tmp_path)]
    for more, name in (([], "mini"), (["--only", "F", "--variants", "folded, compiled"], "mini_F_folded-compiled")):
        monkeypatch.setattr(sys, "argv", ["gpu_restore.py", *options, *more])
        with pytest.raises(KeyboardInterrupt):
            script.main()
        record = json.loads((tmp_path / f"gpu_restore_{name}.json").read_text())
        assert len(record["rows"]) == 1 and record["attention"] and record["convolution"]
    for wrong in (["--only", "S 512"], ["--variants", "quick"]):
        monkeypatch.setattr(sys, "argv", ["gpu_restore.py", *options, *wrong])
        with pytest.raises(SystemExit):
            script.main()


def test_a_training_that_fails_stops_no_other(monkeypatch, tmp_path):
    script, calls = load_benchmark("gpu_training"), []

    def train(model, clock, *_, steps, **options):
        calls.append(steps)
        if len(calls) == 1:
            raise RuntimeError("no kernel")
        clock.times = [float(step) for step in range(steps * 99)]

    monkeypatch.setattr(script, "train", train)
    monkeypatch.setattr(sys, "argv", ["gpu_training.py", "--size", "mini", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="failed"):
        script.main()
    first, *others = json.loads((tmp_path / "gpu_training_mini.json").read_text())["rows"]
    assert first["failed"] == "RuntimeError('no kernel')" and len(others) == 3 and all("ms" in row for row in others)


def test_a_case_on_this_machine(script, monkeypatch):
    monkeypatch.setattr(script, "VARIANTS", {"as it is": None, "folded": dict(fold=True)})
    monkeypatch.setattr(script, "FLUX_VARIANTS", {"folded, offloaded": dict(fold=True, offload=True)})
    device = script.Device()
    rates = {"measured": (script.matmul_rate(device, 1), script.copy_rate(device, 1))}
    rows, problems = zip(*script.run_case("F", ("mini-f", None, 64, 1), device, rates, repeats=1), strict=True)
    assert not any(problems)
    assert [row["variant"] for row in rows] == ["as it is", "folded", "folded, offloaded"]
    assert rows[1]["weights_GB"] < rows[0]["weights_GB"] and rows[1]["difference"] < 1e-4
    for row in rows[:2]:
        assert row["total_ms"] == pytest.approx(sum(row["ms"].values()))
        assert row["over_limit"]["measured"] == pytest.approx(row["total_ms"] / row["limit_ms"]["measured"])
        assert row["host_waits"] is None
    assert rows[2]["left_out"] == "needs a GPU" and "needs a GPU" in script.line(rows[2])


def test_no_value_of_the_gpu_is_read(script):
    """On the meta device reading a value raises: a pass through all stages shows that the host waits for none."""
    for name in ("mini-s", "mini-f"):
        for model in (OMGSR.from_pretrained(name).merge(), OMGSR.from_pretrained(name).fold()):
            values = [torch.empty(1, c, s, s, device="meta") for c, s in ((3, 64), (16, 16), (16, 16))]
            assert all(found[0] > 0 for found in script.counted(model, values).values())
            meta_twin(model).predict_clean(values[1], tile=4, tile_batch=2)
