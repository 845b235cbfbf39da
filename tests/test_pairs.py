"""Training and evaluation pairs: what an item is made of, that it never changes, and that sets stay apart."""

import numpy as np
import pytest
import torch
from PIL import Image

from omgsr_lib.data.crops import CropSampler
from omgsr_lib.data.degradation import Degradation, degrade
from omgsr_lib.data.pairs import Pairs, assert_disjoint, evaluation_pairs
from omgsr_lib.data.photos import packaged_photos, to_image, to_pixels
from omgsr_lib.data.synthetic import dead_leaves


@pytest.fixture(scope="module")
def paths():
    return packaged_photos("eval")[:2]


@pytest.fixture(scope="module")
def pairs(paths):
    return Pairs(paths, 64, seed=5, short_sides=(96, 160))


def save(path, height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in ("lq", "hq"))


def test_an_item_is_a_crop_and_its_degradation(pairs, paths):
    hq = CropSampler(paths, 64, seed=5, short_sides=(96, 160)).batch(17, 1)[0]
    assert torch.equal(pairs[17]["hq"], hq)
    assert torch.equal(pairs[17]["lq"], degrade(hq, seed=5, index=17))


def test_a_resumed_run_sees_the_same_items(pairs, paths):
    forward = [pairs[i] for i in (0, 1, 2, 3)]
    torch.manual_seed(1)
    resumed = Pairs(paths, 64, seed=5, short_sides=(96, 160))
    assert same(resumed[3], forward[3]) and same(resumed[1], forward[1])
    assert not same(forward[0], forward[1])
    assert not same(Pairs(paths, 64, seed=6, short_sides=(96, 160))[3], forward[3])


def test_a_data_loader_batches_them_in_order(pairs):
    loader = torch.utils.data.DataLoader(torch.utils.data.Subset(pairs, range(8, 14)), batch_size=3)
    batches = list(loader)
    assert [tuple(batch["lq"].shape) for batch in batches] == [(3, 3, 64, 64)] * 2
    assert torch.equal(batches[1]["hq"][2], pairs[13]["hq"])


def test_scale_and_settings_reach_the_degradation(paths):
    large = Degradation.for_size(1024)
    item = Pairs(paths, 64, seed=5, scale=8, short_sides=(96,), settings=large)[2]
    assert torch.equal(item["lq"], degrade(item["hq"], seed=5, index=2, settings=large))
    assert not torch.equal(item["lq"], degrade(item["hq"], seed=5, index=2))


def test_synthetic_pictures_alone():
    pairs = Pairs((), 32, seed=3, synthetic=2)
    canvases = [((dead_leaves(64, seed=3, index=i) + 1) * 127.5).round() for i in range(2)]
    for index in range(6):
        hq = ((pairs[index]["hq"] + 1) * 127.5).round()
        windows = [w for canvas in canvases for w in (canvas, canvas.flip(-1))]
        found = [
            w.unfold(1, 32, 1).unfold(2, 32, 1).sub(hq[:, None, None]).abs().amax((0, 3, 4)).min() for w in windows
        ]
        assert min(found) == 0


def test_mixed_sources_weigh_one_level_each(paths):
    pairs = Pairs(paths, 32, seed=0, synthetic=3, short_sides=(48, 64))
    assert len(pairs.crops.levels) == 2 * 2 + 3
    assert all(level.dtype == torch.uint8 for level in pairs.crops.levels)


def test_length(paths):
    pairs = Pairs(paths[:1], 32, seed=0, short_sides=(48,), length=2)
    assert len(pairs) == 2 and len(list(pairs)) == 2
    for index in (-1, 2):
        with pytest.raises(IndexError, match="there are 2"):
            pairs[index]


def test_no_pictures():
    with pytest.raises(ValueError, match="synthetic=0"):
        Pairs((), 32, seed=0)


def test_evaluation_takes_the_centre(tmp_path):
    path = save(tmp_path / "a.png", 50, 70)
    (pair,) = evaluation_pairs([path], 32, seed=0)
    assert pair.name == "a"
    assert torch.equal(pair.hq, to_pixels(Image.open(path).crop((19, 9, 51, 41))))
    assert pair.lq.shape == (3, 32, 32) and pair.lq_small.shape == (3, 8, 8)


def test_evaluation_pairs_do_not_depend_on_their_neighbours(paths):
    together = evaluation_pairs(paths, 64, seed=4)
    (alone,) = evaluation_pairs(paths[1:], 64, seed=4)
    assert [torch.equal(getattr(together[1], key), getattr(alone, key)) for key in ("lq", "lq_small", "hq")] == [
        True
    ] * 3
    (other,) = evaluation_pairs(paths[1:], 64, seed=5)
    assert torch.equal(other.hq, alone.hq) and not torch.equal(other.lq, alone.lq)


def test_the_small_picture_belongs_to_the_large_one(paths):
    """Enlarged bicubically, it is nearer to its own LQ image than to any other's."""
    pairs = evaluation_pairs(paths[:1], 64, seed=4, crops_per_photo=4)
    for i, pair in enumerate(pairs):
        enlarged = torch.nn.functional.interpolate(pair.lq_small[None], size=(64, 64), mode="bicubic")[0]
        errors = [float((enlarged - other.lq).square().mean()) for other in pairs]
        assert min(errors) == errors[i] < 0.02


def test_evaluation_resizes(tmp_path):
    path = save(tmp_path / "a.png", 90, 120)
    (pair,) = evaluation_pairs([path], 32, seed=0, short_side=45)
    expected = Image.open(path).resize((60, 45), Image.LANCZOS).crop((14, 6, 46, 38))
    assert torch.equal(pair.hq, to_pixels(expected))
    (pair,) = evaluation_pairs([save(tmp_path / "b.png", 20, 24)], 32, seed=0)
    expected = Image.open(tmp_path / "b.png").resize((38, 32), Image.LANCZOS).crop((3, 0, 35, 32))
    assert torch.equal(pair.hq, to_pixels(expected))


def test_several_crops_are_the_most_detailed_cells(tmp_path):
    """Noise of growing amplitude in six cells, with a margin of five pixels that belongs to none."""
    picture = torch.zeros(3, 64 + 10, 96 + 10)
    noise = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for number, amplitude in enumerate((0.5, 0.1, 0.9, 0.3, 0.7, 0.2)):
        top, left = 5 + 32 * (number // 3), 5 + 32 * (number % 3)
        picture[:, top : top + 32, left : left + 32] = amplitude * noise
    to_image(picture).save(tmp_path / "a.png")
    pairs = evaluation_pairs([tmp_path / "a.png"], 32, seed=0, crops_per_photo=3)
    assert [pair.name for pair in pairs] == ["a_0", "a_1", "a_2"]
    for pair, amplitude in zip(pairs, (0.9, 0.7, 0.5), strict=True):
        torch.testing.assert_close(pair.hq, amplitude * noise, atol=1 / 255 + 1e-6, rtol=0)


def test_evaluation_errors(tmp_path):
    path = save(tmp_path / "a.png", 40, 70)
    with pytest.raises(ValueError, match="holds 2 crops of 32 pixels, not 3"):
        evaluation_pairs([path], 32, seed=0, crops_per_photo=3)
    with pytest.raises(ValueError, match="a.png' is given twice. Name it once"):
        evaluation_pairs([path, path], 32, seed=0)


def test_pictures_of_one_name_are_told_apart_by_their_folders(tmp_path):
    names = "DCIM/100CANON/IMG_1.JPG", "DCIM/101CANON/IMG_1.JPG", "DCIM/101CANON/IMG_1.png", "other/IMG_2.png"
    paths = [save(tmp_path / name, 40, 40, seed) for seed, name in enumerate(names)]
    expected = ["100CANON/IMG_1", "101CANON/IMG_1.JPG", "101CANON/IMG_1.png", "IMG_2"]
    assert [pair.name for pair in evaluation_pairs(paths, 32, seed=0)] == expected


def test_disjoint_sets_pass(tmp_path):
    train, held_out = save(tmp_path / "a.png", 20, 20, 0), save(tmp_path / "b.png", 20, 20, 1)
    assert_disjoint([train], [held_out])
    assert_disjoint(packaged_photos("train"), packaged_photos("eval"))


def test_training_files_of_other_sizes_are_not_read(tmp_path, monkeypatch):
    train = [save(tmp_path / f"{side}.png", side, side) for side in (10, 20, 30)]
    held_out, read = save(tmp_path / "a.png", 20, 20, 1), []
    assert held_out.stat().st_size == train[1].stat().st_size
    monkeypatch.setattr("omgsr_lib.data.pairs.sha256", lambda path: read.append(path) or str(path))
    assert_disjoint(train, [held_out])
    assert read == [train[1], held_out]


def test_the_same_photograph_is_refused(tmp_path, paths):
    train = save(tmp_path / "a.png", 20, 20, 0)
    copy = save(tmp_path / "copy.png", 20, 20, 0)
    with pytest.raises(ValueError, match="copy.png' equals the training image .*a.png'"):
        assert_disjoint([train], [copy])
    photo = Image.open(paths[0]).convert("RGB")
    small = tmp_path / "eval" / f"{paths[0].stem}.jpg"
    small.parent.mkdir()
    photo.resize((photo.width // 3, photo.height // 3)).save(small, quality=50)
    with pytest.raises(ValueError, match=f"{small.name}' equals the training image .*{paths[0].name}'"):
        assert_disjoint([train, paths[0]], [small])


def test_cards_of_a_camera_share_names_and_no_photographs(tmp_path, paths):
    for card, path in zip(("100CANON", "101CANON"), paths, strict=True):
        (tmp_path / card).mkdir()
        Image.open(path).convert("RGB").save(tmp_path / card / "IMG_0001.JPG")
    (tmp_path / "102CANON").mkdir()
    (tmp_path / "102CANON" / "IMG_0001.JPG").write_bytes(b"no image")
    first, second, broken = sorted(tmp_path.rglob("*.JPG"))
    assert_disjoint([first, broken], [second])
    assert_disjoint([first], [broken])
