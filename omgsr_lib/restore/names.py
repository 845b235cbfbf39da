"""Which images of a folder are restored, and the names of the results."""

import os
import unicodedata
from collections import Counter

from ..images.scan import SUFFIXES, scan_folder


UNREAD = (".heic", ".heif")  # each one is a line instead of missing without a word


def find_pictures(source, target, on_error):
    """The image `source`, or those below the folder `source`, sorted by path.

    Suffixes are those of `SUFFIXES` and `UNREAD` in any case. What `scan_folder` leaves out and a folder `target`
    inside of `source` are no inputs. `on_error` is called with the `OSError` of a folder that cannot be read. Raises
    `FileNotFoundError` if there is no image, `ValueError` if both are one folder.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"A photo folder must exist: got '{source}'. Check the path.")
    if target.exists() and target.samefile(source):
        raise ValueError(
            f"The output folder must not be that of the images: got '{target}' for both. Choose another folder."
        )
    errors = []
    paths = scan_folder(source, (*SUFFIXES, *UNREAD), errors.append, skip=target)
    if not paths and not errors:
        raise FileNotFoundError(
            f"A photo folder must hold at least one image ({' '.join(SUFFIXES)}): '{source}' has none. Hidden "
            "files and restored images do not count."
        )
    for error in errors:
        on_error(error)
    return paths


def output_names(names, suffix):
    """A file name with `suffix` for each of `names` (relative paths), no two of which meet on any file system.

    `a/b.jpg` becomes `a/b.png`, and `a/b.jpg.png` where another file would be called so too, or a folder is, or where
    the short name is another image's whole one. Names that differ in case alone are numbered. Case and Unicode
    normal forms, which some file systems ignore, tell no names apart.
    """
    whole = {_key(name) for name in names}
    short = Counter(_key(name.with_suffix("")) for name in names)
    taken = {_key(parent) for name in names for parent in name.parents}
    chosen = []
    for name in names:
        stem = name.with_suffix("")
        if short[_key(stem)] > 1 or _key(stem) in whole or _key(_add(stem, suffix)) in taken:
            stem = name
        output, number = _add(stem, suffix), 2
        while _key(output) in taken:
            output, number = _add(stem, f"-{number}{suffix}"), number + 1
        taken.add(_key(output))
        chosen.append(output)
    return chosen


def refuse_inputs(sources, target, outputs):
    """Raise `ValueError` if a file of `outputs`, in the folder `target`, is one of the files `sources`.

    Those that cannot be looked up, for a permission or too long a name, pass: they fail later, alone.
    """
    inputs = {(stat.st_dev, stat.st_ino) for stat in (path.stat() for path in sources if os.path.exists(path))}
    for output in outputs:
        if os.path.exists(output) and (output.stat().st_dev, output.stat().st_ino) in inputs:
            raise ValueError(
                f"A restored image must not replace an image to restore: '{target}' holds {output.name}. "
                "Choose another folder for the output."
            )


def _key(path):
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path.as_posix()).casefold())


def _add(path, ending):
    return path.with_name(path.name + ending)
