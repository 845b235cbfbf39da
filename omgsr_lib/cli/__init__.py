"""The command `omgsr`: a file per group of commands, each command's options beside its function.

Nothing here imports torch before a command runs, so that help and errors of the command line take a moment only.
"""

import argparse
import sys
import warnings

from ..study.papermill import NotebookFailed
from ..utils.warning_lines import one_line, show_warnings
from . import demo, evaluate, reproduce, restore, train
from .streams import lasting_streams


def main(arguments=None):
    """Run a command; returns the exit code.

    Warnings are a line each on stderr. Bad input: 2 and one line there; a failing notebook: 1 and one; images that
    could not be restored, and runs of a study that failed: 1 and one for each; interrupted from the keyboard: 130 and
    one. A command whose output is no longer read, as by `| head`, finishes its work.
    """
    with lasting_streams():
        return _run(sys.argv[1:] if arguments is None else arguments)


def _run(arguments):
    options = vars(build_parser().parse_args(arguments))
    command, run = options.pop("command"), options.pop("run")
    if "arguments" in options:  # a model card shows them
        options["arguments"] = arguments
    try:
        with warnings.catch_warnings():
            show_warnings(command)
            code = run(**options) or 0
            print(end="", flush=True)
            return code
    except (OSError, ValueError, ImportError, FloatingPointError, NotebookFailed) as err:
        print(f"omgsr {command}: {_one_line(err)}", file=sys.stderr)
        return 1 if isinstance(err, NotebookFailed) else 2
    except KeyboardInterrupt:
        print(f"omgsr {command}: interrupted.", file=sys.stderr)
        return 130


def build_parser():
    """The argument parser of all commands; `run`, the function of the chosen one, takes its options as arguments."""
    parser = argparse.ArgumentParser(
        prog="omgsr",
        description="One-step image restoration at a mid-timestep (OMGSR, arXiv 2508.08227).",
        epilog="omgsr COMMAND --help explains the options of a command, with an example.",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="show the version and stop"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    restore.add_commands(commands)
    demo.add_commands(commands)
    reproduce.add_commands(commands)
    train.add_commands(commands)
    evaluate.add_commands(commands)
    return parser


class _Version(argparse.Action):
    """Prints the version of the installed package, which is looked up only then."""

    def __call__(self, parser, *_):
        from importlib.metadata import version

        print(f"{parser.prog} {version('omgsr-reproduction')}")
        parser.exit()


def _one_line(err):
    if isinstance(err, OSError) and err.filename:
        return f"{err.strerror}: '{err.filename}'. Check the path and its permissions."
    if isinstance(err, OSError) and err.strerror:
        return err.strerror
    return one_line(err)
