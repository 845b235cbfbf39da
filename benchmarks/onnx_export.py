"""The three stages of a prepared model in ONNX Runtime and OpenVINO against PyTorch, on one thread of a CPU.

LQ encoder, folded denoiser and decoder are exported at the model's own tile (`torch.onnx.export`), each in float32;
PyTorch runs them as `omgsr restore --fold` does, with packed linear layers where those are faster (`fold.packing`).
Milliseconds of the processor, in turns, the fastest of the repeats, so that other programs hardly matter. The export
of a denoiser takes half a minute.

    pip install onnx onnxscript onnxruntime openvino
    python benchmarks/onnx_export.py [--models mini-s mini-f] [--repeats 3] [--out results/benchmarks]
"""

import argparse
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from record import write_record
from torch import nn

from omgsr_lib.fold.enlarging import fold_enlargements
from omgsr_lib.model import OMGSR
from omgsr_lib.priors.latents import compression
from omgsr_lib.restore.prepare import prepare


PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino")
GOAL = 1.3  # times as fast as PyTorch, from which a backend would be worth its code


class Stage(nn.Module):
    """A method of the model as a module that owns the weights it uses."""

    def __init__(self, function, weights):
        super().__init__()
        self.function, self.weights = function, weights

    def forward(self, x):
        return self.function(x)


def stages(model):
    """`{name: (module, input)}` of a model at its tile."""
    random, side = torch.Generator().manual_seed(0), model.tile // compression(model.vae)
    pixels = torch.rand(1, 3, model.tile, model.tile, generator=random) * 2 - 1
    latents = torch.randn(1, model.vae.config.latent_channels, side, side, generator=random)
    predict = Stage(lambda z: model.predict_output(z, model.timestep), model.prior)
    return {
        "encode": (Stage(model.encode, model.lq_vae), pixels),
        "predict": (predict, latents),
        "decode": (Stage(model.decode, model.vae), latents),
    }


def exported(module, x, file):
    """`{backend: function}` of a stage, exported to `file`."""
    import onnxruntime
    import openvino

    hypot, torch.hypot = torch.hypot, lambda a, b: (a * a + b * b).sqrt()  # torch 2.13 exports no hypot
    try:
        torch.onnx.export(module.eval(), (x,), file, dynamo=True, external_data=False)
    finally:
        torch.hypot = hypot
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name, array = session.get_inputs()[0].name, x.numpy()
    one_thread = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(file, "CPU", one_thread)
    return {"onnxruntime": lambda: session.run(None, {name: array})[0], "openvino": lambda: compiled(array)[0]}


@torch.inference_mode()
def compare(name, repeats):
    """Milliseconds `{stage: {backend: ms}}`, and the largest difference to PyTorch's outputs."""
    model, plain = prepare(OMGSR.from_pretrained(name), fold=True), OMGSR.from_pretrained(name).fold()
    fold_enlargements(plain.vae.decoder)
    milliseconds, difference, exports = {}, 0.0, stages(plain)  # packed layers cannot be exported
    for stage, (module, x) in stages(model).items():
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False), torch.no_grad():
            runs = exported(exports[stage][0], x, str(Path(folder) / f"{stage}.onnx"))
        runs = {"torch": lambda module=module, x=x: module(x).numpy()} | runs
        outputs = [run() for run in runs.values()]
        difference = max(difference, *(float(np.abs(output - outputs[0]).max()) for output in outputs))
        times = {backend: [] for backend in runs}
        for backend in [*runs] * repeats:
            began = time.process_time()
            runs[backend]()
            times[backend].append(1000 * (time.process_time() - began))
        milliseconds[stage] = {backend: min(found) for backend, found in times.items()}
    return milliseconds, difference


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["mini-s", "mini-f"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for a JSON file of this run")
    args = parser.parse_args()
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        sys.exit(f"Nothing measured, {', '.join(missing)} missing: pip install {' '.join(PACKAGES)}.")
    torch.set_num_threads(1)
    results = {}
    for name in args.models:
        milliseconds, difference = compare(name, args.repeats)
        rows = milliseconds | {
            "sum": {b: sum(row[b] for row in milliseconds.values()) for b in milliseconds["encode"]}
        }
        rows["sum"]["fastest of each"] = sum(min(row.values()) for row in milliseconds.values())
        speed = {backend: rows["sum"]["torch"] / total for backend, total in rows["sum"].items()}
        for stage, row in rows.items():
            print(f"{name} {stage:8s}" + "  ".join(f"{backend} {ms:.1f} ms" for backend, ms in row.items()))
        print(f"{name} faster than torch: {speed} (goal {GOAL}); outputs {difference:.0e} apart", flush=True)
        results[name] = {"milliseconds": rows, "speed": speed, "difference": difference}
    write_record(args.out, "onnx_export", {"repeats": args.repeats, "models": results, "goal": GOAL})


if __name__ == "__main__":
    main()
