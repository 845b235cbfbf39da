"""`omgsr restore`: an image or a folder of images."""

import time
from pathlib import Path

from ..utils.warning_lines import say
from .options import add_command, from_zero, number, or_auto, positive, timestep_or_auto


def add_commands(commands):
    parser = add_command(commands, restore, "omgsr restore photos --out restored --scale 3 --model mini-s")

    files = parser.add_argument_group("input and output")
    files.add_argument("source", help="an image, or a folder, searched with all its subfolders")
    files.add_argument("--out", required=True, metavar="DIR", help="folder for the restored files")
    files.add_argument(
        "--scale", type=number(float, 1), default=4.0, metavar="X", help="enlargement of each side, any number from 1"
    )
    files.add_argument(
        "--format",
        default="png",
        choices=["png", "jpeg", "webp", "tiff"],
        help="format of the restored files; png and tiff keep 16 bits",
    )
    files.add_argument(
        "--quality",
        type=number(int, 1, 100),
        default=95,
        metavar="N",
        help="quality of jpeg and webp, from 1 (smallest file) to 100 (best)",
    )
    files.add_argument(
        "--colour-fix", default="adain", choices=["adain", "wavelet", "none"],
        help="take the colours of the enlarged input: their mean and deviation, or low frequencies",
    )  # fmt: skip
    files.add_argument(
        "--as-released", action="store_true",
        help="cut to 8 bits before and after the colour fix, as the authors' code does, instead of rounding once",
    )  # fmt: skip
    files.add_argument(
        "--force",
        action="store_true",
        help="restore again what is finished, and overwrite files that this command did not write",
    )
    files.add_argument(
        "--max-pixels", type=positive, metavar="N",
        help="largest input in pixels, from 1, against decompression bombs (default: 178956970)",
    )  # fmt: skip

    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", default="mini-s", metavar="NAME",
        help="mini-{s,f}[-adaptive], omgsr-{s,f,z,k}-{512,1024} or a folder",
    )  # fmt: skip
    model.add_argument("--base", metavar="MODEL", help="folder or hub id of the base model (default: the model's own)")
    model.add_argument("--adapter", metavar="DIR", help="folder with the adapters (default: the model's own)")
    model.add_argument(
        "--prompt-embeds", metavar="FILE",
        help="safetensors file with the prompt's embeddings (default: none, the base's text encoders make them)",
    )  # fmt: skip
    model.add_argument(
        "--timestep", type=timestep_or_auto, metavar="T",
        help="timestep of injection, 0 to 999; auto estimates it per image or tile, by an adaptive model "
             "(default: the model's t*, of adaptive models auto)",
    )  # fmt: skip
    model.add_argument(
        "--strength", type=float, default=0.0, metavar="X",
        help="shifts timestep auto: below 0 stays closer to the input, above 0 lets the prior add more; try -2 to 2",
    )  # fmt: skip
    model.add_argument(
        "--seed", type=int, metavar="N",
        help="sample the encoder's posterior with this 64-bit integer, as published (default: the posterior's mean)",
    )  # fmt: skip

    tiles = parser.add_argument_group("tiles")
    tiles.add_argument(
        "--tile", type=or_auto(from_zero), metavar="N",
        help="side in pixels of the output, a multiple of 16; 0: one pass; auto: what fits into the free memory "
             "(default: the model's best side; for a model from a folder one pass)",
    )  # fmt: skip
    tiles.add_argument(
        "--overlap", type=from_zero, metavar="N",
        help="in pixels of the output, from 0 to less than the tile (default: as little as covers the image)",
    )  # fmt: skip
    tiles.add_argument(
        "--window", default="gaussian", choices=["gaussian", "released", "cosine", "ramp"], help="how tiles blend"
    )
    tiles.add_argument(
        "--planner", choices=["smallest", "published"],
        help="fewest and smallest tiles, or as published (default: published with --overlap, else smallest)",
    )  # fmt: skip
    tiles.add_argument(
        "--vae-mode", choices=["exact", "flat"],
        help="encode and decode large images in parts: the same result, or faster (default: in one piece)",
    )  # fmt: skip

    speed = parser.add_argument_group("speed")
    speed.add_argument(
        "--batch-size", type=positive, default=1, metavar="N", help="images of equal size restored at once, from 1"
    )
    speed.add_argument(
        "--tile-batch", type=positive, default=1, metavar="N", help="tiles that the model takes at once, from 1"
    )
    speed.add_argument(
        "--precision", choices=["no", "bf16"],
        help="of weights and activations; no: 32 bits (default: of a small model the faster one here, measured once)",
    )  # fmt: skip
    speed.add_argument(
        "--fold", action="store_true", help="compute once what no image changes; at the model's own timestep only"
    )
    speed.add_argument(
        "--quantise", choices=["int8", "fp8"],
        help="FLUX's weights in half the memory of bf16, needs torchao (default: as --precision says)",
    )  # fmt: skip
    speed.add_argument(
        "--offload", action="store_true", help="keep the denoiser in host memory, layer by layer to the GPU"
    )
    speed.add_argument(
        "--compile", metavar="DIR",
        help="torch.compile, minutes at first, seconds with the code kept in this folder (default: not compiled)",
    )  # fmt: skip


LOADING = ("base", "adapter", "prompt_embeds", "precision", "fold", "quantise", "offload", "compile")


def restore(source, out, model, tile, colour_fix, **options):
    """Restore an image or a folder of images.

    A stopped run resumes with the same command. An input that cannot be restored
    is a line on stderr and exit code 1, and the others are restored. Several
    processes (torchrun --nproc_per_node 8 -m omgsr_lib.cli restore ...) share a
    folder, each on its own GPU.
    """
    began = time.monotonic()
    from ..presets import default_tile
    from ..restore.names import find_pictures
    from ..utils.processes import first_process, from_first

    from_first(lambda: find_pictures(Path(source), Path(out), lambda error: None) and None)  # before a model is loaded
    if first_process():
        print(f"loading {model}", flush=True)
    from ..restore.folder import restore_folder

    report = restore_folder(
        prepared_model(model, **{name: options.pop(name) for name in LOADING}),
        source,
        out,
        tile=(default_tile(model) if tile is None else tile) or None,
        colour_fix=None if colour_fix == "none" else colour_fix,
        say=lambda line: say(f"omgsr restore: {line}"),
        each=_print_above_the_bar,
        **options,
    )
    if not first_process():  # whose exit code is that of all
        return 0
    print(f"{report} in {time.monotonic() - began:.1f} s: {out}")
    return 1 if report.failed else 0


def prepared_model(
    name, *, base=None, adapter=None, prompt_embeds=None, precision=None, compile=None, device=None, **options
):
    """The `OMGSR` of this name, ready to restore, by default on the GPU if there is one; `options` as in `prepare`.

    Of several processes of a launcher each has its own, on its own GPU, in the precision that the first chooses.
    """
    import torch

    from ..model import OMGSR
    from ..presets import small
    from ..restore.prepare import PRECISIONS, fast_dtype, prepare
    from ..utils.precision import native_precision
    from ..utils.processes import first_process, from_first, process_device

    measured = precision is None and base is None and small(name)
    dtype = torch.float32 if measured else PRECISIONS[precision or from_first(native_precision)]
    model = OMGSR.from_pretrained(name, base=base, adapter=adapter, prompt_embeds=prompt_embeds, dtype=dtype)
    if measured:
        dtype = from_first(lambda: fast_dtype(model))
        if first_process():
            print(f"in {'bfloat16' if dtype == torch.bfloat16 else 'float32'}, which is faster here", flush=True)
    return prepare(
        model,
        dtype=dtype,
        device=device or process_device(),
        compile=compile is not None,
        cache=compile,
        **options,
    )


def _print_above_the_bar(line):
    from tqdm import tqdm

    tqdm.write(line)
