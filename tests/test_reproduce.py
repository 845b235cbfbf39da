"""The runner on three toy notebooks: order, what runs again, what is refused, what the executed copies carry."""

import base64
import json
import os
import re

import nbformat
import pytest
from PIL import Image

from omgsr_lib.cli import main
from omgsr_lib.study import reproduce as reproduce_module
from omgsr_lib.study.papermill import NotebookFailed, check_type, clean, link_images
from omgsr_lib.study.reproduce import STEPS, run_steps


TOY_STEPS = {"00_first": (), "01_second": ("00_first",), "02_third": ("study",)}
PARAMETERS = 'preset = "mini"\nresults = "results"\nphotos = None\nsteps: int = 3  # how many\nrate = 0.5\n'
# Writes one file and the record of it, as omgsr_lib.study.run_record does, and appends its name to a trace.
BODY = """
import hashlib, json
from pathlib import Path
name = "NAME"
folder = Path(results, preset, name)
folder.mkdir(parents=True, exist_ok=True)
text = f"SOURCE {steps}"
(folder / "out.txt").write_text(text)
outputs = [{"path": "out.txt", "sha256": hashlib.sha256(text.encode()).hexdigest()}]
inputs = [{"path": "<elsewhere>/photo.png", "sha256": "0"}]
if Path("input.csv").exists():
    inputs += [{"path": "input.csv", "sha256": hashlib.sha256(Path("input.csv").read_bytes()).hexdigest()}]
(folder / "run.json").write_text(json.dumps({"inputs": inputs, "outputs": outputs}))
with open("trace.txt", "a") as trace:
    print(name, file=trace)
"""


def write_notebook(root, name, source="a", extra=""):
    body = BODY.replace("NAME", name).replace("SOURCE", source)
    cells = [
        nbformat.v4.new_markdown_cell("# Toy"),
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(body),
    ]
    cells += [nbformat.v4.new_code_cell(extra)] if extra else []
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = root / "notebooks" / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


@pytest.fixture
def project(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "omgsr_lib").mkdir()
    (tmp_path / "omgsr_lib" / "gap.py").write_text("one = 1\n")
    for name in TOY_STEPS:
        write_notebook(tmp_path, name)
    return tmp_path


def run(project, **arguments):
    return run_steps(TOY_STEPS, project, **({"preset": "mini", "results": "results", "cell_timeout": 60} | arguments))


def fast(monkeypatch):
    """Run the cells in this process: for tests of what runs when, not of how."""

    def run_cells(source, target, parameters, *, root, outputs, cell_timeout):
        code = [cell.source for cell in nbformat.read(source, as_version=4).cells if cell.cell_type == "code"]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            namespace = {}
            exec(code[0], namespace)
            namespace.update(parameters)
            for cell in code[1:]:
                exec(cell, namespace)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("executed")

    monkeypatch.setattr(reproduce_module, "run_notebook", run_cells)


def test_the_steps_run_in_order_and_leave_clean_copies(project, capsys):
    talkative = "import os, warnings\nwarnings.warn('careful')\nprint(os.path.abspath('results/x'))\n"
    widget = "import ipywidgets\ndisplay(ipywidgets.IntSlider())\nprint('shown')"
    write_notebook(project, "02_third", extra=talkative + widget)
    assert run(project, parameters={"steps": 5}) == list(TOY_STEPS)
    assert (project / "trace.txt").read_text().split() == list(TOY_STEPS)
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["[1/3]", "00_first"],
        ["[2/3]", "01_second"],
        ["[3/3]", "02_third"],
    ]
    folder = project / "results" / "mini"
    assert (folder / "00_first" / "out.txt").read_text() == "a 5"
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "notebooks", *TOY_STEPS}

    text = (folder / "notebooks" / "02_third.ipynb").read_text()
    notebook = nbformat.reads(text, as_version=4)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert {key for cell in notebook.cells for key in cell.metadata} == {"tags"}
    assert notebook.cells[2].id == "injected-parameters"
    assert notebook.cells[2].source == '# Parameters\npreset = "mini"\nresults = "results"\nsteps = 5\n'
    streams = [(output.name, output.text) for output in notebook.cells[4].outputs]
    assert "".join(printed for name, printed in streams if name == "stdout") == "results/x\nshown\n"
    assert ("stderr", "<cell>:2: UserWarning: careful\n  warnings.warn('careful')\n") in streams
    assert len(streams) == 3 and str(project) not in text

    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["preset"] == "mini" and list(manifest["steps"]) == list(TOY_STEPS)
    assert manifest["steps"]["01_second"]["outputs"].keys() == {"01_second/out.txt"}
    assert manifest["steps"]["01_second"]["records"].keys() == {"01_second/run.json", "notebooks/01_second.ipynb"}


def test_a_failing_cell_is_one_line_and_the_next_run_goes_on_there(project, capsys):
    write_notebook(project, "01_second", extra="raise ValueError('the photo\\nis broken')")
    with pytest.raises(NotebookFailed) as caught:
        run(project)
    failed = project / "results" / "mini" / "notebooks" / "01_second.failed.ipynb"
    assert str(caught.value) == f"01_second failed at In [4]: ValueError: the photo. See {os.path.relpath(failed)}"
    assert "the photo" in failed.read_text() and not failed.with_name("01_second.ipynb").exists()
    assert capsys.readouterr().out.splitlines()[-1].endswith("failed")
    write_notebook(project, "01_second", extra="import os; os._exit(1)")
    with pytest.raises(NotebookFailed, match=r"01_second failed at In \[4\]: DeadKernelError: Kernel died"):
        run(project)
    write_notebook(project, "01_second", extra="import time; time.sleep(60)")
    with pytest.raises(NotebookFailed, match=r"01_second failed at In \[4\]: .*after 1 seconds"):
        run(project, cell_timeout=1)
    write_notebook(project, "01_second")
    assert run(project, only="01_second") == ["01_second"]
    assert not failed.exists() and failed.with_name("01_second.ipynb").exists()


def test_only_what_changed_runs_again(project, monkeypatch):
    fast(monkeypatch)
    assert run(project) == list(TOY_STEPS)
    assert run(project) == []
    assert run(project, force=True, only=["02_third", "00"]) == ["00_first", "02_third"]
    assert run(project, force=True, only="01") == ["01_second"]

    write_notebook(project, "00_first", extra="# a comment that leaves the output as it was")
    assert run(project) == ["00_first"]
    write_notebook(project, "00_first", source="b")
    assert run(project) == ["00_first", "01_second"]

    (project / "results" / "mini" / "02_third" / "out.txt").write_text("edited by hand")
    assert run(project) == ["02_third"]
    (project / "results" / "mini" / "01_second" / "run.json").unlink()
    assert run(project) == ["01_second"]
    (project / "results" / "mini" / "notebooks" / "01_second.ipynb").unlink()
    assert run(project) == ["01_second"]

    (project / "input.csv").write_text("t,gap\n")
    assert run(project, only="00_first", force=True) == ["00_first"]
    (project / "input.csv").write_text("t,gap\n0,1\n")
    assert run(project) == ["00_first"]
    record = project / "results" / "mini" / "study" / "run.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"inputs": [], "outputs": [{"path": "study.csv", "sha256": "0"}]}))
    assert run(project) == ["02_third"]

    (project / "omgsr_lib" / "README.md").write_text("words")
    assert run(project) == []
    (project / "omgsr_lib" / "gap.py").write_text("one = 2\n")
    assert run(project) == list(TOY_STEPS)
    (project / "constraints.txt").write_text("torch==2.13.0\n")
    assert run(project) == list(TOY_STEPS)
    assert run(project, parameters={"rate": 1}) == list(TOY_STEPS)
    assert run(project, preset="smoke") == list(TOY_STEPS)

    (project / "photos").mkdir()
    (project / "photos" / "a.png").write_bytes(b"a")
    assert run(project, photos="photos") == list(TOY_STEPS)
    assert run(project, photos=project / "photos") == []
    (project / "photos" / "a.png").write_bytes(b"b")
    assert run(project, photos="photos") == list(TOY_STEPS)


def test_saving_a_notebook_in_an_editor_runs_nothing(project, monkeypatch):
    fast(monkeypatch)
    run(project)
    path = project / "notebooks" / "00_first.ipynb"
    notebook = json.loads(path.read_text())
    notebook["metadata"]["language_info"] = {"name": "python", "version": "3.12"}
    path.write_text(json.dumps(notebook, indent=4))
    assert run(project) == []


def test_a_killed_run_continues(project, monkeypatch):
    write_notebook(project, "01_second", extra="raise KeyboardInterrupt")
    fast(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(project)
    write_notebook(project, "01_second")
    assert run(project) == ["01_second", "02_third"]
    assert (project / "trace.txt").read_text().split() == ["00_first", "01_second", "01_second", "02_third"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"parameters": {"stpes": 4}}, ValueError, "one of photos, preset, rate, results, steps, got 'stpes'"),
        ({"parameters": {"steps": 4.0}}, ValueError, r"steps must be int \(default 3\), got 4.0"),
        ({"parameters": {"steps": True}}, ValueError, r"steps must be int \(default 3\), got True"),
        ({"parameters": {"rate": "fast"}}, ValueError, r"rate must be int or float \(default 0.5\), got 'fast'"),
        ({"parameters": {"preset": "mini"}}, ValueError, "'preset' is an argument of its own"),
        ({"preset": 3}, ValueError, r"preset must be str \(default 'mini'\), got 3"),
        ({"only": "03_fourth"}, ValueError, "one of 00_first, 01_second, 02_third .*, got '03_fourth'"),
        ({"photos": "no/such/folder"}, FileNotFoundError, "a folder of photographs, got no/such/folder"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(project, arguments, error, message):
    with pytest.raises(error, match=message):
        run(project, **arguments)
    assert not (project / "results").exists()


def test_bad_notebooks_are_refused_before_anything_is_written(project):
    path = project / "notebooks" / "02_third.ipynb"
    source = path.read_text()
    path.write_text(source.replace('"parameters"', '"other"'))
    with pytest.raises(ValueError, match="02_third.ipynb declares no parameters"):
        run(project)
    path.write_text(source.replace("rate = 0.5", "rate = steps / 2"))
    with pytest.raises(ValueError, match="must be plain literals"):
        run(project)
    path.write_text(source.replace("preset = ", "setting = ", 1))
    with pytest.raises(ValueError, match="every notebook declares 'preset' .* missing in 02_third"):
        run(project)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no notebook .*02_third.ipynb"):
        run(project)
    assert not (project / "results").exists()


def test_results_that_cannot_be_written_and_steps_out_of_order(project, monkeypatch):
    fast(monkeypatch)
    (project / "file").write_text("")
    with pytest.raises(OSError, match="cannot write .*manifest.json"):
        run(project, results="file")
    with pytest.raises(ValueError, match="01_second reads the files of 00_first, which has not run"):
        run(project, only="01_second")
    write_notebook(project, "00_first", extra="(folder / 'run.json').unlink()")
    with pytest.raises(NotebookFailed, match=r"00_first wrote no .*run.json: its last cell must call run.finish\(\)"):
        run(project)
    (project / "results" / "mini" / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="manifest.json is damaged .* delete it"):
        run(project)


def test_types_of_parameters():
    for value, default in [(1, 2), (1, 0.5), (1.5, 0.5), ("a", None), (None, None), ([1], []), (False, True)]:
        check_type("x", value, default)
    for value, default in [(True, 2), (1.0, 2), ("1", 0.5), (3, None), (None, "a"), ((1,), []), (0, True)]:
        with pytest.raises(ValueError, match="parameter x must be"):
            check_type("x", value, default)


def test_cleaning_leaves_pictures_and_foreign_paths_alone(tmp_path):
    data = {"image/png": f"{tmp_path}/AAAA", "text/plain": f"a {tmp_path}/b https://host{tmp_path}/c {tmp_path}2/d"}
    output = nbformat.v4.new_output("display_data", data=data)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[output])])
    cleaned = clean(notebook, tmp_path).cells[0].outputs[0].data
    assert cleaned == {"image/png": f"{tmp_path}/AAAA", "text/plain": f"a b https://host{tmp_path}/c {tmp_path}2/d"}


def test_images_that_files_hold_become_links_and_others_stay(tmp_path):
    (tmp_path / "01_gap" / "figures").mkdir(parents=True)
    (tmp_path / "01_gap" / "figures" / "gap.png").write_bytes(b"curve")
    (tmp_path / "01_gap" / "photo.jpg").write_bytes(b"photo")

    def output(kind, content):
        data = {kind: base64.b64encode(content).decode() + "\n", "text/plain": "<image>"}
        return nbformat.v4.new_output("display_data", data=data, metadata={kind: {"width": 3}})

    outputs = [output("image/png", b"curve"), output("image/jpeg", b"photo"), output("image/png", b"other")]
    cells = [nbformat.v4.new_markdown_cell("# a"), nbformat.v4.new_code_cell("1", outputs=outputs)]
    notebook = link_images(nbformat.v4.new_notebook(cells=cells), tmp_path / "01_gap", tmp_path / "notebooks")
    nbformat.validate(notebook)
    first, second, third = (found.data for found in notebook.cells[1].outputs)
    link = "../01_gap/figures/gap.png"
    assert first == {"text/markdown": f"![gap]({link})", "text/plain": link}
    assert second["text/markdown"] == "![photo](../01_gap/photo.jpg)"
    assert third == outputs[2].data and "image/png" in third


def test_the_last_line_names_time_folder_and_report(monkeypatch, capsys):
    monkeypatch.setattr(reproduce_module, "run_steps", lambda *arguments, **options: ["02_mid_timestep"])
    monkeypatch.setattr("omgsr_lib.report.document.write_report", lambda folder, **_: (folder / "report.md", None))
    reproduce_module.reproduce("smoke", only="02")
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"1 steps in \d+\.\d s: runs/reproduce/smoke, report runs/reproduce/smoke/report\.md", line)
    with pytest.raises(ValueError, match="preset 'latents' has notebooks for 01_latent_gap, 02_mid_timestep only"):
        reproduce_module.reproduce("latents", only=["01", "03"])


def test_committed_results_stay_and_are_compared_with(monkeypatch, tmp_path, capsys):
    """What long runs left is read from a copy, made anew where its record changed; the user's own runs stay."""
    committed, own = tmp_path / "results" / "smoke", tmp_path / "runs" / "reproduce" / "smoke"
    for table in ("02_mid_timestep/midstep.csv", "study/study.csv"):
        (committed / table).parent.mkdir(parents=True)
        (committed / table).write_text("timestep,low,high\n300,290,310\n")
    (committed / "study" / "run.json").write_text("{}")

    def run_steps(*arguments, **options):
        (own / "02_mid_timestep").mkdir(parents=True, exist_ok=True)
        (own / "02_mid_timestep" / "midstep.csv").write_text("timestep,low,high\n305,0,0\n")
        return ["02_mid_timestep"]

    monkeypatch.setattr(reproduce_module, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(reproduce_module, "run_steps", run_steps)
    monkeypatch.setattr("omgsr_lib.report.document.write_report", lambda folder, **_: (folder / "report.md", None))
    before = (committed / "02_mid_timestep" / "midstep.csv").read_bytes()
    reproduce_module.reproduce("smoke")
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 1 numbers agree"
    assert (committed / "02_mid_timestep" / "midstep.csv").read_bytes() == before
    assert (own / "study" / "study.csv").is_file()
    (committed / "study" / "study.csv").write_text("new")
    (committed / "study" / "run.json").write_text("[]")
    reproduce_module.reproduce("smoke")
    assert (own / "study" / "study.csv").read_text() == "new"
    (own / "study" / ".copied").unlink()
    (own / "study" / "run.json").unlink()
    (own / "study" / "study.csv").write_text("the user's, not finished yet")
    reproduce_module.reproduce("smoke")
    assert [path.name for path in (own / "study").iterdir()] == ["study.csv"]
    assert (own / "study" / "study.csv").read_text() == "the user's, not finished yet"


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="one of smoke, mini, latents, paper, first-release, release, got 'tiny'"):
        reproduce_module.reproduce("tiny")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, "photo folder must exist"),
        ({}, FileNotFoundError, "at least one image"),
        ({"a.png": "text"}, ValueError, "readable image: '.*a.png' is not"),
        ({"a.png": (8, 8), "b.png": (1, 1)}, ValueError, "at least 2 pixels on each side: '.*b.png' is 1x1"),
    ],
)
def test_photographs_are_opened_before_anything_runs(tmp_path, monkeypatch, content, error, message):
    monkeypatch.setattr(reproduce_module, "run_steps", lambda *arguments, **options: pytest.fail("a step ran"))
    folder = tmp_path / "photos"
    if content is not None:
        folder.mkdir()
    for name, what in (content or {}).items():
        if isinstance(what, str):
            (folder / name).write_text(what)
        else:
            Image.new("RGB", what).save(folder / name)
    with pytest.raises(error, match=message):
        reproduce_module.reproduce("smoke", photos=folder)


def test_every_step_follows_those_whose_files_it_reads():
    names = ["study", "adaptive", "benchmarks/RealSR", "benchmarks/RealSet65", *STEPS]
    assert all(names.index(earlier) < names.index(name) for name in STEPS for earlier in STEPS[name])


def test_the_command_reports_a_failing_notebook_in_one_line(monkeypatch, capsys):
    def fail(*arguments, **options):
        raise NotebookFailed("05_restore failed at In [4]: ValueError: no photographs. See 05_restore.failed.ipynb")

    monkeypatch.setattr(reproduce_module, "reproduce", fail)
    assert main(["reproduce"]) != 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "05_restore failed at In [4]" in error
