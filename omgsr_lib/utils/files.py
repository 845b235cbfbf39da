"""Files and folders written whole or not at all, and the hashes of shipped weights."""

import glob
import hashlib
import json
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError


HASHES = "SHA256SUMS"


@contextmanager
def atomic_write(path):
    """Write a file whole or not at all: yields a path beside `path` to write to, renamed to `path` on success.

    The yielded name keeps the suffix, for writers that choose the format by it. Folders are made as needed. The block
    should only write: errors as in `writing`. A device or a pipe stays what it is: the content is copied into it.
    """
    path = Path(path)
    if os.path.exists(path) and not path.is_file() and not path.is_dir():
        with writing(path), TemporaryDirectory() as folder:
            part = Path(folder, _short(path.name))
            yield part
            with open(part, "rb") as content, open(path, "wb") as target:
                shutil.copyfileobj(content, target)
        return
    part = path.with_name(f".part-{os.getpid()}-{_short(path.name)}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def remove_parts(path):
    """Remove what killed processes left of the file `path` that `atomic_write` was to write."""
    path = Path(path)
    for part in path.parent.glob(f".part-*-{glob.escape(_short(path.name))}"):
        part.unlink()


def _short(name):
    """A file's name, or of a long one a hash and its end: a file system's 255 bytes must leave room for a prefix."""
    if len(os.fsencode(name)) <= 200:
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16] + name[-16:]


@contextmanager
def writing(path):
    """An error of the block (full disk, no permission) is raised again as an `OSError`, one line that names `path`."""
    try:
        yield
    except (OSError, SafetensorError) as err:
        reason = err.strerror if isinstance(err, OSError) else str(err)
        if reason is None:
            raise
        remedy = "free some space, or choose a folder that can be written"
        raise OSError(f"cannot write {path} ({reason}): {remedy}") from err


@contextmanager
def reading(file, remedy):
    """Whatever damaged content of `file` leads to is raised again as a `ValueError`, one line with the `remedy`.

    An `OSError`, as of a file that is missing or must not be read, and too little memory stay as they are.
    """
    try:
        yield
    except Exception as err:
        from .memory import out_of_memory

        if isinstance(err, OSError) or out_of_memory(err):
            raise
        reason = f"{type(err).__name__}: {err}".splitlines()[0]
        raise ValueError(
            f"'{file}' is damaged: empty, cut off, a pointer of Git LFS (git lfs pull) or something else "
            f"({reason}). {remedy}"
        ) from err


def write_json(path, content):
    """Write `content` as indented JSON, whole or not at all. NaN and infinity are refused: they are not JSON."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def sha256(path):
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
            _share(part)
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


def _share(folder):
    """Who may read a file may read those of safetensors too, which writes them for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o666 & ~mask)


def part_hashes(folder):
    """`{subfolder: SHA-256}` of the weights below `folder`, from the lines of its `SHA256SUMS`."""
    parts = {}
    for line in (Path(folder) / HASHES).read_text().splitlines():
        parts.setdefault(line.split("  ", 1)[1].split("/")[0], []).append(line)
    return {name: hashlib.sha256("\n".join(lines).encode()).hexdigest() for name, lines in parts.items()}


def verify_hashes(folder):
    """Compare the weight files below `folder` with its `SHA256SUMS`, which sha256sum wrote there.

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
