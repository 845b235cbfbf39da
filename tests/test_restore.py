"""restore.py: exact sizes, seeds, tiles, files, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from omgsr_lib.colour import adain
from omgsr_lib.data.photos import to_image, to_pixels
from omgsr_lib.model import OMGSR
from omgsr_lib.restore import restore, restore_folder


@pytest.fixture(scope="module", params=["ddpm", "flow"])
def model(request):
    return OMGSR.from_base("tiny", request.param, {"ddpm": 273, "flow": 244}[request.param])


@pytest.fixture(scope="module")
def ddpm():
    return OMGSR.from_base("tiny", "ddpm", 273)


def picture(width, height, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.BICUBIC)


def same(a, b):
    return a.size == b.size and np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize(("scale", "size"), [(1, (37, 21)), (1.5, (56, 32)), (4, (148, 84)), (2.7, (100, 57))])
def test_output_is_exactly_scale_times_the_input(model, scale, size):
    result = restore(model, picture(37, 21), scale=scale, progress=False)
    assert [image.size for image in result.images] == [size]
    assert result.images[0].mode == "RGB"


@torch.no_grad()
@pytest.mark.parametrize("colour_fix", [None, "adain"])
def test_one_pass_by_hand(model, colour_fix):
    image = picture(24, 16)
    enlarged = to_pixels(image.resize((96, 64), Image.BICUBIC))[None]
    pixels = model(enlarged).images.clamp(-1, 1)
    expected = to_image((adain(pixels, enlarged) if colour_fix else pixels)[0])
    assert same(restore(model, image, colour_fix=colour_fix, progress=False).images[0], expected)


@torch.no_grad()
def test_odd_sizes_are_padded_by_reflection_and_cropped(model):
    image = picture(21, 13)
    enlarged = np.asarray(image.resize((84, 52), Image.BICUBIC))
    bottom, right = -52 % model.multiple, -84 % model.multiple
    padded = np.pad(enlarged, ((0, bottom), (0, right), (0, 0)), mode="reflect")
    expected = model(to_pixels(Image.fromarray(padded))[None]).images.clamp(-1, 1)[..., :52, :84]
    assert same(restore(model, image, colour_fix=None, progress=False).images[0], to_image(expected[0]))


def test_pictures_smaller_than_their_padding(model):
    assert restore(model, picture(2, 3), scale=1, progress=False).images[0].size == (2, 3)


def test_list_and_single_image_agree_and_keep_their_order(ddpm):
    images = [picture(16, 16, 1), picture(24, 16, 2)]
    together = restore(ddpm, images, scale=2, progress=False).images
    assert all(
        same(a, restore(ddpm, b, scale=2, progress=False).images[0]) for a, b in zip(together, images, strict=True)
    )
    assert not same(together[0].resize((8, 8)), together[1].resize((8, 8)))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_other_colour_modes_are_taken_as_rgb(ddpm, mode):
    image = picture(16, 16).convert(mode)
    result = restore(ddpm, image, scale=2, progress=False).images[0]
    assert same(result, restore(ddpm, image.convert("RGB"), scale=2, progress=False).images[0])


def test_seeds(ddpm):
    image = picture(16, 16)

    def restored(seed):
        return restore(ddpm, image, seed=seed, progress=False).images[0]

    assert same(restored(None), restored(None)) and same(restored(1), restored(1))
    assert not same(restored(1), restored(2)) and not same(restored(1), restored(None))


def test_timestep_replaces_that_of_the_model(ddpm):
    image = picture(16, 16)
    assert same(
        restore(ddpm, image, timestep=273, progress=False).images[0], restore(ddpm, image, progress=False).images[0]
    )
    assert not same(
        restore(ddpm, image, timestep=600, progress=False).images[0], restore(ddpm, image, progress=False).images[0]
    )


def test_tiles(model):
    image = picture(24, 16)  # 96x64 restored
    whole, covered, tiles = (
        restore(model, image, tile=tile, overlap=overlap, progress=False, colour_fix=None).images[0]
        for tile, overlap in ((None, None), (96, None), (48, 16))
    )
    assert same(whole, covered) and not same(whole, tiles)
    with torch.no_grad():
        latents = model.encode(to_pixels(image.resize((96, 64), Image.BICUBIC))[None])
        expected = model.decode(model.predict_clean(latents, tile=6, overlap=2)).clamp(-1, 1)
    assert same(tiles, to_image(expected[0]))


def test_seconds_of_the_stages(ddpm):
    import time

    started = time.perf_counter()
    seconds = restore(ddpm, [picture(16, 16)] * 2, progress=False).seconds
    assert list(seconds) == ["encode", "predict", "decode", "colour"]
    assert all(value > 0 for value in seconds.values())
    assert sum(seconds.values()) <= time.perf_counter() - started


def test_result_is_usable_inside_and_after_inference_mode(ddpm):
    with torch.inference_mode():
        image = restore(ddpm, picture(16, 16), progress=False).images[0]
    pixels = to_pixels(image).requires_grad_()
    pixels.sum().backward()
    assert pixels.grad.eq(1).all() and same(image, image.copy())


def test_half_precision_model():
    model = OMGSR.from_base("tiny", "flow", 244)
    image = picture(16, 16)
    full = np.asarray(restore(model, image, progress=False).images[0], dtype=float)
    half = np.asarray(restore(model.to(torch.bfloat16), image, progress=False).images[0], dtype=float)
    assert np.abs(full - half).mean() < 8 < full.std() / 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(scale=0.5), "scale must be at least 1 and finite: got 0.5"),
        (dict(scale=float("nan")), "at least 1 and finite: got nan"),
        (dict(scale=float("inf")), "at least 1 and finite: got inf"),
        (dict(tile=20), "tile must be a multiple of 8 pixels: got 20"),
        (dict(tile=16, overlap=3), "overlap must be a multiple of 8 pixels: got 3"),
        (dict(tile=16, overlap=16), "0 <= overlap < tile"),
        (dict(tile=16, window="box"), "window must be one of gaussian, released, cosine"),
        (dict(timestep=1000), "must lie in 0 .. 999: got 1000"),
        (dict(colour_fix="sepia"), 'must be "adain", "wavelet" or None'),
    ],
)
def test_wrong_arguments(ddpm, options, message):
    with pytest.raises(ValueError, match=message):
        restore(ddpm, picture(16, 16), progress=False, **options)


def test_an_empty_list_is_refused(ddpm):
    with pytest.raises(ValueError, match="at least one picture: got an empty list"):
        restore(ddpm, [])


def test_a_folder_keeps_names_and_tells_equal_ones_apart(ddpm, tmp_path):
    for name in ("a.png", "a.bmp", "b.v2.png", "deep/c.JPG"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(8, 8, seed=len(name)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    written = restore_folder(ddpm, tmp_path / "in", tmp_path / "out", scale=2, progress=False)
    names = ["a.bmp.png", "a.png.png", "b.v2.png", "deep/c.png"]
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in written) == names
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")) == names
    expected = restore(ddpm, Image.open(tmp_path / "in" / "a.png"), scale=2, progress=False).images[0]
    assert same(Image.open(tmp_path / "out" / "a.png.png"), expected)


def test_a_single_file(ddpm, tmp_path):
    picture(8, 8).save(tmp_path / "a.png")
    assert restore_folder(ddpm, tmp_path / "a.png", tmp_path / "out", progress=False) == [tmp_path / "out" / "a.png"]


def test_sources_are_never_overwritten(ddpm, tmp_path):
    picture(8, 8).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    for source in (tmp_path, tmp_path / "a.png"):
        with pytest.raises(ValueError, match="must not replace a picture to restore: .* holds a.png"):
            restore_folder(ddpm, source, tmp_path, progress=False)
    assert (tmp_path / "a.png").read_bytes() == before


def test_a_bad_picture_leaves_no_partial_file(ddpm, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    picture(8, 8).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("not a picture")
    with pytest.raises(ValueError, match="b.png' is not. Remove or replace it"):
        restore_folder(ddpm, tmp_path / "in", tmp_path / "out", progress=False)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.png"]

    def fail(self, file, **options):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="cannot write .*full.*a.png .No space left on device.: free some space"):
        restore_folder(ddpm, tmp_path / "in", tmp_path / "full", progress=False)
    assert list((tmp_path / "full").iterdir()) == []
