"""cli: every option explained, every example parsed, bad input and warnings in one line."""

import argparse
import re
import shlex
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from command_case import MESSAGES, bad, refused, save_tiny_model, two_photos

from omgsr_lib.cli import build_parser, main


ROOT = Path(__file__).resolve().parents[1]
COMMANDS = build_parser()._subparsers._group_actions[0].choices


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folder of a saved model."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def photos(tmp_path):
    return two_photos(tmp_path / "photos")


@pytest.mark.parametrize(
    "command, code",
    [
        ("--version", 0),
        ("--help", 0),
        ("train --help", 0),
        ("", 2),
        ("paint", 2),
        ("restore a.png --out b --tile large", 2),
        ("restore /none --out b", 2),
        ("train --variant s", 2),
        ("train --variant s --preset huge", 2),
        ("manifest /none", 2),
        ("reproduce --preset huge", 2),
    ],
)
def test_what_needs_no_library_imports_none(command, code):
    program = f"""
import sys
from omgsr_lib.cli import main
try:
    code = main({command.split()})
except SystemExit as stop:
    code = stop.code
heavy = "torch torchvision diffusers transformers peft accelerate numpy pandas matplotlib papermill nbclient PIL"
heavy += " gradio"
print(code, sorted(set(heavy.split()) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == f"{code} []", done


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert (stop.value.code, capsys.readouterr().out) == (0, f"omgsr {version('omgsr-reproduction')}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_groups_every_option_and_says_what_holds_without_it(command, capsys):
    parser = COMMANDS[command]
    for group in parser._action_groups:
        for action in group._group_actions:
            if isinstance(action, argparse._HelpAction):
                continue
            text = parser._get_formatter()._expand_help(action)
            assert re.search(r"\((required|off by default|default: [^()]+)\)$", text), (action.dest, text)
            assert text.count("(default: ") <= 1 and group.title not in ("options", "positional arguments"), text
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and out.startswith(f"usage: omgsr {command} ")
    example = re.search(r"\nexample:\n  omgsr (.*)\n", out)[1]
    assert build_parser().parse_args(shlex.split(example)).command == command


def test_the_list_of_commands_describes_each(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert all(f" {name} {parser.description.splitlines()[0][:-1]}" in out for name, parser in COMMANDS.items())


def test_unknown_options_and_commands(capsys):
    options = (
        "--colour x",
        "--format gif",
        "--tile large",
        "--scale 0.5",
        "--scale nan",
        "--scale inf",
        "--quality 0",
    )
    restoring = [f"restore a.png --out b {option}" for option in (*options, "--timestep 1000", "--overlap -4")]
    training = [
        "train --steps many",
        "train --steps 0",
        "train --batch-size -1",
        "train --warmup -1",
        "train --seed -1",
    ]
    training += ["train --learning-rate nan", "midstep --photos a --size 0", "midstep --photos a --seed -1"]
    for arguments in ("", "paint", *restoring, "restore a.png --out b --batch-size 0", *training):
        with pytest.raises(SystemExit) as stop:
            main(arguments.split())
        assert stop.value.code == 2 and "usage: omgsr" in capsys.readouterr().err


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("command", ["midstep", "train", "pretrain", "explore"])
def test_bad_photographs(command, kind, tiny, tmp_path, capsys):
    folder, out = bad(tmp_path, kind), tmp_path / "out"
    arguments = {
        "midstep": ["--photos", folder, "--vae", "tiny"],
        "train": ["--photos", folder, "--out", out, "--preset", "smoke", "--variant", "s"],
        "pretrain": ["autoencoder", "--photos", folder, "--out", out, "--steps", 1],
        "explore": ["--photos", folder, "--html", out / "out.html", "--model", tiny],
    }
    line = refused(capsys, command, *arguments[command])
    assert re.search(MESSAGES[kind], line), line
    assert not out.exists() or list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("restore {photos} --model mini-x", ["must be one of mini-s", "'mini-x'"]),
        ("restore {photos} --model {tiny} --adapter {out}", ["An adapter folder must hold adapter_config.json"]),
        ("restore {photos} --model {tiny} --base {out}", ["A base must be a folder or a hub id 'owner/name'"]),
        ("restore {photos} --model {tiny} --tile 20", ["tile must be a multiple of 8 pixels"]),
        ("restore {photos} --model {tiny} --out {photos}", ["must not be that of the images"]),
        ("train --photos {photos} --preset big --variant s", ["A recipe must be one of: smoke s", "'big' 's'"]),
        ("train --photos {photos} --preset latents --variant s", ["'latents' 's'"]),
    ],
)
def test_wrong_names(arguments, parts, photos, tiny, tmp_path, capsys):
    out = tmp_path / "out"
    command, *rest = arguments.format(photos=photos, tiny=tiny, out=out).split()
    line = refused(capsys, command, "--out", out, *rest)
    assert all(part in line for part in parts), line
    assert not out.exists() and sorted(p.name for p in photos.iterdir()) == ["a.png", "b.jpg"]


def test_warnings_are_a_line_each_but_those_for_developers(photos, tmp_path, capsys, monkeypatch):
    from omgsr_lib.data.photo_pairs import PhotoPairs
    from omgsr_lib.restore import auto_tile as tile_size

    def run(*_):
        def attempt(settings):
            attempts.append(settings)
            if len(attempts) == 1:
                raise MemoryError

        attempts = []
        tile_size.retry_smaller(attempt, tile_size.Settings(256, 32), 256, 8)
        (photos / "c.png").write_text("no image")
        pairs = PhotoPairs([photos / "a.png", photos / "c.png"], 32, seed=0, broken_share=0.5)
        next(iter(torch.utils.data.DataLoader(pairs, batch_size=8)))
        warnings.warn_explicit("of torch", UserWarning, "lr.py", 1, module="torch.optim.lr_scheduler")
        warnings.warn("old name", FutureWarning, stacklevel=1)

    monkeypatch.setattr("omgsr_lib.data.manifest.write_manifest", run)
    assert main(["manifest", str(photos), "--out", str(tmp_path / "list.csv")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 2)[2][:13] for line in lines] == ["Out of memory", "Skipped the p"]
    assert all(line.startswith("omgsr manifest: ") for line in lines)


def test_an_output_that_cannot_be_written(photos, tiny, tmp_path, capsys):
    """A file stands where a folder is needed: refused by the system for root too."""
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        line = refused(capsys, "restore", photos, "--out", out, "--model", tiny)
        assert "choose a folder that can be written" in line
        line = refused(capsys, "train", "--photos", photos, "--out", out, "--preset", "smoke", "--variant", "s")
        assert "choose a folder that can be written" in line
    assert (tmp_path / "file").read_text() == "mine"
