"""Folders written whole or not at all, and the hashes of shipped weights."""

import shutil
from contextlib import contextmanager
from pathlib import Path

from .provenance import sha256, writing


HASHES = "SHA256SUMS"


@contextmanager
def atomic_folder(folder):
    """Yields an empty folder beside `folder` to write into; renamed to `folder` on success, removed on failure.

    In an existing `folder` entries of the same names are replaced once the new ones are complete; others stay. The
    block should only write: errors as in `writing`.
    """
    folder = Path(folder).absolute()
    part = folder.with_name(f".part-{folder.name}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with writing(folder):
            part.mkdir(parents=True)
            yield part
            if folder.exists():
                for new in part.iterdir():
                    old = folder / new.name
                    if old.is_dir():
                        shutil.rmtree(old)
                    new.replace(old)
            else:
                part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_hashes(folder):
    """Write `SHA256SUMS` of every weight file (`*.safetensors`) below `folder`, in the format of sha256sum."""
    folder = Path(folder)
    files = sorted(folder.rglob("*.safetensors"))
    lines = [f"{sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    (folder / HASHES).write_text("".join(lines))


def verify_hashes(folder):
    """Compare the weight files below `folder` with its `SHA256SUMS`.

    Raises `ValueError` that names a damaged file, `FileNotFoundError` one that is missing.
    """
    folder = Path(folder)
    if not (folder / HASHES).is_file():
        raise FileNotFoundError(
            f"Shipped weights come with their hashes: {HASHES} is missing. Restore it with git checkout."
        )
    for line in (folder / HASHES).read_text().splitlines():
        expected, name = line.split("  ", 1)
        file = folder / name
        if not file.is_file():
            raise FileNotFoundError(f"A shipped weight file is missing: '{name}'. Restore it with git checkout.")
        if (found := sha256(file)) != expected:
            raise ValueError(
                f"A shipped weight file must have the hash in {HASHES}: '{name}' has {found[:12]}..., expected "
                f"{expected[:12]}.... Restore it with git checkout."
            )
