"""`omgsr reproduce`, `check`, `study`, `adaptive`, `report`, `explore`: the study, its long trainings, its pages."""

from pathlib import Path

from ..utils.warning_lines import say
from .options import add_command, add_seed, positive, training_photos


def add_commands(commands):
    add_reproduce(commands)
    add_check(commands)
    add_report(commands)
    add_explore(commands)
    add_study(commands)
    add_adaptive(commands)


def add_reproduce(commands):
    parser = add_command(commands, reproduce, "omgsr reproduce --only 02 06 --photos my-photos")
    files = parser.add_argument_group("input and output")
    files.add_argument("--preset", default="mini", help="smoke, mini, latents, paper, first-release or release")
    files.add_argument(
        "--results", default="runs/reproduce", metavar="DIR", help="output folder, relative to the project"
    )
    files.add_argument("--update", action="store_true", help="replace the committed results instead")
    files.add_argument(
        "--photos",
        metavar="DIR",
        help="folder with your own photographs (default: those that ship with the dependencies)",
    )
    steps = parser.add_argument_group("steps")
    steps.add_argument(
        "--only", nargs="+", metavar="STEP", help="steps to run: names or their first characters (default: all)"
    )
    steps.add_argument("--force", action="store_true", help="run steps that are up to date too")


def reproduce(preset, results, update, **options):
    """Run the notebooks in order, each only if something changed, and write the report.

    At the end it compares the numbers with the committed ones, as omgsr check does.
    """
    from ..study.reproduce import COMMITTED, reproduce

    reproduce(preset, results=COMMITTED if update else results, **options)


def add_check(commands):
    parser = add_command(commands, check, "omgsr check --preset mini")
    files = parser.add_argument_group("input and output")
    files.add_argument("--preset", default="mini", help="smoke, mini, latents, paper, first-release or release")
    files.add_argument("--results", default="runs/reproduce", metavar="DIR", help="folder of your own results")
    files.add_argument("--committed", default="results", metavar="DIR", help="folder of the committed results")


def check(preset, results, committed):
    """Compare the numbers of your own results with the committed ones.

    A number agrees if it lies in the committed interval or, without one, equals the committed number after rounding.
    The exit code is 1 if any number disagrees.
    """
    from ..study.check import check_results
    from ..study.reproduce import NOT_CHECKED

    found = check_results(Path(results) / preset, Path(committed) / preset, leave_out=NOT_CHECKED)
    print(found)
    return 0 if found.passed else 1


def add_report(commands):
    parser = add_command(commands, report, "omgsr report --preset mini")
    files = parser.add_argument_group("input and output")
    files.add_argument("--preset", default="mini", help="smoke, mini, latents, paper, first-release or release")
    files.add_argument("--results", default="results", metavar="DIR", help="folder of all results")
    files.add_argument("--pdf", action="store_true", help="draw every figure as PDF too")


def report(preset, results, pdf):
    """Write report.md and report.html of a preset from its CSV files."""
    from ..report.document import write_report

    folder = Path(results) / preset
    if not folder.is_dir():
        raise FileNotFoundError(f"A report needs results: there is no folder '{folder}'. Run omgsr reproduce first.")
    print(*write_report(folder, pdf=pdf), sep="\n")


def add_explore(commands):
    parser = add_command(commands, explore, "omgsr explore --html explorer.html --photos my-photos --first 2")
    files = parser.add_argument_group("input and output")
    files.add_argument("--html", required=True, metavar="FILE", help="page to write")
    files.add_argument(
        "--photos", metavar="PATH",
        help="folder, list of paths or manifest (default: photographs that ship with the dependencies)",
    )  # fmt: skip
    files.add_argument("--first", type=positive, default=3, metavar="N", help="number of photographs to take, from 1")
    files.add_argument("--size", type=positive, default=128, metavar="N", help="side of the images in pixels, from 32")
    files.add_argument(
        "--strengths",
        nargs="+",
        default=["mild", "medium", "extreme"],
        metavar="NAME",
        help="strengths of the degradation; 'as it is' leaves the photograph undegraded",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", nargs="+", default=["mini-s", "mini-f"], help="one or two models, as for omgsr restore"
    )
    model.add_argument("--base", metavar="MODEL", help="folder or hub id of the base model (default: the model's own)")
    model.add_argument("--adapter", metavar="DIR", help="folder with the adapters (default: the model's own)")
    model.add_argument(
        "--steps",
        type=positive,
        default=20,
        metavar="N",
        help="number of timesteps on the slider, 2 to 1000, evenly spread",
    )
    add_seed(model)


def explore(html, model, **options):
    """Write the explorer, a slider over the timestep, as one HTML page that needs no kernel and no network."""
    from ..explorer.compute import write_explorer_page

    path = write_explorer_page(html, model, **options)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def add_study(commands):
    parser = add_command(commands, study, "omgsr study --plan --jobs 4")
    files = parser.add_argument_group("input and output")
    files.add_argument("--results", default="results/mini/study", metavar="DIR", help="output folder")
    files.add_argument(
        "--photos", nargs="+", metavar="PATH",
        help="folders, lists of paths or manifests (default: those that ship with the dependencies, plus synthetic "
             "images)",
    )  # fmt: skip
    files.add_argument(
        "--provenance", nargs="+", metavar="CSV",
        help="licences of the photographs; photographs for research only are left out (default: none, all are used)",
    )  # fmt: skip
    files.add_argument(
        "--evaluation", metavar="PATH", help="evaluation photographs (default: those that ship with the dependencies)"
    )
    files.add_argument(
        "--weights", metavar="DIR",
        help="weights of LPIPS-SqueezeNet, for loss and metric (default: the loss uses the autoencoder's features)",
    )  # fmt: skip
    files.add_argument(
        "--realsr", metavar="DIR",
        help="folder of RealSR, on which runs at all strengths are scored too (default: not scored)",
    )  # fmt: skip
    files.add_argument(
        "--spaces", metavar="DIR",
        help="folder of further latent spaces: taef2_encoder.pth, taesd/, taef1/ (default: only the one that ships)",
    )  # fmt: skip
    training = parser.add_argument_group("training")
    training.add_argument("--full", action="store_true", help="all runs, not only the most decisive ones")
    training.add_argument(
        "--only", metavar="NAME", help="only runs whose name contains this text (default: all of the preset)"
    )
    training.add_argument(
        "--variants", nargs="+", default=["s", "f"], choices=["s", "f"], help="s: OMGSR-S, f: OMGSR-F"
    )
    training.add_argument(
        "--crops", type=positive, default=10_000, metavar="N", help="crops that each training sees, from 1"
    )
    training.add_argument("--plan", action="store_true", help="print the missing runs and their cost, and stop")
    speed = parser.add_argument_group("speed")
    speed.add_argument(
        "--jobs", type=positive, default=2, metavar="N", help="number of processes of one thread each, from 1"
    )


def study(results, photos, provenance, evaluation, weights, realsr, spaces, variants, crops, **options):
    """Run the trainings of the ablation: about four core-hours, estimated before they begin.

    A stopped study resumes with the same command. A run that fails is a line on stderr and exit code 1, and the
    others go on.
    """
    from ..data.photos import find_photos, packaged_photos
    from ..presets import recipe
    from ..study.ablation import StudyData, StudyFailed, failed_runs, study
    from ..study.spaces import write_latent_spaces

    data = StudyData(
        train=tuple(training_photos(photos, provenance) if photos else packaged_photos("train")),
        evaluation=tuple(find_photos(evaluation) if evaluation else packaged_photos("eval")),
        crops_per_photo=1 if evaluation else 4,
        synthetic=0 if photos else 40,
        weights=weights,
        realsr=realsr,
        crops=crops,
    )
    try:
        study(results, data, {variant: recipe("mini", variant).timestep for variant in variants}, **options)
        if options["plan"]:
            return 0
        write_latent_spaces(Path(results, "spaces.csv"), data.evaluation, spaces=spaces)
    except StudyFailed:  # of all runs; their reasons follow
        pass
    failed = failed_runs(results)
    for name, reason in failed.items():
        say(f"omgsr study: {name} failed: {reason}")
    if failed:
        say(f"omgsr study: failed runs: {len(failed)}. The same command repeats them and keeps the others.")
    return 1 if failed else 0


def add_adaptive(commands):
    parser = add_command(commands, adaptive, "omgsr adaptive --photos evaluation-photos --weights weights")
    files = parser.add_argument_group("input and output")
    files.add_argument("--results", default="results/mini/adaptive", metavar="DIR", help="output folder")
    files.add_argument(
        "--photos", metavar="PATH", help="evaluation photographs (default: those that ship with the dependencies)"
    )
    files.add_argument(
        "--controls", metavar="DIR", help="folder with the adapters mini-s-dial and mini-f-dial (default: no control)"
    )
    files.add_argument(
        "--statistics", metavar="FILE",
        help="statistics.pt from the estimator's training, for the baselines of its errors (default: no baselines)",
    )  # fmt: skip
    files.add_argument("--realsr", metavar="DIR", help="folder of the test set RealSR (default: not measured)")
    files.add_argument(
        "--weights", metavar="DIR", help="folder with the weights of LPIPS-SqueezeNet (default: without this metric)"
    )
    files.add_argument(
        "--taef2", metavar="DIR",
        help="folder with taef2_encoder.pth, a second latent space (default: only the one that ships)",
    )  # fmt: skip
    speed = parser.add_argument_group("speed")
    speed.add_argument(
        "--jobs", type=positive, default=2, metavar="N", help="number of processes of one thread each, from 1"
    )


def adaptive(results, photos, **options):
    """Measure the per-image timestep for notebook 08; takes about half an hour."""
    from ..data.photos import find_photos, packaged_photos
    from ..study.adaptive import adaptive_study

    adaptive_study(results, find_photos(photos) if photos else packaged_photos("eval"), **options)
