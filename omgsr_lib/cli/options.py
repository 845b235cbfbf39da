"""What the commands share: how options are declared and explained, and the photographs that options name."""

import argparse
import inspect
import math


def add_command(commands, run, example):
    """The parser of a new command, named and described by the function `run`, which takes its options as arguments."""
    description = inspect.getdoc(run)
    parser = commands.add_parser(
        run.__name__,
        help=description.split("\n")[0].removesuffix("."),
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=_Help,
    )
    parser.set_defaults(run=run)
    return parser


class _Help(argparse.RawDescriptionHelpFormatter):
    """Ends the help of each option with what holds without it; where that is nothing, `help` says so."""

    def _get_help_string(self, action):
        if action.required:
            return f"{action.help} (required)"
        if action.default in (None, [], "", argparse.SUPPRESS):
            return action.help
        if action.default is False:
            return f"{action.help} (off by default)"
        default = " ".join(map(str, action.default)) if isinstance(action.default, list) else action.default
        return f"{action.help} (default: {default})"


def number(kind, low, high=math.inf):
    """What reads a finite number of `kind` (int, float), from `low` to `high`, from the command line."""

    def parse(text):
        value = kind(text)
        if not low <= value <= high or value == math.inf:
            bounds = f"at least {low}, and finite" if high == math.inf else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"must be {bounds}, got {text}")
        return value

    parse.__name__ = kind.__name__  # argparse names it where the text is no number
    return parse


def or_auto(parse):
    """What reads "auto" or what `parse` does from the command line."""
    return lambda text: text if text == "auto" else parse(text)


positive, from_zero = number(int, 1), number(int, 0)
timestep_or_auto = or_auto(number(int, 0, 999))


def add_seed(group):
    group.add_argument("--seed", type=from_zero, default=0, metavar="N", help="seed of every random number, from 0")


def add_threads(group):
    group.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads per process, from 1")


def add_training_photos(group, *, required=True):
    """--photos and --provenance, as `training_photos` takes them."""
    group.add_argument(
        "--photos", nargs="+", required=required, metavar="PATH",
        help="training photographs: folders, lists of paths or manifests" + ("" if required else "; required, except "
             "with --dry-run (default: none)"),
    )  # fmt: skip
    group.add_argument(
        "--provenance", nargs="+", metavar="CSV",
        help="licences of the photographs, in one file or one per source; photographs for research only are left out "
             "(default: none, all are used)",
    )  # fmt: skip


def training_photos(photos, provenance):
    """The photographs that --photos (one source or several) and --provenance (one CSV, or one each) name."""
    from ..data.photos import freely_licensed

    sources, tables = ([given] if isinstance(given, str) else list(given or ()) for given in (photos, provenance))
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
    from ..data.photos import find_photos

    return [path for source in sources for path in find_photos(source)]


def check_device(device):
    """Raise `ValueError` for "cuda" where torch has no GPU."""
    from torch import cuda

    if device == "cuda" and not cuda.is_available():
        raise ValueError("--device cuda needs a GPU that torch can use: there is none here. Take --device cpu.")
