"""The set-up files agree with each other, and `make` builds `.venv` when it is missing, stale or half-made."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {extra: [Requirement(line) for line in lines] for extra, lines in PROJECT["optional-dependencies"].items()}
PIN = re.compile(r"([A-Za-z0-9_.-]+)==([0-9][0-9A-Za-z.]*)")

# Stands for python3: runs checks as version $VERSION, and "installs" by writing down what pip and the tools are given.
FAKE_PYTHON = f"""#!/bin/sh
if [ "$1" = -c ]; then exec {sys.executable} -c "import sys; sys.version_info = ${{VERSION:-(3, 11, 0)}}; $2"; fi
mkdir -p .venv/bin
for tool in pip python omgsr pytest ruff lint-imports playwright; do
    printf '#!/bin/sh\\necho %s "$@" >> log\\n[ ! -e broken ]\\n' $tool > .venv/bin/$tool
    chmod +x .venv/bin/$tool
done
"""
PAGES = "-m omgsr_lib.integrations.pages"
INSTALL = [
    "pip install -q -c constraints.txt torch torchvision",
    "pip install -q -c constraints.txt -e .[dev]",
]


def constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(PIN.fullmatch(line) for line in lines)
    assert lines == sorted(lines, key=lambda line: line.split("==")[0].lower())
    return {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}


def test_every_requirement_is_pinned_inside_its_range():
    pins = constraints()
    for requirement in DIRECT + sum(EXTRAS.values(), []):
        pin = pins[canonicalize_name(requirement.name)]
        assert pin in requirement.specifier, requirement
        assert pin.local is None


def test_requirements_of_requirements_are_pinned():
    """Followed through the installed packages; torch pins its own CUDA packages, of the build that is installed."""
    pins = constraints()
    seen = set()
    waiting = DIRECT + EXTRAS["dev"]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        wanted = {""} | requirement.extras
        if (name, frozenset(wanted)) in seen:
            continue
        seen.add((name, frozenset(wanted)))
        assert name in pins, f"{name} is missing in constraints.txt"
        try:
            lines = requires(name) or [] if name != "torch" else []
        except PackageNotFoundError:
            pytest.fail(f"{name} is not installed")
        children = map(Requirement, lines)
        waiting += [c for c in children if c.marker is None or any(c.marker.evaluate({"extra": e}) for e in wanted)]


def test_torch_and_torchvision_are_a_pair():
    pins = constraints()
    assert (str(pins["torch"]), str(pins["torchvision"])) == ("2.13.0", "0.28.0")
    assert pins["setuptools"] < Version("81")


def test_pyiqa_stays_optional():
    assert "pyiqa" not in {requirement.name for requirement in DIRECT + EXTRAS["dev"]}
    assert {requirement.name for requirement in EXTRAS["metrics"]} == {"pyiqa", "setuptools"}


def test_conda_brings_python_and_pip_and_the_rest_equals_the_constraints():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, through_pip = environment["dependencies"]
    assert conda == ["python=3.11", "pip"]
    assert through_pip == {"pip": ["-c constraints.txt", "-e .[dev]"]}
    assert conda[0].split("=")[1] in Requirement(f"python{PROJECT['requires-python']}").specifier


def test_licences_are_stated():
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")
    assert PROJECT["license"] == "Apache-2.0"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    assert citation["version"] == PROJECT["version"]
    assert citation["references"][0]["identifiers"] == [{"type": "other", "value": "arXiv:2508.08227"}]
    third_party = (ROOT / "THIRD_PARTY.md").read_text()
    missing = [
        r.name for r in DIRECT + sum(EXTRAS.values(), []) if r.name not in third_party and r.name != "setuptools"
    ]
    assert missing == []


def test_photographs_behind_the_weights_are_named_and_counted():
    names = pd.read_csv(ROOT / "omgsr_lib" / "weights" / "photographs.csv")
    assert names["file"].is_unique and not names.isna().any(axis=None)
    assert not names["licence"].str.contains("research", case=False).any()
    text = (ROOT / "THIRD_PARTY.md").read_text().split("## Photographs behind the shipped weights")[1]
    table = text.split("## ")[0]
    assert sum(map(int, re.findall(r"\| (\d+) \|", table))) == len(names)
    assert table.split()[0] == f"{len(names):,}"
    cards = (ROOT / "omgsr_lib" / "weights").glob("mini-*/README.md")
    assert {int(*re.findall(r"\| photographs \| (\d+), freely", card.read_text())) for card in cards} == {len(names)}


def test_ci_sets_up_and_tests():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().splitlines()[-1] == "make test"
    subprocess.run(["bash", "-n", script], check=True)


@pytest.fixture
def clone(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "python").write_text(FAKE_PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def make(clone, *arguments, **environment):
    (clone / "log").write_text("")
    command = ["make", "-C", clone, "PYTHON=./python", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"} | environment)
    return result, (clone / "log").read_text().splitlines()


def test_make_sets_up_once_and_again_when_stale(clone):
    assert make(clone, "reproduce")[1] == [*INSTALL, "omgsr reproduce --preset mini"]
    assert make(clone, "reproduce", "PRESET=smoke", "PHOTOS=my photos")[1] == [
        "omgsr reproduce --preset smoke --photos my photos"
    ]
    stamp = (clone / ".venv" / ".ready").stat().st_mtime
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(clone / name, (stamp + 10, stamp + 10))
        assert make(clone, "lint")[1][:2] == INSTALL
        os.utime(clone / name, (stamp - 10, stamp - 10))


def test_make_takes_up_an_installation_that_stopped(clone):
    (clone / "broken").touch()
    result, log = make(clone, "test")
    assert result.returncode != 0 and log == INSTALL[:1]
    (clone / "broken").unlink()
    result, log = make(clone, "test")
    assert result.returncode == 0
    assert log == [*INSTALL, "ruff check", "ruff format --check", "lint-imports", "pytest -n 2"]


def test_make_test_browser_takes_the_systems_chromium_or_downloads_one(clone):
    make(clone, "lint")
    extra = "pip install -q -c constraints.txt -e .[browser]"
    tests = "pytest -m browser tests/browser"
    assert make(clone, "test-browser", "CHROMIUM=/x")[1] == [extra, tests]
    assert make(clone, "test-browser", "CHROMIUM=")[1] == [extra, "playwright install chromium", tests]
    (clone / ".venv" / "bin" / "playwright").write_text("#!/bin/sh\nexit 1\n")
    result, log = make(clone, "test-browser", "CHROMIUM=")
    assert result.returncode != 0 and log == [extra]
    assert "apt-get install chromium, or make test-browser CHROMIUM=path" in result.stderr


def test_make_installs_the_extras_of_demo_and_pages(clone):
    make(clone, "lint")
    assert make(clone, "demo")[1] == ["pip install -q -e .[demo]", "omgsr demo"]
    result, log = make(clone, "pages")
    assert result.returncode == 0 and log == ["pip install -q -c constraints.txt -e .[pages]", f"python {PAGES}"]


def test_make_refuses_an_old_python_in_one_line(clone):
    result, log = make(clone, "test", VERSION="(3, 9, 2)")
    assert result.returncode != 0 and log == []
    assert result.stderr.splitlines()[0] == (
        "Python 3.11 or newer is needed, ./python is 3.9: name another with make PYTHON=..."
    )


def test_make_help_names_every_target_and_variable(clone):
    out, makefile = make(clone, "help")[0].stdout, (clone / "Makefile").read_text()
    (targets,) = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.M)
    assert {line.split()[1] for line in out.splitlines() if line.startswith("  make ")} == set(targets.split())
    variables = set(re.findall(r"^([A-Z]+) \?=", makefile, flags=re.M)) - {"MINI", "CHROMIUM"}
    assert variables <= set(re.findall(r"([A-Z]+)=", out))
