"""The command `omgsr`: reproduce, study, restore, manifest, midstep, pretrain, train, evaluate."""

import argparse
import sys
import warnings
from pathlib import Path

from .runner import NotebookFailed


def main(arguments=None):
    """Run a command; returns the exit code. Bad input: 2 and one line on stderr; a failing notebook: 1 and one."""
    options = build_parser().parse_args(arguments)
    warnings.simplefilter("ignore")  # those of the libraries are for developers; errors stay
    try:
        options.run(options)
    except (OSError, ValueError, ImportError, NotebookFailed) as err:
        print(f"omgsr {options.command}: {_one_line(err)}", file=sys.stderr)
        return 1 if isinstance(err, NotebookFailed) else 2
    return 0


def build_parser():
    """The argument parser, one sub-command per function below."""
    parser = argparse.ArgumentParser(prog="omgsr", description="One-step restoration at a mid-timestep (OMGSR).")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(run, help, **arguments):
        sub = commands.add_parser(run.__name__.removeprefix("run_"), help=help)
        for name, settings in arguments.items():
            flags = [settings.pop("positional")] if "positional" in settings else [f"--{name.replace('_', '-')}"]
            sub.add_argument(*flags, **settings)
        sub.set_defaults(run=run)

    integer, number, count = dict(type=int), dict(type=float), dict(type=positive)
    command(
        run_reproduce,
        "run the notebooks in order",
        preset=dict(default="mini", help="smoke, mini, latents, paper or release"),
        results=dict(default="results", help="output folder, relative to the project"),
        photos=dict(help="folder with your own photographs"),
        only=dict(nargs="+", help="steps to run, by name"),
        force=dict(action="store_true", help="run steps that are up to date too"),
    )
    command(
        run_study,
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
        run_adaptive,
        "the scores of notebook 08: timesteps for each picture, by strength of degradation (half an hour)",
        evaluation=dict(required=True, help="folder with evaluation photographs"),
        weights=dict(help="weights folder of LPIPS-SqueezeNet, which adds that metric"),
        realsr=dict(help="folder of RealSR with test_LR and test_HR, which adds real pairs"),
        control=dict(nargs=2, required=True, help="adapter folders of the trainings s-dial and f-dial"),
        baseline=dict(required=True, help="statistics.pt of omgsr pretrain estimator"),
        results=dict(default="results/mini/study/adaptive", help="output folder"),
        threads=count | dict(default=1),
    )
    command(
        run_restore,
        "restore a picture or a folder",
        source=dict(positional="source", help="picture or folder"),
        out=dict(required=True, help="folder for the restored PNG files"),
        model=dict(default="mini-s", help="mini-s, mini-f, omgsr-{s,f}-{512,1024} or a folder"),
        base=dict(help="folder or hub id of the base model"),
        adapter=dict(help="folder with the adapters"),
        prompt_embeds=dict(help="safetensors file with the prompt's embeddings"),
        scale=number | dict(default=4.0),
        timestep=integer | dict(help="instead of the model's mid-timestep"),
        tile=integer | dict(help="tile side in pixels of the output; by default that of training, 0 for one pass"),
        overlap=integer | dict(help="overlap of tiles in pixels"),
        colour_fix=dict(default="adain", choices=["adain", "wavelet", "none"]),
        seed=integer | dict(help="sample the encoder's posterior with this seed"),
    )
    command(
        run_manifest,
        "list photographs with their SHA-256, for omgsr train --photos and --portraits",
        photos=dict(positional="photos", help="folder, list of paths or manifest"),
        first=count | dict(help="take so many only, in the order of the names"),
        out=dict(help="CSV to write"),
        verify=dict(action="store_true", help="compare the files of a manifest with their SHA-256 instead"),
    )
    command(
        run_midstep,
        "the mid-timestep of an autoencoder on photographs",
        photos=dict(required=True, help="folder with photographs"),
        vae=dict(default="mini", help="mini, a folder or a hub id of a diffusers autoencoder"),
        provenance=dict(help="CSV with a licence per photograph; pictures for research only are left out"),
        family=dict(default="ddpm", choices=["ddpm", "flow"]),
        short_side=count | dict(help="reduce photographs to this short side first"),
        size=count | dict(default=512, help="crop side in pixels"),
        scale=count | dict(default=4),
        seed=integer | dict(default=0),
    )
    command(
        run_pretrain,
        "train the mini autoencoder or a mini prior",
        part=dict(positional="part", choices=["autoencoder", "ddpm", "flow", "estimator"]),
        photos=dict(required=True, help="folder with training photographs"),
        provenance=dict(help="CSV with a licence per photograph; pictures for research only are left out"),
        out=dict(required=True, help="run folder: checkpoint, log and the finished model"),
        steps=count | dict(required=True),
        batch_size=count | dict(default=8),
        learning_rate=number | dict(default=3e-4),
        size=count | dict(default=96, help="crop side in pixels (autoencoder)"),
        perceptual=dict(help="weights folder for LPIPS-SqueezeNet (autoencoder)"),
        evaluation=dict(help="folder with photographs that the model card measures on"),
        data=dict(default="the user's own", help="the training photographs and their licence, for the model card"),
        seed=integer | dict(default=0),
        threads=count | dict(default=1),
    )
    command(
        run_train,
        "train the adapters of OMGSR; runs as it is under accelerate launch",
        preset=dict(default="mini", help="smoke, mini, paper or release"),
        variant=dict(required=True, help="s (DDPM) or f (flow matching)"),
        resolution=count | dict(choices=[512, 1024], help="of paper and release"),
        base=dict(help="folder or mirror of the base model, instead of the recipe's hub id"),
        prompt_embeds=dict(help="safetensors file with the prompt's embeddings; the base then needs no text encoders"),
        photos=dict(nargs="+", help="training photographs: folders, lists of paths or manifests"),
        portraits=dict(nargs="+", default=[], help="photographs that are resized to 512 instead of cropped (FFHQ)"),
        provenance=dict(help="CSV with a licence per photograph; pictures for research only are left out"),
        evaluation=dict(help="photographs for previews and the model card"),
        data=dict(default="", help="the training photographs and their licence, for the model card"),
        out=dict(help="run folder: checkpoint, log and the adapters"),
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
        run_evaluate,
        "score a folder of restored pictures against references of the same names",
        restored=dict(positional="restored"),
        reference=dict(positional="reference"),
        metrics=dict(nargs="+", default=["psnr_y", "ssim_y"]),
        weights=dict(help="folder with metric weights (LPIPS-SqueezeNet)"),
        out=dict(help="CSV to write; printed otherwise"),
    )
    return parser


def positive(text):
    """An integer of at least 1 from the command line."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def run_reproduce(options):
    from .reproduce import reproduce

    reproduce(options.preset, results=options.results, photos=options.photos, only=options.only, force=options.force)


def run_study(options):
    from .data.photos import find_photos, packaged_photos
    from .presets import recipe
    from .study import StudyData, study

    own = bool(options.photos)
    data = StudyData(
        train=tuple(training_photos(options) if own else packaged_photos("train")),
        evaluation=tuple(find_photos(options.evaluation) if options.evaluation else packaged_photos("eval")),
        crops_per_photo=1 if options.evaluation else 4,
        synthetic=0 if own else 40,
        weights=options.weights,
        steps=options.steps,
    )
    mids = {variant: recipe("mini", variant).timestep for variant in options.variants}
    study(options.results, data, mids, jobs=options.jobs)


def run_adaptive(options):
    import torch

    from .adaptive_study import adaptive_study
    from .checkpoint import load_state
    from .experiment import study_models
    from .model import OMGSR

    torch.set_num_threads(options.threads)
    model, realsr = OMGSR.from_pretrained("mini-s-adaptive"), None
    if options.realsr:
        files = [sorted((Path(options.realsr) / part).glob("*.png")) for part in ("test_LR", "test_HR")]
        realsr = [(lq.stem, lq, hq) for lq, hq in zip(*files, strict=True)]
    adaptive_study(
        all_photos([options.evaluation]),
        options.results,
        study_models(dict(zip("sf", options.control, strict=True))),
        model.vae,
        model.estimator,
        load_state(options.baseline),
        metrics=("psnr_y", "ssim_y", "gmsd", *(["lpips_squeeze"] if options.weights else [])),
        weights=options.weights,
        realsr=realsr,
    )


def run_restore(options):
    from .data.photos import find_photos
    from .model import OMGSR
    from .restore import restore_folder

    if not Path(options.source).is_file():
        find_photos(options.source)  # before the model is loaded, which may be large
    model = OMGSR.from_pretrained(
        options.model, base=options.base, adapter=options.adapter, prompt_embeds=options.prompt_embeds
    )
    written = restore_folder(
        model.merge(),
        options.source,
        options.out,
        scale=options.scale,
        timestep=options.timestep,
        tile=(training_tile(options.model) if options.tile is None else options.tile) or None,
        overlap=options.overlap,
        colour_fix=None if options.colour_fix == "none" else options.colour_fix,
        seed=options.seed,
    )
    print(f"{len(written)} restored: {options.out}")


def run_manifest(options):
    from .data.manifest import verify_manifest, write_manifest
    from .data.photos import find_photos

    paths = find_photos(options.photos)[: options.first]
    if options.verify:
        verify_manifest(options.photos)
        print(f"{len(paths)} photographs are as they were listed")
        return
    if not options.out:
        raise ValueError("A manifest is written to --out or compared with --verify: got neither.")
    write_manifest(paths, options.out)
    print(f"{len(paths)} photographs: {options.out}")


def run_midstep(options):
    from .analysis import encode_pairs, load_latent_space
    from .data.pairs import evaluation_pairs
    from .midstep import snr_mid_timestep

    pairs = evaluation_pairs(
        training_photos(options), options.size, seed=options.seed, scale=options.scale, short_side=options.short_side
    )
    vae, schedule = load_latent_space(options.vae, options.family)
    mid = snr_mid_timestep(*encode_pairs(vae, pairs), schedule)
    low, high = mid.interval
    print(f"mid-timestep {mid.timestep} (95 % interval {low} to {high}, {len(mid.per_image)} pictures)")


def run_pretrain(options):
    import torch

    from .pretraining.command import pretrain

    torch.set_num_threads(options.threads)
    pretrain(
        options.part,
        training_photos(options),
        options.out,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        size=options.size,
        perceptual=options.perceptual,
        evaluation=options.evaluation,
        data=options.data,
        seed=options.seed,
    )


def run_train(options):
    import torch

    from .presets import recipe

    torch.set_num_threads(options.threads)
    variant = options.variant if options.resolution is None else f"{options.variant}-{options.resolution}"
    changed = ("batch_size", "accumulation", "learning_rate", "warmup", "steps", "perceptual_loss", "checkpointing")
    chosen = recipe(options.preset, variant, **{name: getattr(options, name) for name in changed})
    if options.dry_run:
        from .costs import dry_run

        print(dry_run(chosen, precision=options.precision or "bf16"))
        return
    for name in ("photos", "out"):
        if not getattr(options, name):
            raise ValueError(f"A training needs --{name}: got none. Without it only --dry-run is possible.")
    from .finetune import finetune

    passed = ("weights", "optimizer", "precision", "as_released", "every", "export_every", "tracker", "workers")
    finetune(
        chosen,
        training_photos(options),
        options.out,
        preset=options.preset,
        name=f"{options.preset}-{variant}",
        base=options.base,
        prompt_embeds=options.prompt_embeds,
        portraits=all_photos(options.portraits),
        evaluation=all_photos([options.evaluation]) if options.evaluation else (),
        data=options.data,
        seed=options.seed,
        **{name: getattr(options, name) for name in passed},
    )


def run_evaluate(options):
    from .metrics.evaluate import evaluate_folder
    from .provenance import atomic_write

    frame = evaluate_folder(
        options.restored, options.reference, metrics=tuple(options.metrics), weights=options.weights
    )
    if options.out:
        with atomic_write(options.out) as part:
            frame.to_csv(part, index=False)
    print(frame.groupby("metric")["value"].agg(["mean", "count"]).to_string())


def training_tile(name):
    """Side in pixels of the crops that the model `name` was trained on; None for a folder."""
    from .presets import MODELS, recipe

    return recipe(*MODELS[name]).resolution if name in MODELS else None


def training_photos(options):
    """The photographs that `--photos` (one source or several) and `--provenance` name."""
    from .data.photos import freely_licensed

    sources = [options.photos] if isinstance(options.photos, str) else options.photos
    if options.provenance:
        return [path for source in sources for path in freely_licensed(source, options.provenance)]
    return all_photos(sources)


def all_photos(sources):
    """The photographs of folders, lists of paths and manifests, in their order."""
    from .data.photos import find_photos

    return [path for source in sources for path in find_photos(source)]


def _one_line(err):
    if isinstance(err, OSError) and err.filename:
        return f"{err.strerror}: '{err.filename}'. Check the path and its permissions."
    if isinstance(err, OSError) and err.strerror:
        return err.strerror
    return " ".join(str(err).split())


if __name__ == "__main__":
    sys.exit(main())
