"""Warnings as a line each on stderr; those with which libraries speak to their developers are left out."""

import sys
import warnings


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


def show_warnings(command):
    """From now on, in this process: every warning as "omgsr <command>: ..." on stderr, but those of `LIBRARIES`."""

    def show(message, category, filename, lineno, file=None, line=None):
        say(f"omgsr {command}: {one_line(message)}")

    warnings.showwarning = show
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning):
        warnings.simplefilter("ignore", category)
    warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")  # limits are our own
    warnings.filterwarnings("ignore", category=UserWarning, module=rf"({'|'.join(LIBRARIES)})(\.|$)")


def say(line):
    """A line on stderr, above a progress bar."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


def one_line(message):
    return " ".join(str(message).split())
