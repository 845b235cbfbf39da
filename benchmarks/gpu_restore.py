"""Restoring with OMGSR-S at 512 and OMGSR-F at 512 and 1024 pixels, full size with random weights, in bf16.

Per variant of a model (as diffusers runs it, compiled, folded, folded and compiled with CUDA graphs, fewer prompt
tokens, quantised weights, offloaded layers): milliseconds of each stage, how many times the limit they are, peak
memory, whether the host waits for the GPU, and the difference of the images to the first variant's. The limit is
that of the counted operations at the rate of a large matrix product, or of the weights at the rate of a copy, both
measured in the same run, and at the rates that are named below.

Also the rates that the choices rest on: attention by kernel at head sizes 64, 128 and 512, convolutions at 128 to 512
channels in both layouts.

    python benchmarks/gpu_restore.py [--size full|mini] [--only CASE ...] [--variants NAME ...] [--out FOLDER]

`full` needs a GPU with 80 GB and takes the better part of an hour, most of it to compile. `mini` runs the same code on
a CPU with the small models in float32, compiled without code generation. The record is written after each row; parts
of a run have the names of their cases and variants in its own.
"""

import argparse
import gc
import sys
import time
import traceback
from importlib.util import find_spec
from pathlib import Path

import torch
from record import record_name, write_record
from torch.nn import functional as F
from torch.nn.attention import sdpa_kernel

from omgsr_lib.model import OMGSR
from omgsr_lib.priors.latents import compression
from omgsr_lib.restore.prepare import compile_stages, prepare
from omgsr_lib.utils.device import KERNELS, fast_attention
from omgsr_lib.utils.memory import meta_twin
from omgsr_lib.utils.meter import count


FLOPS, BYTES = 790e12, 4.3e12  # per second, of an H200 in bfloat16
STAGES = ("encode", "denoiser", "decode")
WARM_UP = 3
# Milliseconds of the three stages over the limit at FLOPS, at most.
GOALS = {"S 512": 2.0, "F 512": 1.5, "F 1024": 1.45}
# Family, timestep, side and batch of images.
CASES = {
    "full": {
        "S 512": ("ddpm", 273, 512, 1),
        "S 512, batch 8": ("ddpm", 273, 512, 8),
        "F 512": ("flow", 244, 512, 1),
        "F 1024": ("flow", 244, 1024, 1),
    },
    "mini": {"S": ("mini-s", None, 128, 1), "F": ("mini-f", None, 128, 1)},
}
# Options of `prepare` by variant; "tokens" keeps so many of the prompt, "compile" compiles all stages, "cudagraphs"
# records them without new kernels. None: as it is.
VARIANTS = {
    "as it is": None,
    "compiled": dict(compile=True),
    "folded": dict(fold=True),
    "folded, compiled": dict(fold=True, compile=True),
}
UNET_VARIANTS = {"folded, graphs": dict(fold=True, compile="cudagraphs")}
FLUX_VARIANTS = {
    "64 tokens, folded, compiled": dict(tokens=64, fold=True, compile=True),
    "int8, folded, compiled": dict(quantise="int8", fold=True, compile=True),
    "fp8, folded, compiled": dict(quantise="fp8", fold=True, compile=True),
    "folded, offloaded": dict(fold=True, offload=True),
}
# Relative difference of images that would be equal without rounding, at most; random networks amplify rounding, and
# what is exact is shown in float64 elsewhere.
EQUAL = {torch.bfloat16: 0.2, torch.float32: 1e-4}
# Batch, channels and side of images, of the convolutions of the autoencoder's decoder.
CONVOLUTIONS = {
    "full": [(1, 128, 512), (1, 256, 256), (1, 256, 512), (1, 512, 64), (1, 512, 128), (1, 512, 256)],
    "mini": [(1, 32, 64), (1, 64, 32)],
}
# Heads, tokens and width of a head: UNet at 512, FLUX at 512 and 1024, autoencoder at 512 and 1024.
ATTENTIONS = {
    "full": [(5, 4096, 64), (24, 1536, 128), (24, 4608, 128), (1, 4096, 512), (1, 16384, 512)],
    "mini": [(4, 64, 32), (1, 256, 128)],
}


class Device:
    """What differs between a GPU and the CPU; nothing else here asks for CUDA."""

    def __init__(self):
        self.cuda = torch.cuda.is_available()
        self.type = "cuda" if self.cuda else "cpu"
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        self.compiling = dict(graphs=True) if self.cuda else dict(backend="aot_eager")
        torch.backends.cudnn.benchmark = True  # in all variants

    def wait(self):
        if self.cuda:
            torch.cuda.synchronize()

    def clear(self):
        """Free what nothing holds and begin a new peak."""
        torch.compiler.reset()
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self):
        """GiB at the most since `clear`; None on a CPU."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.cuda else None

    def waits(self, function):
        """Whether the host waits for the GPU inside `function`; None on a CPU."""
        if not self.cuda:
            return None
        torch.cuda.set_sync_debug_mode("error")
        try:
            function()
        except RuntimeError as err:
            if "synchroniz" not in str(err):
                raise
            return True
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return False

    def seconds(self, function, repeats):
        """Least seconds of a call, from its start until the GPU is done."""
        for _ in range(WARM_UP):
            function()
        best = float("inf")
        for _ in range(repeats):
            self.wait()
            start = time.perf_counter()
            function()
            self.wait()
            best = min(best, time.perf_counter() - start)
        return best


def matmul_rate(device, repeats):
    """Operations per second of a large matrix product."""
    side = 8192 if device.cuda else 512
    a = torch.randn(side, side, device=device.type, dtype=device.dtype)
    return 2 * side**3 / device.seconds(lambda: a @ a, repeats)


def copy_rate(device, repeats):
    """Bytes per second, read and written, of a large copy."""
    source = torch.empty(2**30 if device.cuda else 2**24, dtype=torch.uint8, device=device.type)
    target = torch.empty_like(source)
    return 2 * source.nbytes / device.seconds(lambda: target.copy_(source), repeats)


def attention_rates(device, sizes, repeats):
    """Rows of heads, tokens, width and, per kernel, TFLOP/s (None where it refuses)."""
    rows = []
    for heads, tokens, width in sizes:
        x = torch.randn(1, heads, tokens, width, device=device.type, dtype=device.dtype)
        row = {"heads": heads, "tokens": tokens, "head size": width}
        for kernel in KERNELS:
            try:
                with sdpa_kernel(kernel):
                    seconds = device.seconds(lambda x=x: F.scaled_dot_product_attention(x, x, x), repeats)
            except RuntimeError:
                row[kernel.name] = None
            else:
                row[kernel.name] = attention_flops(heads, tokens, width) / seconds / 1e12
        rows.append(row)
    return rows


def attention_flops(heads, tokens, width):
    """Both matrix products of an attention of every token to every one."""
    return 4 * heads * tokens**2 * width


def convolution_rates(device, sizes, repeats):
    """Rows of channels, side and, per layout, TFLOP/s of a 3x3 convolution."""
    rows = []
    for batch, channels, side in sizes:
        row = {"batch": batch, "channels": channels, "side": side}
        for name, layout in (("NCHW", torch.contiguous_format), ("NHWC", torch.channels_last)):
            shapes = (batch, channels, side, side), (channels, channels, 3, 3)
            x, weight = (
                torch.randn(shape, device=device.type, dtype=device.dtype).to(memory_format=layout) for shape in shapes
            )
            seconds = device.seconds(lambda x=x, weight=weight: F.conv2d(x, weight, padding=1), repeats)
            row[name] = convolution_flops(batch, channels, side) / seconds / 1e12
        rows.append(row)
    return rows


def convolution_flops(batch, channels, side):
    """Of a 3x3 convolution from and to as many channels, its border counted in full."""
    return 2 * 9 * batch * channels**2 * side**2


def new_model(family, timestep, device, seed=0):
    if timestep is None:
        return OMGSR.from_pretrained(family).merge()
    return OMGSR.full_size(family, timestep, device=device.type, dtype=device.dtype, seed=seed)


def built(case, options, device):
    """The model of a case as `options` of a variant say."""
    family, timestep, side, _ = case
    model = new_model(family, timestep, device)
    if options is None:
        return model
    options = dict(options)
    tokens, compiled = options.pop("tokens", None), options.pop("compile", False)
    if tokens is not None:
        model.prior.prompt_embeds = model.prior.prompt_embeds[:, :tokens]
    model = prepare(model, device=device.type, **options)
    if compiled:
        model.to(memory_format=torch.channels_last)
        compile_stages(model, **(dict(backend=compiled) if compiled is not True else device.compiling))
    return model


def inputs(model, side, batch, device):
    """Random pixels, latents and clean latents of a case."""
    generator, latents = torch.Generator().manual_seed(0), side // compression(model.vae)
    pixels = torch.rand(batch, 3, side, side, generator=generator) * 2 - 1
    shape = batch, model.vae.config.latent_channels, latents, latents
    latents, clean = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    return [x.to(device.type, device.dtype) for x in (pixels, latents, clean)]


def stage_functions(model, values):
    """The three stages as functions without arguments."""
    pixels, latents, clean = values
    return {
        "encode": lambda: model.encode(pixels),
        "denoiser": lambda: model.predict_clean(latents),
        "decode": lambda: model.decode(clean),
    }


@torch.no_grad()
def counted(model, values):
    """`{stage: (operations, bytes of weights)}`, counted on the meta device."""
    twin = meta_twin(model)
    parts = {"encode": twin.lq_vae, "denoiser": twin.prior.denoiser, "decode": twin.vae.decoder}
    functions = stage_functions(twin, [x.to("meta") for x in values])
    return {
        stage: (count(functions[stage], [twin]).flops, sum(p.nbytes for p in parts[stage].parameters()))
        for stage in STAGES
    }


def limit(counts, flops, bandwidth):
    """Least milliseconds of all stages: of each, its operations at `flops` or reading its weights at `bandwidth`."""
    return 1e3 * sum(max(operations / flops, weights / bandwidth) for operations, weights in counts.values())


@torch.inference_mode()
def measure(model, values, device, repeats):
    """Milliseconds and peak GiB of each stage, whether the host waits in any, and the image."""
    functions, row = stage_functions(model, values), {"ms": {}, "peak_GiB": {}}
    for stage, function in functions.items():
        if device.cuda:
            torch.cuda.reset_peak_memory_stats()
        row["ms"][stage] = device.seconds(function, repeats) * 1e3
        row["peak_GiB"][stage] = device.peak()
    row["host_waits"] = device.waits(lambda: [function() for function in functions.values()])
    row["total_ms"] = sum(row["ms"].values())
    picture = model.decode(model.predict_clean(model.encode(values[0]).clone()).clone())
    return row, picture.float().cpu()


def why_not(options, cuda, torchao):
    """Why a variant with these options cannot run; None if it can."""
    if (options.get("offload") or options.get("compile") == "cudagraphs") and not cuda:
        return "needs a GPU"
    if options.get("quantise") and not torchao:
        return "torchao is not installed"
    return None


def judge(row, name, variant, expected, picture, dtype):
    """What is wrong with a row: images that should be equal and are not."""
    row["difference"] = float((picture - expected).norm() / expected.norm())
    changes = "tokens" in variant or "int8" in variant or "fp8" in variant
    if not changes and not row["difference"] <= EQUAL[dtype]:
        return [f"{name}, {variant}: images differ by {row['difference']:.2g}"]
    return []


def run_case(name, case, device, rates, repeats, chosen=None):
    """A row and the problems met for each of the `chosen` variants (all by default); one that fails stops no other.

    `rates`: by name, operations and bytes per second of a limit.
    """
    family, _, side, batch = case
    more = FLUX_VARIANTS if family in ("flow", "mini-f") else UNET_VARIANTS
    expected = None
    for variant, options in (VARIANTS | (more if batch == 1 else {})).items():
        if chosen is not None and variant not in chosen:
            continue
        device.clear()
        start, row, problems = time.perf_counter(), {"case": name, "variant": variant}, []
        reason = why_not(options or {}, device.cuda, find_spec("torchao") is not None)
        if reason is not None:
            yield row | {"left_out": reason}, problems
            continue
        try:
            model = built(case, options, device)
            values = inputs(model, side, batch, device)
            if not {"quantise", "offload"} & set(options or {}):
                counts = counted(model, values)
                operations, weights = map(sum, zip(*counts.values(), strict=True))
                row |= {"TFLOP": operations / 1e12, "weights_GB": weights / 1e9}
                row["limit_ms"] = {name: limit(counts, *pair) for name, pair in rates.items()}
            with fast_attention(torch.device(device.type)):
                measured, picture = measure(model, values, device, repeats)
            row |= measured
            if "limit_ms" in row:
                row["over_limit"] = {key: row["total_ms"] / value for key, value in row["limit_ms"].items()}
            row["pictures_per_second"] = 1e3 * batch / row["total_ms"]
            expected = picture if expected is None else expected
            problems += judge(row, name, variant, expected, picture, device.dtype)
        except torch.OutOfMemoryError:
            row["out_of_memory"] = True
        except Exception as err:
            row["failed"] = repr(err)
            problems.append(f"{name}, {variant}: {err!r}")
            traceback.print_exc()
        model = values = None
        row["seconds_in_all"] = time.perf_counter() - start
        yield row, problems


def line(row):
    """A row of the printed table."""
    head = f"{row['case']:16s}{row['variant']:30s}"
    for key in ("out_of_memory", "left_out", "failed"):
        if key in row:
            return f"{head}{key.replace('_', ' ')} {row[key] if row[key] is not True else ''}".rstrip()
    times = "".join(f"{row['ms'][stage]:9.2f}" for stage in STAGES)
    over = "".join(f"{value:7.2f}" for value in row.get("over_limit", {}).values()).ljust(14)
    peaks = [peak for peak in row["peak_GiB"].values() if peak is not None]
    peak = f"{max(peaks):8.2f}" if peaks else f"{'-':>8s}"
    return f"{head}{times}{row['total_ms']:9.2f}{over}{peak}{row['difference']:10.1e}  {row['host_waits']}"


def missed_goals(rows, goals=GOALS):
    """Cases whose fastest exact variant is slower than the goal."""
    missed = []
    for case, goal in goals.items():
        over = [row["over_limit"]["named"] for row in rows if row["case"] == case and "over_limit" in row]
        if over and min(over) > goal:
            missed.append(f"{case}: {min(over):.2f} times the limit, goal {goal}")
    return missed


def main():
    device = Device()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(CASES), default="full" if device.cuda else "mini")
    parser.add_argument("--only", nargs="+", help="names of cases")
    parser.add_argument("--variants", nargs="+", help="names of variants; images are held to the first")
    parser.add_argument("--repeats", type=int, default=20 if device.cuda else 2)
    parser.add_argument("--out", type=Path, help="folder for a JSON file of this run")
    args = parser.parse_args()
    if args.size == "full" and not device.cuda:
        parser.error("--size full needs a CUDA device: run it with --size mini here.")
    for chosen, known in ((args.only, CASES[args.size]), (args.variants, VARIANTS | UNET_VARIANTS | FLUX_VARIANTS)):
        if not set(chosen or ()) <= set(known):
            parser.error(f"--size {args.size} knows {'; '.join(known)}: got {'; '.join(chosen)}.")
    if not device.cuda:
        torch.set_num_threads(1)

    rates = {"measured": (matmul_rate(device, args.repeats), copy_rate(device, args.repeats))}
    print("matrix product {:.3g} TFLOP/s, copy {:.3g} TB/s".format(*(rate / 1e12 for rate in rates["measured"])))
    if device.cuda:
        rates["named"] = FLOPS, BYTES
    content = {"size": args.size, "FLOPs_and_bytes_per_second": rates, "rows": []}
    content["attention"] = attention_rates(device, ATTENTIONS[args.size], args.repeats)
    content["convolution"] = convolution_rates(device, CONVOLUTIONS[args.size], args.repeats)
    for row in content["attention"] + content["convolution"]:
        print(row)
    print(f"{'':46s}   encode denoiser   decode    total  over limit    peak  difference  host waits")
    problems = []
    name = record_name("gpu_restore", args.size, *(args.only or ()), *(args.variants or ()))
    for case in args.only or CASES[args.size]:
        for row, found in run_case(case, CASES[args.size][case], device, rates, args.repeats, args.variants):
            print(line(row), flush=True)
            content["rows"].append(row)
            problems += found
            write_record(args.out, name, content, quiet=True)
    write_record(args.out, name, content)
    problems += missed_goals(content["rows"])
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
