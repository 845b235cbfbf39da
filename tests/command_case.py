"""Two photographs and a small saved model for the command `omgsr`, folders that it refuses, and how it does."""

import re

import numpy as np
from PIL import Image

from omgsr_lib.cli import main
from omgsr_lib.model import OMGSR


MESSAGES = {
    "missing": "A photo folder must exist: got '.*missing'. Check the path",
    "empty": "must hold at least one image .*'.*empty' has none",
    "text": "must be a readable image: '.*a.png' is not. Remove or replace it",
    "pixel": "at least 2 pixels on each side: '.*a.png' is 1x1. Remove or replace it",
}


def save_tiny_model(folder):
    return OMGSR.from_base("tiny", "ddpm", 273).add_adapters(2, 2).save_pretrained(folder)


def two_photos(folder):
    folder.mkdir()
    for name, seed in (("a.png", 0), ("b.jpg", 1)):
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((160, 120), Image.BICUBIC).save(folder / name)
    return folder


def bad(folder, kind):
    """A photo folder that can't be used."""
    folder = folder / kind
    if kind != "missing":
        folder.mkdir()
    if kind == "text":
        (folder / "a.png").write_text("not an image")
    if kind == "pixel":
        Image.new("RGB", (1, 1)).save(folder / "a.png")
    return folder


def refused(capsys, *arguments):
    """The one line on stderr of a command that exits with 2."""
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 2 and (not out or re.fullmatch("loading [^\\n]*\n", out))
    assert err.endswith("\n") and err.count("\n") == 1, err
    assert err.startswith(f"omgsr {arguments[0]}: ")
    return err
