"""One run at a time in a folder, and a journal of written files: which are finished, and which are not ours."""

import json
import os
from contextlib import contextmanager

from .files import sha256, writing


JOURNAL = ".omgsr.jsonl"  # in a folder of restored images


@contextmanager
def alone(folder):
    """Holds `folder`, made if it is missing, until the block ends or the process dies, however it does.

    Raises `OSError` if another block holds it, or if it cannot be made. Windows and some file systems have no such
    locks: there nothing is held.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = None if os.name == "nt" else os.open(folder, os.O_RDONLY)
    try:
        if held is not None and not _locked(held):
            raise OSError(
                f"One run at a time writes into a folder: another one does into '{folder}'. Wait for its end, or "
                "choose another folder."
            )
        yield
    finally:
        if held is not None:
            os.close(held)


def _locked(file):
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # without locks
        pass
    return True


class Journal:
    """Lines of JSON in `file`, one per file written: `file` (its name), `sha256`, and what it was made from.

    A line is on the disk before its file takes its name. So whenever a run is killed, a file is finished if a line has
    its name, its hash and the same origin, and it is not from such a run if no line has its name and its hash. A torn
    last line counts for nothing. Raises `OSError` if the file cannot be written.
    """

    def __init__(self, file):
        self.file, self.origins = file, {}
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "ab+") as lines:
                lines.seek(0)
                content = lines.read()
                if content and not content.endswith(b"\n"):
                    lines.write(b"\n")
        for line in content.splitlines():
            try:
                entry = json.loads(line)
                self._remember(entry)
            except (ValueError, KeyError, TypeError):
                continue

    def add(self, entry):
        """Write a line, onto the disk."""
        with open(self.file, "ab") as lines:
            lines.write(json.dumps(entry, default=lambda number: number.item()).encode() + b"\n")
            lines.flush()
            os.fsync(lines.fileno())
        self._remember(entry)

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

    def _remember(self, entry):
        self.origins.setdefault((entry["file"], entry["sha256"]), []).append(_origin(entry))


def _origin(entry):
    return {name: value for name, value in entry.items() if name not in ("file", "sha256")}
