"""Run one notebook strictly with papermill.

Papermill alone accepts an unknown parameter, keeps paths, timings and widget state in the copy it writes, takes
whatever kernel the user has installed and has no time limit. Here parameters are checked first, this very interpreter
runs the cells, and the executed copy carries outputs only, of which images are links to the files that hold them.
"""

import ast
import base64
import hashlib
import json
import os
import re
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from ..utils.files import atomic_write, sha256


WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
IMAGES = {".png": "image/png", ".jpg": "image/jpeg"}
KERNEL_ENVIRONMENT = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYTHONHASHSEED": "0",
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore:Mismatch dtype between input and weight:UserWarning",  # torch, of FLUX under autocast
}


class NotebookFailed(RuntimeError):
    """A cell raised, ran out of time or killed its kernel; the message is one line with cell, error and file."""


def declared_parameters(notebook):
    """Names and default values of the cell tagged `parameters`.

    Raises:
        FileNotFoundError: there is no such notebook.
        ValueError: no such cell, or a default that is not a literal.
    """
    import papermill

    if not Path(notebook).is_file():
        raise FileNotFoundError(f"no notebook {notebook}: run from a complete clone of the project")
    declared = {name: found["default"] for name, found in papermill.inspect_notebook(str(notebook)).items()}
    if not declared:
        raise ValueError(f"{notebook} declares no parameters: tag one cell `parameters` and assign literals in it")
    try:
        return {name: ast.literal_eval(default) for name, default in declared.items()}
    except (ValueError, SyntaxError) as err:
        raise ValueError(f"parameters of {notebook} must be plain literals, got {declared}") from err


def check_type(name, value, default):
    """Raise `ValueError` unless `value` may replace the literal `default`.

    The type is that of the default; an integer may stand for a float, and where the default is None a string or None.
    """
    allowed = (str, type(None)) if default is None else (int, float) if type(default) is float else (type(default),)
    if type(value) not in allowed:
        expected = " or ".join(kind.__name__ for kind in allowed)
        raise ValueError(f"parameter {name} must be {expected} (default {default!r}), got {value!r}")


def run_notebook(source, target, parameters, *, root, outputs, cell_timeout=None):
    """Execute `source` with `root` as working folder and write the cleaned copy to `target`, whole or not at all.

    Args:
        parameters: names and values, checked before (`declared_parameters`, `check_type`).
        outputs: folder that the notebook writes to; images in the copy become links to its files (`link_images`).
        cell_timeout: seconds that one cell may take; None for no limit.

    Raises:
        NotebookFailed: a cell failed. What ran is kept beside `target` as `<name>.failed.ipynb`.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError

    failed = target.with_name(f"{target.stem}.failed.ipynb")
    with tempfile.TemporaryDirectory() as scratch, _this_interpreter(Path(scratch)):
        executed = Path(scratch, "executed.ipynb")
        try:
            papermill.execute_notebook(
                str(source),
                str(executed),
                parameters,
                kernel_name="python3",
                language="python",
                cwd=str(root),
                progress_bar=False,
                execution_timeout=cell_timeout,
            )
        except (papermill.PapermillExecutionError, TimeoutError, DeadKernelError) as err:
            notebook = nbformat.read(executed, as_version=4)
            cell = _cells_started(notebook)
            _write_notebook(link_images(clean(notebook, root), outputs, failed.parent), failed)
            raise NotebookFailed(
                f"{target.stem} failed at In [{cell}]: {_reason(err)}. See {os.path.relpath(failed)}"
            ) from err
        notebook = clean(nbformat.read(executed, as_version=4), root)
        _write_notebook(link_images(notebook, outputs, target.parent), target)
    failed.unlink(missing_ok=True)


def clean(notebook, root):
    """Strip what differs between machines and runs: widget state and views, papermill's metadata, timings, folders."""
    for key in ("widgets", "papermill"):
        notebook.metadata.pop(key, None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
        if cell.cell_type == "code":
            kept = [output for output in cell.outputs if WIDGET_VIEW not in output.get("data", {})]
            cell.outputs = [_without_folders(output, root) for output in kept]
    return notebook


def link_images(notebook, outputs, folder):
    """Replace each image that a file below `outputs` holds byte for byte by a Markdown link to it from `folder`.

    GitHub and JupyterLab show the file in its place. An image that no file holds stays embedded.
    """
    files = {sha256(file): file for file in sorted(Path(outputs).rglob("*")) if file.suffix in IMAGES}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for kind in set(output.get("data", {})) & set(IMAGES.values()):
                digest = hashlib.sha256(base64.b64decode(output.data[kind])).hexdigest()
                if digest in files:
                    link = Path(os.path.relpath(files[digest], folder)).as_posix()
                    output.data = {"text/markdown": f"![{files[digest].stem}]({link})", "text/plain": link}
                    output.metadata = {}
                    break
    return notebook


def _without_folders(value, root):
    """Name files relative to `root` or `<python>` in every text of an output; images and data stay as they are."""
    if isinstance(value, dict):
        binary = ("image/", "application/")
        return type(value)(
            (key, item if key.startswith(binary) else _without_folders(item, root)) for key, item in value.items()
        )
    if isinstance(value, list):
        return [_without_folders(item, root) for item in value]
    if not isinstance(value, str):
        return value
    value = re.sub(r"/[^\s:]*/ipykernel_\d+/\d+\.py", "<cell>", value)
    for folder, shown in ((root, ""), (sys.prefix, "<python>/"), (sys.base_prefix, "<python>/")):
        value = re.sub(rf"(?<![\w./-]){re.escape(str(folder))}/", shown, value)
    return value


@contextmanager
def _this_interpreter(scratch):
    """Let the kernel `python3` mean this interpreter, whatever kernels and IPython profiles the user has."""
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"],
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "env": {**KERNEL_ENVIRONMENT, "IPYTHONDIR": str(scratch / "ipython")},
    }
    folder = scratch / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec))
    before = os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = str(scratch)
    try:
        yield
    finally:
        if before is None:
            del os.environ["JUPYTER_PATH"]
        else:
            os.environ["JUPYTER_PATH"] = before


def _cells_started(notebook):
    """How many code cells papermill had started: the number of the last one as JupyterLab shows it."""
    states = [
        cell.metadata.papermill.get("status") for cell in notebook.cells if cell.cell_type == "code" and cell.source
    ]
    return sum(state != "pending" for state in states)


def _reason(err):
    """One line: the cell's own error, or what ended its kernel."""
    text = f"{err.ename}: {err.evalue}" if hasattr(err, "ename") else f"{type(err).__name__}: {err}"
    return text.strip().splitlines()[0].rstrip(".")


def _write_notebook(notebook, path):
    import nbformat

    with atomic_write(path) as part:
        nbformat.write(notebook, part)
