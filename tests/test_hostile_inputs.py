"""restore_files.py with the table of `hostile_inputs`: every kind of image and damage in one folder."""

import re

import pytest
from hostile_inputs import TABLE

from omgsr_lib.images.image_file import Picture
from omgsr_lib.model import OMGSR
from omgsr_lib.restore.folder import restore_folder
from omgsr_lib.restore.names import output_names
from omgsr_lib.utils.journal import JOURNAL


@pytest.fixture(scope="module")
def model():
    return OMGSR.from_base("tiny", "ddpm", 273)


@pytest.fixture(scope="module")
def table_run(model, tmp_path_factory):
    """The whole table restored as one folder: `{name: path of the result, or line of the failure}`."""
    folder = tmp_path_factory.mktemp("table")
    source, out, lines = folder / "in", folder / "out", []
    (source / "folder.png").mkdir(parents=True)
    for name, content, _ in TABLE:
        path = source / name
        path.write_bytes(content) if isinstance(content, bytes) else content(path)
    report = restore_folder(model, source, out, scale=1, progress=False, say=lines.append)
    names = sorted(source / name for name, *_ in TABLE)
    outputs = dict(
        zip(names, output_names([path.relative_to(source).as_posix() for path in names], ".png"), strict=True)
    )
    outcome = {path.name: out / name for path, name in outputs.items() if out / name in report.restored}
    assert len(report.restored) + len(report.failed) == len(TABLE) and report.skipped == []
    assert sorted([*out.rglob("*")]) == sorted([*report.restored, out / JOURNAL])
    assert all(line in lines and "\n" not in line for _, line in report.failed)
    return outcome | {path.name: line for path, line in report.failed}


def test_the_table_is_long_enough():
    assert len(TABLE) >= 100 and len({name for name, *_ in TABLE}) == len(TABLE)


@pytest.mark.parametrize(("name", "expected"), [row[::2] for row in TABLE], ids=[row[0][:40] for row in TABLE])
def test_hostile_inputs(table_run, name, expected):
    """Mode and size of what is restored, or one line that names the file, all from one run over the folder."""
    found = table_run[name]
    if isinstance(expected, str):
        assert isinstance(found, str) and re.search(expected, found) and name in found, found
        return
    assert not isinstance(found, str), found
    restored = Picture.open(found)
    mode = ("L" if restored.is_grey else "RGB") + ("" if restored.alpha is None else "A")
    assert (mode + (";16" if restored.levels > 255 else ""), restored.size) == expected
