"""What is taken for an image in a folder, and what is not."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from omgsr_lib.data.photos import find_photos
from omgsr_lib.data.test_sets import TEST_SETS, PublicTestSet, open_test_set
from omgsr_lib.metrics.evaluate import paired_files
from omgsr_lib.model import OMGSR
from omgsr_lib.restore.folder import restore_folder
from omgsr_lib.restore.names import find_pictures
from omgsr_lib.restore.pipeline import Restorer
from omgsr_lib.utils.journal import JOURNAL


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(folder / name)


def found(folder, target="elsewhere"):
    """Relative names that both scans find."""
    photos = find_photos(folder)
    assert photos == find_pictures(folder, folder.parent / target, None)
    return [path.relative_to(folder).as_posix() for path in photos]


@pytest.fixture
def folder(tmp_path):
    put(tmp_path / "in", "a.jpg", "b/c.PNG")
    return tmp_path / "in"


FOREIGN = (
    "._a.jpg", ".a.jpg", ".ipynb_checkpoints/a-checkpoint.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg",
    "__MACOSX/x.jpg", "b/$RECYCLE.BIN/x.jpg", "b/.thumbnails/x.png", ".part-17-a.png",
)  # fmt: skip


def test_files_of_systems_are_no_pictures(folder):
    put(folder, *FOREIGN)
    assert found(folder) == ["a.jpg", "b/c.PNG"]


def test_files_of_systems_are_not_evaluated(folder, tmp_path, monkeypatch):
    put(tmp_path / "reference", "a.jpg", "b/c.png")
    put(folder, *FOREIGN)
    assert list(paired_files(folder, tmp_path / "reference")) == ["a", "b/c"]
    monkeypatch.setitem(TEST_SETS, "two", PublicTestSet("", None, 2, None, 4, "nowhere"))
    assert len(open_test_set("two", folder)) == 2


def test_a_hidden_folder_that_is_named_is_read(tmp_path):
    put(tmp_path / ".mine", "a.jpg")
    assert found(tmp_path / ".mine") == ["a.jpg"]


def test_a_folder_of_hidden_files_alone_is_empty(tmp_path):
    put(tmp_path / "in", "._a.jpg")
    with pytest.raises(FileNotFoundError, match="Hidden"):
        find_photos(tmp_path / "in")


def test_links_to_folders_are_followed_once(folder, tmp_path):
    put(tmp_path / "card", "d.jpg")
    for name, target in ("0-card", tmp_path / "card"), ("again", tmp_path / "card"), ("b/up", folder), ("0-b", "b"):
        (folder / name).symlink_to(target)
    assert found(folder) == ["0-card/d.jpg", "a.jpg", "b/c.PNG"]


def test_results_in_other_folders_are_no_inputs(folder):
    put(folder, "out-s/a.png", "out-s/b/c.png", "out-f/a.png")
    for name, journal in ("out-s", JOURNAL), ("out-f", ".omgsr-1.jsonl"):  # of a second process that was killed
        results = [path.relative_to(folder / name).as_posix() for path in (folder / name).rglob("*.png")]
        (folder / name / JOURNAL).write_text("{\n")
        (folder / name / journal).write_text("".join(json.dumps({"file": file}) + "\n" for file in results))
    assert found(folder) == ["a.jpg", "b/c.PNG"]
    assert find_pictures(folder, folder / "out-f", None) == find_photos(folder)
    assert found(folder / "out-s") == ["a.png", "b/c.png"]  # named: to restore again, or to be measured


def test_photographs_beside_a_result_are_inputs(folder):
    """`omgsr restore photos/b/d.jpg --out photos/b` must not hide the photographs of the folder from the next run."""
    put(folder, "b/d.jpg")
    model = OMGSR.from_base("tiny", "ddpm", 273)
    restore_folder(model, folder / "b" / "d.jpg", folder / "b", progress=False)
    assert (folder / "b" / "d.png").is_file() and found(folder) == ["a.jpg", "b/c.PNG", "b/d.jpg"]


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_a_linked_output_folder_is_no_input(folder, tmp_path):
    put(tmp_path / "out", "a.png")
    (folder / "out").symlink_to(tmp_path / "out")
    paths = find_pictures(folder, Path(tmp_path / "out"), None)
    assert [path.name for path in paths] == ["a.jpg", "c.PNG"]


def test_a_folder_is_listed_without_a_look_into_its_images(tmp_path, monkeypatch):
    """Of 400 images few are opened before the first is computed, and each result is looked up once."""
    put(tmp_path / "in", "0.png")
    for number in range(1, 400):
        (tmp_path / "in" / f"{number}.png").hardlink_to(tmp_path / "in" / "0.png")
    model, opened, looked_up, stat = OMGSR.from_base("tiny", "ddpm", 273), set(), [], os.stat

    def note(file, *arguments, real=open, **options):
        if isinstance(file, (str, os.PathLike)) and Path(file).suffix == ".png":
            opened.add(str(file))
        return real(file, *arguments, **options)

    class Begun(Exception):
        pass

    def begin(restorer, pictures):
        raise Begun

    monkeypatch.setattr("builtins.open", note)
    monkeypatch.setattr(os, "stat", lambda path, **options: looked_up.append(str(path)) or stat(path, **options))
    monkeypatch.setattr(Restorer, "__call__", begin)
    with pytest.raises(Begun):
        restore_folder(model, tmp_path / "in", tmp_path / "out", progress=False)
    assert 1 <= len(opened) <= 5 and 400 <= sum(path.endswith(".png") for path in looked_up) < 420
