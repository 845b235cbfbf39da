import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.ndimage import convolve
from skimage import data
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from omgsr_lib.data.photos import open_photo, to_pixels
from omgsr_lib.metrics import measures
from omgsr_lib.metrics.conventions import convention_scores, convention_table
from omgsr_lib.metrics.evaluate import COLUMNS, evaluate_folder, evaluate_images
from omgsr_lib.metrics.niqe import niqe
from omgsr_lib.metrics.scorers import MANIQA_VIT, PYIQA_FILES, metric_requirements, missing_weights
from omgsr_lib.metrics.specs import SPECS
from omgsr_lib.utils.processes import first_process


@pytest.fixture(scope="module")
def photos():
    """A photograph (H, W, 3) uint8 and a noisy, blurred copy; odd sides."""
    photo = data.astronaut()[:181, :203]
    noise = np.random.default_rng(0).normal(0, 9, photo.shape)
    return photo, np.clip(0.7 * photo + 0.3 * np.roll(photo, 1, 1) + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pixels(photos):
    return [to_pixels(Image.fromarray(photo))[None] for photo in photos]


def test_psnr_equals_skimage(photos, pixels):
    y = [rgb2ycbcr(photo) / 255 for photo in photos]
    expected = peak_signal_noise_ratio(y[0][..., 0], y[1][..., 0], data_range=1)
    assert measures.psnr_y(pixels[1], pixels[0]).item() == pytest.approx(expected, abs=2e-4)  # 1e-8 in the MSE
    expected = peak_signal_noise_ratio(photos[0] / 255, photos[1] / 255, data_range=1)
    assert measures.psnr_rgb(pixels[1], pixels[0]).item() == pytest.approx(expected, abs=2e-4)
    assert measures.psnr_y(pixels[0], pixels[0]).item() == pytest.approx(80, abs=1e-9)


def test_the_two_definitions_of_luma_differ_by_their_range(pixels):
    """Studio range against full range is 20 log10(255 / 219) = 1.3219 dB on grey images."""
    grey = [p.mean(1, keepdim=True).expand(-1, 3, -1, -1) for p in pixels]
    studio, full = (measures.psnr(*(luma(p) for p in grey)).item() for luma in (measures.luma_601, measures.luma_yiq))
    assert studio - full == pytest.approx(1.3219, abs=2e-4)


def test_ssim_equals_skimage(photos, pixels):
    y = [np.round(rgb2ycbcr(photo)[..., 0]) for photo in photos]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = structural_similarity(*y, **options)
    assert measures.ssim_y(pixels[1], pixels[0]).item() == pytest.approx(expected, abs=1e-9)
    assert measures.ssim_y(pixels[0], pixels[0]).item() == 1
    with pytest.raises(ValueError, match="at least 11x11 pixels, got \\(10, 30\\)"):
        measures.ssim_y(torch.zeros(1, 3, 10, 30), torch.zeros(1, 3, 10, 30))


def test_gmsd_equals_brute_force(photos, pixels):
    """MATLAB's conv2(..., 'same') written out with scipy."""

    def gradient(photo):
        grey = photo.astype(float) @ [0.298936021, 0.587043074, 0.114020904]
        grey = np.pad(grey, ((0, 1), (0, 1)))  # odd sides
        grey = (grey[::2, ::2] + grey[1::2, ::2] + grey[::2, 1::2] + grey[1::2, 1::2]) / 4
        kernel = np.array([[1, 0, -1]] * 3) / 3
        return np.hypot(*(convolve(grey, k, mode="constant") for k in (kernel, kernel.T)))

    x, y = (gradient(photo) for photo in photos)
    similarity = (2 * x * y + 170) / (x**2 + y**2 + 170)
    assert measures.gmsd(pixels[1], pixels[0]).item() == pytest.approx(similarity.std(ddof=1), abs=1e-9)
    assert measures.gmsd(pixels[0], pixels[0]).item() == 0


def test_checkerboard_has_its_closed_form():
    """White noise of variance s^2 plus `a cos(2 pi x / 8)`: its two bins rise by 1 + N a^2 / (6 s^2)."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(16, 1, 256, 256, generator=generator, dtype=torch.float64).expand(-1, 3, -1, -1)
    assert measures.checkerboard(noise).mean().abs() < 0.05
    grid = 0.03 * torch.cos(2 * torch.pi * torch.arange(256, dtype=torch.float64) / 8)
    expected = 10 * np.log10(1 + 256 * 0.03**2 / (6 * 0.1**2)) * 2 / 14  # 2 of 7 harmonics, one of two directions
    rise = measures.checkerboard(noise + grid) - measures.checkerboard(noise)
    assert rise.mean().item() == pytest.approx(expected, rel=0.02)
    assert torch.allclose(
        measures.checkerboard(noise + grid), measures.checkerboard((noise + grid).transpose(2, 3)), atol=1e-9
    )


def test_checkerboard_sees_a_repeated_pattern_and_not_photographs(pixels):
    photo = pixels[0][..., :176, :200]
    pattern = 0.04 * torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).repeat(1, 1, 22, 25)
    assert abs(measures.checkerboard(pixels[0]).item()) < 1
    assert measures.checkerboard(photo + pattern).item() > 5
    assert abs(measures.checkerboard(photo + pattern.roll(1), period=7).item()) < 1
    with pytest.raises(ValueError, match="at least 72 pixels"):
        measures.checkerboard(torch.zeros(1, 3, 64, 80))


def test_measures_are_per_picture(pixels):
    batch = torch.cat([pixels[1], pixels[0]]), torch.cat([pixels[0], pixels[1].flip(-1)])
    for name in ("psnr_y", "psnr_rgb", "ssim_y", "gmsd"):
        function = getattr(measures, name)
        expected = [function(a[None], b[None]).item() for a, b in zip(*batch, strict=True)]
        assert function(*batch).tolist() == pytest.approx(expected, abs=1e-12)


def test_published_psnr_ssim_and_niqe_are_reproduced(reference):
    """OSEDiff's per-image log of its RealSR outputs, made with pyiqa."""
    folder = reference / "data" / "realsr"
    published = pd.read_csv(folder / "osediff_published_metrics.csv").set_index("image")
    parameters = dict(np.load(reference / "weights" / "niqe" / "niqe_pris_params.npz"))
    for path in sorted((folder / "osediff_outputs").glob("*.webp")):
        restored = to_pixels(open_photo(path))[None]
        hq = to_pixels(open_photo(folder / "test_HR" / path.name))[None]
        row = published.loc[f"{path.stem}.png"]
        assert measures.psnr_y(restored, hq).item() == pytest.approx(row.PSNR, abs=1e-5)
        assert measures.ssim_y(restored, hq).item() == pytest.approx(row.SSIM, abs=2e-6)
        if path.stem.endswith(("001_LR4", "026_LR4")):  # the slow one
            assert niqe(restored, parameters).item() == pytest.approx(row.NIQE, rel=0.01)


def test_specs_state_every_convention():
    assert SPECS["psnr_y"].convention == (
        "Y of YCbCr (BT.601, 16-235), border 0, rounding none, data range 0-1; 1e-8 added to MSE"
    )
    assert SPECS["psnr_y"].version.startswith("omgsr") and SPECS["lpips_squeeze"].version.startswith("lpips 0.1.")
    assert SPECS["fid"].version.startswith("pyiqa")
    assert {name for name, spec in SPECS.items() if spec.lower_better} == {
        "gmsd", "lpips_squeeze", "niqe", "checkerboard", "lpips", "dists", "fid",
    }  # fmt: skip
    assert SPECS["maniqa"].backend == "pyiqa:maniqa-pipal"


@pytest.fixture
def folders(tmp_path, photos):
    for side, suffix in (("restored", ".png"), ("reference", ".bmp")):
        (tmp_path / side).mkdir()
        for index in range(3):
            photo = np.roll(photos[side == "restored"], 20 * index, axis=0)
            Image.fromarray(photo).save(tmp_path / side / f"photo_{index}{suffix}")
    return tmp_path / "restored", tmp_path / "reference"


def test_folders_are_paired_by_name(folders, photos):
    frame = evaluate_folder(*folders, metrics=("psnr_y", "gmsd", "checkerboard"), device="cpu")
    assert list(frame.columns) == list(COLUMNS) and len(frame) == 9
    assert list(frame["image"].unique()) == ["photo_0", "photo_1", "photo_2"]
    images = [[Image.fromarray(np.roll(photo, 20 * k, axis=0)) for k in range(3)] for photo in photos]
    names = [f"photo_{k}" for k in range(3)]
    in_memory = evaluate_images(images[1], images[0], ("psnr_y", "gmsd", "checkerboard"), names)
    pd.testing.assert_frame_equal(frame, in_memory)
    stacked = torch.stack([to_pixels(image) for image in images[1]])
    pd.testing.assert_frame_equal(
        frame, evaluate_images(stacked, images[0], ("psnr_y", "gmsd", "checkerboard"), names)
    )
    assert frame["lower_better"].tolist() == [False, True, True] * 3


def test_folder_mistakes_are_named(folders, photos):
    restored, reference = folders
    Image.fromarray(photos[0]).save(restored / "extra.png")
    (reference / "photo_2.bmp").unlink()
    with pytest.raises(ValueError, match="restored': extra, photo_2. Only in '.*reference': none"):
        evaluate_folder(restored, reference)
    (restored / "extra.png").unlink(), (restored / "photo_2.png").unlink()
    Image.fromarray(photos[0]).save(restored / "photo_1.webp")
    with pytest.raises(ValueError, match="restored': photo_1.png, photo_1.webp. Only in '.*reference': photo_1."):
        evaluate_folder(restored, reference)
    (restored / "photo_1.webp").unlink()
    Image.fromarray(photos[0][1:]).save(restored / "photo_1.png")
    with pytest.raises(ValueError, match="'photo_1' has 203x180 and 203x181"):
        evaluate_folder(restored, reference)
    content = (restored / "photo_0.png").read_bytes()
    (restored / "photo_1.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="photo_1.png"):
        evaluate_folder(restored, reference)
    (restored / "photo_1.png").write_text("not an image")
    with pytest.raises(ValueError, match="photo_1.png"):
        evaluate_folder(restored, reference)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        evaluate_folder(restored / "nowhere", reference)
    with pytest.raises(ValueError, match="one of psnr_y, .*; got 'psnr'"):
        evaluate_folder(restored, reference, metrics=("psnr",))


def test_picture_mistakes_are_named(pixels):
    picture = pixels[0][0]
    with pytest.raises(ValueError, match="\\[-1, 1\\]: 'a' spans \\[.*, 255\\]"):
        evaluate_images([(picture + 1) * 127.5], [picture], names=["a"])
    with pytest.raises(ValueError, match="shape \\(1, 3, 181, 203\\)"):
        evaluate_images([pixels[0]], [picture])
    with pytest.raises(ValueError, match="spans \\[nan, nan\\]"):
        evaluate_images([picture * float("nan")], [picture])
    with pytest.raises(ValueError, match="'restored': 1, 'names': 1, 'reference': 2"):
        evaluate_images([picture], [picture] * 2)
    with pytest.raises(ValueError, match="'psnr_y' needs reference images"):
        evaluate_images([picture], None)
    with pytest.raises(FileNotFoundError, match="'niqe' needs weights"):
        evaluate_images([picture], None, ("niqe",))
    with pytest.warns(RuntimeWarning, match="'0' has no checkerboard: The checkerboard metric needs"):
        assert evaluate_images([picture[:, :40]], None, ("checkerboard",))["value"].isna().all()


def test_pyiqa_is_asked_for_by_name_or_called_on_unit_pixels(monkeypatch, pixels, folders, tmp_path):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(
        ImportError, match="'maniqa' is computed by pyiqa, which is not installed. `pip install pyiqa`"
    ):
        evaluate_images([pixels[0][0]], None, ("maniqa",))

    def create_metric(name, device):
        if name == "fid":
            return lambda restored, reference: 12.5
        return lambda *inputs: torch.stack([x.mean() for x in inputs]).sum()

    monkeypatch.setitem(sys.modules, "pyiqa", SimpleNamespace(create_metric=create_metric))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    picture = pixels[0][0]
    with pytest.raises(
        FileNotFoundError, match="'dists' needs weights.*DISTS_weights-f5e65c96.pth' from https.*vgg16"
    ):
        evaluate_images([picture], [picture], ("dists",))
    for file in [file for files in PYIQA_FILES.values() for file in files]:
        (tmp_path / "hub" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hub" / file).touch()
    frame = evaluate_images([picture], [picture], ("dists", "musiq"))
    unit = float((picture.mean() + 1) / 2)
    assert frame["value"].tolist() == pytest.approx([2 * unit, unit], abs=1e-6)
    frame = evaluate_folder(*folders, metrics=("fid", "psnr_y"))
    assert frame.iloc[-1][["image", "metric", "value"]].tolist() == ["all", "fid", 12.5] and len(frame) == 4
    assert [path for path, _ in missing_weights("maniqa")] == [MANIQA_VIT]


def test_each_missing_file_is_named_with_its_place_and_address(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    table = metric_requirements(tmp_path).set_index("metric")
    assert list(table.index) == list(SPECS)
    assert table.ready[["psnr_y", "ssim_y", "gmsd", "checkerboard"]].all()
    assert not table.ready[["niqe", "lpips_squeeze", "lpips", "clipiqa", "fid"]].any()
    assert f"{tmp_path}/niqe/niqe_pris_params.npz from https://" in table.missing["niqe"]
    assert "TORCH_HOME/hub/clip/RN50.pt from https://" in table.missing["clipiqa"]
    (tmp_path / "niqe").mkdir()
    (tmp_path / "niqe" / "niqe_pris_params.npz").touch()
    assert missing_weights("niqe", tmp_path) == []


def test_a_stopped_evaluation_goes_on_and_a_changed_picture_is_scored_again(folders, photos, tmp_path, monkeypatch):
    calls = []

    def counted(restored, reference):
        calls.append(1)
        return measures.psnr_rgb(restored, reference)

    monkeypatch.setattr(measures, "psnr_y", counted)
    cache = tmp_path / "cache"
    frame = evaluate_folder(*folders, metrics=("psnr_y",), cache=cache)
    assert len(calls) == 3 and sorted(p.stem for p in cache.iterdir()) == ["photo_0", "photo_1", "photo_2"]
    (cache / "photo_1.json").unlink()
    pd.testing.assert_frame_equal(evaluate_folder(*folders, metrics=("psnr_y",), cache=cache), frame)
    assert len(calls) == 4
    both = evaluate_folder(*folders, metrics=("gmsd", "psnr_y"), cache=cache)
    assert len(calls) == 4 and both.metric.tolist() == ["gmsd", "psnr_y"] * 3
    pd.testing.assert_frame_equal(both, evaluate_folder(*folders, metrics=("gmsd", "psnr_y")), check_exact=True)
    calls.clear()
    Image.fromarray(photos[0]).save(folders[0] / "photo_2.png")
    changed = evaluate_folder(*folders, metrics=("psnr_y",), cache=cache)
    assert len(calls) == 1 and changed.value[2] != frame.value[2]
    record = (cache / "photo_0.json").read_text()
    (cache / "photo_0.json").write_text(record.replace("rounding none", "rounding to 8 bits"))  # another convention
    evaluate_folder(*folders, metrics=("psnr_y",), cache=cache)
    assert len(calls) == 2


@pytest.mark.slow
def test_processes_share_the_pictures_out(folders, tmp_path):
    """Two processes under torchrun, as accelerate starts them: disjoint shares, the whole frame in each."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\nfrom omgsr_lib import evaluate_folder\n"
        "frame = evaluate_folder(*sys.argv[1:3], metrics=('psnr_y', 'gmsd'), cache=sys.argv[3] + os.environ['RANK'])\n"
        "frame.to_csv(sys.argv[3] + os.environ['RANK'] + '.csv', index=False)\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    root = Path(measures.__file__).parents[2]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    subprocess.run([*launch, *folders, tmp_path / "out"], env=environment, check=True, capture_output=True)
    expected = evaluate_folder(*folders, metrics=("psnr_y", "gmsd"))
    for rank, share in enumerate((["photo_0", "photo_2"], ["photo_1"])):
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / f"out{rank}.csv"), expected)
        assert sorted(path.stem for path in (tmp_path / f"out{rank}").iterdir()) == share


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "LA"])
def test_pictures_that_8_bit_rgb_does_not_hold_are_refused(folders, mode):
    array = np.zeros((181, 203), np.uint16) if mode == "I;16" else np.zeros((181, 203, len(mode)), np.uint8)
    Image.fromarray(array).save(folders[0] / "photo_1.png")
    with pytest.raises(ValueError, match=f"photo_1.png' has the mode {mode}( and transparency)?. Convert it"):
        evaluate_folder(*folders)


def test_conventions_differ_by_what_is_known(folders, photos):
    table = convention_table(convention_scores(*folders))
    assert len(table) == 20 and set(table.n) == {3}
    value = table.set_index(["measure", "colours", "border", "rounding"])["mean"]
    mine = evaluate_folder(*folders, metrics=("psnr_y", "ssim_y", "psnr_rgb")).groupby("metric").value.mean()
    y, luma = "Y of YCbCr (BT.601, 16-235)", "luma of YIQ (full range)"
    assert value["PSNR", y, 0, "none"] == pytest.approx(mine.psnr_y, abs=1e-12)
    assert value["SSIM", y, 0, "to 8 bits"] == pytest.approx(mine.ssim_y, abs=1e-12)
    assert value["PSNR", "RGB", 0, "none"] == pytest.approx(mine.psnr_rgb, abs=1e-12)
    range_ratio = 20 * np.log10(255 / 219)
    assert value["PSNR", y, 0, "none"] - value["PSNR", luma, 0, "none"] == pytest.approx(range_ratio, abs=0.002)
    cropped = [[photo[4:-4, 4:-4] for photo in (np.roll(p, 20 * k, axis=0) for p in photos)] for k in range(3)]
    expected = np.mean([peak_signal_noise_ratio(*pair, data_range=255) for pair in cropped])
    assert value["PSNR", "RGB", 4, "none"] == pytest.approx(expected, abs=1e-3)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    planes = [[np.roll(photo, 20 * k, axis=0).astype(float) for photo in photos] for k in range(3)]
    expected = np.mean([structural_similarity(*pair, channel_axis=2, **options) for pair in planes])
    assert value["SSIM", "RGB", 0, "none"] == pytest.approx(expected, abs=1e-7)  # pixels are float32
    assert table.difference[table["mean"] == value["PSNR", y, 0, "none"]].item() == 0


def test_conventions_of_published_pictures(reference, tmp_path):
    """Two of OSEDiff's RealSR outputs: the published convention, and 20 log10(255 / 219) dB between the two lumas."""
    folder = reference / "data" / "realsr"
    for path in sorted((folder / "osediff_outputs").glob("*.webp"))[::10]:
        for side, source in (("restored", path), ("reference", folder / "test_HR" / path.name)):
            (tmp_path / side).mkdir(exist_ok=True)
            (tmp_path / side / path.name).symlink_to(source)
    scores = convention_scores(tmp_path / "restored", tmp_path / "reference")
    value = convention_table(scores).set_index(["measure", "colours", "border", "rounding"])["mean"]
    y, luma = "Y of YCbCr (BT.601, 16-235)", "luma of YIQ (full range)"
    published = pd.read_csv(folder / "osediff_published_metrics.csv").set_index("image")
    published = published.loc[[f"{image}.png" for image in scores.image.unique()]]
    assert value["PSNR", y, 0, "none"] == pytest.approx(published.PSNR.mean(), abs=1e-5)
    assert value["SSIM", y, 0, "to 8 bits"] == pytest.approx(published.SSIM.mean(), abs=2e-6)
    assert value["PSNR", y, 0, "none"] - value["PSNR", luma, 0, "none"] == pytest.approx(1.3219, abs=3e-4)


def test_lpips_squeeze_ranks_as_published(reference):
    folder = reference / "data" / "realsr"
    published = pd.read_csv(folder / "osediff_published_metrics.csv").set_index("image")["LPIPS"]
    paths = sorted((folder / "osediff_outputs").glob("*.webp"))[::2]
    frame = evaluate_images(
        [open_photo(path) for path in paths],
        [open_photo(folder / "test_HR" / path.name) for path in paths],
        ("lpips_squeeze",),
        [f"{path.stem}.png" for path in paths],
        weights=reference / "weights",
    )
    values = frame.set_index("image")["value"]
    assert values.mean() == pytest.approx(0.1858, abs=1e-3)
    assert np.corrcoef(values, published[values.index])[0, 1] > 0.9


def test_what_a_launcher_leaves_behind_changes_nothing(folders, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert first_process()  # of a single one
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")
    assert first_process() and len(evaluate_folder(*folders, device="cpu")) == 6
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="sets WORLD_SIZE to an integer: got 'two'. Unset it"):
        evaluate_folder(*folders, device="cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert not first_process()
