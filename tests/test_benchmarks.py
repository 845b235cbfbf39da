"""data/benchmarks.py and benchmark.py: what is refused, and that a stopped run resumes."""

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from omgsr_lib.cli import main
from omgsr_lib.data.test_sets import TEST_SETS, open_test_set, pixel_checksum
from omgsr_lib.study import test_sets as procedure


def noise(path, side, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A benchmark of two pairs, 24 to 96 pixels, and one of two images without references."""
    for seed, name in enumerate(("a", "b")):
        noise(tmp_path / "set" / "test_LR" / f"{name}.png", 24, seed)
        noise(tmp_path / "set" / "test_HR" / f"{name}.png", 96, seed + 10)
        noise(tmp_path / "wild" / f"{name}.png", 150, seed)
    pairs = replace(TEST_SETS["RealSR"], count=2, lq_size=24, checksum=None)
    monkeypatch.setitem(TEST_SETS, "RealSR", pairs)
    monkeypatch.setitem(TEST_SETS, "RealSet65", replace(TEST_SETS["RealSet65"], count=2, checksum=None))
    return tmp_path


def test_pairs_go_by_name(small):
    noise(small / "set" / "test_LR" / "a.png", 24)
    (small / "set" / "test_HR" / "b.png").rename(small / "set" / "test_HR" / "c.png")
    with pytest.raises(ValueError, match="without a partner: b, c"):
        open_test_set("RealSR", small / "set")
    (small / "set" / "test_HR" / "c.png").rename(small / "set" / "test_HR" / "b.png")
    pairs = open_test_set("RealSR", small / "set")
    assert [(lq.stem, hq.stem) for lq, hq in pairs.values()] == [("a", "a"), ("b", "b")]
    assert {hq for _, hq in open_test_set("RealSet65", small / "wild").values()} == {None}


def test_other_counts_sizes_and_pixels_are_refused(small, monkeypatch):
    folder = small / "set"
    noise(folder / "test_LR" / "b.png", 25)
    with pytest.raises(ValueError, match=r"measure 24x24 here: '.*b.png' is 25x25.*StableSR"):
        open_test_set("RealSR", folder)
    noise(folder / "test_LR" / "b.png", 24, 1)
    right = pixel_checksum(sorted(folder.rglob("*.png")))
    monkeypatch.setitem(TEST_SETS, "RealSR", replace(TEST_SETS["RealSR"], checksum=right))
    assert len(open_test_set("RealSR", folder)) == 2
    noise(folder / "test_LR" / "b.png", 24, 7)
    with pytest.raises(ValueError, match="another copy"):
        open_test_set("RealSR", folder)
    (folder / "test_LR" / "b.png").unlink()
    with pytest.raises(ValueError, match="RealSR has 2 images in 'test_LR': .* holds 1"):
        open_test_set("RealSR", folder)
    with pytest.raises(FileNotFoundError, match="DRealSR is not in .*huggingface.co/datasets/Iceclear"):
        open_test_set("DRealSR", folder / "nowhere")
    with pytest.raises(ValueError, match="must be one of RealSR"):
        open_test_set("Set5", folder)


def test_checksum_is_of_the_pixels_alone(tmp_path):
    path = noise(tmp_path / "x.png", 8)
    pixels = np.asarray(Image.open(path))
    one = hashlib.sha256(np.array([8, 8, 3], dtype="<i4").tobytes() + pixels.tobytes()).hexdigest()
    assert pixel_checksum([path]) == hashlib.sha256(one.encode()).hexdigest()
    other = tmp_path / "renamed.webp"
    Image.open(path).save(other, lossless=True)
    second = noise(tmp_path / "y.png", 8, 1)
    assert pixel_checksum([path, second]) == pixel_checksum([second, other])


def test_the_checksums_are_those_of_the_copies_at_hand(reference):
    for name, folder in (("RealSR", "realsr"), ("RealSet65", "real_lq")):
        assert len(open_test_set(name, reference / "data" / folder)) == TEST_SETS[name].count


class Shadow:
    """In place of a model: `restore` is replaced too."""

    @classmethod
    def from_pretrained(cls, name):
        return cls()

    def merge(self):
        return self


def test_a_stopped_benchmark_resumes(small, monkeypatch):
    restored = []

    def fake_restore(model, image, *, scale, progress, tile, overlap):
        if len(restored) == 1 and tile == 64:
            raise KeyboardInterrupt
        restored.append(tile)
        large = image.resize([scale * side for side in image.size], Image.NEAREST)
        return type("Result", (), {"images": [large]})

    monkeypatch.setattr(procedure, "OMGSR", Shadow)
    monkeypatch.setattr(procedure, "restore", fake_restore)
    options = dict(models=("bicubic", "mini-s"), work=small / "work", progress=False, metrics=("psnr_y", "gmsd"))
    with pytest.raises(KeyboardInterrupt):
        procedure.benchmark("RealSR", small / "set", small / "out", tile=64, **options)
    assert restored == [64] and not (small / "out").exists()

    frame = procedure.benchmark("RealSR", small / "set", small / "out", tile=128, **options)
    assert restored == [64, 128, 128]  # of another tile nothing is taken over
    procedure.benchmark("RealSR", small / "set", small / "out", tile=128, **options)
    assert len(restored) == 3
    written = pd.read_csv(small / "out" / "RealSR" / "scores.csv")
    assert list(written.columns[:5]) == ["dataset", "method", "image", "metric", "value"]
    assert written.groupby("method").size().to_dict() == {"bicubic": 4, "mini-s": 4}
    lq = Image.open(small / "set" / "test_LR" / "a.png")
    large = procedure.evaluate_folder(small / "work" / "RealSR", None, ())  # no metric: the names alone
    assert large.empty and frame.value.notna().all()
    bicubic = next((small / "work" / "RealSR").glob("bicubic-*/restored/a.png"))
    assert np.array_equal(np.asarray(Image.open(bicubic)), np.asarray(lq.resize((96, 96), Image.BICUBIC)))
    assert (small / "out" / "RealSR" / "run.json").exists()


def test_pictures_of_various_sizes_are_restored_in_their_centre(small):
    options = dict(models=("bicubic",), work=small / "work", progress=False, metrics=("checkerboard",))
    procedure.benchmark("RealSet65", small / "wild", small / "out", **options)
    restored = next((small / "work" / "RealSet65").glob("bicubic-*/restored/a.png"))
    centre = Image.open(small / "wild" / "a.png").crop((11, 11, 139, 139)).resize((512, 512), Image.BICUBIC)
    assert np.array_equal(np.asarray(Image.open(restored)), np.asarray(centre))


def test_methods_are_checked_before_any_is_restored(small):
    options = dict(work=small / "work", progress=False, metrics=("checkerboard",))
    for models, message in ((("bicubic", "mini-x"), "A method must be one of bicubic, .*mini-s.*: got 'mini-x'"),
                            (("mini-s", "mini-s"), "names of their own: got mini-s, mini-s")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            procedure.benchmark("RealSet65", small / "wild", small / "out", models=models, **options)
    assert not (small / "work").exists() and not (small / "out").exists()


def test_published_rows_stand_beside_ours(small, capsys):
    (small / "reference").mkdir()
    (small / "reference" / "published_results.csv").write_text(
        "dataset,method,steps,metric,value,source\nRealSR,Other,1,PSNR,25.5,a paper\nDRealSR,Other,1,PSNR,28,a paper\n"
    )
    (small / "reference" / "published_cost.csv").write_text(
        "method,steps,seconds,GPU,params_M,source\nOther,1,2,A,3,b\n"
    )
    command = ["benchmark", "RealSR", "--data", str(small / "set"), "--models", "bicubic", "--work", str(small / "w")]
    command += ["--out", str(small / "out"), "--published", str(small / "reference")]
    assert main([*command, "--metrics", "psnr_y"]) == 0
    assert "bicubic" in capsys.readouterr().out
    rows = pd.read_csv(small / "out" / "RealSR" / "published.csv")
    assert rows[["dataset", "metric", "mean", "source"]].values.tolist() == [["RealSR", "psnr_y", 25.5, "a paper"]]
    assert main([*command, "--metrics", "niqe"]) == 2
    assert "niqe_pris_params.npz" in capsys.readouterr().err
