"""Which images of a folder are restored, and the names of the results."""

import os
import posixpath
import unicodedata
from collections import Counter
from pathlib import PurePosixPath

from ..images.scan import SUFFIXES, scan_folder


UNREAD = (".heic", ".heif", ".hif", ".jxl")  # each one is a line instead of missing without a word


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


def plan_outputs(source, target, suffix):
    """`(pairs, errors)`: `(image, name of its result)` of all images, as strings, sorted by the images' paths.

    Names are relative to the folder `target` (`output_names`). No image is opened, so that a hundred thousand of them
    are planned in seconds. `errors` are those of folders that cannot be read. Raises as `find_pictures`, and
    `ValueError` if a result would replace an image.
    """
    errors = []
    sources = find_pictures(source, target, errors.append)
    root = source if source.is_dir() else source.parent
    names = output_names([path.relative_to(root).as_posix() for path in sources], suffix)
    pairs = [(str(path), name) for path, name in zip(sources, names, strict=True)]
    _refuse_inputs(pairs, target)
    return pairs, errors


def output_names(names, suffix):
    """A file name with `suffix` for each of `names` (relative, "/" between folders); no two meet on any file system.

    `a/b.jpg` becomes `a/b.png`, and `a/b.jpg.png` where another file would be called so too, or a folder is, or where
    the short name is another image's whole one. Names that differ in case alone are numbered. Case and Unicode
    normal forms, which some file systems ignore, tell no names apart.
    """
    stems = [posixpath.splitext(name)[0] for name in names]
    whole, short = {_key(name) for name in names}, Counter(map(_key, stems))
    folders = {
        folder for parent in {*map(posixpath.dirname, names)} for folder in (parent, *PurePosixPath(parent).parents)
    }
    taken = {_key(str(folder)) for folder in folders}
    chosen = []
    for name, stem in zip(names, stems, strict=True):
        if short[_key(stem)] > 1 or _key(stem) in whole or _key(stem + suffix) in taken:
            stem = name
        output, number = stem + suffix, 2
        while _key(output) in taken:
            output, number = f"{stem}-{number}{suffix}", number + 1
        taken.add(_key(output))
        chosen.append(output)
    return chosen


def _refuse_inputs(pairs, target):
    """Raise `ValueError` if a result that is there, in the folder `target`, is one of the images.

    Those that cannot be looked up, for a permission or too long a name, pass: they fail later, alone.
    """
    outputs = {_identity(os.path.join(target, name)): name for _, name in pairs}
    outputs.pop(None, None)
    if not outputs:
        return
    for source, _ in pairs:
        replaced = outputs.get(_identity(source))
        if replaced is not None:
            raise ValueError(
                f"A restored image must not replace an image to restore: '{target}' holds {replaced}. Choose another "
                "folder for the output."
            )


def _identity(path):
    """What two paths of one file have in common; None of a path that cannot be looked up."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return None
    return stat.st_dev, stat.st_ino


def _key(name):
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
