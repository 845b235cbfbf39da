"""What is not measured: images that 8-bit RGB does not hold, and images that a metric is not defined for."""

import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage import data

from omgsr_lib.cli import main
from omgsr_lib.images.sixteen_bit import write_png, write_tiff
from omgsr_lib.metrics.comparisons import compare_methods, rank_stability
from omgsr_lib.metrics.conventions import convention_scores
from omgsr_lib.metrics.evaluate import evaluate_folder, evaluate_images, paired_files
from omgsr_lib.metrics.statistics import summarise
from omgsr_lib.restore.names import output_names


PHOTO = data.astronaut()[:61, :83]


@pytest.fixture
def folders(tmp_path):
    for side, suffix in (("restored", ".png"), ("reference", ".bmp")):
        (tmp_path / side).mkdir()
        for index in range(3):
            Image.fromarray(np.roll(PHOTO, 20 * index, axis=0)).save(tmp_path / side / f"photo_{index}{suffix}")
    return tmp_path / "restored", tmp_path / "reference"


@pytest.mark.parametrize("side", ["restored", "reference"])
def test_pictures_whose_difference_the_decoder_drops_are_refused(folders, side):
    """16-bit colour that differs in its low bytes, a palette and a colour key with transparency: never "identical"."""
    folder = folders[side == "reference"]
    file = next(folder.glob("photo_1.*"))
    photo = Image.open(file).convert("RGB")
    file.unlink()
    paths = [folder / f"photo_1.{suffix}" for suffix in ("png", "tif", "png", "png", "png")]

    samples = np.asarray(photo).astype(np.uint16) << 8 | 1
    write_png(paths[0], samples)
    assert_refused(folders, paths[0], "16 bits")
    write_tiff(paths[1], samples)
    assert_refused(folders, paths[1], "16 bits")
    photo.save(paths[2], transparency=photo.getpixel((0, 0)))
    assert_refused(folders, paths[2], "transparency")
    photo.quantize(16).save(paths[3], transparency=3)
    assert_refused(folders, paths[3], "transparency")
    photo.convert("L").save(paths[4], transparency=100)
    assert_refused(folders, paths[4], "transparency")
    photo.save(deep := folder / "photo_1.jp2")
    data = bytearray(deep.read_bytes())
    size = data.find(b"\xff\x4f\xff\x51")
    data[size + 42] = data[size + 45] = data[size + 48] = data[data.find(b"ihdr") + 14] = 11
    deep.write_bytes(data)
    with pytest.raises(ValueError, match="photo_1.jp2' has 12 bits"):
        evaluate_folder(*folders)
    deep.unlink()
    photo.quantize(256).save(paths[0])
    assert len(evaluate_folder(*folders, metrics=("psnr_y",))) == 3


def assert_refused(folders, path, found):
    """Refused with the file's name: by every entry, for a metric of folders, and by a cache of earlier scores."""
    rule = f"8-bit RGB without transparency: '.*{path.name}' has {found}. Convert it"
    with pytest.raises(ValueError, match=rule):
        evaluate_folder(*folders)
    with pytest.raises(ValueError, match=rule):
        evaluate_folder(*folders, metrics=())
    with pytest.raises(ValueError, match=rule):
        convention_scores(*folders)
    with Image.open(path) as image, pytest.raises(ValueError, match=f"'a' has {found}"):
        evaluate_images([image], [image], names=["a"])
    path.unlink()


def test_pictures_in_memory_are_held_to_the_same_rule():
    photo = Image.fromarray(PHOTO)
    clear, deep = photo.copy(), Image.fromarray(PHOTO[..., 0].astype(np.uint16) << 8)
    clear.putalpha(7)
    for picture, found in ((clear, "the mode RGBA and transparency"), (deep, "the mode I;16")):
        with pytest.raises(ValueError, match=f"'a' has {found}. Convert it"):
            evaluate_images([picture], [photo], names=["a"])


@pytest.fixture
def pristine(tmp_path):
    """A folder of weights with a model for NIQE that is not the authors'."""
    (tmp_path / "weights" / "niqe").mkdir(parents=True)
    window = np.outer(*[np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))] * 2)
    model = dict(mu_pris_param=np.ones((1, 36)), cov_pris_param=np.eye(36), gaussian_window=window / window.sum())
    np.savez(tmp_path / "weights" / "niqe" / "niqe_pris_params.npz", **model)
    return tmp_path / "weights"


def test_a_picture_without_structure_has_no_niqe_and_the_others_have(tmp_path, pristine, capsys):
    photo = data.astronaut()[:256, :256]
    corner = np.zeros_like(photo)
    corner[:90, :90] = photo[:90, :90]  # one block with structure
    for name, picture in (("a", photo), ("black", 0 * photo), ("corner", corner), ("z", photo[::-1])):
        (tmp_path / "set").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "set" / f"{name}.png")
    options = dict(metrics=("niqe", "checkerboard"), weights=pristine, cache=tmp_path / "cache")
    for _ in range(2):  # said again where the scores come from the cache
        with pytest.warns(RuntimeWarning) as caught:
            frame = evaluate_folder(tmp_path / "set", None, **options)
        values = frame.pivot(index="image", columns="metric", values="value")
        assert values["checkerboard"].notna().all()
        assert values["niqe"].isna().tolist() == [False, True, True, False]
        assert [str(warning.message) for warning in caught] == [
            f"'{name}' has no niqe: NIQE needs at least two blocks of 96x96 pixels with structure, {n} of 4 have."
            for name, n in (("black", 0), ("corner", 1))
        ]
    options = ["--metrics", "niqe", "--weights", str(pristine)]
    assert main(["evaluate", str(tmp_path / "set"), *options]) == 0
    said = re.findall("omgsr evaluate: '(.*)' has no niqe", capsys.readouterr().err)
    assert said == ["black", "corner"]  # the warnings reach the user of the command, a line each
    summary = summarise(frame.assign(method="x")).set_index("metric")
    assert summary.n.to_dict() == {"niqe": 2, "checkerboard": 4} and summary["mean"].notna().all()


def test_pictures_without_a_value_are_left_out_of_comparisons():
    """For all methods: what is left equals the frame without that image."""
    rng = np.random.default_rng(0)
    rows = [(method, f"{k:02}", "niqe", rng.normal(), True) for method in ("a", "b", "c") for k in range(12)]
    frame = pd.DataFrame(rows, columns=["method", "image", "metric", "value", "lower_better"])
    gap = frame.assign(value=frame.value.where(~((frame.method == "a") & (frame.image == "03"))))
    rest = frame[frame.image != "03"]
    pd.testing.assert_frame_equal(rank_stability(gap, draws=200), rank_stability(rest, draws=200))
    pd.testing.assert_frame_equal(
        compare_methods(gap, against="a", draws=200), compare_methods(rest, against="a", draws=200)
    )
    assert summarise(gap).n.tolist() == [11, 12, 12]
    nothing = summarise(gap.assign(value=np.nan)).iloc[0]
    assert nothing.n == 0 and np.isnan(nothing["mean"])


def test_a_picture_too_small_for_a_metric_has_no_value_and_the_others_have(tmp_path):
    for name, side in (("icon", 8), ("photo", 80)):
        Image.fromarray(PHOTO.repeat(2, axis=0)[:side, :side]).save(tmp_path / f"{name}.png")
    with pytest.warns(RuntimeWarning) as caught:
        frame = evaluate_folder(tmp_path, tmp_path, metrics=("psnr_y", "ssim_y", "checkerboard"))
    values = frame.pivot(index="image", columns="metric", values="value")
    assert values.loc["icon"].isna().to_dict() == {"checkerboard": True, "psnr_y": False, "ssim_y": True}
    assert values.loc["photo"].notna().all()
    conventions = convention_scores(tmp_path, tmp_path, borders=(0,)).groupby(["image", "measure"])["value"]
    assert conventions.count().tolist() == [5, 0, 5, 5]
    assert [str(warning.message).split(":")[0] for warning in caught] == [
        "'icon' has no ssim_y",
        "'icon' has no checkerboard",
    ]


def test_names_that_differ_in_suffix_alone_are_paired(tmp_path):
    """As `omgsr restore` names its results: `a.jpg.png` and `a.png.png`, but `b.png`."""
    reference = ("a.jpg", "a.png", "b.jpg", "c/a.png")
    for folder, names in (("in", reference), ("out", ("a.jpg.png", "a.png.png", "b.png", "c/a.png"))):
        for name in names:
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(PHOTO).save(tmp_path / folder / name)
    assert list(paired_files(tmp_path / "out", tmp_path / "in")) == ["a.jpg", "a.png", "b", "c/a"]
    assert paired_files(tmp_path / "out", tmp_path / "in")["a.jpg"][0].name == "a.jpg.png"
    assert output_names(reference, ".png") == ["a.jpg.png", "a.png.png", "b.png", "c/a.png"]
