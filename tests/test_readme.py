"""What the README says is in the repository: files of its map, commands, and the results table of this very commit."""

import re
from pathlib import Path

import pytest

from omgsr_lib.cli import build_parser
from omgsr_lib.presets import MODELS


ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def named_files():
    """Paths in code spans and links, with `{a,b}` spelled out."""
    spans = [span for span in re.findall(r"`(results/[^`\s]+)`|\]\((?!http)([^)#]+)\)", README)]
    names = {name for span in spans for name in span if name}
    for name in sorted(names):
        yield from choices(name)


def choices(name):
    found = re.search(r"\{([^}]*)\}", name)
    if not found:
        return [name]
    return [c for part in found[1].split(",") for c in choices(name[: found.start()] + part + name[found.end() :])]


@pytest.mark.parametrize("name", sorted(set(named_files())))
def test_every_named_file_exists(name):
    assert (ROOT / name).exists()


def test_the_results_table_is_that_of_this_commit():
    table = (ROOT / "results/mini/07_tables_and_figures/tables/evaluation.md").read_text(encoding="utf-8")
    assert table in README


def test_commands_and_models_exist():
    commands = build_parser()._subparsers._group_actions[0].choices
    for command in re.findall(r"omgsr ([a-z]+) ", README):
        assert command in commands
    for model in re.findall(r'from_pretrained\("([^"]+)"', README):
        assert model in MODELS
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.M)
    for target in re.findall(r"make ([a-z-]+)", README):
        assert target in targets
