"""A folder of six images for `restore_folder`, a model for it, and what lies in folders."""

import numpy as np
from hostile_inputs import picture

from omgsr_lib.model import OMGSR
from omgsr_lib.restore.folder import restore_folder
from omgsr_lib.utils.journal import JOURNAL


def tiny_model():
    return OMGSR.from_base("tiny", "ddpm", 273)


def six_images(folder):
    """Six images of two sizes at two depths, one with a suffix in capitals, and a file that is none, in `folder`."""
    for seed, name in enumerate(("a.png", "b.jpg", "c.png", "deep/d.PNG", "deep/er/e.webp", "f.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(16 + 8 * (seed == 2), 16, seed=seed).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def pictures_in(folder):
    return {name: data for name, data in contents(folder).items() if name != JOURNAL}


def same(a, b):
    return a.size == b.size and np.array_equal(np.asarray(a), np.asarray(b))


def quiet(model, source, target, **options):
    return restore_folder(model, source, target, progress=False, say=lambda line: None, **options)
