"""Manifests: a CSV with the columns `path` and `sha256` that says which photographs a set holds, byte for byte.

Paths are relative to the manifest's folder, so that folder and manifest can be moved together.
"""

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..utils.files import atomic_write, reading, sha256


COLUMNS = ("path", "sha256")
LISTS = "Save it as UTF-8 (CSV UTF-8 in Excel)."


def write_manifest(paths, file):
    """Write the manifest `file` (CSV) of the photographs `paths`, in their order, whole or not at all.

    Raises `ValueError` if there are none or for a name that is not in UTF-8, `FileNotFoundError` for one that is
    missing.
    """
    paths, file = list(map(Path, paths)), Path(file)
    if not paths:
        raise ValueError(f"A manifest names at least one photograph: got none for '{file}'.")
    names = [Path(os.path.relpath(path, file.parent)).as_posix() for path in paths]
    for name in names:
        if any("\ud800" <= letter <= "\udfff" for letter in name):  # a byte that is no UTF-8, as Python has it
            raise ValueError(f"A manifest holds names in UTF-8: {name!r} is not in it. Rename the file or the folder.")
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(sha256, paths))
    with atomic_write(file) as part, open(part, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *zip(names, hashes, strict=True)])


def read_manifest(file):
    """Pairs `(path, sha256)` as they stand in the manifest `file`.

    Raises `ValueError` if it lacks a column or a row lacks a value.
    """
    rows = [(row["path"], row["sha256"]) for row in read_table(file, COLUMNS)]
    for number, row in enumerate(rows, start=1):
        if not all(row):
            raise ValueError(f"Each row of a manifest needs a path and a sha256: row {number} of '{file}' lacks one.")
    return rows


def read_table(file, columns):
    """The rows of the CSV `file` as dictionaries. Raises `ValueError` if it is no text or lacks one of `columns`."""
    with reading(file, LISTS), open(file, newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        names, rows = reader.fieldnames or (), list(reader)
    if not set(columns) <= set(names):
        raise ValueError(f"A table of photographs needs the columns {' and '.join(columns)}: '{file}' lacks them.")
    return rows


def verify_manifest(file):
    """Read every photograph of the manifest `file` and compare its SHA-256.

    Raises `ValueError` that names the photographs that differ, `FileNotFoundError` for one that is missing.
    """
    file = Path(file)
    rows = read_manifest(file)
    with ThreadPoolExecutor() as pool:
        found = pool.map(sha256, [file.parent / name for name, _ in rows])
        changed = [name for (name, expected), digest in zip(rows, found, strict=True) if digest != expected.lower()]
    if changed:
        shown = ", ".join(map(repr, changed[:3])) + (", ..." if len(changed) > 3 else "")
        raise ValueError(
            f"Photographs must have the SHA-256 of their manifest: {len(changed)} of {len(rows)} in '{file}' differ "
            f"({shown}). Restore them, or write the manifest again."
        )
