"""Restore files: an image or a folder in, files out, while reading, computing and writing overlap; resumable."""

import errno
import hashlib
import shutil
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from numbers import Integral
from pathlib import Path

from ..images.image_file import FORMATS, LOSSY, Picture
from ..utils.files import atomic_write, remove_parts, sha256
from ..utils.journal import Journal
from ..utils.memory import out_of_memory
from ..utils.processes import alone_together, first_process, from_first, gather, processes, share
from .batches import batches
from .checks import check_count
from .names import plan_outputs
from .out_of_core import DISK_BYTES, fits_memory, restore_oversize
from .pipeline import Restorer, estimates


SCRATCH = ".omgsr-scratch"
MIN_SIDE = 16  # pixels of an input
WRITERS = 3  # threads; packing a PNG file of 4096x4096 takes longer than a GPU takes to restore it
EVERY = 30  # seconds between two lines of progress where there is no terminal


@dataclass
class FolderReport:
    """Files written, files that a run before has finished, and `(path, reason)` of each input that failed; sorted."""

    restored: list = field(default_factory=list)
    skipped: list = field(default_factory=list)
    failed: list = field(default_factory=list)

    def __str__(self):
        others = (f"{len(paths)} {name}" for name, paths in vars(self).items() if paths and name != "restored")
        return ", ".join([f"{len(self.restored)} restored", *others])

    @classmethod
    def of(cls, reports):
        """The one of several processes."""
        return cls(
            *(sorted(chain(*lists)) for lists in zip(*(vars(report).values() for report in reports), strict=True))
        )


def restore_folder(
    model,
    source,
    target,
    *,
    format="png",
    quality=95,
    force=False,
    max_pixels=None,
    batch_size=1,
    progress=True,
    say=None,
    each=None,
    **options,
):
    """Restore an image, or every image below the folder `source`, into the folder `target`; a `FolderReport`.

    Args:
        format: of the files: "png", "jpeg", "webp" or "tiff". 16 bits stay in "png" and "tiff".
        quality: of "jpeg" and "webp", 1 to 100.
        force: restore again what is finished, and replace files that are not from a run before.
        max_pixels: of an input; by default that of Pillow, 179 million.
        batch_size: how many images of equal padded size go through the model at once.
        progress: a bar in a terminal or notebook, elsewhere a line every half minute.
        say: called with a line for each failure and for what a file could not keep; by default to stderr.
        each: called with a line for each restored file: its size before and after, the timestep, the seconds, and
            whether it took the place of a file.
        options: those of `Restorer`.

    Relative paths are kept, and suffixes too where two names would meet (see `output_names`). A file is finished if a
    run before made it from the same bytes with the same settings and weights, as the `Journal` in `target` says. An
    input that is no image, is damaged, or has a side below 16 pixels fails, and the others go on. An image
    that does not fit into the memory is restored in files (see `out_of_core`).

    Under `accelerate launch` or torchrun every process calls this with its own copy of the model. The first lists the
    images and names the results; each process restores every n-th of the list, and all return the report of all. A run
    that was stopped resumes with any number of processes.

    Raises `ValueError` for a wrong argument or if a result would replace an input, `FileNotFoundError` if there is no
    image, and `OSError` if `target` cannot be written, the disk is full, another run writes into `target`, or another
    process has ended early.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}: got {format!r}.")
    if not (isinstance(quality, Integral) and 1 <= quality <= 100):
        raise ValueError(f"quality must be an integer in 1 .. 100: got {quality!r}.")
    check_count("batch_size", batch_size)
    if max_pixels is not None:
        check_count("max_pixels", max_pixels)
    restorer = Restorer(model, **options)
    target = Path(target)
    pairs, unreadable = from_first(lambda: plan_outputs(Path(source), target, FORMATS[format]))
    pairs, unreadable = share(pairs), share(unreadable)
    bar = Progress(len(pairs) + len(unreadable), progress and first_process(), say)
    with alone_together(target), bar, _Threads(1) as reader, _Threads(WRITERS) as writers:
        from_first(lambda: _remove_scratch(target))
        run = _Run(restorer, target, bar, format, quality, force, max_pixels, each)
        for error in unreadable:
            run.fail(error.filename, error)
        jobs = run.read_jobs(reader.ahead(run.read, pairs))
        groups = batches(
            jobs, lambda job: (job.oversize and job.output, restorer.padded(job.picture.size)), batch_size
        )
        results = chain.from_iterable(restorer.in_order(run.compute, groups, run.one_tile))
        run.collect(writers.ahead(run.write, results))
        report = FolderReport.of(gather([run.report]))
        if first_process():
            run.journal.merge()
    return report


def fingerprint(model):
    """A hash of the model's timestep and of some hundred values of each of its tensors, spread evenly."""
    digest = hashlib.sha256(str(model.timestep).encode())
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.reshape(-1)[:: max(1, tensor.numel() // 64)].double().cpu()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + values.numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Job:
    source: Path
    output: Path
    entry: dict  # its line of the journal, without the hash of the result
    picture: Picture | None  # enlarged, later restored; None: finished before
    oversize: bool = False  # not enlarged beforehand, and restored in files
    size: tuple = ()  # of the input, (width, height)
    replaces: bool = False  # whether a file lies where the result will
    seconds: float = 0.0  # of the model, its share of a batch


class _Run:
    """The stages of `restore_folder`, and what became of each input."""

    def __init__(self, restorer, target, progress, format, quality, force, max_pixels, each):
        self.restorer, self.target, self.progress = restorer, target, progress
        self.format, self.quality, self.force, self.max_pixels = format, quality, force, max_pixels
        self.each = each
        rank, _ = processes()
        self.journal, self.report, self.scratch = Journal(target, rank), FolderReport(), target / f"{SCRATCH}-{rank}"
        chosen = {f.name: getattr(restorer, f.name) for f in fields(restorer) if f.name not in ("model", "tile_batch")}
        self.settings = chosen | {"model": fingerprint(restorer.model), "format": format}
        if format in LOSSY:
            self.settings["quality"] = quality

    def read(self, pair):
        """The job of a pair of `plan_outputs`, its image enlarged; in the reading thread."""
        path, name = Path(pair[0]), pair[1]
        if path.exists() and not path.is_file():
            raise ValueError(f"A photograph must be a regular file: '{path}' is not. Remove or replace it.")
        output = self.target / name
        if output.exists() and not output.is_file():
            raise ValueError(f"A restored image must not replace what is no file: '{output}' is none. Move it away.")
        entry = {"file": name, "source": sha256(path), "settings": self.settings}
        if not self.force and self.journal.is_finished(entry, output):
            return _Job(path, output, entry, None)
        picture = Picture.open(path, max_pixels=self.max_pixels)
        if min(picture.size) < MIN_SIDE:
            width, height = picture.size
            raise ValueError(
                f"A photograph must measure at least {MIN_SIDE} pixels on each side: '{path}' is {width}x{height}. "
                "Remove or replace it."
            )
        size = self.restorer.size(picture.size)
        picture.check_format(self.format, size, path)
        about = dict(size=picture.size, replaces=output.exists())
        if fits_memory(self.restorer, *size):
            return _Job(path, output, entry, self.restorer.enlarge(picture), **about)
        start = f"'{path}' becomes {size[0]}x{size[1]} pixels, more than fit into the memory"
        if picture.levels > 255:
            raise ValueError(f"{start}, and files are for 8 bits only. Restore it in pieces, or with 8 bits.")
        needed = size[0] * size[1] * DISK_BYTES
        if shutil.disk_usage(self.target).free < needed:
            raise ValueError(f"{start}, and takes {needed / 2**30:.0f} GiB in '{self.target}'. Free some space there.")
        return _Job(path, output, entry, picture, oversize=True, **about)

    def read_jobs(self, futures):
        """The jobs to do; what failed and what is finished is recorded."""
        for (path, _), future in futures:
            try:
                job = future.result()
            except (OSError, ValueError, MemoryError) as error:
                self.fail(path, error)
                continue
            if job.picture is None:
                self.report.skipped.append(job.output)
                self.progress.advance()
            else:
                yield job

    def compute(self, group):
        """Jobs with their images restored. What does not even fit with the smallest tiles is recorded."""
        began = time.monotonic()
        try:
            if group[0].oversize:
                restored = [restore_oversize(self.restorer, group[0].picture, self.scratch)]
            else:
                restored, _ = self.restorer([job.picture for job in group])
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            restored = None  # the error holds what the attempt computed; it is gone after this block
        if restored is None and len(group) > 1:
            return [job for alone in group for job in self.compute([alone])]
        if restored is None:
            reason = f"Out of memory: '{group[0].source}' could not be restored. Choose smaller tiles."
            self.fail(group[0].source, ValueError(reason))
            return []
        seconds = (time.monotonic() - began) / len(group)
        return [replace(job, picture=picture, seconds=seconds) for job, picture in zip(group, restored, strict=True)]

    def one_tile(self, group):
        """Whether the images of a group are computed beside other groups."""
        return not group[0].oversize and self.restorer.takes_one_tile(group[0].picture.size, len(group))

    def write(self, job):
        """Write the restored image of a job; in a writing thread."""
        remove_parts(job.output)
        with atomic_write(job.output) as part:
            job.picture.save(part, self.format, quality=self.quality)
            self.journal.add(job.entry | {"sha256": sha256(part)})

    def collect(self, futures):
        """Record what is written. A full disk ends the run."""
        for job, future in futures:
            try:
                future.result()
            except (OSError, ValueError) as error:
                if getattr(error.__cause__, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self.fail(job.source, error)
                continue
            for note in (*job.picture.notes, *job.picture.losses(self.format).values()):
                self.progress.say(_line(f"'{job.source}': {note}."))
            self.report.restored.append(job.output)
            if self.each:
                self.each(_line(self.account(job)))
            self.progress.advance()

    def account(self, job):
        """What `each` is told of a restored job."""
        sizes = " -> ".join("{}x{}".format(*size) for size in (job.size, self.restorer.size(job.size)))
        model, timestep = self.restorer.model, self.restorer.timestep
        timestep = "auto" if estimates(model, timestep) else model.timestep if timestep is None else timestep
        replaced = f", in place of an earlier {job.output}" if job.replaces else ""
        return f"{job.source}: {sizes}, timestep {timestep}, {job.seconds:.1f} s{replaced}"

    def fail(self, path, error):
        """Record and say that an input failed."""
        reason = _line(str(error))
        if isinstance(error, OSError) and error.filename:
            reason = _line(f"{error.strerror}: '{error.filename}'. Check the path and its permissions.")
        self.report.failed.append((Path(path), reason))
        self.progress.say(reason)
        self.progress.advance()


def _remove_scratch(target):
    """Remove what processes that were killed left between the stages."""
    for folder in target.glob(f"{SCRATCH}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _line(text):
    return " ".join(text.split())


class _Threads(ThreadPoolExecutor):
    """`count` threads that work ahead of the code that takes their results."""

    def __init__(self, count):
        super().__init__(max_workers=count)
        self.count = count

    def ahead(self, function, items):
        """`(item, future of function(item))` of each item, in order; at most `count + 1` items are ahead."""
        pending = deque()
        for item in items:
            pending.append((item, self.submit(function, item)))
            if len(pending) > self.count + 1:
                yield pending.popleft()
        yield from pending

    def __exit__(self, *error):
        self.shutdown(cancel_futures=True)


class Progress:
    """A bar over `total` images, with the time that is left; without a terminal a line every `EVERY` seconds."""

    def __init__(self, total, shown=True, say=None):
        from tqdm.auto import tqdm

        self.bar = tqdm(total=total, desc="restore", unit="image", disable=None if shown else True)
        self.say = say or (lambda line: tqdm.write(line, file=sys.stderr))
        self.shown, self.total, self.done = shown, total, 0
        self.told = time.monotonic()
        self.began = None  # when the first image was done

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()

    def advance(self):
        """One more is done. The rate is that of the images after the first, so that it does not count loading."""
        now = time.monotonic()
        self.done += 1
        if self.began is None:
            self.began = now
            self.bar.reset()
            self.bar.n = self.bar.initial = self.bar.last_print_n = 1
            self.bar.refresh()
        else:
            self.bar.update()
        if self.shown and self.bar.disable and now - self.told >= EVERY:
            self.told = now
            line = f"{self.done} of {self.total}"
            if self.done > 1:
                rate = (self.done - 1) / (now - self.began)
                line += f", {rate:.2f} images/s, {(self.total - self.done) / rate:.0f} s left"
            self.say(f"{line}.")
