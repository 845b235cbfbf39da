"""One run at a time in a folder, and a journal of written files: which are finished, and which are not ours."""

import json
import os
from contextlib import contextmanager, suppress

from .files import atomic_write, sha256, writing


JOURNAL = ".omgsr.jsonl"  # in a folder of restored images


@contextmanager
def alone(folder, company=False):
    """Holds `folder`, made if it is missing, until the block ends or the process dies, however it does.

    `company`: other processes of this run may hold it too (`joined`), each as long. Raises `OSError` if another block
    holds it, or if it cannot be made. Windows and some file systems have no such locks: there nothing is held.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _held(folder, "LOCK_EX", *(["LOCK_SH"] if company else [])):
        yield


@contextmanager
def joined(folder):
    """Holds `folder` with the process that is in a block of `alone`, in company."""
    with _held(folder, "LOCK_SH"):
        yield


@contextmanager
def _held(folder, *kinds):
    """Locks the folder's open file in one way after the other."""
    with writing(folder):
        opened = None if os.name == "nt" else os.open(folder, os.O_RDONLY)
    try:
        if opened is not None and not all(_locked(opened, kind) for kind in kinds):
            raise OSError(
                f"One run at a time writes into a folder: another one does into '{folder}'. Wait for its end, or "
                "choose another folder."
            )
        yield
    finally:
        if opened is not None:
            os.close(opened)


def _locked(file, kind):
    try:
        import fcntl

        fcntl.flock(file, getattr(fcntl, kind) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # without locks
        pass
    return True


class Journal:
    """Lines of JSON, one per file written: `file` (its name), `sha256`, and what it was made from.

    They lie in the file `JOURNAL` of `folder`. Of several processes that write at once each has a file of its own, by
    its `number`, since not every file system appends whole lines; all are read, and `merge` makes them one.

    A line is on the disk before its file takes its name. So whenever a run is killed, a file is finished if a line has
    its name, its hash and the same origin, and it is not from such a run if no line has its name and its hash. A torn
    last line counts for nothing. Raises `OSError` if the file cannot be written.
    """

    def __init__(self, folder, number=0):
        self.folder, self.origins, self._last = folder, {}, {}
        self.file = folder / (JOURNAL if number == 0 else f".omgsr-{number}.jsonl")
        with writing(self.file):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / JOURNAL).touch()  # by which a scan knows the folder, whichever process is first
            with open(self.file, "ab+") as lines:
                if lines.tell():
                    lines.seek(-1, os.SEEK_END)
                    if lines.read() != b"\n":
                        lines.write(b"\n")
        for _, entry in self._lines():
            self._remember(entry)

    def add(self, entry):
        """Write a line, onto the disk."""
        line = json.dumps(entry, default=lambda number: number.item()).encode() + b"\n"
        with open(self.file, "ab") as lines:
            lines.write(line)
            lines.flush()
            os.fsync(lines.fileno())
        self._remember(entry)

    def merge(self):
        """Sort the lines of all files into `JOURNAL`, each once, and remove the others. While nobody adds any."""
        content = b"".join(sorted({line for line, _ in self._lines()}))
        journal, *others = self._files()
        if journal.read_bytes() != content:
            with atomic_write(journal) as part, open(part, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for file in others:
            file.unlink()

    def is_finished(self, entry, path):
        """Whether `path` is, byte for byte, a file made as `entry` (without its hash) says.

        Raises `FileExistsError` if it exists and no run wrote it as it is.
        """
        if not path.exists():
            return False
        digest = sha256(path)
        if (entry["file"], digest) not in self.origins:
            raise FileExistsError(
                f"A file that is not as a run before wrote it is not replaced: '{path}'. Move it away, or replace it "
                "with force (--force)."
            )
        return _origin(entry) in self.origins[entry["file"], digest]

    def _files(self):
        return [self.folder / JOURNAL, *sorted(self.folder.glob(".omgsr-*.jsonl"))]

    def _lines(self):
        """`(line, entry)` of each line that is whole."""
        for file in self._files():
            with open(file, "rb") as lines:
                for line in lines:
                    with suppress(ValueError, KeyError, TypeError):
                        entry = json.loads(line)
                        hash((entry["file"], entry["sha256"]))
                        yield line.rstrip() + b"\n", entry

    def _remember(self, entry):
        origin, last = _origin(entry), self._last
        for name, value in origin.items():  # what is equal in many lines, as settings are, takes memory once
            if value == last.get(name):
                origin[name] = last[name]
        self._last = origin
        self.origins.setdefault((entry["file"], entry["sha256"]), []).append(origin)


def _origin(entry):
    return {name: value for name, value in entry.items() if name not in ("file", "sha256")}
