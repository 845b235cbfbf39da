"""restore.py: exact sizes, seeds, tiles, files, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms

from omgsr_lib.data.photos import to_image, to_pixels
from omgsr_lib.model import OMGSR
from omgsr_lib.restore.colour import fix_colour
from omgsr_lib.restore.pipeline import restore


@pytest.fixture(scope="module", params=["ddpm", "flow", "flux2"])
def model(request):
    return OMGSR.from_base("tiny", request.param, {"ddpm": 273}.get(request.param, 244))


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
    expected = to_image(fix_colour(pixels, enlarged, colour_fix)[0])
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


@pytest.mark.parametrize(
    ("mode", "restored"),
    [("L", "L"), ("1", "L"), ("LA", "LA"), ("RGBA", "RGBA"), ("P", "RGB"), ("CMYK", "RGB"), ("I;16", "I;16")],
)
def test_colour_modes(ddpm, mode, restored):
    """Colours are restored as those of the RGB image; grey is the luma of them, alpha is enlarged."""
    image = picture(16, 16).convert("L" if mode == "I;16" else mode)
    if mode == "LA" or mode == "RGBA":
        image.putalpha(picture(16, 16, seed=1).convert("L").point(lambda value: max(value, 1)))
    given = image
    if mode == "I;16":
        given = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    result = restore(ddpm, given, scale=2, progress=False).images[0]
    expected = restore(ddpm, image.convert("RGB"), scale=2, progress=False).images[0]
    assert (result.mode, result.size) == (restored, (32, 32))
    if restored in ("RGB", "RGBA"):
        assert same(result.convert("RGB"), expected)
    else:
        values = np.asarray(result) / 257 if mode == "I;16" else np.asarray(result.getchannel(0), dtype=float)
        error = np.abs(values - np.asarray(expected.convert("L")))
        assert error.max() <= (4 if mode == "I;16" else 1) and error.mean() < 0.5  # 8 bits are rounded on the way in
    if "A" in restored:
        assert same(result.getchannel("A"), image.getchannel("A").resize((32, 32), Image.BICUBIC))


def test_orientation_profile_and_exif(ddpm):
    image, exif = picture(24, 16), Image.Exif()
    exif[271], exif[ExifTags.Base.Orientation] = "maker", 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.info.update(exif=exif.tobytes(), icc_profile=profile)
    result = restore(ddpm, image, scale=2, progress=False).images[0]
    assert same(result, restore(ddpm, picture(24, 16).rotate(-90, expand=True), scale=2, progress=False).images[0])
    assert result.info["icc_profile"] == profile
    assert result.getexif()[271] == "maker" and ExifTags.Base.Orientation not in result.getexif()


@pytest.mark.parametrize("options", [{}, dict(seed=4), dict(tile=32), dict(vae_mode="exact", seed=4)])
def test_batches(model, options, monkeypatch):
    """Images of equal padded size go through the model together and come out as they do alone."""
    images = [picture(16, 16, 1), picture(24, 16, 2), picture(15, 16, 3), picture(16, 16, 4)]
    alone = [restore(model, image, progress=False, **options).images[0] for image in images]
    sizes, decode = [], type(model).decode
    monkeypatch.setattr(type(model), "decode", lambda self, z, **more: sizes.append(len(z)) or decode(self, z, **more))
    together = restore(model, images, batch_size=2, progress=False, **options).images
    assert sizes == ([1] * 4 if "vae_mode" in options else [2, 1, 1])
    for a, b in zip(together, alone, strict=True):
        assert a.size == b.size and np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1


def test_a_batch_that_does_not_fit_is_taken_apart(ddpm, monkeypatch):
    decode = type(ddpm).decode

    def short(self, latents, **options):
        if len(latents) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return decode(self, latents, **options)

    images = [picture(16, 16, seed) for seed in range(3)]
    expected = restore(ddpm, images, progress=False).images
    monkeypatch.setattr(type(ddpm), "decode", short)
    with pytest.warns(UserWarning, match="Out of memory with 3 images at once. Trying one by one"):
        found = restore(ddpm, images, batch_size=3, progress=False).images
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))


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
        (dict(scale=0.5), "scale must be a number, at least 1 and finite: got 0.5"),
        (dict(scale=float("nan")), "at least 1 and finite: got nan"),
        (dict(scale="4"), "at least 1 and finite: got '4'"),
        (dict(scale=float("inf")), "at least 1 and finite: got inf"),
        (dict(tile=20), "tile must be a multiple of 8 pixels, at least 8: got 20"),
        (dict(tile=16, overlap=3), "overlap must be a multiple of 8 pixels, at least 0: got 3"),
        (dict(tile=-16), "tile must be a multiple of 8 pixels, at least 8: got -16"),
        (dict(tile="16"), "at least 8: got '16'"),
        (dict(tile=16, overlap=-8), "overlap must be a multiple of 8 pixels, at least 0: got -8"),
        (dict(tile="auto", overlap="auto"), "overlap must be a multiple of 8 pixels, at least 0: got 'auto'"),
        (dict(tile=16, overlap=16), "overlap must be less than the tile: got overlap=16 and tile=16"),
        (dict(overlap=8), "overlap, window, planner are of tiles: got overlap=8 and one pass. Give a tile too"),
        (dict(window="ramp", planner="published"), "of tiles: got window=ramp, planner=published and one pass"),
        (dict(tile_batch=0), "tile_batch must be an integer of at least 1: got 0"),
        (dict(batch_size="2"), "batch_size must be an integer of at least 1: got '2'"),
        (dict(seed=2**64), "seed must be an integer of at most 64 bits or None: got 18446744073709551616"),
        (dict(seed="0"), "seed must be an integer of at most 64 bits or None: got '0'"),
        (dict(strength="1"), "strength must be a finite number: got '1'"),
        (dict(tile=16, window="box"), "window must be one of gaussian, released, cosine"),
        (dict(timestep=1000), "must lie in 0 .. 999: got 1000"),
        (dict(colour_fix="sepia"), 'must be "adain", "wavelet" or None'),
    ],
)
def test_wrong_arguments(ddpm, options, message):
    with pytest.raises(ValueError, match=message):
        restore(ddpm, picture(16, 16), progress=False, **options)


@pytest.mark.parametrize("images", ["a.png", [np.zeros((16, 16, 3), np.uint8)], [picture(16, 16), None]])
def test_what_is_no_pil_image_is_refused(ddpm, images):
    with pytest.raises(ValueError, match="takes PIL images: got (str|ndarray|NoneType). Open files with PIL"):
        restore(ddpm, images)


def test_a_single_pixel(ddpm):
    assert restore(ddpm, Image.new("RGB", (1, 1), "red"), scale=1, progress=False).images[0].getpixel((0, 0))[0] > 250


def test_an_empty_list_is_refused(ddpm):
    with pytest.raises(ValueError, match="at least one image: got an empty list"):
        restore(ddpm, [])
