"""How long `restore_folder` takes to the first restored image of a folder of 100,000, and the memory it takes.

Images of 16 pixels (hard links, a thousand in each folder) by the shipped `mini-f`: seconds from the call to the first
result, of the clock on the wall and of the processor, and the peak memory of the process. Then once more with a
journal of a hundred thousand results, as after a stopped run.

    python benchmarks/many_files.py [--images 100000] [--out results/benchmarks]
"""

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from record import write_record

from omgsr_lib.model import OMGSR
from omgsr_lib.restore.folder import restore_folder
from omgsr_lib.restore.prepare import prepare
from omgsr_lib.utils.journal import JOURNAL


SECONDS, MEBIBYTES = 10, 1024  # goals
LINKS = 30_000  # of one file; file systems allow 65,000


class Restored(Exception):
    """The first image is there."""


def make_folder(folder, images):
    for number in range(images):
        path = folder / f"{number // 1000:04d}" / f"photo_{number:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % LINKS == 0:
            first = path
            Image.effect_noise((16, 16), 80).save(path)
        else:
            path.hardlink_to(first)


def fill_journal(folder, images):
    """The journal's line of the first image once more for each of the others."""
    entry = json.loads((folder / JOURNAL).read_text().splitlines()[0])
    with open(folder / JOURNAL, "a") as lines:
        for number in range(1, images):
            name = f"{number // 1000:04d}/photo_{number:07d}.png"
            lines.write(
                json.dumps(entry | {"file": name, "source": f"{number:064x}", "sha256": f"{number:064x}"}) + "\n"
            )


def first_image(model, source, target):
    """Seconds to the first result, of the wall's clock and of the processor, and peak MiB of the process so far."""

    def stop(line):
        raise Restored

    began = time.perf_counter(), time.process_time()
    try:
        restore_folder(model, source, target, progress=False, force=True, each=stop)
    except Restored:
        ended = time.perf_counter(), time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return dict(zip(("wall", "processor", "MiB"), (ended[0] - began[0], ended[1] - began[1], peak), strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--out", type=Path, help="folder for a JSON file of this run")
    args = parser.parse_args()
    model, rows = prepare(OMGSR.from_pretrained("mini-f"), fold=True), {}
    folder = Path(tempfile.mkdtemp())
    try:
        make_folder(folder / "in", args.images)
        rows["new"] = first_image(model, folder / "in", folder / "out")
        fill_journal(folder / "out", args.images)
        rows["resumed"] = first_image(model, folder / "in", folder / "out")
    finally:
        shutil.rmtree(folder)
    for name, row in rows.items():
        print(f"{name:8s} {row['wall']:.1f} s, {row['processor']:.1f} s of the processor, {row['MiB']:.0f} MiB")
    write_record(args.out, "many_files", {"images": args.images, "rows": rows, "goals": [SECONDS, MEBIBYTES]})
    if any(row["wall"] > SECONDS or row["MiB"] > MEBIBYTES for row in rows.values()):
        sys.exit(f"Goals missed: {SECONDS} s and {MEBIBYTES} MiB.")


if __name__ == "__main__":
    main()
