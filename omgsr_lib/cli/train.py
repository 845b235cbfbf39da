"""`omgsr train`, `pretrain`, `midstep`, `manifest`: what is trained, and on which photographs."""

import argparse
import warnings
from pathlib import Path

from ..presets import FAMILIES, PRETRAINING
from .options import (
    add_command,
    add_seed,
    add_threads,
    add_training_photos,
    all_photos,
    check_device,
    from_zero,
    number,
    positive,
    timestep_or_auto,
    training_photos,
)


RECIPE = " (default: the recipe's)"


def add_commands(commands):
    add_train(commands)
    add_midstep(commands)
    add_manifest(commands)
    add_pretrain(commands)


def add_train(commands):
    parser = add_command(
        commands, train, "omgsr train --preset paper --variant s --resolution 512 --photos LSDIR.csv --out runs/s-512"
    )
    parser.set_defaults(arguments=())
    files = parser.add_argument_group("input and output")
    add_training_photos(files, required=False)
    files.add_argument(
        "--portraits", nargs="+", default=[], metavar="PATH",
        help="photographs that are resized to 512 pixels instead of cropped, such as FFHQ, for full-size bases "
             "(default: none)",
    )  # fmt: skip
    files.add_argument(
        "--evaluation", metavar="PATH", help="photographs for previews and the model card (default: none)"
    )
    files.add_argument(
        "--data", default="", metavar="TEXT",
        help="text that names the training photographs and their licence in the model card (default: not named)",
    )  # fmt: skip
    files.add_argument(
        "--out", metavar="DIR",
        help="run folder: checkpoint, log and the adapters; required, except with --dry-run (default: none)",
    )  # fmt: skip
    files.add_argument("--every", type=positive, metavar="N", help="steps between checkpoints, from 1" + RECIPE)
    files.add_argument(
        "--export-every", type=positive, metavar="N",
        help="steps between exports of the adapters, in the official layout to weight-<step>/, from 1 (default: only "
             "at the end)",
    )  # fmt: skip
    files.add_argument(
        "--tracker", choices=["tensorboard"], help="log the losses there too (default: only in log.jsonl)"
    )
    files.add_argument(
        "--dry-run", action="store_true", help="print recipe, parameters, operations and memory, and stop"
    )

    model = parser.add_argument_group("model")
    model.add_argument(
        "--preset",
        help="smoke, mini, paper, first-release, release or open (default: the variant's only one)",
    )  # fmt: skip
    model.add_argument(
        "--variant", required=True,
        help="s (DDPM), f (flow matching); preset mini adds -long, -polish, -even, -dial, -adaptive, "
        "-adaptive-even and for f -smooth; open has z (Z-Image) and k (FLUX.2-klein)",
    )  # fmt: skip
    model.add_argument(
        "--resolution", type=positive, choices=[512, 1024],
        help="crop side in pixels; required with full-size bases (default: that of mini or smoke)",
    )  # fmt: skip
    model.add_argument("--base", metavar="MODEL", help="folder or mirror of the base model" + RECIPE)
    model.add_argument("--start", metavar="DIR", help="folder of the adapters to continue from" + RECIPE)
    model.add_argument(
        "--prompt-embeds", metavar="FILE",
        help="safetensors file with the prompt's embeddings (default: none, the base's text encoders make them)",
    )  # fmt: skip
    model.add_argument(
        "--timestep", type=timestep_or_auto, metavar="T",
        help="mid-timestep, 0 to 999; auto measures it on the training photographs" + RECIPE,
    )  # fmt: skip

    training = parser.add_argument_group("training")
    training.add_argument("--steps", type=positive, metavar="N", help="optimiser steps, from 1" + RECIPE)
    training.add_argument("--batch-size", type=positive, metavar="N", help="batch size per process, from 1" + RECIPE)
    training.add_argument("--accumulation", type=positive, metavar="N", help="micro-batches per step, from 1" + RECIPE)
    training.add_argument(
        "--learning-rate", type=number(float, 0), metavar="X", help="learning rate of both optimisers, from 0" + RECIPE
    )
    training.add_argument("--warmup", type=from_zero, metavar="N", help="steps of linear warm-up, from 0" + RECIPE)
    training.add_argument(
        "--perceptual-loss", metavar="NAME",
        help="lpips, ea-dists, dinov3-dists, lpips-squeeze or autoencoder" + RECIPE,
    )  # fmt: skip
    training.add_argument(
        "--weights", metavar="DIR",
        help="weights of the loss networks: vgg16/, dinov2/, dinov3/, dists/, squeezenet/ (default: those of the hub)",
    )  # fmt: skip
    training.add_argument("--as-released", action="store_true", help="train with the defects of the authors' code")
    add_seed(training)

    speed = parser.add_argument_group("speed")
    speed.add_argument(
        "--precision", choices=["no", "bf16"],
        help="precision of activations; no: 32 bits (default: bf16 where the machine multiplies it natively, else no)",
    )  # fmt: skip
    speed.add_argument(
        "--optimizer", default="adamw", choices=["adamw", "adamw8bit"], help="AdamW with 32-bit or 8-bit states"
    )
    speed.add_argument(
        "--checkpointing", action=argparse.BooleanOptionalAction,
        help="recompute the activations of denoiser and autoencoder: less memory, more operations, the same result"
             + RECIPE,
    )  # fmt: skip
    speed.add_argument(
        "--quantise", choices=["int8", "fp8"],
        help="the base's linear weights in half the memory of bf16, with --checkpointing; needs torchao (default: as "
             "the base has them)",
    )  # fmt: skip
    speed.add_argument("--workers", type=from_zero, default=0, metavar="N", help="processes that load data, from 0")
    add_threads(speed)


CHANGES = ("batch_size", "accumulation", "learning_rate", "warmup", "steps", "perceptual_loss", "checkpointing")


def train(
    preset, variant, resolution, photos, provenance, portraits, evaluation, out, timestep, threads, dry_run, arguments,
    **options,
):  # fmt: skip
    """Train the adapters of OMGSR; runs under accelerate launch too.

    A stopped training resumes with the same command.
    """
    from ..presets import preset_of, recipe, ships, timestep_caution

    variant = variant if resolution is None else f"{variant}-{resolution}"
    preset, measured = preset or preset_of(variant), timestep == "auto"
    changes = {name: options.pop(name) for name in CHANGES}
    chosen = recipe(preset, variant, **changes, timestep=None if measured else timestep)
    for name, value in (("photos", photos), ("out", out)):
        if not (dry_run or value):
            raise ValueError(f"A training needs --{name}: got none. Without it only --dry-run is possible.")
    if portraits and ships(chosen):
        raise ValueError(f"{chosen.base} is trained on crops alone: leave --portraits out, or add them to --photos.")
    if options["weights"] and not Path(options["weights"]).is_dir():
        raise FileNotFoundError(f"--weights must name a folder: '{options['weights']}' is none. Check the path.")
    if not measured and (caution := timestep_caution(chosen)):
        warnings.warn(caution, stacklevel=2)
    import torch

    torch.set_num_threads(threads)
    if dry_run:
        from ..study.costs import dry_run

        wanted = {name: options[name] for name in ("optimizer", "quantise")}
        print(dry_run(chosen, precision=options["precision"] or "bf16", **wanted))
        return
    from ..training.model_card import command_line
    from ..training.run import finetune

    finetune(
        chosen,
        training_photos(photos, provenance),
        out,
        preset=preset,
        name=f"{preset}-{variant}",
        command=command_line(arguments),
        portraits=all_photos(portraits),
        evaluation=all_photos([evaluation]) if evaluation else (),
        measure_timestep=measured,
        **options,
    )


def add_midstep(commands):
    parser = add_command(commands, midstep, "omgsr midstep --photos my-photos --vae mini --family flow --size 128")
    files = parser.add_argument_group("input and output")
    files.add_argument("--photos", required=True, metavar="PATH", help="folder, list of paths or manifest")
    files.add_argument(
        "--provenance", metavar="CSV",
        help="licences of the photographs; photographs for research only are left out (default: none, all are used)",
    )  # fmt: skip
    files.add_argument(
        "--short-side", type=positive, metavar="N",
        help="reduce photographs to this short side in pixels first, from 1 (default: not reduced)",
    )  # fmt: skip
    files.add_argument("--size", type=positive, default=512, metavar="N", help="crop side in pixels, from 16")
    files.add_argument("--scale", type=positive, default=4, metavar="N", help="scale of the degradation, from 1")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--vae", default="mini", metavar="MODEL", help="mini, a folder or a hub id of a diffusers autoencoder or base"
    )
    model.add_argument("--family", default=FAMILIES["s"], choices=[*FAMILIES.values()], help="noise schedule")
    add_seed(model)


def midstep(photos, provenance, vae, family, size, **options):
    """Compute the mid-timestep of an autoencoder on photographs."""
    from ..data.pairs import evaluation_pairs
    from ..midstep import snr_mid_timestep
    from ..priors.latent_space import load_latent_space
    from ..priors.latents import encode_pairs

    pairs = evaluation_pairs(training_photos(photos, provenance), size, **options)
    autoencoder, schedule = load_latent_space(vae, family)
    mid = snr_mid_timestep(*encode_pairs(autoencoder, pairs), schedule)
    low, high = mid.interval
    print(f"mid-timestep {mid.timestep} (95 % interval {low} to {high}, {len(mid.per_image)} images)")


def add_manifest(commands):
    parser = add_command(commands, manifest, "omgsr manifest data/ffhq --first 10000 --out ffhq.csv")
    files = parser.add_argument_group("input and output")
    files.add_argument("photos", help="folder, list of paths or manifest")
    files.add_argument(
        "--first", type=positive, metavar="N", help="list only the first N by name, from 1 (default: all)"
    )
    files.add_argument("--out", metavar="CSV", help="file to write; required, except with --verify (default: none)")
    files.add_argument(
        "--verify", action="store_true", help="compare the files of a manifest with their SHA-256 instead"
    )


def manifest(photos, first, out, verify):
    """List photographs with their SHA-256, for omgsr train --photos and --portraits."""
    if not (verify or out):
        raise ValueError("A manifest is written to --out or compared with --verify: got neither.")
    from ..data.manifest import verify_manifest, write_manifest
    from ..data.photos import find_photos

    paths = find_photos(photos)[:first]
    if verify:
        verify_manifest(photos)
        print(f"{len(paths)} photographs are as they were listed")
        return
    write_manifest(paths, out)
    print(f"{len(paths)} photographs: {out}")


def add_pretrain(commands):
    parser = add_command(commands, pretrain, "omgsr pretrain autoencoder --photos my-photos --out runs/autoencoder")
    parser.set_defaults(arguments=())
    files = parser.add_argument_group("input and output")
    files.add_argument(
        "part", choices=[*PRETRAINING],
        help="autoencoder, a prior, or the estimator of the per-image timestep",
    )  # fmt: skip
    add_training_photos(files)
    files.add_argument(
        "--out", required=True, metavar="DIR", help="run folder: checkpoint, log and the finished model"
    )
    files.add_argument(
        "--evaluation", metavar="PATH",
        help="photographs that the model card measures on (default: crops of the training photographs)",
    )  # fmt: skip
    files.add_argument(
        "--data", default="the user's own", metavar="TEXT",
        help="text that names the training photographs and their licence in the model card",
    )  # fmt: skip
    training = parser.add_argument_group("training")
    training.add_argument("--steps", type=positive, metavar="N", help="optimiser steps, from 1" + RECIPE)
    training.add_argument("--batch-size", type=positive, metavar="N", help="batch size, from 1" + RECIPE)
    training.add_argument("--learning-rate", type=number(float, 0), metavar="X", help="learning rate, from 0" + RECIPE)
    training.add_argument(
        "--size", type=positive, metavar="N", help="the autoencoder's crop side in pixels, from 16" + RECIPE
    )
    training.add_argument(
        "--perceptual", metavar="DIR",
        help="weights of LPIPS-SqueezeNet, for the autoencoder's loss (default: no perceptual loss)",
    )  # fmt: skip
    training.add_argument(
        "--autoencoder", metavar="DIR", help="that of a prior or the estimator (default: the one that ships)"
    )
    add_seed(training)
    speed = parser.add_argument_group("speed")
    speed.add_argument(
        "--device", default="cpu", choices=["cpu", "cuda"],
        help="cuda trains in large batches and bfloat16; not the estimator",
    )  # fmt: skip
    add_threads(speed)


def pretrain(
    part, photos, provenance, out, steps, batch_size, learning_rate, size, device, threads, arguments, **options
):
    """Train the mini autoencoder, a mini prior or the estimator; resumable."""
    from dataclasses import replace

    import torch

    from ..presets import PRETRAINING
    from ..pretraining.command import pretrain
    from ..training.model_card import command_line

    check_device(device)
    torch.set_num_threads(threads)
    row = PRETRAINING[part].on_gpu() if device == "cuda" else PRETRAINING[part]
    changes = dict(steps=steps, batch_size=batch_size, learning_rate=learning_rate, size=size)
    row = replace(row, **{name: value for name, value in changes.items() if value is not None})
    photos, command = training_photos(photos, provenance), command_line(arguments)
    pretrain(part, photos, out, row, device=device, command=command, **options)
