"""What the sub-commands of `omgsr` do: a function each, given the parsed options; may return an exit code."""

import sys
from pathlib import Path


def run_reproduce(options):
    from .study.reproduce import reproduce

    reproduce(options.preset, results=options.results, photos=options.photos, only=options.only, force=options.force)


def run_study(options):
    from .data.photos import find_photos, packaged_photos
    from .presets import recipe
    from .study.ablation import StudyData, study

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
    from .data.photos import find_photos, packaged_photos
    from .study.adaptive import adaptive_study

    adaptive_study(
        options.results,
        find_photos(options.photos) if options.photos else packaged_photos("eval"),
        **{name: getattr(options, name) for name in ("controls", "statistics", "realsr", "weights", "taef2", "jobs")},
    )


def run_restore(options):
    from .presets import default_tile
    from .restore.names import find_pictures

    find_pictures(Path(options.source), Path(options.out), lambda error: None)  # before a large model is loaded
    from .restore.folder import restore_folder

    same = ("scale", "timestep", "strength", "overlap", "window", "planner", "tile_batch", "vae_mode", "batch_size")
    report = restore_folder(
        prepared_model(options),
        options.source,
        options.out,
        tile=(default_tile(options.model) if options.tile is None else options.tile) or None,
        colour_fix=None if options.colour_fix == "none" else options.colour_fix,
        format=options.format,
        quality=options.quality,
        seed=options.seed,
        force=options.force,
        max_pixels=options.max_pixels,
        say=lambda line: say(f"omgsr restore: {line}"),
        **{name: getattr(options, name) for name in same},
    )
    print(f"{report}: {options.out}")
    return 1 if report.failed else 0


def prepared_model(options):
    """The model that `omgsr restore` names, ready to restore, on the GPU if there is one."""
    import torch

    from .model import OMGSR
    from .restore.prepare import PRECISIONS, fast_dtype, prepare

    model = OMGSR.from_pretrained(
        options.model,
        base=options.base,
        adapter=options.adapter,
        prompt_embeds=options.prompt_embeds,
        dtype=PRECISIONS[options.precision] if options.precision else fast_dtype(),
    )
    return prepare(
        model,
        device="cuda" if torch.cuda.is_available() else "cpu",
        fold=options.fold,
        quantise=options.quantise,
        offload=options.offload,
        compile=options.compile is not None,
        cache=options.compile,
    )


def run_manifest(options):
    if not (options.verify or options.out):
        raise ValueError("A manifest is written to --out or compared with --verify: got neither.")
    from .data.manifest import verify_manifest, write_manifest
    from .data.photos import find_photos

    paths = find_photos(options.photos)[: options.first]
    if options.verify:
        verify_manifest(options.photos)
        print(f"{len(paths)} photographs are as they were listed")
        return
    write_manifest(paths, options.out)
    print(f"{len(paths)} photographs: {options.out}")


def run_midstep(options):
    from .data.pairs import evaluation_pairs
    from .midstep import snr_mid_timestep
    from .priors.latent_space import load_latent_space
    from .priors.latents import encode_pairs

    pairs = evaluation_pairs(
        training_photos(options), options.size, seed=options.seed, scale=options.scale, short_side=options.short_side
    )
    vae, schedule = load_latent_space(options.vae, options.family)
    mid = snr_mid_timestep(*encode_pairs(vae, pairs), schedule)
    low, high = mid.interval
    print(f"mid-timestep {mid.timestep} (95 % interval {low} to {high}, {len(mid.per_image)} pictures)")


def run_pretrain(options):
    from dataclasses import replace

    import torch

    from .presets import PRETRAINING
    from .pretraining.command import pretrain
    from .training.model_card import command_line

    torch.set_num_threads(options.threads)
    row = PRETRAINING[options.part]
    changed = {name: getattr(options, name) for name in ("steps", "batch_size", "learning_rate", "size")}
    row = replace(
        row.on_gpu() if options.device == "cuda" else row,
        **{name: value for name, value in changed.items() if value is not None},
    )
    passed = ("perceptual", "evaluation", "autoencoder", "data", "device", "seed")
    pretrain(
        options.part,
        training_photos(options),
        options.out,
        row,
        command=command_line(options.arguments),
        **{name: getattr(options, name) for name in passed},
    )


def run_train(options):
    from .presets import recipe

    variant = options.variant if options.resolution is None else f"{options.variant}-{options.resolution}"
    changed = ("batch_size", "accumulation", "learning_rate", "warmup", "steps", "perceptual_loss", "checkpointing")
    changes = {name: getattr(options, name) for name in changed}
    measured = options.timestep == "auto"
    chosen = recipe(options.preset, variant, **changes, timestep=None if measured else options.timestep)
    for name in ("photos", "out"):
        if not (options.dry_run or getattr(options, name)):
            raise ValueError(f"A training needs --{name}: got none. Without it only --dry-run is possible.")
    import torch

    torch.set_num_threads(options.threads)
    if options.dry_run:
        from .study.costs import dry_run

        print(dry_run(chosen, precision=options.precision or "bf16"))
        return
    from .training.model_card import command_line
    from .training.run import finetune

    passed = ("weights", "optimizer", "precision", "as_released", "every", "export_every", "tracker", "workers")
    finetune(
        chosen,
        training_photos(options),
        options.out,
        preset=options.preset,
        command=command_line(options.arguments),
        name=f"{options.preset}-{variant}",
        base=options.base,
        prompt_embeds=options.prompt_embeds,
        portraits=all_photos(options.portraits),
        evaluation=all_photos([options.evaluation]) if options.evaluation else (),
        data=options.data,
        seed=options.seed,
        measure_timestep=measured,
        **{name: getattr(options, name) for name in passed},
    )


def run_evaluate(options):
    from .metrics.evaluate import evaluate_folder, first_process
    from .utils.files import atomic_write

    frame = evaluate_folder(
        options.restored,
        options.reference,
        metrics=tuple(options.metrics),
        weights=options.weights,
        cache=options.cache,
        progress=True,
    )
    if not first_process():
        return
    if options.out:
        with atomic_write(options.out) as part:
            frame.to_csv(part, index=False)
    print(frame.groupby("metric", sort=False)["value"].agg(["mean", "count"]).to_string())
    if options.conventions:
        from .metrics.conventions import convention_scores, convention_table

        with atomic_write(options.conventions) as part:
            convention_table(convention_scores(options.restored, options.reference)).to_csv(part, index=False)


def run_report(options):
    from .report.claims import write_report

    folder = Path(options.results) / options.preset
    if not folder.is_dir():
        raise FileNotFoundError(f"A report needs results: there is no folder '{folder}'. Run omgsr reproduce first.")
    print(*write_report(folder, pdf=options.pdf), sep="\n")


def run_benchmark(options):
    from .metrics.statistics import summarise
    from .study.peers import PEERS
    from .study.test_sets import benchmark

    passed = ("work", "metrics", "weights", "published", "tile", "overlap")
    chosen = {name: getattr(options, name) for name in passed}
    models = [*options.models, *(PEERS if options.peers else ())]
    frame = benchmark(options.name, options.data, options.out, models=models, **chosen)
    table = summarise(frame).pivot_table(index="method", columns="metric", values="mean", sort=False)
    print(table.round(4).to_string())


def run_explore(options):
    from .explorer.compute import write_explorer_page

    passed = ("base", "adapter", "photos", "first", "strengths", "size", "steps", "seed")
    path = write_explorer_page(options.html, options.model, **{name: getattr(options, name) for name in passed})
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def training_photos(options):
    """The photographs that `--photos` (one source or several) and `--provenance` (one CSV, or one each) name."""
    from .data.photos import freely_licensed

    sources, tables = (
        [given] if isinstance(given, str) else list(given or ()) for given in (options.photos, options.provenance)
    )
    if not tables:
        return all_photos(sources)
    if len(tables) not in (1, len(sources)):
        raise ValueError(
            f"--provenance takes one CSV for all sources of --photos or one for each: got {len(tables)} for "
            f"{len(sources)}. Give as many of both."
        )
    tables *= len(sources) // len(tables)
    return [path for pair in zip(sources, tables, strict=True) for path in freely_licensed(*pair)]


def all_photos(sources):
    """The photographs of folders, lists of paths and manifests, in their order."""
    from .data.photos import find_photos

    return [path for source in sources for path in find_photos(source)]


def say(line):
    """A line on stderr, above a progress bar."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)
