"""restore/folder.py: failures of one file that stop no other, and those that end the run."""

import errno
import os
import re

import numpy as np
import pytest
import torch
from folder_case import pictures_in, quiet, six_images, tiny_model
from hostile_inputs import picture, png16
from PIL import Image

from omgsr_lib.images.image_file import Picture
from omgsr_lib.restore import out_of_core
from omgsr_lib.restore.pipeline import Restorer, restore


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def folder(tmp_path):
    return six_images(tmp_path / "in")


def test_a_picture_too_large_for_the_memory_is_a_line(model, folder, tmp_path, monkeypatch):
    call = Restorer.__call__

    def short(self, pictures):
        if any(picture.size == (24, 16) for picture in pictures):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return call(self, pictures)

    monkeypatch.setattr(Restorer, "__call__", short)
    report = quiet(model, folder, tmp_path / "out", scale=1, batch_size=3)
    assert len(report.restored) == 5
    assert report.failed == [
        (folder / "c.png", f"Out of memory: '{folder / 'c.png'}' could not be restored. Choose smaller tiles.")
    ]


def test_a_scale_beyond_memory_and_disk_is_a_line(model, folder, tmp_path):
    start = re.escape(f"'{folder / 'a.png'}' becomes 16000000x16000000 pixels, more than fit into the memory")
    for options in ({}, dict(tile="auto")):
        report = quiet(model, folder / "a.png", tmp_path / "out", scale=1e6, **options)
        assert re.match(start + ", and takes 4768372 GiB in", report.failed[0][1])


def test_pictures_beyond_the_memory_are_restored_in_files(model, tmp_path, monkeypatch):
    """As in memory with a flat autoencoder, up to a rounding; grey and alpha stay; 16 bits are refused."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name, mode in (("grey.png", "L"), ("alpha.png", "RGBA")):
        picture(20, 33, mode).save(source / name)
    png16(3)(source / "deep.png")
    monkeypatch.setattr(out_of_core, "BYTES", 1e12)
    (out / ".omgsr-scratch").mkdir(parents=True)  # of a run that was killed
    report = quiet(model, source, out, scale=1.5, tile="auto", seed=3, batch_size=2)
    assert len(report.restored) == 2 and not (out / ".omgsr-scratch").exists()
    assert [path.name for path, _ in report.failed] == ["deep.png"]
    assert "and files are for 8 bits only" in report.failed[0][1]
    for name, mode in (("grey.png", "L"), ("alpha.png", "RGBA")):
        found, options = Image.open(out / name), dict(scale=1.5, seed=3, vae_mode="flat", progress=False)
        expected = restore(model, Image.open(source / name), **options).images[0]
        assert found.mode == mode and found.size == expected.size == (30, 50)
        assert np.abs(np.asarray(found, int) - np.asarray(expected, int)).max() <= 1


def test_errors_of_the_program_are_not_taken_for_bad_pictures(model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Restorer, "__call__", lambda self, pictures: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quiet(model, folder, tmp_path / "out", scale=1)


def test_a_full_disk_ends_the_run_and_leaves_nothing_half_written(model, folder, tmp_path, monkeypatch):
    def fail(self, file, *options, **more):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Picture, "save", fail)
    with pytest.raises(OSError, match="cannot write .*a.png .No space left on device.: free some space"):
        quiet(model, folder, tmp_path / "out", scale=1)
    assert pictures_in(tmp_path / "out") == {}


def test_an_output_folder_that_cannot_be_written(model, folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="cannot write .*: free some space, or choose a folder that can be written"):
        quiet(model, folder, tmp_path / "file" / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(model, folder, tmp_path):
    (folder / "a.png").chmod(0)
    report = quiet(model, folder, tmp_path / "out", scale=1)
    assert report.failed == [
        (folder / "a.png", f"Permission denied: '{folder / 'a.png'}'. Check the path and its permissions.")
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_a_folder_that_can_be_listed_only(model, folder, tmp_path):
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o111)
    (folder / "deep" / "er").chmod(0o744)
    os.seteuid(65534)
    try:
        report = quiet(model, folder, tmp_path / "out", scale=1)
    finally:
        os.seteuid(0)
    assert str(report) == "5 restored, 1 failed" and "Permission denied: " in report.failed[0][1]


def test_a_folder_that_cannot_be_read_is_a_line(model, folder, tmp_path, monkeypatch):
    def walk(top, onerror):
        onerror(PermissionError(errno.EACCES, "Permission denied", str(folder / "deep")))
        yield str(folder), [], ["a.png"]

    monkeypatch.setattr(os, "walk", walk)
    report = quiet(model, folder, tmp_path / "out", scale=1)
    assert str(report) == "1 restored, 1 failed" and "Permission denied: " in report.failed[0][1]
