"""files.py: folders whole or not at all, and hashes in the format of sha256sum."""

import errno
import hashlib
import os

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from omgsr_lib.utils.files import atomic_folder, verify_hashes


def test_a_new_folder_appears_when_it_is_complete(tmp_path):
    with atomic_folder(tmp_path / "a" / "b") as part:
        (part / "inner").mkdir()
        (part / "inner" / "file").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "inner" / "file").read_text() == "x"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("old")
    with pytest.raises(RuntimeError, match="stop"), atomic_folder(tmp_path / "a") as part:
        (part / "file").write_text("new")
        raise RuntimeError("stop")
    assert (tmp_path / "a" / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), SafetensorError("I/O: No space left")])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(error, tmp_path):
    with pytest.raises(OSError, match=r"cannot write .*a \(.*No space left\): free some space") as caught:
        with atomic_folder(tmp_path / "a") as part:
            (part / "file").write_text("half")
            raise error
    assert str(caught.value).count("cannot write") == 1 and list(tmp_path.iterdir()) == []


def test_an_existing_folder_keeps_what_is_not_replaced(tmp_path):
    for name, text in {"notes.txt": "mine", "weights/old": "old", "file": "old"}.items():
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_text(text)
    with atomic_folder(tmp_path / "a") as part:
        (part / "file").write_text("new")
        (part / "weights").mkdir()
        (part / "weights" / "new").write_text("new")
    files = {
        p.relative_to(tmp_path / "a").as_posix(): p.read_text() for p in (tmp_path / "a").rglob("*") if p.is_file()
    }
    assert files == {"notes.txt": "mine", "file": "new", "weights/new": "new"}


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_weights_can_be_read_by_whoever_may_read_the_other_files(tmp_path):
    before = os.umask(0o022)
    try:
        with atomic_folder(tmp_path / "a") as part:
            (part / "config.json").write_text("{}")
            save_file({"x": torch.zeros(1)}, part / "x.safetensors")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "a").iterdir()} == {0o644}


def test_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "."):
        with atomic_folder(folder) as part:
            (part / "file").write_text(folder)
    assert (tmp_path / "a" / "file").read_text() == "a" and (tmp_path / "file").read_text() == "."


def test_hashes(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/two.safetensors", "one.safetensors"):
        save_file({"x": torch.ones(len(name))}, tmp_path / name)
    (tmp_path / "README.md").write_text("not a weight")
    lines = [
        f"{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("b/two.safetensors", "one.safetensors")
    ]
    (tmp_path / "SHA256SUMS").write_text("".join(lines))
    verify_hashes(tmp_path)

    (tmp_path / "README.md").write_text("changed")
    verify_hashes(tmp_path)
    save_file({"x": torch.zeros(3)}, tmp_path / "one.safetensors")
    with pytest.raises(ValueError, match="'one.safetensors' has .*Restore it with git checkout"):
        verify_hashes(tmp_path)
    (tmp_path / "one.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="'one.safetensors'. Restore it with git checkout"):
        verify_hashes(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(FileNotFoundError, match="SHA256SUMS is missing"):
        verify_hashes(tmp_path)
