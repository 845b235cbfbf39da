"""Which files of a folder are images to read: not what is hidden, belongs to a system, or is a result of ours."""

import json
import os
from contextlib import suppress
from pathlib import Path

from ..utils.journal import JOURNAL


SUFFIXES = (  # of files that `image_file.Picture` opens
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm"),
)
SYSTEM = {  # folders in which systems and programs keep copies, thumbnails and lost files; names in any case
    *("@eadir", "@recycle", "#recycle", "#snapshot", "__macosx", "$recycle.bin", "system volume information"),
    "lost+found",
}


def scan_folder(root, suffixes, on_error=None, *, skip=None):
    """Paths of the files below the folder `root` with one of `suffixes` (lower case; any case matches), sorted.

    Left out are hidden files and folders (a leading dot, as also of part files), folders of `SYSTEM`, the folder
    `skip`, and results: the files that a journal of `omgsr restore` in a folder below `root` names. Links to folders
    are followed once: a folder that was seen under another path is not read again. `on_error` is called with the
    `OSError` of a folder that cannot be read.
    """
    found, results, starts = [], set(), [str(root)]
    seen = {_identity(skip)} if skip and os.path.exists(skip) else set()
    for start in starts:  # grows by the links met, so that a folder goes by its own path where it has one
        for folder, below, names in os.walk(start, onerror=on_error):
            if _identity(folder) in seen:
                below.clear()
                continue
            if JOURNAL in names and folder != str(root):
                results.update(_results(folder))
            seen.add(_identity(folder))
            below[:] = sorted(name for name in below if not _foreign(name))
            starts += [path for path in (os.path.join(folder, name) for name in below) if os.path.islink(path)]
            found += [Path(folder, name) for name in names if name.lower().endswith(suffixes) and not _foreign(name)]
    return sorted(path for path in found if path not in results)


def _results(folder):
    """Paths of the files that the journals in `folder` name, one of each process of a run."""
    for journal in Path(folder).glob(".omgsr*.jsonl"):
        with suppress(OSError):
            for line in journal.read_bytes().splitlines():
                with suppress(ValueError, KeyError, TypeError):
                    yield Path(folder, json.loads(line)["file"])


def _identity(folder):
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino


def _foreign(name):
    return name.startswith(".") or name.lower() in SYSTEM
