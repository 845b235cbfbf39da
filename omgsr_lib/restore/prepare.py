"""A model made ready to restore fast: adapters merged, layout, precision, compiled or quantised."""

import os

import torch

from ..fold import FoldedPrior
from ..fold.enlarging import fold_enlargements
from ..fold.packing import pack_linear
from ..priors.latents import compression
from ..utils.device import small_on_cpu
from ..utils.precision import faster_precision


PRECISIONS = {"no": torch.float32, "bf16": torch.bfloat16}
QUANTISED = ("int8", "fp8")


def fast_dtype(model):
    """The precision in which `model`, in float32, restores fastest: `torch.bfloat16` or `torch.float32`.

    Measured on the denoiser and a tile of 128 pixels (`utils.precision.faster_precision`).
    """
    side = 128 // compression(model.vae)
    return PRECISIONS[faster_precision(model.prior, (1, model.vae.config.latent_channels, side, side))]


def prepare(model, *, device=None, dtype=None, fold=False, quantise=None, offload=False, compile=False, cache=None):
    """`model` (`OMGSR`) ready to restore on `device`; for inference only. Without `fold` it is changed in place.

    Adapters are merged and, on a CPU or compiled, convolutions get channels-last weights: the same outputs up to
    rounding, faster (uncompiled on an H200, channels last made the autoencoder 1.2 to 1.5 times slower).

    Args:
        device: where to restore; by default where the model is.
        dtype: precision of weights and activations (see `fast_dtype`); by default the model's.
        fold: `model.fold()`: fewer parameters and operations, the model's own timestep only; not of an adaptive model.
            On a CPU the decoder's enlarging convolutions too (`fold.enlarging`), and a small network in float32 has
            its linear layers packed, where that is faster (`fold.packing`).
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

    `compile` changes two settings of the whole process, which must hold whenever the model runs:
    `torch.backends.cudnn.benchmark` is on, and with a `cache` the environment's TORCHINDUCTOR_CACHE_DIR is its folder.
    Raises `ValueError` if options exclude each other and `ImportError` if torchao is missing.
    """
    device = next(model.parameters()).device if device is None else torch.device(device)
    _check(model, device, quantise, offload, compile)
    model = model.fold() if fold and not isinstance(model.prior, FoldedPrior) else model.merge()
    if fold and device.type == "cpu" and not compile:
        fold_enlargements(model.vae.decoder)
    layout = torch.channels_last if compile or device.type == "cpu" else torch.contiguous_format
    model.to(dtype=dtype, memory_format=layout)
    denoiser = model.prior.denoiser
    if quantise is not None:
        quantise_linear(denoiser, quantise)
    if offload:
        model.prior.denoiser = None
        model.to(device)
        model.prior.denoiser = offload_layers(denoiser, device)
    else:
        model.to(device)
    if fold and small_on_cpu(model.prior) and not compile and next(model.parameters()).dtype == torch.float32:
        pack_linear(denoiser)
    if compile:
        torch.backends.cudnn.benchmark = True
        compile_stages(model, cache=cache, graphs=device.type == "cuda")
    return model


def _check(model, device, quantise, offload, compile):
    if quantise is not None:
        check_quantise(model.prior, quantise)
    if offload and device.type != "cuda":
        raise ValueError(f"Offloading frees the memory of a GPU: the device is {device.type}. Leave offload out.")
    if offload and (compile or quantise):
        raise ValueError("Offloaded layers are neither compiled nor quantised. Give offload alone.")


def check_quantise(prior, kind):
    """Raise `ValueError` unless the denoiser of `prior` can be quantised, and to `kind`."""
    if kind not in QUANTISED:
        raise ValueError(f"Weights are quantised to one of {', '.join(QUANTISED)}: got {kind!r}.")
    if not prior.quantisable:
        raise ValueError(
            f"Only denoisers of linear layers are quantised, as FLUX: a {prior.family} prior has convolutions. "
            "Leave quantise out."
        )


def compile_stages(model, *, cache=None, graphs=False, **options):
    """Compile the LQ encoder, the denoiser and the decoder of `model`, each at its first call.

    Where a prior's blocks repeat (`compiles_blocks`), a few compilations serve all of them; others are compiled whole.

    `cache`: folder for compiled code, in this process from now on. `graphs`: run the UNet as a CUDA graph, whose
    output the next call overwrites.
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


def is_quantised(module):
    """Whether `module` holds weights of `quantise_linear`."""
    return any(type(p.data).__module__.startswith("torchao.") for p in module.parameters())


def offload_layers(module, device):
    """Keep the weights of `module` on the host and bring each layer to `device` for its call; returns it.

    On a GPU in a stream of its own, so that the next layer arrives while one computes.
    """
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(module, device, offload_type="leaf_level", use_stream=torch.device(device).type == "cuda")
    return module
