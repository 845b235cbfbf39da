"""The command `omgsr`: its options, and what becomes of errors."""

import argparse
import sys
import warnings

from . import commands
from .presets import FAMILIES, PRETRAINING
from .study.papermill import NotebookFailed


# Libraries whose `UserWarning`s are not shown: they speak of the program, not of the user's files or machine.
LIBRARIES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "huggingface_hub",
    "PIL",
    "lpips",
)


def main(arguments=None):
    """Run a command; returns the exit code.

    Warnings are a line each on stderr. Bad input: 2 and one line there; a failing notebook: 1 and one; pictures that
    could not be restored: 1 and one for each; interrupted from the keyboard: 130 and one.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser().parse_args(arguments)
    options.arguments = arguments  # as a model card shows them
    try:
        with warnings.catch_warnings():
            _show_warnings(options.command)
            return options.run(options) or 0
    except (OSError, ValueError, ImportError, FloatingPointError, NotebookFailed) as err:
        print(f"omgsr {options.command}: {_one_line(err)}", file=sys.stderr)
        return 1 if isinstance(err, NotebookFailed) else 2
    except KeyboardInterrupt:
        print(f"omgsr {options.command}: interrupted.", file=sys.stderr)
        return 130


def build_parser():
    """The argument parser, one sub-command per function of `commands`."""
    parser = argparse.ArgumentParser(prog="omgsr", description="One-step restoration at a mid-timestep (OMGSR).")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and stop")
    subparsers = parser.add_subparsers(dest="command", required=True)

    def command(run, help, **arguments):
        sub = subparsers.add_parser(run.__name__.removeprefix("run_"), help=help)
        for name, settings in arguments.items():
            flags = [settings.pop("positional")] if "positional" in settings else [f"--{name.replace('_', '-')}"]
            sub.add_argument(*flags, **settings)
        sub.set_defaults(run=run)

    integer, number, count = dict(type=int), dict(type=float), dict(type=positive)
    command(
        commands.run_reproduce,
        "run the notebooks in order",
        preset=dict(default="mini", help="smoke, mini, latents, paper, first-release or release"),
        results=dict(default="results", help="output folder, relative to the project"),
        photos=dict(help="folder with your own photographs"),
        only=dict(nargs="+", help="steps to run, by name"),
        force=dict(action="store_true", help="run steps that are up to date too"),
    )
    command(
        commands.run_study,
        "the trainings of notebook 06 that take an hour or two",
        results=dict(default="results/mini/study", help="output folder"),
        photos=dict(help="folder with training photographs; without it those of the dependencies and synthetic ones"),
        provenance=dict(help="CSV with a licence per photograph; pictures for research only are left out"),
        evaluation=dict(help="folder with evaluation photographs; without it those of the dependencies"),
        weights=dict(help="weights folder of LPIPS-SqueezeNet: then the perceptual loss, and one of the measures"),
        variants=dict(nargs="+", default=["s", "f"], choices=["s", "f"]),
        steps=count | dict(default=100, help="of each training"),
        jobs=count | dict(default=2, help="processes side by side, one thread each"),
    )
    command(
        commands.run_adaptive,
        "the numbers of notebook 08, a timestep for each picture; half an hour or so",
        results=dict(default="results/mini/adaptive", help="output folder"),
        photos=dict(help="folder with evaluation photographs; without it those of the dependencies"),
        controls=dict(help="folder with the adapters mini-s-dial and mini-f-dial, the control"),
        statistics=dict(help="statistics.pt of the estimator's training, the baselines of its errors"),
        realsr=dict(help="folder of the benchmark RealSR"),
        weights=dict(help="folder with LPIPS-SqueezeNet, which adds that metric"),
        taef2=dict(help="folder with the tiny FLUX.2 autoencoder (taef2_encoder.pth), a second latent space"),
        jobs=count | dict(default=2, help="processes side by side, one thread each"),
    )
    command(
        commands.run_restore,
        "restore a picture or a folder",
        source=dict(positional="source", help="picture or folder"),
        out=dict(required=True, help="folder for the restored files"),
        model=dict(default="mini-s", help="mini-s, mini-f, omgsr-{s,f}-{512,1024} or a folder"),
        base=dict(help="folder or hub id of the base model"),
        adapter=dict(help="folder with the adapters"),
        prompt_embeds=dict(help="safetensors file with the prompt's embeddings"),
        scale=number | dict(default=4.0, help="output side / input side, any number from 1"),
        timestep=dict(
            type=integer_or_auto, help="instead of the model's own; auto is that of each picture, of adaptive models"
        ),
        strength=number | dict(default=0.0, help="of auto: below 0 keeps to the photograph, above 0 adds more detail"),
        tile=dict(
            type=integer_or_auto,
            help="tile side in pixels of the output; by default the model's best, 0 for one pass, auto for what fits",
        ),
        overlap=integer | dict(help="overlap of tiles in pixels"),
        window=dict(default="gaussian", choices=["gaussian", "released", "cosine", "ramp"], help="blends tiles"),
        planner=dict(choices=["smallest", "published"], help="where tiles lie; published where --overlap is given"),
        tile_batch=count | dict(default=1, help="tiles that go through the model at once"),
        vae_mode=dict(choices=["exact", "flat"], help="encode and decode in parts, for large pictures"),
        batch_size=count | dict(default=1, help="pictures of equal size that go through the model at once"),
        colour_fix=dict(default="adain", choices=["adain", "wavelet", "none"]),
        seed=integer | dict(help="sample the encoder's posterior with this seed, as published; else its mean"),
        format=dict(default="png", choices=["png", "jpeg", "webp", "tiff"], help="16 bits stay in png and tiff"),
        quality=integer | dict(default=95, help="of jpeg and webp, 1 to 100"),
        force=dict(action="store_true", help="restore what is finished again, and replace files of other origin"),
        max_pixels=count | dict(help="largest input, against decompression bombs; 179 million by default"),
        precision=dict(
            choices=["no", "bf16"], help="bf16 by default where the machine multiplies it natively, else no"
        ),
        fold=dict(action="store_true", help="compute once what no picture changes; at the model's own timestep"),
        quantise=dict(choices=["int8", "fp8"], help="of FLUX's weights, in half the memory (needs torchao)"),
        offload=dict(action="store_true", help="keep the denoiser in host memory, layer by layer to the GPU"),
        compile=dict(metavar="FOLDER", help="torch.compile; minutes at first, seconds with the code in this folder"),
    )
    command(
        commands.run_manifest,
        "list photographs with their SHA-256, for omgsr train --photos and --portraits",
        photos=dict(positional="photos", help="folder, list of paths or manifest"),
        first=count | dict(help="take so many only, in the order of the names"),
        out=dict(help="CSV to write"),
        verify=dict(action="store_true", help="compare the files of a manifest with their SHA-256 instead"),
    )
    command(
        commands.run_midstep,
        "the mid-timestep of an autoencoder on photographs",
        photos=dict(required=True, help="folder with photographs"),
        vae=dict(default="mini", help="mini, a folder or a hub id of a diffusers autoencoder"),
        provenance=dict(help="CSV with a licence per photograph; pictures for research only are left out"),
        family=dict(default=FAMILIES["s"], choices=[*FAMILIES.values()]),
        short_side=count | dict(help="reduce photographs to this short side first"),
        size=count | dict(default=512, help="crop side in pixels"),
        scale=count | dict(default=4),
        seed=integer | dict(default=0),
    )
    command(
        commands.run_pretrain,
        "train the mini autoencoder or a mini prior",
        part=dict(positional="part", choices=[*PRETRAINING]),
        photos=dict(nargs="+", required=True, help="training photographs: folders, lists of paths or manifests"),
        provenance=dict(
            nargs="+", help="CSV with a licence per photograph, one or one per source; research only is left out"
        ),
        out=dict(required=True, help="run folder: checkpoint, log and the finished model"),
        steps=count | dict(help="optimiser steps, instead of the recipe's (`presets.PRETRAINING`)"),
        batch_size=count | dict(help="instead of the recipe's"),
        learning_rate=number | dict(help="instead of the recipe's"),
        size=count | dict(help="crop side in pixels (autoencoder), instead of the recipe's"),
        perceptual=dict(help="weights folder for LPIPS-SqueezeNet (autoencoder)"),
        autoencoder=dict(help="folder of the autoencoder of a prior or the estimator, instead of the package's"),
        device=dict(default="cpu", choices=["cpu", "cuda"], help="on cuda in large batches and bfloat16"),
        evaluation=dict(help="folder with photographs that the model card measures on"),
        data=dict(default="the user's own", help="the training photographs and their licence, for the model card"),
        seed=integer | dict(default=0),
        threads=count | dict(default=1),
    )
    command(
        commands.run_train,
        "train the adapters of OMGSR; runs as it is under accelerate launch",
        preset=dict(default="mini", help="smoke, mini, paper, first-release or release"),
        variant=dict(required=True, help="s (DDPM) or f (flow matching)"),
        resolution=count | dict(choices=[512, 1024], help="of paper and release"),
        base=dict(help="folder or mirror of the base model, instead of the recipe's hub id"),
        prompt_embeds=dict(help="safetensors file with the prompt's embeddings; the base then needs no text encoders"),
        photos=dict(nargs="+", help="training photographs: folders, lists of paths or manifests"),
        portraits=dict(nargs="+", default=[], help="photographs that are resized to 512 instead of cropped (FFHQ)"),
        provenance=dict(
            nargs="+", help="CSV with a licence per photograph, one or one per source; research only is left out"
        ),
        evaluation=dict(help="photographs for previews and the model card"),
        data=dict(default="", help="the training photographs and their licence, for the model card"),
        out=dict(help="run folder: checkpoint, log and the adapters"),
        timestep=dict(
            type=integer_or_auto,
            help="mid-timestep, instead of the recipe's; auto measures it on the training photographs",
        ),
        steps=count | dict(help="optimiser steps, instead of the recipe's"),
        batch_size=count | dict(help="of one process, instead of the recipe's"),
        accumulation=count | dict(help="micro-batches in a step, instead of the recipe's"),
        learning_rate=number | dict(help="instead of the recipe's"),
        warmup=integer | dict(help="steps of linear warm-up, instead of the recipe's"),
        perceptual_loss=dict(help="lpips, ea-dists, dinov3-dists, lpips-squeeze or autoencoder"),
        weights=dict(help="folder of the loss networks' weights: vgg16/, dinov2/, dinov3/, dists/, squeezenet/"),
        checkpointing=dict(action=argparse.BooleanOptionalAction, help="recompute the denoiser's activations"),
        optimizer=dict(default="adamw", choices=["adamw", "adamw8bit"]),
        precision=dict(
            choices=["no", "bf16"], help="bf16 by default where the machine multiplies it natively, else no"
        ),
        as_released=dict(action="store_true", help="with the defects of the authors' code"),
        every=count | dict(help="steps between checkpoints, instead of the recipe's"),
        export_every=count | dict(help="steps between adapters in the official layout, weight-<step>/"),
        tracker=dict(choices=["tensorboard"]),
        workers=integer | dict(default=0, help="processes that load data"),
        threads=count | dict(default=1, help="of the processor, for each process"),
        seed=integer | dict(default=0),
        dry_run=dict(action="store_true", help="print recipe, parameters, operations and memory, and stop"),
    )
    command(
        commands.run_evaluate,
        "score a folder of restored pictures against references of the same names",
        restored=dict(positional="restored"),
        reference=dict(positional="reference", nargs="?", help="none for metrics without a reference"),
        metrics=dict(nargs="+", default=["psnr_y", "ssim_y"]),
        weights=dict(help="folder with metric weights (LPIPS-SqueezeNet, NIQE)"),
        out=dict(help="CSV to write, beside the means that are printed"),
        cache=dict(help="folder that keeps the scores of each picture: a stopped evaluation goes on there"),
        conventions=dict(help="CSV to write with PSNR and SSIM of the same pictures under other conventions"),
    )
    command(
        commands.run_report,
        "write report.md and report.html of a preset from its CSV files",
        preset=dict(default="mini"),
        results=dict(default="results", help="folder of all results"),
        pdf=dict(action="store_true", help="draw every figure as PDF too"),
    )
    command(
        commands.run_benchmark,
        "restore a test set of the field with several models and score it",
        name=dict(positional="name", help="RealSR, DRealSR, DIV2K-Val, RealLQ250 or RealSet65"),
        data=dict(required=True, help="folder of the test set"),
        models=dict(nargs="+", default=["bicubic", "mini-s", "mini-f"], help="bicubic, model names or folders"),
        peers=dict(action="store_true", help="restore with realesrgan-x4plus too, on the CPU (extra peers)"),
        out=dict(default="results/mini/benchmarks", help="folder for <name>/scores.csv"),
        work=dict(default="runs/benchmarks", help="folder for restored pictures and the scores of each"),
        metrics=dict(nargs="+", help="instead of those that the test set and the weights allow"),
        weights=dict(help="folder with metric weights (LPIPS-SqueezeNet, NIQE)"),
        published=dict(help="folder with published_results.csv: its rows of this test set stand beside ours"),
        tile=count | dict(default=128, help="tile side in pixels of the output"),
        overlap=integer | dict(default=32, help="overlap of tiles in pixels"),
    )
    command(
        commands.run_explore,
        "write the explorer, a slider over the timestep, as one HTML page that needs no kernel and no network",
        html=dict(required=True, help="page to write"),
        photos=dict(help="folder, list of paths or manifest; without it photographs of the dependencies"),
        first=count | dict(default=3, help="take so many photographs only"),
        strengths=dict(nargs="+", default=["mild", "medium", "extreme"], help="of the degradation"),
        model=dict(nargs="+", default=["mini-s", "mini-f"], help="one or two models, as for omgsr restore"),
        base=dict(help="folder or hub id of the base model"),
        adapter=dict(help="folder with the adapters"),
        size=count | dict(default=128, help="side of the pictures in pixels"),
        steps=count | dict(default=20, help="number of timesteps"),
        seed=integer | dict(default=0),
    )
    return parser


class _Version(argparse.Action):
    """Prints the version of the installed package, which is looked up only then."""

    def __call__(self, parser, *_):
        from importlib.metadata import version

        print(f"{parser.prog} {version('omgsr-reproduction')}")
        parser.exit()


def positive(text):
    """An integer of at least 1 from the command line."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def integer_or_auto(text):
    """A tile or a timestep from the command line: an integer or "auto"."""
    return text if text == "auto" else int(text)


def _show_warnings(command):
    """Every warning as one line on stderr, but those of `LIBRARIES` for developers."""

    def show(message, category, filename, lineno, file=None, line=None):
        commands.say(f"omgsr {command}: {_one_line(message)}")

    warnings.showwarning = show
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning):
        warnings.simplefilter("ignore", category)
    warnings.filterwarnings("ignore", category=UserWarning, module=rf"({'|'.join(LIBRARIES)})(\.|$)")


def _one_line(err):
    if isinstance(err, OSError) and err.filename:
        return f"{err.strerror}: '{err.filename}'. Check the path and its permissions."
    if isinstance(err, OSError) and err.strerror:
        return err.strerror
    return " ".join(str(err).split())


if __name__ == "__main__":
    sys.exit(main())
