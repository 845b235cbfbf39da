import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from omgsr_lib.adaptive.model import AdaptiveOMGSR
from omgsr_lib.data.degradation import Degradation
from omgsr_lib.data.pairs import EvaluationPair, evaluation_pairs
from omgsr_lib.data.photos import to_image, to_pixels
from omgsr_lib.explorer import compute as module
from omgsr_lib.explorer.cache import FrameCache
from omgsr_lib.explorer.compute import Explorer, explorer_models, preset_models, write_explorer_page
from omgsr_lib.midstep import snr_mid_timestep
from omgsr_lib.model import OMGSR
from omgsr_lib.presets import preset_recipe
from omgsr_lib.priors.latents import decoded_noisy_latents, encode_latents, encode_pairs
from omgsr_lib.restore.pairs import restored_pairs
from omgsr_lib.study.notebook import preset_model, untuned_model


@pytest.fixture(scope="module")
def models():
    return preset_models("smoke")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two photographs."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 256, (100, 150, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((300, 200)).save(folder / f"photo{index}.png")
    return folder


@pytest.fixture
def explorer(models, photos, tmp_path):
    return Explorer(models, photos, tmp_path / "frames", size=32, steps=3)


def pair_of(photos, name, strength):
    settings = Degradation.of_strength(strength)
    return evaluation_pairs([photos / f"{name}.png"], 32, seed=0, short_side=64, settings=settings)[0]


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def ramp():
    return Image.fromarray((np.arange(64 * 80) // 21).astype(np.uint8).reshape(64, 80)).convert("RGB")


def test_timesteps_are_spread_evenly_and_hold_the_mid_timesteps(explorer):
    assert explorer.timesteps == [0, 244, 273, 500, 999]
    assert explorer.photos == ["photo0", "photo1"] and explorer.strengths == ["as it is", "mild", "medium", "extreme"]


def test_a_frame_is_the_models_own_result(explorer, models, photos):
    name = explorer.photos[0]
    cache = explorer.open(name, "extreme")
    assert cache.missing == explorer.timesteps and explorer.open(name, "extreme") is cache
    explorer.fill(cache, [273])
    pair = pair_of(photos, name, "extreme")
    assert cache.lq.tobytes() == to_image(pair.lq).tobytes() and cache.photo.tobytes() == to_image(pair.hq).tobytes()
    for variant, (prior, tuned) in models.items():
        panels = cache.panels(variant, 273)
        for panel, model in (("prior", prior), ("tuned", tuned)):
            expected = restored_pairs(model, [pair], timestep=273)[0]
            assert panels[panel].tobytes() == to_image(expected).tobytes()
        schedule, hq = prior.prior.schedule, encode_pairs(prior.vae, [pair])[1][0]
        noisy = decoded_noisy_latents(prior.vae, schedule, hq, [273], seed=0)[0]
        assert panels["noisy"].tobytes() == to_image(noisy).tobytes()
    assert cache.missing == [0, 244, 500, 999]


def test_scores_are_the_psnr_of_the_luma(explorer, models, photos):
    name = explorer.photos[0]
    cache = explorer.fill(explorer.open(name, "mild"), [500])
    hq = np.asarray(cache.photo, dtype=float)
    weights = np.array([65.481, 128.553, 24.966]) / 255
    for variant in models:
        for panel in ("prior", "tuned"):
            error = (np.asarray(cache.panels(variant, 500)[panel], dtype=float) - hq) @ weights
            expected = 10 * math.log10(255**2 / np.mean(error**2))
            assert cache.score(variant, 500, panel) == pytest.approx(expected, abs=0.3)  # the border may be cut


def test_curves_and_facts_agree_with_the_schedule(explorer, models, photos):
    cache = explorer.open(explorer.photos[1], "medium")
    pair = pair_of(photos, explorer.photos[1], "medium")
    for variant, (prior, tuned) in models.items():
        schedule, (lq, hq) = prior.prior.schedule, encode_pairs(prior.vae, [pair])
        timesteps, snr = cache.curve(variant, "snr")
        power = float(hq.double().square().mean())
        decibel = 10 * torch.log10(power * schedule.snr())
        np.testing.assert_allclose(snr, decibel[timesteps.tolist()], rtol=1e-5)
        about = cache.about["variants"][variant]
        assert about["timestep"] == tuned.timestep
        assert about["snr"] == pytest.approx(10 * math.log10(power / float((lq - hq).double().square().mean())))
        # The curve passes the SNR of the LQ latent at the image's own mid-timestep.
        own = int(snr_mid_timestep(lq, hq, schedule).per_image[0])
        assert own in (0, 999) or decibel[own + 1] <= about["snr"] <= decibel[own - 1]
        assert np.isfinite(cache.curve(variant, "gap")[1]).all()


def test_filling_twice_computes_nothing_and_the_folder_reads_back(explorer, monkeypatch):
    cache = explorer.fill(explorer.open(explorer.photos[0], "mild"))
    assert cache.missing == [] and FrameCache(cache.folder).missing == []
    monkeypatch.setattr(Explorer, "_frames", None)
    for timestep in cache.timesteps:
        explorer.compute(cache, timestep)


def test_own_images_of_any_mode_are_taken(explorer):
    for mode in ("L", "RGB", "RGBA", "CMYK", "P"):
        buffer = io.BytesIO()
        ramp().convert(mode).save(buffer, "TIFF" if mode == "CMYK" else "PNG")
        name = explorer.add_photo(f"{mode}.png", buffer.getvalue())
        assert name == mode and explorer.open(name, "mild").photo.size == (32, 32)
    assert explorer.photos[2:] == ["L", "RGB", "RGBA", "CMYK", "P"]


def test_own_images_with_a_name_as_long_as_a_file_system_takes(explorer):
    name = explorer.add_photo("写" * 83 + ".png", png(ramp()))
    assert explorer.open(name, "mild").about["photo"] == name


def test_own_images_with_a_name_that_is_taken(explorer):
    taken = explorer.photos[0]
    assert explorer.add_photo(f"{taken}.png", png(ramp())) == f"{taken} (2)"
    first = explorer.open(f"{taken} (2)", "mild")
    assert explorer.add_photo(f"C:\\x\\..\\{taken}.png", png(ramp().rotate(180))) == f"{taken} (2)"
    second = explorer.open(f"{taken} (2)", "mild")
    assert first.folder != second.folder and first.photo.tobytes() != second.photo.tobytes()
    assert [path.name for path in (explorer.folder / "own").iterdir()] == [f"{taken}.png"]


def test_as_it_is_the_photograph_is_enlarged_and_not_degraded(explorer, models, photos):
    """A square of 32 / 4 pixels, restored as `restore` does it; no reference, no scores."""
    cache = explorer.fill(explorer.open("photo0", "as it is", (0.5, 0.25)), [273])
    with Image.open(photos / "photo0.png") as photo:
        crop = photo.crop((146, 46, 154, 54))
    enlarged = crop.resize((32, 32), Image.BICUBIC)
    assert cache.lq.tobytes() == cache.photo.tobytes() == enlarged.tobytes()
    assert cache.about["box"] == [0.4867, 0.23, 0.5133, 0.27] and cache.reference == "lq"
    assert math.isnan(cache.score("s", 273, "tuned")) and cache.about["variants"]["s"]["snr"] is None
    tuned = models["s"][1]
    pixels = to_pixels(enlarged)
    expected = restored_pairs(tuned, [EvaluationPair("", pixels, pixels, pixels)], timestep=273)[0]
    assert cache.panels("s", 273)["tuned"].tobytes() == to_image(expected).tobytes()


def test_as_it_is_the_part_with_most_detail_comes_first(explorer, models, tmp_path):
    flat = np.full((200, 300, 3), 120, np.uint8)
    flat[160:168, 80:88] = np.random.default_rng(0).integers(0, 2, (2, 2, 3)).repeat(4, 0).repeat(4, 1) * 255
    left, top, right, bottom = explorer.open(
        explorer.add_photo("flat.png", png(Image.fromarray(flat))), "as it is"
    ).about["box"]
    assert left * 300 < 88 and right * 300 > 80 and top * 200 < 168 and bottom * 200 > 160


def test_another_part_of_the_photograph(explorer, photos):
    """Degraded: of the photograph reduced to a short side of 64; beyond an edge the square stays inside."""
    middle, corner = (explorer.open("photo0", "mild", centre) for centre in (None, (0, 1)))
    assert middle.folder != corner.folder
    with Image.open(photos / "photo0.png") as photo:
        reduced = photo.resize((96, 64), Image.LANCZOS)
    assert middle.photo.tobytes() == reduced.crop((32, 16, 64, 48)).tobytes()
    assert corner.photo.tobytes() == reduced.crop((0, 32, 32, 64)).tobytes()
    assert corner.about["box"] == [0, 0.5, 0.3333, 1]


def test_photographs_that_are_too_small_are_said_to_be_enlarged(explorer):
    name = explorer.add_photo("small.png", png(ramp().resize((20, 24))))
    assert "small.png measures 20x24 pixels, fewer than the 32" in explorer.open(name, "mild").about["warning"]
    assert explorer.open(name, "as it is").about["warning"] is None  # 8 pixels are shown
    assert explorer.open(explorer.photos[0], "mild").about["warning"] is None
    assert explorer.overview(name).size == (20, 24) and max(explorer.overview("photo0").size) == 200


@pytest.mark.parametrize(
    "content, message",
    [
        (b"text", "'notes.txt' is not"),
        (b"", "'notes.txt' is not"),
        (png(Image.new("L", (1, 1))), "'notes.txt' is 1x1"),
    ],
)
def test_what_is_no_image_is_refused_and_not_kept(explorer, content, message):
    before = explorer.photos
    with pytest.raises(ValueError, match=message):
        explorer.add_photo("notes.txt", content)
    assert explorer.photos == before and list((explorer.folder / "own").iterdir()) == []


def test_a_photograph_that_loses_nothing_is_named(explorer, monkeypatch):
    monkeypatch.setattr(module, "degrade", lambda pixels, **_: pixels)
    with pytest.raises(ValueError, match="is flat. Take another"):
        explorer.open(explorer.photos[0], "mild")


def test_wrong_arguments(models, photos, explorer, tmp_path):
    with pytest.raises(ValueError, match="multiple of 16 pixels, 32 or more: got 40"):
        Explorer(models, photos, tmp_path, size=40)
    with pytest.raises(ValueError, match="32 or more: got 16"):
        Explorer(models, photos, tmp_path, size=16)
    with pytest.raises(ValueError, match="from 2 to 1000: got 1"):
        Explorer(models, photos, tmp_path, steps=1)
    with pytest.raises(FileNotFoundError, match="photo folder must exist"):
        Explorer(models, tmp_path / "none", tmp_path)
    with pytest.raises(ValueError, match="A photograph must be one of"):
        explorer.open("nobody", "mild")
    with pytest.raises(ValueError, match="A strength must be one of"):
        explorer.open(explorer.photos[0], "brutal")
    with pytest.raises(ValueError, match="mini or smoke: got 'paper'"):
        preset_models("paper")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of two small models with adapters, DDPM and flow matching, whose weights are not zero."""
    folders = []
    for family in ("flow", "ddpm"):
        model = OMGSR.from_base("tiny", family, 273).add_adapters(2, 2)
        for parameter in model.trainable_parameters().values():
            torch.nn.init.normal_(parameter, std=0.1)
        folders.append(model.save_pretrained(tmp_path_factory.mktemp("models") / family))
    return folders


def test_models_by_name_are_the_prior_and_the_tuned_model():
    models = explorer_models(["mini-s"])
    prior, tuned = models["s"]
    for model, expected in (
        (prior, untuned_model(preset_recipe("mini", "s"))),
        (tuned, preset_model("mini", "s").merge()),
    ):
        state = expected.state_dict()
        assert model.timestep == expected.timestep and model.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_with_adaptive_models_the_mid_timestep_is_that_of_the_photograph(photos, tmp_path):
    """The nearest one of the slider to the estimate; the prior beside it is the un-tuned one at any timestep."""
    models = explorer_models(("mini-s-adaptive",))
    prior, tuned = models["s"]
    assert isinstance(tuned, AdaptiveOMGSR) and not isinstance(prior, AdaptiveOMGSR)
    explorer = Explorer(models, photos, tmp_path, size=32, steps=12)
    name = explorer.photos[0]
    found = [explorer.open(name, strength).about["variants"]["s"]["timestep"] for strength in ("mild", "extreme")]
    assert set(found) <= set(explorer.timesteps) and found[0] < found[1]
    pair = pair_of(photos, name, "mild")
    estimated = int(tuned.estimator.timesteps(encode_latents(tuned.vae, pair.lq[None]), tuned.prior.schedule))
    assert abs(found[0] - estimated) == min(abs(t - estimated) for t in explorer.timesteps)


def test_models_from_folders(saved, tmp_path):
    models = explorer_models(saved)
    assert list(models) == ["s", "f"] and [pair[1].prior.family for pair in models.values()] == ["ddpm", "flow"]
    lq = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    with torch.no_grad():
        for prior, tuned in models.values():
            base = OMGSR.from_base("tiny", prior.prior.family, 273)
            assert torch.equal(prior(lq).images, base(lq).images) and not torch.equal(
                prior(lq).images, tuned(lq).images
            )
    with pytest.raises(ValueError, match="one model of a family: .* is the second flow"):
        explorer_models([saved[0], saved[0]])
    plain = OMGSR.from_base("tiny", "ddpm", 273).add_adapters(2, 0).fold().save_pretrained(tmp_path / "folded")
    with pytest.raises(ValueError, match="'.*folded' has none. Name an adapter"):
        explorer_models([plain])


def test_page_of_photographs_and_strengths(photos, saved, tmp_path):
    options = dict(photos=photos, strengths=("mild", "extreme"), size=32, steps=2, progress=False)
    path = write_explorer_page(tmp_path / "new" / "out.html", saved, **options)
    text = path.read_text()
    assert path == tmp_path / "new" / "out.html" and [file.name for file in path.parent.iterdir()] == ["out.html"]
    assert text.count('"strength":"mild"') == text.count('"strength":"extreme"') == 2
    assert '"strength":"medium"' not in text
    write_explorer_page(path, saved[:1], **options | {"first": 1, "strengths": ("medium",)})
    assert path.read_text().count('"strength":') == 1 and '"variants":["f"]' in path.read_text()


def test_a_page_that_cannot_be_written_or_asked_for_loads_no_model(photos, tmp_path, monkeypatch):
    options = dict(photos=photos, size=32, steps=2, progress=False)
    monkeypatch.setattr(module, "explorer_models", lambda *_: pytest.fail("a model was loaded"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write.*out.html"):
        write_explorer_page(tmp_path / "file" / "out.html", **options)
    for changes, message in (
        ({"strengths": ("mild", "brutal")}, "A strength must be"),
        ({"first": 0}, "at least one photograph"),
        ({"strengths": ()}, "at least one photograph"),
        ({"names": ()}, "at least one photograph"),
    ):
        with pytest.raises(ValueError, match=message):
            write_explorer_page(tmp_path / "out.html", **options | changes)
    with pytest.raises(FileNotFoundError, match="photo folder must exist"):
        write_explorer_page(tmp_path / "out.html", **options | {"photos": tmp_path / "none"})
    with pytest.raises(ValueError, match="an .html file: got 'out.pdf'"):
        write_explorer_page(tmp_path / "out.pdf", **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
