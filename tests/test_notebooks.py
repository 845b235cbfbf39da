"""Rules that every source notebook keeps, checked without running it, and one run of the whole chain."""

import ast
import json
import re
from pathlib import Path

import nbformat
import papermill
import pytest
from explorer_case import FakeExplorer

from omgsr_lib.study.reproduce import STEPS, reproduce


FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
ABSOLUTE_PATH = re.compile(r"""(?<![\w.:/<])(/(home|root|tmp|work|mnt|data|usr|opt|var|Users)\b|[A-Z]:\\|~/)""")

every_notebook = pytest.mark.parametrize("name", STEPS)


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_folder_holds_exactly_the_steps():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(STEPS)


@every_notebook
def test_it_opens_with_a_title_and_runs_on_python3(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    assert notebook.metadata.kernelspec.name == "python3"


@every_notebook
def test_it_carries_nothing_of_a_run(name):
    notebook = read(name)
    assert not {"widgets", "papermill"} & set(notebook.metadata)
    for cell in notebook.cells:
        assert not {"papermill", "execution"} & set(cell.metadata)
    for cell in code_cells(notebook):
        assert cell.outputs == [] and cell.execution_count is None
    raw = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    identifiers = [cell["id"] for cell in raw["cells"]]
    assert len(set(identifiers)) == len(identifiers)


@every_notebook
def test_one_cell_of_literals_holds_the_parameters(name):
    tagged = [cell for cell in read(name).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1 and tagged[0].cell_type == "code"
    defaults = {}
    for statement in ast.parse(tagged[0].source).body:
        assert isinstance(statement, ast.Assign | ast.AnnAssign), ast.unparse(statement)
        target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
        defaults[target.id] = ast.literal_eval(statement.value)
    for line in tagged[0].source.splitlines():
        assert line.count("=") <= 1, f"papermill cannot read a second equals sign: {line}"
    seen = papermill.inspect_notebook(str(FOLDER / f"{name}.ipynb"))
    assert {key: ast.literal_eval(value["default"]) for key, value in seen.items()} == defaults
    assert {"preset", "results"} <= set(defaults)


@every_notebook
def test_it_is_thin(name):
    for cell in code_cells(read(name)):
        assert len(cell.source.splitlines()) <= 20, cell.source
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.ClassDef), cell.source
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 5, cell.source


@every_notebook
def test_it_names_no_folder_of_a_machine(name):
    for cell in read(name).cells:
        assert not ABSOLUTE_PATH.search(cell.source), cell.source


@every_notebook
def test_its_lines_are_short_and_it_ends_with_an_answer(name):
    cells = read(name).cells
    long = [line for cell in cells for line in cell.source.splitlines() if len(line) > 119]
    assert not long
    (place,) = (i for i, cell in enumerate(cells) if "## Answer" in cell.source.splitlines())
    assert cells[place].cell_type == "markdown"
    assert [cell.cell_type for cell in cells[place + 1 :]] == ["code", "code"]
    assert cells[-1].source == "run.finish()"


@pytest.mark.parametrize("strength", ["as it is", "medium"])
def test_the_explorers_answer_is_a_sentence_without_a_reference_too(strength, tmp_path):
    explorer = FakeExplorer(tmp_path)
    cache = explorer.open("square", strength)  # nothing is computed yet, as in an interactive run
    names = {"cache": cache, "explorer": explorer, "Markdown": lambda text: said.append(text)}
    said = []
    exec(code_cells(read("explore_timestep_injection"))[-2].source, names)
    assert "`square`" in said[0] and "nan" not in said[0]
    assert ("no reference" in said[0], "dB" in said[0]) == (strength == "as it is", strength == "medium")


def test_absolute_paths_are_recognised():
    for text in ['open("/home/me/a.png")', "see /tmp/x", "C:\\data", "~/photos"]:
        assert ABSOLUTE_PATH.search(text)
    for text in ["https://host/data/x", "results/mini/data", "a / data", "x/tmp", "<img src='a'/>"]:
        assert not ABSOLUTE_PATH.search(text)


@pytest.mark.notebooks
def test_the_whole_chain_runs_with_the_smoke_preset(tmp_path):
    assert reproduce("smoke", results=tmp_path, progress=False, cell_timeout=300) == list(STEPS)
    folder = tmp_path / "smoke"
    for name in STEPS:
        record = json.loads((folder / name / "run.json").read_text())
        assert record["name"] == name and record["config"]
        assert record["outputs"], f"{name} writes nothing"
        for output in record["outputs"]:
            check_parses(folder / name / output["path"])
        executed = nbformat.read(folder / "notebooks" / f"{name}.ipynb", as_version=4)
        nbformat.validate(executed)
        assert "widgets" not in executed.metadata
        outputs = [output for cell in code_cells(executed) for output in cell.outputs]
        assert outputs
        assert not [kind for output in outputs for kind in output.get("data", {}) if kind.startswith("image/")]
        for output in outputs:
            for link in re.findall(r"^!\[.*\]\((.*)\)$", output.get("data", {}).get("text/markdown", "")):
                assert (folder / "notebooks" / link).is_file(), link
        assert (folder / "notebooks" / f"{name}.ipynb").stat().st_size < 100_000
    report = [(folder / name).read_bytes() for name in ("report.md", "report.html")]
    assert reproduce("smoke", results=tmp_path, progress=False) == []
    assert report == [(folder / name).read_bytes() for name in ("report.md", "report.html")]


def check_parses(path):
    """Open a result with the reader of its kind; text, documents and weights must at least not be empty."""
    import pandas as pd
    from PIL import Image

    assert path.stat().st_size > 0
    if path.suffix == ".csv":
        assert len(pd.read_csv(path)) > 0
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix in (".png", ".jpg"):
        with Image.open(path) as image:
            image.load()
