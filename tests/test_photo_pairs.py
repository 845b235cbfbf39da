"""Pairs from photographs on disk: crops, flips, small images, portraits, broken files and workers."""

import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from omgsr_lib.data.degradation import Degradation, degrade
from omgsr_lib.data.photo_pairs import PhotoPairs, random_crop
from omgsr_lib.data.photos import to_pixels


SIZE = 32


def chart(height, width):
    """An image whose pixels say where they are: red is the column, green the row."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([columns, rows, 0 * rows], -1).astype(np.uint8))


def read(crop):
    """Rows and columns that the pixels of a crop of `chart` name, each `(size, size)`."""
    columns, rows, _ = ((crop + 1) * 127.5).round().int().numpy()
    return rows, columns


@pytest.fixture
def paths(tmp_path):
    """Six photographs, of which the first is broken."""
    paths = [tmp_path / f"ffhq_{i}.png" for i in range(6)]
    paths[0].write_bytes(b"not an image")
    for i, path in enumerate(paths[1:]):
        pixels = np.random.default_rng(i).integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60 + i, 50), Image.BICUBIC).save(path)
    return paths


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in ("lq", "hq"))


# ---- crops ----


def test_a_crop_is_a_window_of_the_photograph_or_its_mirror_image():
    rng, tops, lefts, flips = np.random.default_rng(0), [], [], 0
    for _ in range(400):
        rows, columns = read(random_crop(chart(40, 37), SIZE, rng))
        flipped = bool(columns[0, 0] > columns[0, -1])
        columns = columns[:, ::-1] if flipped else columns
        assert (np.diff(columns, axis=1) == 1).all() and (np.diff(rows, axis=0) == 1).all()
        assert (np.diff(columns, axis=0) == 0).all() and (np.diff(rows, axis=1) == 0).all()
        tops, lefts, flips = [*tops, rows[0, 0]], [*lefts, columns[0, 0]], flips + flipped
    assert set(tops) == set(range(9)) and set(lefts) == set(range(6))
    assert np.bincount(tops).min() > 20 and np.bincount(lefts).min() > 35
    assert 160 < flips < 240  # two fair coins make one


@pytest.mark.parametrize("height, width", [(20, 50), (50, 7), (3, 2), (31, 31)])
def test_a_small_photograph_is_extended_by_reflection(height, width):
    """Each crop is a window of the image mirrored to and fro, and holds all of a side that fits in it."""
    mirrored = np.pad(np.asarray(chart(height, width)), ((64, 64), (64, 64), (0, 0)), mode="reflect")
    rng = np.random.default_rng(0)
    for _ in range(20):
        crop = random_crop(chart(height, width), SIZE, rng)
        rows, columns = read(crop)
        for named, length in ((rows, height), (columns, width)):
            if length < SIZE:
                assert set(named.ravel()) == set(range(length))
        views = np.lib.stride_tricks.sliding_window_view(mirrored, (SIZE, SIZE, 3))[:, :, 0]
        pixels = ((crop.permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
        for picture in (pixels, pixels[:, ::-1]):
            candidates = views[(views[:, :, 0, 0] == picture[0, 0]).all(-1)]
            if (candidates == picture).all((1, 2, 3)).any():
                break
        else:
            pytest.fail("neither the crop nor its mirror image is a window")


# ---- items ----


def windows(photo):
    """All crops of a PIL image, `(n, 3, SIZE, SIZE)`."""
    return to_pixels(photo).unfold(1, SIZE, 1).unfold(2, SIZE, 1).flatten(1, 2).transpose(0, 1)


def holds(photo, hq):
    return any((windows(photo) == crop).all((1, 2, 3)).any() for crop in (hq, hq.flip(-1)))


def test_an_item_is_a_crop_of_a_photograph_and_its_degradation(paths):
    pairs = PhotoPairs(paths[1:3], SIZE, seed=5)
    for index in (0, 1, 17):
        item = pairs[index]
        assert any(holds(Image.open(path), item["hq"]) for path in paths[1:3])
        assert torch.equal(item["lq"], degrade(item["hq"], seed=5, index=index))


def test_an_item_depends_on_seed_and_index_alone(paths):
    forward = [PhotoPairs(paths[1:], SIZE, seed=5)[i] for i in range(4)]
    torch.manual_seed(1)
    np.random.seed(1)
    again = PhotoPairs(paths[1:], SIZE, seed=5)
    assert same(again[3], forward[3]) and same(again[1], forward[1])
    assert not same(forward[0], forward[1])
    assert not same(PhotoPairs(paths[1:], SIZE, seed=6)[3], forward[3])


def test_settings_follow_the_size_and_scale_overrides_theirs(paths):
    assert PhotoPairs(paths, 512, seed=0).settings == PhotoPairs(paths, 64, seed=0).settings == Degradation()
    assert PhotoPairs(paths, 1024, seed=0).settings == Degradation.for_size(1024)
    large = Degradation.for_size(1024)
    item = PhotoPairs(paths[1:], SIZE, seed=5, settings=large)[2]
    assert torch.equal(item["lq"], degrade(item["hq"], seed=5, index=2, settings=large))
    item = PhotoPairs(paths[1:], SIZE, seed=5, scale=2)[2]
    assert torch.equal(item["lq"], degrade(item["hq"], seed=5, index=2, scale=2))


def test_portraits_are_reduced_and_no_name_makes_one(paths):
    """The photographs are called ffhq_*.png; only those given as portraits are resized."""
    photo = Image.open(paths[1])  # 60x50
    reduced = photo.resize((38, 32), Image.LANCZOS)
    assert holds(photo, PhotoPairs(paths[1:2], SIZE, seed=1)[0]["hq"])
    assert holds(reduced, PhotoPairs((), SIZE, seed=1, portraits=paths[1:2])[0]["hq"])


def test_a_square_portrait_is_used_whole_and_a_small_one_never_enlarged(tmp_path):
    chart(64, 64).save(tmp_path / "square.png")
    hq = PhotoPairs((), SIZE, seed=0, portraits=[tmp_path / "square.png"])[0]["hq"]
    expected = to_pixels(chart(64, 64).resize((SIZE, SIZE), Image.LANCZOS))
    assert torch.equal(hq, expected) or torch.equal(hq, expected.flip(-1))
    chart(20, 40).save(tmp_path / "small.png")
    rows, columns = read(PhotoPairs((), SIZE, seed=0, portraits=[tmp_path / "small.png"])[0]["hq"])
    assert set(rows.ravel()) == set(range(20)) and (abs(np.diff(columns, axis=1)) == 1).all()


def test_names_need_not_be_utf_8(paths, tmp_path):
    odd = tmp_path / os.fsdecode(b"a\xff.png")
    odd.write_bytes(paths[1].read_bytes())
    pairs = PhotoPairs([odd], SIZE, seed=0)
    assert pairs.describe().startswith("1 photographs, ") and pairs[0]["hq"].shape == (3, SIZE, SIZE)


def test_photographs_and_portraits_are_drawn_alike(paths, monkeypatch):
    opened = []
    monkeypatch.setattr("omgsr_lib.data.photo_pairs.open_photo", lambda path: opened.append(path) or chart(32, 32))
    pairs = PhotoPairs(paths[:3], SIZE, seed=0, portraits=paths[3:5])
    for index in range(1000):
        pairs.crop(index)
    counts = [opened.count(str(path)) for path in paths[:5]]
    assert sum(counts) == 1000 and min(counts) > 150 and max(counts) < 250


# ---- broken files ----


def test_a_broken_file_is_reported_once_and_another_drawn(paths):
    pairs = PhotoPairs(paths, SIZE, seed=5, broken_share=0.5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        items = [pairs[index] for index in range(30)]
    (report,) = caught
    assert report.category is RuntimeWarning
    assert f"Skipped the photograph '{paths[0]}'" in str(report.message)
    assert "must be a readable image" in str(report.message)
    with warnings.catch_warnings(record=True):
        for index in (29, 7):  # whatever was read before, with the file broken or known to be
            assert same(PhotoPairs(paths, SIZE, seed=5, broken_share=0.5)[index], items[index])
            assert same(pairs[index], items[index])


def test_missing_and_tiny_files_are_broken_too(paths, tmp_path):
    Image.new("RGB", (1, 40)).save(tmp_path / "thin.png")
    bad = [tmp_path / "none.png", tmp_path / "thin.png"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pairs = PhotoPairs([*paths[1:], *bad], SIZE, seed=0, broken_share=0.5)
        for index in range(30):
            pairs[index]
    messages = sorted(str(report.message) for report in caught)
    assert len(messages) == 2
    assert "none.png" in messages[0] and "No such file" in messages[0]
    assert "thin.png" in messages[1] and "at least 2 pixels" in messages[1]


@pytest.mark.filterwarnings("ignore:Skipped")
def test_too_many_broken_files_stop_the_run(paths, tmp_path):
    pairs = PhotoPairs(paths, SIZE, seed=5, broken_share=0.1)  # one of six is more
    with pytest.raises(
        ValueError, match=r"At most 10.000% .* may be broken: of \d tried 1 are, lastly '.*ffhq_0.png'"
    ):
        for index in range(30):
            pairs[index]
    gone = [tmp_path / f"{i}.png" for i in range(5000)]
    with pytest.raises(ValueError, match=r"of 11 tried 11 are"):  # more than 1 % of the first thousand
        PhotoPairs(gone, SIZE, seed=0)[0]
    with pytest.raises(ValueError, match=r"of 2 tried 2 are"):
        PhotoPairs(gone[:2], SIZE, seed=0, broken_share=0.99)[0]


# ---- workers ----


def batches(pairs, workers, context=None):
    subset = torch.utils.data.Subset(pairs, range(3, 11))
    return list(torch.utils.data.DataLoader(subset, 2, num_workers=workers, multiprocessing_context=context))


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_workers_change_no_bit_and_share_what_they_know(paths, tmp_path, monkeypatch):
    def report(message, *args, **options):
        with open(tmp_path / "reports", "a") as file:
            file.write(message)

    monkeypatch.setattr("omgsr_lib.data.photo_pairs.warnings.warn", report)
    alone = batches(PhotoPairs(paths, SIZE, seed=5, broken_share=0.5), 0)
    assert (tmp_path / "reports").read_text().count("ffhq_0.png") == 2  # its path and that in the reason, once each
    pairs = PhotoPairs(paths, SIZE, seed=5, broken_share=0.5)
    together = batches(pairs, 2, "fork")
    assert len(alone) == len(together) == 4 and all(map(same, alone, together))
    known = (tmp_path / "reports").read_text()
    assert known.count("ffhq_0.png") in (4, 6)  # by one worker, or by both at the same moment
    batches(pairs, 0)
    batches(pairs, 2, "fork")
    assert (tmp_path / "reports").read_text() == known


@pytest.mark.slow
def test_spawned_workers_change_no_bit_and_report_to_the_terminal(paths, capfd):
    pairs = PhotoPairs(paths, SIZE, seed=5, broken_share=0.5)
    together = batches(pairs, 2, "spawn")
    assert f"RuntimeWarning: Skipped the photograph '{paths[0]}'" in capfd.readouterr().err
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # this process knows what the workers found
        assert all(map(same, batches(pairs, 0), together))


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_an_error_in_a_worker_reaches_the_run(paths):
    with pytest.raises(ValueError, match="may be broken"):
        batches(PhotoPairs(paths, SIZE, seed=5, broken_share=0), 1, "fork")


# ---- arguments ----


def test_wrong_arguments(paths):
    with pytest.raises(ValueError, match="got none"):
        PhotoPairs((), SIZE, seed=0)
    for share in (-0.1, 1, float("nan")):
        with pytest.raises(ValueError, match=r"\[0, 1\), got"):
            PhotoPairs(paths, SIZE, seed=0, broken_share=share)
    pairs = PhotoPairs(paths[1:], SIZE, seed=0, length=2)
    assert len(pairs) == 2 and len(list(pairs)) == 2
    for index in (-1, 2):
        with pytest.raises(IndexError, match="there are 2"):
            pairs[index]
