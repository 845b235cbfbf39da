"""JupyterLab and Chromium for the tests of this folder; `make test-browser` brings what they need.

Screenshots and measurements go to `runs/browser`.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest


ROOT = Path(__file__).resolve().parents[2]
ARTEFACTS = ROOT / "runs" / "browser"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MINUTES = 60_000  # milliseconds, the unit of playwright


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium: the one that CHROMIUM names, the system's, or playwright's own."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        pytest.fail("Browser tests need playwright: run `make test-browser`, or pip install -e '.[browser]'.")
    system = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=system, args=arguments)
        except Error as err:
            pytest.fail(
                "Browser tests need Chromium: install it (apt-get install chromium, or playwright install --with-deps "
                f"chromium) or name one with CHROMIUM=path. {system or 'The one of playwright'} does not start: {err}"
            )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def artefacts():
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    return ARTEFACTS


@pytest.fixture(scope="module")
def page(chromium):
    """A window of 1280x900 pixels."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    window = context.new_page()
    window.set_default_timeout(2 * MINUTES)
    yield window
    context.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    server = Lab(tmp_path_factory.mktemp("lab"))
    yield server
    server.stop()


class Lab:
    """JupyterLab with fresh settings; notebooks run in it with chosen parameters, results in a folder of its own."""

    def __init__(self, folder):
        self.notebooks, self.results = folder / "notebooks", folder / "results"
        self.notebooks.mkdir()
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        settings = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
        settings.parent.mkdir(parents=True)
        settings.write_text('{"fetchNews": "false", "checkForUpdates": false}')  # no pop-up over the images
        own = {
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
            "IPYTHONDIR": "ipython",
        }
        own |= {f"JUPYTER_{name}_DIR": name.lower() for name in ("CONFIG", "DATA", "RUNTIME")}
        environment = os.environ | {name: str(folder / place) for name, place in own.items()}
        environment.pop("MPLBACKEND", None)  # of the tests: a user's notebook draws figures inline
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
        command += [f"--port={port}", "--IdentityProvider.token=T", f"--ServerApp.root_dir={self.notebooks}"]
        self.log = open(folder / "server.log", "w")
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 180
        while True:
            try:
                self.request("/api/status")
                return
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"JupyterLab does not start: see {self.log.name}")
                time.sleep(0.5)

    def request(self, path, content=None, method=None):
        data = None if content is None else json.dumps(content).encode()
        headers = {"Authorization": "token T", "Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, data=data, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            text = response.read()
        return json.loads(text) if text else None

    def run(self, page, name, **parameters):
        """Open a copy of the notebook with `parameters`, Run All, wait for its `run.json`; returns its folder."""
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
        given = {"results": os.path.relpath(self.results, ROOT)} | parameters
        lines = "\n".join(f"{key} = {value!r}" for key, value in given.items())
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(lines))
        nbformat.write(notebook, self.notebooks / f"{name}.ipynb")
        folder = self.results / parameters["preset"] / name
        (folder / "run.json").unlink(missing_ok=True)
        session = {"path": f"{name}.ipynb", "name": name, "type": "notebook", "kernel": {"name": "python3"}}
        self.request("/api/sessions", session)
        page.goto(f"{self.address}/lab/tree/{name}.ipynb?token=T&reset")
        page.wait_for_selector(".jp-Notebook")
        page.wait_for_function("() => document.body.innerText.includes('| Idle')")
        page.locator(".lm-MenuBar-item", has_text="Run").first.click()
        page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()
        deadline = time.monotonic() + 900
        while not (folder / "run.json").exists() or (folder / "run.json").read_text().strip() == "null":
            errors = page.locator('[data-mime-type="application/vnd.jupyter.error"]').all_inner_texts()
            assert not errors, errors[0]
            assert time.monotonic() < deadline, f"{name} did not finish"
            page.wait_for_timeout(500)
        return folder

    def saved(self, page, name):
        """The notebook as JupyterLab saves it, once every cell has run."""
        deadline = time.monotonic() + 120
        while True:
            page.locator(".lm-MenuBar-item", has_text="File").first.click()
            page.locator('.lm-Menu-item[data-command="docmanager:save"]').click()
            page.wait_for_timeout(1000)
            notebook = nbformat.read(self.notebooks / f"{name}.ipynb", as_version=4)
            if all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code"):
                return notebook
            assert time.monotonic() < deadline, f"{name} was not saved with its results"

    def close(self, name):
        """End the kernel of a notebook."""
        for session in self.request("/api/sessions"):
            if session["path"] == f"{name}.ipynb":
                self.request(f"/api/sessions/{session['id']}", method="DELETE")

    def kernels(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def kernel_memory(self):
        """Resident memory of all running kernels in MiB."""
        return sum(kernel.memory_info().rss for kernel in self.kernels()) / 2**20

    @contextmanager
    def kernels_asleep(self):
        """No kernel answers."""
        kernels = self.kernels()
        for kernel in kernels:
            kernel.suspend()
        try:
            yield
        finally:
            for kernel in kernels:
                kernel.resume()

    def processor_seconds(self):
        """Processor time that the server and its kernels have taken."""
        server = psutil.Process(self.process.pid)
        return sum(sum(process.cpu_times()[:2]) for process in (server, *self.kernels()))

    def stop(self):
        self.process.terminate()
        self.process.wait(60)
        self.log.close()
