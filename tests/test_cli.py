"""cli: every option explained, every example parsed, bad input in one line, and `omgsr restore` end to end."""

import argparse
import io
import re
import shlex
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from omgsr_lib.cli import _show_warnings, build_parser, main
from omgsr_lib.data.photos import find_photos
from omgsr_lib.images.image_file import Picture
from omgsr_lib.model import OMGSR
from omgsr_lib.restore.pipeline import Restorer, restore
from omgsr_lib.study.papermill import NotebookFailed
from omgsr_lib.utils.journal import alone


ROOT = Path(__file__).resolve().parents[1]
COMMANDS = build_parser()._subparsers._group_actions[0].choices


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folder of a saved model."""
    model = OMGSR.from_base("tiny", "ddpm", 273).add_adapters(2, 2)
    return model.save_pretrained(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
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


MESSAGES = {
    "missing": "A photo folder must exist: got '.*missing'. Check the path",
    "empty": "must hold at least one image .*'.*empty' has none",
    "text": "must be a readable image: '.*a.png' is not. Remove or replace it",
    "pixel": "at least 2 pixels on each side: '.*a.png' is 1x1. Remove or replace it",
}


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


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_restoration_without_photographs(kind, tiny, tmp_path, capsys):
    line = refused(capsys, "restore", bad(tmp_path, kind), "--out", tmp_path / "out", "--model", tiny)
    assert re.search(MESSAGES[kind], line) and not (tmp_path / "out").exists()


def test_bad_photographs_fail_alone(photos, tiny, tmp_path, capsys):
    """A line on stderr for each, code 1 and a summary; the same command again skips what is finished."""
    (photos / "text.png").write_text("not an image")
    Image.new("RGB", (15, 40)).save(photos / "small.png")
    command = ["restore", str(photos), "--out", str(tmp_path / "out"), "--model", str(tiny), "--scale", "1"]
    for summary in ("2 restored, 2 failed", "0 restored, 2 skipped, 2 failed"):
        assert main(command) == 1
        out, err = capsys.readouterr()
        assert re.fullmatch(rf"{summary} in \d+\.\d s: {tmp_path / 'out'}", out.splitlines()[-1])
        small, text = err.splitlines()
        assert re.match("omgsr restore: A photograph must measure at least 16 pixels .*small.png' is 15x40", small)
        assert re.match("omgsr restore: A photograph must be a readable image: .*text.png' is not", text)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["a.png", "b.png"]


def test_options_of_a_restoration(photos, tiny, tmp_path, capsys):
    options = (
        "--scale 1.5 --tile 64 --overlap 16 --window cosine --planner smallest --tile-batch 2 --batch-size 2 --seed 3"
    )
    options += " --format jpeg --quality 80 --max-pixels 19200 --precision no --colour-fix wavelet"
    command = ["restore", str(photos), "--out", str(tmp_path / "out"), "--model", str(tiny), *options.split()]
    assert main(command) == 0
    out, err = capsys.readouterr()
    loading, *files, total = out.splitlines()
    assert loading == f"loading {tiny}" and err == "" and re.fullmatch(r"2 restored in \d+\.\d s: .*/out", total)
    for line, name in zip(files, ("a.png", "b.jpg"), strict=True):
        assert re.fullmatch(rf"{photos / name}: 160x120 -> 240x180, timestep 273, \d+\.\d s", line)
    model = OMGSR.from_pretrained(tiny).merge()
    chosen = dict(tile=64, overlap=16, window="cosine", planner="smallest", seed=3, colour_fix="wavelet")
    expected = restore(model, Image.open(photos / "a.png"), scale=1.5, progress=False, **chosen).images[0]
    expected.save(tmp_path / "expected.jpg", quality=80, subsampling=0)
    with Image.open(tmp_path / "out" / "a.jpg") as found, Image.open(tmp_path / "expected.jpg") as wanted:
        assert found.size == (240, 180) and np.abs(np.asarray(found, int) - np.asarray(wanted, int)).mean() < 0.5
    assert main([*command, "--max-pixels", "19199", "--force"]) == 1
    assert capsys.readouterr().err.count("must not have more pixels than the limit") == 2
    assert main([*command, "--tile", "auto", "--vae-mode", "exact", "--force"]) == 0


def test_bad_photographs_are_found_before_the_model_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(OMGSR, "from_pretrained", None)
    assert "photo folder must exist" in refused(capsys, "restore", tmp_path / "none", "--out", tmp_path / "o")


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


def test_reproduce_refuses_unknown_presets_and_steps(capsys):
    assert "preset must be one of smoke, mini" in refused(capsys, "reproduce", "--preset", "huge")
    assert "a step must be one of 00_start_here" in refused(capsys, "reproduce", "--only", "99_none")


def test_a_failing_notebook_is_one_line_and_code_1(capsys, monkeypatch):
    from omgsr_lib.study import reproduce

    def fail(*_, **__):
        raise NotebookFailed("01_latent_gap failed at In [3]: NameError: x. See file")

    monkeypatch.setattr(reproduce, "reproduce", fail)
    assert main(["reproduce"]) == 1
    assert capsys.readouterr().err == "omgsr reproduce: 01_latent_gap failed at In [3]: NameError: x. See file\n"


def test_a_photograph_of_100_megapixels_is_no_bomb(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89)  # instead of 89 million: Pillow warns above it
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        _show_warnings("restore")
        Picture.open(tmp_path / "a.png")
    assert capsys.readouterr().err == ""


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


def test_an_interruption_is_one_line_and_code_130(photos, tiny, tmp_path, capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Restorer, "__call__", interrupt)
    code = main(["restore", str(photos), "--model", str(tiny), "--out", str(tmp_path / "out"), "--scale", "1"])
    assert (code, capsys.readouterr().err) == (130, "omgsr restore: interrupted.\n")


def test_an_output_that_cannot_be_written(photos, tiny, tmp_path, capsys):
    """A file stands where a folder is needed: refused by the system for root too."""
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        line = refused(capsys, "restore", photos, "--out", out, "--model", tiny)
        assert "choose a folder that can be written" in line
        line = refused(capsys, "train", "--photos", photos, "--out", out, "--preset", "smoke", "--variant", "s")
        assert "choose a folder that can be written" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_restore_end_to_end(photos, tiny, tmp_path):
    """As a user runs it: a process of its own, PNG files that equal the library's result, nothing on stderr."""
    options = f"restore {photos} --out {tmp_path / 'out'} --model {tiny} --scale 2 --precision no".split()
    command = [sys.executable, "-m", "omgsr_lib.cli", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 4
    assert "Traceback" not in done.stderr and "restore:" not in done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".omgsr.jsonl", "a.png", "b.png"]
    model = OMGSR.from_pretrained(tiny).merge()
    expected = restore(model, Image.open(photos / "a.png"), scale=2, progress=False).images[0]
    found = np.asarray(Image.open(tmp_path / "out" / "a.png"), dtype=int)
    assert found.shape == (240, 320, 3) and np.abs(found - np.asarray(expected, dtype=int)).max() <= 1


def test_train_writes_adapters_that_restore_takes(photos, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = f"--photos {photos} --preset smoke --variant f --out {run} --batch-size 1".split()
    assert main(["train", *arguments]) == 0
    assert sorted(p.name for p in run.iterdir()) == ["log.jsonl", "smoke-f", "state.pt"]
    assert main(["train", *arguments]) == 0  # nothing left to do
    model = OMGSR.from_base("tiny", "flow", 244).load_adapter(run / "smoke-f")
    assert model.ranks == (8, 16)
    capsys.readouterr()
    assert "seed = 0, got 1" in refused(capsys, "train", *arguments, "--seed", "1")
    with alone(run):
        assert "One run at a time" in refused(capsys, "train", *arguments)


def test_a_manifest_trains_and_finds_a_changed_file(photos, tmp_path, capsys):
    file = tmp_path / "lists" / "photos.csv"
    assert main(["manifest", str(photos), "--first", "1", "--out", str(file)]) == 0
    assert capsys.readouterr().out == f"1 photographs: {file}\n"
    assert [path.resolve() for path in find_photos(file)] == [photos / "a.png"]
    assert main(["manifest", str(file), "--verify"]) == 0
    assert capsys.readouterr().out == "1 photographs are as they were listed\n"
    (photos / "a.png").write_bytes(b"other")
    assert "a.png" in refused(capsys, "manifest", file, "--verify")
    assert "got neither" in refused(capsys, "manifest", file)
    assert "must exist" in refused(capsys, "manifest", tmp_path / "none", "--out", file)
    assert len(find_photos(file)) == 1


def test_a_dry_run_needs_nothing_and_counts_what_is_trained(capsys):
    assert main(["train", "--preset", "smoke", "--variant", "f", "--dry-run", "--learning-rate", "0.125"]) == 0
    out = capsys.readouterr().out
    assert "learning_rate    0.125" in out and "Estimated peak memory per GPU" in out
    model = OMGSR.from_base("tiny", "flow", 244).add_adapters(8, 16)
    adapters = sum(p.numel() for p in model.trainable_parameters().values())
    heads = next(int(line.split()[4].replace(",", "")) for line in out.splitlines() if "discriminator for D" in line)
    total = next(int(line.split()[1].replace(",", "")) for line in out.splitlines() if line.startswith("  sum"))
    assert total == adapters + heads and heads > 0


def test_a_training_needs_photographs_and_a_folder(photos, capsys):
    line = refused(capsys, "train", "--preset", "smoke", "--variant", "s", "--photos", photos)
    assert line == "omgsr train: A training needs --out: got none. Without it only --dry-run is possible.\n"
    line = refused(capsys, "train", "--preset", "release", "--variant", "s", "--resolution", "1024")
    assert "'release' 's-1024'" in line


def test_midstep_names_a_size_that_the_autoencoder_does_not_take(photos, capsys):
    line = refused(capsys, "midstep", "--photos", photos, "--size", 50)
    assert "must measure a multiple of 4 pixels: 'a' is 50x50" in line


def test_names_that_the_terminal_does_not_know_end_no_run(photos, tiny, tmp_path, monkeypatch):
    (photos / "a.png").rename(photos / "Jörg ☃.png")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["restore", str(photos), "--model", str(tiny), "--out", str(tmp_path / "out"), "--scale", "1"]) == 0
    terminal.flush()
    assert b"J\\xf6rg \\u2603.png" in terminal.buffer.getvalue()


def test_midstep_prints_the_timestep(photos, capsys):
    assert main(["midstep", "--photos", str(photos), "--vae", "tiny", "--size", "64"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("mid-timestep ") and out.endswith("2 images)\n")


def test_evaluate_prints_means_and_writes_every_value(photos, tmp_path, capsys):
    out = tmp_path / "scores.csv"
    assert main(["evaluate", str(photos), str(photos), "--metrics", "psnr_y", "gmsd", "--out", str(out)]) == 0
    frame = pd.read_csv(out)
    assert sorted(frame.metric.unique()) == ["gmsd", "psnr_y"] and len(frame) == 4
    assert frame[frame.metric == "gmsd"].value.max() == 0
    assert "psnr_y" in capsys.readouterr().out


def test_evaluate_goes_on_from_its_cache_and_needs_no_reference(photos, tmp_path, capsys, monkeypatch):
    command = ["evaluate", str(photos), "--metrics", "checkerboard", "--cache", str(tmp_path / "cache")]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["a.json", "b.json"]
    monkeypatch.setattr("omgsr_lib.metrics.evaluate._score", lambda *arguments: 1 / 0)  # nothing is measured again
    assert main(command) == 0 and capsys.readouterr().out == first
    assert "needs reference images" in refused(capsys, "evaluate", photos)


def test_evaluate_refuses(photos, tmp_path, capsys):
    assert "A metric must be one of" in refused(capsys, "evaluate", photos, photos, "--metrics", "beauty")
    assert "A photo folder must exist" in refused(capsys, "evaluate", photos, tmp_path / "none")


def test_evaluate_writes_the_table_of_conventions(photos, tmp_path):
    table = tmp_path / "conventions.csv"
    assert main(["evaluate", str(photos), str(photos), "--conventions", str(table)]) == 0
    assert set(pd.read_csv(table).measure) == {"PSNR", "SSIM"}


def test_explore_writes_a_page(tiny, photos, tmp_path, capsys):
    page = tmp_path / "new" / "out.html"
    options = f"--photos {photos} --model {tiny} --first 1 --strengths mild --size 32 --steps 2".split()
    assert main(["explore", "--html", str(page), *options]) == 0
    assert re.fullmatch(rf"{re.escape(str(page))}: 0\.\d MB\n", capsys.readouterr().out)
    text = page.read_text()
    assert text.count('"photo":"a","strength":"mild"') == text.count('"strength":') == 1
    assert '"timesteps":[0,273,999]' in text
    assert "an .html file: got 'out.htm'" in refused(capsys, "explore", "--html", tmp_path / "out.htm")
    assert "A strength must be" in refused(capsys, "explore", "--html", page, "--strengths", "strong")
