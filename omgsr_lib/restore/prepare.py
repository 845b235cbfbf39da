"""A model made ready to restore fast: adapters merged, layout, precision, attention kernels, compiled or quantised."""

import os
import time
import warnings
from collections import Counter
from typing import NamedTuple

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from ..fold import FoldedPrior
from ..priors.latents import compression
from ..utils.memory import meta_twin
from ..utils.precision import native_precision


PRECISIONS = {"no": torch.float32, "bf16": torch.bfloat16}
QUANTISED = ("int8", "fp8")
KERNELS = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)


def fast_dtype():
    """`torch.bfloat16` where this machine multiplies it in hardware, else `torch.float32`."""
    return PRECISIONS[native_precision()]


def prepare(
    model,
    *,
    device=None,
    dtype=None,
    fold=False,
    quantise=None,
    offload=False,
    compile=False,
    cache=None,
    side=512,
):
    """`model` (`OMGSR`) ready to restore on `device`; for inference only. Without `fold` it is changed in place.

    Adapters are merged and, on a CPU or compiled, convolutions get channels-last weights: the same outputs up to
    rounding, faster (uncompiled on an H200, channels last made the autoencoder 1.2 to 1.5 times slower). On a GPU the
    kernels of `scaled_dot_product_attention` are timed, once, and each stage takes the fastest; a CPU has one
    kernel that is worth taking, which torch takes by itself.

    Args:
        device: where to restore; by default where the model is.
        dtype: precision of weights and activations (see `fast_dtype`); by default the model's.
        fold: `model.fold()`: fewer parameters and operations, the model's own timestep only; not of an adaptive model.
        quantise: "int8" or "fp8", the precision in which the weights of FLUX's linear layers are kept; computing is
            in `dtype`. Half the memory of bfloat16; the output of `mini-f`'s denoiser changes by 1.5 and 5.5 percent.
            Needs torchao.
        offload: keep the denoiser in page-locked host memory and bring it to the GPU layer by layer, the next one
            while one computes (diffusers' group offloading). The autoencoder, 0.2 GB in bfloat16, stays on the GPU.
        compile: compile the three networks with `torch.compile` (`compile_stages`), on a GPU with CUDA graphs for the
            UNet and with cuDNN's kernels chosen by their time. A network is compiled for the first shape that it meets
            and once more, for any, at the second: a fixed tile saves that. Autoencoders in parts (`vae_mode`) run as
            they are.
        cache: folder for compiled code, with which the next process starts in seconds.
        side: of the pictures or tiles that the denoiser will get, in pixels: what attention is timed at.

    Raises `ValueError` if options exclude each other and `ImportError` if torchao is missing.
    """
    device = next(model.parameters()).device if device is None else torch.device(device)
    _check(model, device, quantise, offload, compile)
    model = model.fold() if fold and not isinstance(model.prior, FoldedPrior) else model.merge()
    layout = torch.channels_last if compile or device.type == "cpu" else torch.contiguous_format
    model.to(dtype=dtype, memory_format=layout)
    if device.type == "cuda":
        calls, precision = attention_calls(model, side), next(model.parameters()).dtype
        model.attention = {stage: fastest_kernels(calls[stage], device, precision) for stage in calls}
    denoiser = model.prior.denoiser
    if quantise is not None:
        quantise_linear(denoiser, quantise)
    if offload:
        model.prior.denoiser = None
        model.to(device)
        model.prior.denoiser = offload_layers(denoiser, device)
    else:
        model.to(device)
    if compile:
        torch.backends.cudnn.benchmark = True
        compile_stages(model, cache=cache, graphs=device.type == "cuda")
    return model


def _check(model, device, quantise, offload, compile):
    if quantise is not None and quantise not in QUANTISED:
        raise ValueError(f"Weights are quantised to one of {', '.join(QUANTISED)}: got {quantise!r}.")
    if quantise is not None and not model.prior.quantisable:
        raise ValueError(
            f"Only denoisers of linear layers are quantised, as FLUX: a {model.prior.family} prior has convolutions. "
            "Leave quantise out."
        )
    if offload and device.type != "cuda":
        raise ValueError(f"Offloading frees the memory of a GPU: the device is {device.type}. Leave offload out.")
    if offload and (compile or quantise):
        raise ValueError("Offloaded layers are neither compiled nor quantised. Give offload alone.")


def compile_stages(model, *, cache=None, graphs=False, **options):
    """Compile the LQ encoder, the denoiser and the decoder of `model`, each at its first call.

    Where a prior's blocks repeat (`compiles_blocks`), a few compilations serve all of them; others are compiled whole.

    `cache`: folder for compiled code. `graphs`: run the UNet as a CUDA graph, whose output the next call overwrites.
    `options` of `torch.compile`.
    """
    if cache is not None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    model.lq_vae.encoder.compile(**options)
    model.vae.decoder.compile(**options)
    if model.prior.compiles_blocks:
        for block in _blocks(model.prior.denoiser):
            block.compile(**options)
    else:
        model.prior.denoiser.compile(**options | ({"mode": "reduce-overhead"} if graphs else {}))


def _blocks(transformer):
    lists = (module for module in transformer.children() if isinstance(module, torch.nn.ModuleList))
    return [block for blocks in lists for block in blocks]


def quantise_linear(module, kind):
    """Keep the weights of all linear layers of `module` in "int8" or "fp8" with a scale per output, in place.

    Activations and computation stay as they are. Raises `ImportError` if torchao is not installed.
    """
    try:
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
    except ImportError as err:
        raise ImportError("Quantised weights need torchao: pip install torchao.") from err
    quantize_(module, {"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}[kind](version=2))


def offload_layers(module, device):
    """Keep the weights of `module` on the host and bring each layer to `device` for its call; returns it.

    On a GPU in a stream of its own, so that the next layer arrives while one computes.
    """
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(module, device, offload_type="leaf_level", use_stream=torch.device(device).type == "cuda")
    return module


class Attention(NamedTuple):
    """Shapes `(B, heads, tokens, width)` of query and of key and value, and whether scores are masked."""

    query: tuple
    key: tuple
    masked: bool


def attention_calls(model, side):
    """How often each stage calls `scaled_dot_product_attention`, for one picture or tile of `side` pixels.

    `{stage: Counter of Attention}` for "encode", "denoiser" and "decode", from a pass on the meta device.
    """
    twin = meta_twin(model)
    dtype, latents = next(twin.parameters()).dtype, side // compression(model.vae)
    pixels = torch.empty(1, 3, side, side, dtype=dtype, device="meta")
    latents = torch.empty(1, model.vae.config.latent_channels, latents, latents, dtype=dtype, device="meta")
    stages = {
        "encode": lambda: twin.encode(pixels),
        "denoiser": lambda: twin.predict_output(latents, model.timestep),
        "decode": lambda: twin.decode(latents),
    }
    calls = {}
    with torch.inference_mode():
        for stage, run in stages.items():
            with _Recorder() as recorder:
                run()
            calls[stage] = recorder.calls
    return calls


class _Recorder(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is not F.scaled_dot_product_attention:
            return function(*args, **kwargs)
        query, key = (args[k] if len(args) > k else kwargs[name] for k, name in enumerate(("query", "key")))
        masked = kwargs.get("attn_mask") is not None
        self.calls[Attention(tuple(query.shape), tuple(key.shape), masked)] += 1
        return torch.empty_like(query)


def fastest_kernels(calls, device, dtype, kernels=KERNELS, repeats=5):
    """`kernels` in the order of the time that `calls`, a Counter of `Attention`, take with them.

    Those that refuse a call come after those that take more calls; torch falls back on them by itself.
    """
    spent = {}
    for kernel in kernels:
        seconds = {call: attention_seconds(call, kernel, device, dtype, repeats) for call in calls}
        taken = {call: number for call, number in seconds.items() if number is not None}
        spent[kernel] = (len(calls) - len(taken), sum(calls[call] * number for call, number in taken.items()))
    return sorted(kernels, key=spent.get)


@torch.inference_mode()
def attention_seconds(call, kernel, device, dtype, repeats=5):
    """Least seconds that `kernel` takes for an `Attention`; None if it refuses it or has too little memory."""
    query, key = (torch.randn(shape, device=device, dtype=dtype) for shape in (call.query, call.key))
    mask = torch.zeros(1, 1, 1, key.shape[2], device=device, dtype=dtype) if call.masked else None
    best = float("inf")
    try:
        with warnings.catch_warnings(), sdpa_kernel([kernel]):
            warnings.simplefilter("ignore")  # torch gives the reasons of a refusal as warnings
            for _ in range(1 + repeats):
                start = time.perf_counter()
                F.scaled_dot_product_attention(query, key, key, attn_mask=mask)
                if torch.device(device).type == "cuda":
                    torch.cuda.synchronize(device)
                best = min(best, time.perf_counter() - start)
    except RuntimeError:
        return None
    return best
