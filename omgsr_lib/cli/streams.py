"""stdout and stderr of a command, whose work goes on when nobody reads them any more."""

import io
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress


@contextmanager
def lasting_streams():
    """Print to a pipe that the reader may close, as `| head` does: later lines are dropped, and no error is raised.

    The files that a command writes are its result, the lines are not: so it finishes, and its exit code is that of
    its work. Names that a terminal's encoding lacks are escaped.
    """
    with redirect_stdout(_lasting(sys.stdout)) as out, redirect_stderr(_lasting(sys.stderr)) as err:
        try:
            yield
        finally:
            for stream in (out, err):
                with suppress(AttributeError, OSError):  # none at all, or on a full disk, which the command has said
                    stream.flush()


class _Pipe(io.FileIO):
    """A file descriptor that drops what is written once the reading end is closed."""

    def write(self, data):
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _lasting(stream):
    """`stream` on a `_Pipe`; what replaces it in a notebook or a test stays."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    raw = getattr(stream.buffer, "raw", stream.buffer)  # Python has no buffer between if PYTHONUNBUFFERED is set
    if not isinstance(raw, io.FileIO):
        stream.reconfigure(errors="backslashreplace")
        return stream
    stream.flush()
    pipe = _Pipe(raw.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        pipe if raw is stream.buffer else io.BufferedWriter(pipe),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
