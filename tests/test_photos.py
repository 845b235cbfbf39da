"""Where photographs come from: folders, lists and manifests."""

import errno
import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omgsr_lib.data.manifest import read_manifest, verify_manifest, write_manifest
from omgsr_lib.data.photos import find_photos, freely_licensed


@pytest.fixture
def photos(tmp_path):
    """Three images at two depths, one with a suffix in capitals, and a file that is none."""
    paths = [tmp_path / "set" / name for name in ("b.PNG", "deep/er/a.jpeg", "deep/c.webp")]
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (tmp_path / "set" / "notes.txt").write_text("no image")
    return paths


def test_a_folder_at_any_depth_in_any_case(photos, tmp_path):
    assert find_photos(tmp_path / "set") == sorted(photos)


def test_every_suffix_that_is_read_and_nothing_else(tmp_path):
    for name in ("a.jfif", "b.AVIF", "c.mpo", "d.jp2", "e.ppm", "f.heic", "g.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_photos(tmp_path)] == ["a.jfif", "b.AVIF", "c.mpo", "d.jp2", "e.ppm"]


def test_a_list_keeps_its_order_and_paths_are_relative_to_it(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "set" / "deep")
    (tmp_path / "list.txt").write_text(f"# two of three\n\nset/deep/c.webp\n  {photos[0]}  \n#set/none.png\n")
    assert find_photos(tmp_path / "list.txt") == [photos[2], photos[0]]
    assert find_photos("../../list.txt")[0].samefile(photos[2])


def test_a_list_with_a_byte_order_mark(photos, tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfset/b.PNG\r\n")
    assert find_photos(tmp_path / "list.txt") == [photos[0]]


def test_a_manifest_names_each_photograph_and_its_hash(photos, tmp_path):
    file = tmp_path / "lists" / "train.csv"
    write_manifest([photos[2], photos[0]], file)
    lines = file.read_text().splitlines()
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (photos[2], photos[0])]
    assert lines == ["path,sha256", f"../set/deep/c.webp,{digests[0]}", f"../set/b.PNG,{digests[1]}"]
    assert read_manifest(file) == [("../set/deep/c.webp", digests[0]), ("../set/b.PNG", digests[1])]
    assert [path.resolve() for path in find_photos(file)] == [photos[2], photos[0]]
    verify_manifest(file)


def test_a_manifest_moves_with_its_folder(photos, tmp_path):
    write_manifest(photos, tmp_path / "set" / "all.csv")
    (tmp_path / "set").rename(tmp_path / "moved")
    verify_manifest(tmp_path / "moved" / "all.csv")
    assert [p.name for p in find_photos(tmp_path / "moved" / "all.csv")] == ["b.PNG", "a.jpeg", "c.webp"]


def test_more_columns_and_capitals_in_a_hash_are_allowed(photos, tmp_path):
    digest = hashlib.sha256(photos[0].read_bytes()).hexdigest().upper()
    (tmp_path / "m.csv").write_text(f"licence,sha256,path\nCC0,{digest},set/b.PNG\n")
    assert find_photos(tmp_path / "m.csv") == [photos[0]]
    verify_manifest(tmp_path / "m.csv")


def test_a_changed_photograph_is_named_by_the_check_alone(photos, tmp_path):
    write_manifest(photos, tmp_path / "set" / "all.csv")
    photos[1].write_bytes(photos[1].read_bytes() + b"x")
    assert find_photos(tmp_path / "set" / "all.csv") == photos
    with pytest.raises(ValueError, match=r"1 of 3 in '.*all.csv' differ \('deep/er/a.jpeg'\)"):
        verify_manifest(tmp_path / "set" / "all.csv")


def test_missing_photographs_are_counted_and_the_first_named(photos, tmp_path):
    names = [f"set/{i}.png" for i in range(5)] + ["set/b.PNG"]
    (tmp_path / "list.txt").write_text("\n".join(names))
    expected = re.escape("names 6, of which 5 are missing ('set/0.png', 'set/1.png', 'set/2.png', ...)")
    with pytest.raises(FileNotFoundError, match=expected):
        find_photos(tmp_path / "list.txt")
    write_manifest(photos, tmp_path / "all.csv")
    photos[1].unlink()
    with pytest.raises(FileNotFoundError, match=re.escape("1 are missing ('set/deep/er/a.jpeg')")):
        find_photos(tmp_path / "all.csv")
    with pytest.raises(FileNotFoundError, match=r"a\.jpeg"):
        verify_manifest(tmp_path / "all.csv")


@pytest.mark.parametrize(
    "name, content, error, message",
    [
        ("a.txt", "# nothing\n\n", FileNotFoundError, "must name at least one: '.*a.txt' is empty"),
        ("a.csv", "path,sha256\n", FileNotFoundError, "must name at least one"),
        ("a.csv", "file,licence\nb.png,CC0\n", ValueError, "columns path and sha256: '.*a.csv' lacks them"),
        ("a.csv", "path,sha256\nb.png,\n", ValueError, "row 1 of '.*a.csv' lacks one"),
        ("a.csv", "path,sha256\nb.png\n", ValueError, "row 1 of '.*a.csv' lacks one"),
        ("a.png", "", ValueError, r"folder, a list \(.txt\) or a manifest \(.csv\), got '.*a.png'"),
    ],
)
def test_bad_lists(tmp_path, name, content, error, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(error, match=message):
        find_photos(tmp_path / name)


def test_missing_or_empty_folder(tmp_path):
    for name in ("none", "none.txt", "none.csv"):
        with pytest.raises(FileNotFoundError, match=f"must exist: got '.*{name}'"):
            find_photos(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="at least one image"):
        find_photos(tmp_path)


def test_a_manifest_refuses_a_name_that_is_no_utf_8(photos, tmp_path):
    odd = tmp_path / os.fsdecode(b"a\xff.png")
    photos[0].rename(odd)
    with pytest.raises(ValueError, match="names in UTF-8: .*udcff.png"):
        write_manifest([odd], tmp_path / "m.csv")


def test_a_folder_that_cannot_be_read_is_not_missing_without_a_word(photos, tmp_path, monkeypatch):
    def walk(top, onerror):
        onerror(PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "set" / "deep")))
        yield top, [], ["b.PNG"]

    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(PermissionError, match="deep"):
        find_photos(tmp_path / "set")


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("place", [".", "lists"])
def test_licences_lie_anywhere(photos, tmp_path, monkeypatch, absolute, place):
    """Beside the photographs or not; both given by relative paths or not."""
    monkeypatch.chdir(tmp_path)
    table = Path(place, "licences.csv")
    table.parent.mkdir(exist_ok=True)
    licences = zip(photos, ("CC0", "research only", "CC BY"), strict=True)
    table.write_text("file,licence\n" + "".join(f"{os.path.relpath(path, place)},{x}\n" for path, x in licences))
    folder = tmp_path / "set" if absolute else Path("set")
    assert [path.name for path in freely_licensed(folder, table)] == ["b.PNG", "c.webp"]


def test_no_manifest_is_left_of_a_failed_one(photos, tmp_path):
    with pytest.raises(ValueError, match="at least one photograph: got none"):
        write_manifest([], tmp_path / "out" / "m.csv")
    with pytest.raises(FileNotFoundError, match="none.png"):
        write_manifest([*photos, tmp_path / "none.png"], tmp_path / "out" / "m.csv")
    assert not (tmp_path / "out").exists()
