"""`make reproduce`: every notebook in order, only those whose ingredients changed, resumable at each step."""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

from ..presets import PRESETS
from ..utils.files import atomic_folder, sha256, write_json
from .papermill import NotebookFailed, check_type, declared_parameters, run_notebook
from .run_record import ELSEWHERE, PROJECT_ROOT, versions


# Each step and those whose files it reads, in the order of running; `study`, `adaptive` and `benchmarks` are what
# `make study`, `omgsr adaptive` and `omgsr benchmark` left, if they were run.
STEPS = {
    "00_start_here": (),
    "01_latent_gap": (),
    "02_mid_timestep": (),
    "03_train_omgsr_s": ("02_mid_timestep",),
    "04_train_omgsr_f": ("02_mid_timestep",),
    "05_restore": (),
    "06_evaluate": ("02_mid_timestep", "03_train_omgsr_s", "04_train_omgsr_f"),
    "06b_ablation": ("study",),
    "07_tables_and_figures": ("06_evaluate", "06b_ablation", "benchmarks/RealSR"),
    "08_adaptive_timestep": ("adaptive",),
    "explore_timestep_injection": (),
}

COMMITTED = "results"  # of this repository; a reproduction leaves them as they are
INPUTS = ("study", "adaptive", "benchmarks")  # what long runs left there and notebooks read
COPY = ".copied"  # marks a folder of them that was copied from the committed results
NOT_CHECKED = (*INPUTS, "claims.csv")  # the claims are made from the other tables

LATENT_STEPS = ("01_latent_gap", "02_mid_timestep")  # what needs an autoencoder alone, no prior
TRAINING_STEPS = ("03_train_omgsr_s", "04_train_omgsr_f")


def reproduce(
    preset="mini",
    *,
    results="runs/reproduce",
    photos=None,
    only=None,
    parameters=None,
    force=False,
    progress=True,
    cell_timeout=3600,
):
    """Run the study's notebooks, write `report.md` and `report.html`, and return the names of those that ran.

    A step is skipped when its fingerprint (notebook, parameters, library, shipped weights, pinned versions,
    photographs, files of the steps it reads) is the one in `<results>/<preset>/manifest.json`, and the files that its
    notebook recorded as read and written are unchanged. The manifest is written after each step, so a run that was
    stopped resumes where it was.

    Args:
        preset: given to every notebook, and the folder of the results.
        results: folder of all results; "results" replaces the committed ones. What notebooks read of long runs
            (`INPUTS`) is copied from there, unless the folder has a run of the user's own. Relative paths are taken
            from the project root.
        photos: folder of the user's own photographs for the notebooks that declare `photos`.
        only: steps to consider, names or prefixes such as "02"; by default all for `smoke` and `mini`, else
            `LATENT_STEPS`
            (`paper` and `release` know `TRAINING_STEPS` too, which show a training that `omgsr train` runs).
        parameters: further values by name, each given to the notebooks that declare it.
        force: run the steps even where nothing changed.
        progress: print one line per step, in the end the total time, the folder and the report, and how many numbers
            agree with the committed ones (`check_results`) if all steps and the dependencies' photographs were taken.
        cell_timeout: seconds that one cell may take; None for no limit.

    Raises:
        ValueError: unknown preset, step or parameter, a wrong type, or a file in `photos` that is no image, before
            anything runs.
        FileNotFoundError: no such notebook or photo folder, or an empty one, before anything runs.
        OSError: the results cannot be written.
        NotebookFailed: a cell failed; the steps before it are kept.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    began = time.monotonic()
    if preset not in ("smoke", "mini"):
        only = LATENT_STEPS if only is None else _selected(STEPS, only)
        possible = LATENT_STEPS if preset == "latents" else (*LATENT_STEPS, *TRAINING_STEPS)
        if not set(only) <= set(possible):
            raise ValueError(f"preset {preset!r} has notebooks for {', '.join(possible)} only: train with omgsr train")
    if photos is not None:
        from ..data.photos import find_photos, open_photo

        for path in find_photos(PROJECT_ROOT / photos):
            open_photo(path)
    own, committed = PROJECT_ROOT / results / preset, PROJECT_ROOT / COMMITTED / preset
    if own != committed:
        _copy_inputs(committed, own)
    ran = run_steps(
        STEPS,
        PROJECT_ROOT,
        preset=preset,
        results=results,
        photos=photos,
        only=only,
        parameters=parameters,
        force=force,
        progress=progress,
        cell_timeout=cell_timeout,
    )
    from ..report.document import write_report

    report, _ = write_report(own)
    if progress:
        folder = Path(results, preset)
        print(f"{len(ran)} steps in {time.monotonic() - began:.1f} s: {folder}, report {folder / report.name}")
        if own != committed and committed.is_dir() and only is None and photos is None:
            from .check import check_results

            print(check_results(own, committed, leave_out=NOT_CHECKED))
    return ran


def _copy_inputs(committed, own):
    """Copy `INPUTS`, without what a study needs to resume, where there is none or a former copy of another record.

    A folder without the mark of a copy is the user's own and stays.
    """
    for name in INPUTS:
        for record in committed.glob(f"{name}/**/run.json"):
            source = record.parent
            target = own / source.relative_to(committed)
            if target.is_dir():
                same = (target / record.name).is_file() and sha256(target / record.name) == sha256(record)
                if same or not (target / COPY).is_file():
                    continue
                shutil.rmtree(target)
            with atomic_folder(target) as part:
                ignored = shutil.ignore_patterns("runs", "trainings")
                shutil.copytree(source, part, ignore=ignored, dirs_exist_ok=True)
                (part / COPY).touch()


def run_steps(
    steps,
    root,
    *,
    preset,
    results,
    photos=None,
    only=None,
    parameters=None,
    force=False,
    progress=True,
    cell_timeout=None,
):
    """`reproduce` for any table of steps and any project folder `root` (notebooks in `root/notebooks`)."""
    root = Path(root).resolve()
    names = _selected(steps, only)
    given = _parameters_by_step(names, root, preset, results, photos, parameters or {})
    folder = root / results / preset
    manifest = _read_manifest(folder / "manifest.json", preset)
    write_json(folder / "manifest.json", manifest)
    done = manifest["steps"]
    library = _library_hashes(root)

    ran = []
    for position, name in enumerate(names, start=1):
        if progress:
            print(f"[{position}/{len(names)}] {name:28}", end="", flush=True)
        notebook = root / "notebooks" / f"{name}.ipynb"
        upstream = {earlier: _outputs_of(earlier, name, steps, done, folder) for earlier in steps[name]}
        own_photos = _folder_hashes(root / given[name]["photos"]) if given[name].get("photos") else {}
        fingerprint = _digest([_cells(notebook), given[name], library, upstream, own_photos])
        if not force and _unchanged(done.get(name), fingerprint, folder, root):
            if progress:
                print(" unchanged")
            continue
        started = time.monotonic()
        record = folder / name / "run.json"
        record.unlink(missing_ok=True)
        executed = folder / "notebooks" / notebook.name
        try:
            run_notebook(notebook, executed, given[name], root=root, outputs=folder / name, cell_timeout=cell_timeout)
            inputs, outputs = _recorded_files(record)
        except NotebookFailed:
            if progress:
                print(" failed")
            raise
        done[name] = {
            "fingerprint": fingerprint,
            "seconds": round(time.monotonic() - started, 1),
            "inputs": inputs,
            "outputs": {f"{name}/{path}": digest for path, digest in outputs.items()},
            "records": {file.relative_to(folder).as_posix(): sha256(file) for file in (record, executed)},
            "versions": versions(),
        }
        write_json(folder / "manifest.json", manifest)
        ran.append(name)
        if progress:
            print(f" {done[name]['seconds']:8.1f} s")
    return ran


def _selected(steps, only):
    """The steps, in order, whose names begin with one of `only`."""
    wanted = [""] if only is None else [only] if isinstance(only, str) else list(only)
    for prefix in wanted:
        if not any(name.startswith(prefix) for name in steps):
            raise ValueError(f"a step must be one of {', '.join(steps)} or a prefix of them, got {prefix!r}")
    return [name for name in steps if name.startswith(tuple(wanted))]


def _parameters_by_step(names, root, preset, results, photos, parameters):
    """The values each notebook gets: `preset` and `results` all, the others those that declare them."""
    declared = {name: declared_parameters(root / "notebooks" / f"{name}.ipynb") for name in names}
    everywhere = {"preset": preset, "results": _relative(results, root)}
    where_declared = dict(parameters)
    if photos is not None:
        if not (root / photos).is_dir():
            raise FileNotFoundError(f"photos must be a folder of photographs, got {photos}, which is not a folder")
        where_declared["photos"] = _relative(photos, root)
    for name in everywhere:
        missing = [step for step in names if name not in declared[step]]
        if missing:
            raise ValueError(
                f"every notebook declares {name!r} in its parameters cell; missing in {', '.join(missing)}"
            )
    for name in where_declared:
        if name in everywhere:
            raise ValueError(f"{name!r} is an argument of its own, not one of `parameters`")
        known = sorted(set().union(*declared.values()))
        if name not in known:
            raise ValueError(f"a parameter must be one of {', '.join(known)}, got {name!r}")
    given = {}
    for step in names:
        given[step] = everywhere | {name: value for name, value in where_declared.items() if name in declared[step]}
        for name, value in given[step].items():
            check_type(name, value, declared[step][name])
    return given


def _relative(path, root):
    """The path from the project root, with forward slashes: notebooks never carry a machine's folders."""
    return Path(os.path.relpath((root / path).resolve(), root)).as_posix()


def _read_manifest(path, preset):
    if not path.exists():
        return {"preset": preset, "steps": {}}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as err:
        raise ValueError(f"{path} is damaged ({err}): delete it, and all steps run again") from err


def _outputs_of(earlier, name, steps, done, folder):
    """Path and hash of what `name` reads from `earlier`: a step, or a folder with a record beside the steps."""
    if earlier in done:
        return done[earlier]["outputs"]
    if earlier in steps:
        raise ValueError(f"{name} reads the files of {earlier}, which has not run: run it first")
    record = folder / earlier / "run.json"
    return _recorded_files(record)[1] if record.exists() else {}


def _unchanged(entry, fingerprint, folder, root):
    if entry is None or entry["fingerprint"] != fingerprint:
        return False
    files = {root / path: digest for path, digest in entry["inputs"].items()}
    files |= {folder / path: digest for path, digest in (entry["outputs"] | entry["records"]).items()}
    return all(path.is_file() and sha256(path) == digest for path, digest in files.items())


def _recorded_files(record):
    """Path and hash of the inputs inside the project and of the outputs, as the notebook itself recorded them."""
    if not record.exists():
        raise NotebookFailed(f"{record.parent.name} wrote no {record}: its last cell must call run.finish()")
    content = json.loads(record.read_text(encoding="utf-8"))
    inputs, outputs = ({item["path"]: item["sha256"] for item in content[key]} for key in ("inputs", "outputs"))
    return {path: digest for path, digest in inputs.items() if not path.startswith(ELSEWHERE)}, outputs


def _cells(notebook):
    """What a notebook does, without the metadata that an editor changes on saving."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [[cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])] for cell in cells]


def _library_hashes(root):
    """Hashes of the package's code, style and shipped weights, and of the pinned versions, not of READMEs."""
    hashes = {name: digest for name, digest in _folder_hashes(root / "omgsr_lib").items() if name[-3:] != ".md"}
    constraints = root / "constraints.txt"
    return hashes | ({constraints.name: sha256(constraints)} if constraints.exists() else {})


def _folder_hashes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def _digest(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
