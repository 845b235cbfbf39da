"""Pairs through a latent space or a model."""

import numpy as np
import pytest
import torch
from PIL import Image

from omgsr_lib.data.pairs import EvaluationPair
from omgsr_lib.data.photos import to_image, to_pixels
from omgsr_lib.metrics.measures import checkerboard, psnr_rgb, seam_energy, seam_lines
from omgsr_lib.model import OMGSR
from omgsr_lib.priors.latent_space import latent_space, load_schedule
from omgsr_lib.priors.latents import decode_latents, decoded_noisy_latents, encode_latents, encode_pairs
from omgsr_lib.priors.loading import WEIGHTS
from omgsr_lib.restore.out_of_core import restore_array
from omgsr_lib.restore.pairs import restored_pairs
from omgsr_lib.study.notebook import as_restored, evaluated_models, preset_model, study_pairs, study_photos
from omgsr_lib.study.tilings import compare_tilings, prediction_tiles


def pair(seed=0, size=64):
    generator = torch.Generator().manual_seed(seed)
    hq, lq = torch.rand(2, 3, size, size, generator=generator) * 2 - 1
    return EvaluationPair(f"image{seed}", lq, lq[:, ::4, ::4], hq)


def test_encode_pairs_is_the_posterior_mean_of_each_picture():
    vae, _ = latent_space("smoke", "s")
    pairs = [pair(0), pair(1)]
    lq, hq = encode_pairs(vae, pairs)
    assert torch.equal(lq[1], encode_latents(vae, pairs[1].lq[None])[0])
    assert torch.equal(hq[0], encode_latents(vae, pairs[0].hq[None])[0])


def test_decoded_noisy_latents_at_the_clean_end_of_the_flow_are_the_reconstruction():
    vae, schedule = latent_space("smoke", "f")
    latents = encode_latents(vae, pair().hq[None])[0]
    (clean,) = decoded_noisy_latents(vae, schedule, latents, [0])
    torch.testing.assert_close(clean, decode_latents(vae, latents[None])[0].clamp(-1, 1))


def test_restored_pairs_are_the_models_pictures_on_the_8_bit_grid():
    model = OMGSR.from_base("tiny", "ddpm", 273)
    pairs = [pair(seed) for seed in range(3)]
    restored = restored_pairs(model, pairs, batch_size=2)
    with torch.no_grad():
        expected = model(pairs[2].lq[None]).images[0].clamp(-1, 1)
    levels = (restored[2] + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert (restored[2] - expected).abs().max() <= 1 / 255 + 1e-4


def test_pairs_pass_through_weights_in_bfloat16():
    model, pairs = OMGSR.from_base("tiny", "ddpm", 273), [pair(0), pair(1)]
    restored, latents = restored_pairs(model, pairs), encode_pairs(model.vae, pairs)
    model.to(torch.bfloat16).add_adapters(2, 2)
    for image, expected in zip(restored_pairs(model, pairs), restored, strict=True):
        assert image.dtype == torch.float32 and 0 < (image - expected).abs().mean() < 0.05
    for found, expected in zip(encode_pairs(model.vae, pairs), latents, strict=True):
        assert found.dtype == torch.float32 and 0 < (found - expected).abs().mean() < 0.05


@pytest.mark.parametrize("family", ["ddpm", "flow"])
def test_tilings_are_compared_with_one_pass(family):
    """176 x 96 pixels in tiles of 64: 2 x 3 without overlap, 2 x 5 half overlapping; meters at their borders."""
    model, image = OMGSR.from_base("tiny", family, 250), to_image(pair(size=64).hq[:, :24, :44])
    frame, pictures = compare_tilings(model, image, 64)
    frame = frame.set_index("tiling")
    assert list(frame.index) == list(pictures) and pictures["published"].size == (176, 96)
    counts = {"one pass": 1, "no overlap": 6, "published": 10}
    assert {name: int(frame.tiles[name]) for name in counts} == counts
    assert frame.overdraw["published"] == pytest.approx(10 * 64 * 64 / (176 * 96))
    assert frame.overdraw["smallest"] < frame.overdraw["published"]
    assert frame.loc["smallest, ramp", ["tiles", "overdraw"]].equals(frame.loc["smallest", ["tiles", "overdraw"]])
    whole, tiles = (to_pixels(pictures[name])[None] for name in ("one pass", "published"))
    assert frame.psnr["published"] == pytest.approx(psnr_rgb(tiles, whole).item())
    borders = [48], [48, 80, 112, 136]  # tiles at 0, 32 and at 0, 32, 64, 96, 112
    assert frame.seam["published"] == pytest.approx(seam_energy(tiles, *borders).item())
    assert frame.seam_one_pass["published"] == pytest.approx(seam_energy(whole, *borders).item())
    enlarged = to_pixels(image.resize((176, 96), Image.BICUBIC))[None]
    lines = [seam_lines(x, enlarged, *borders)[0].item() for x in (tiles, whole)]
    assert [frame.line["published"], frame.line_one_pass["published"]] == pytest.approx(lines)
    assert frame.checkerboard["published"] == pytest.approx(checkerboard(tiles).item())


@pytest.mark.parametrize("variant", ["s", "f"])
def test_prediction_tiles_are_those_of_large_pictures(variant):
    model, tiles = preset_model("smoke", variant).merge(), []
    picture = np.zeros((37, 61, 3), np.uint8)
    restore_array(model, picture, scale=4, tile=64, progress=lambda stage, done, total: tiles.append((stage, total)))
    frame = prediction_tiles(model, 148, 244, 64)
    assert ("predict", len(frame)) in tiles
    assert frame[["left", "top"]].min().tolist() == [0, 0] and frame[["right", "bottom"]].max().tolist() == [244, 148]
    assert (frame.right - frame.left).max() <= 64 and (frame.bottom - frame.top).max() <= 64


def test_schedules_need_no_download_and_unknown_families_are_refused():
    assert float(load_schedule("ddpm").alphas[273] ** 2) == pytest.approx(0.6357426, abs=1e-6)
    assert float(load_schedule("flow").sigmas[244]) == pytest.approx(0.5051124, abs=1e-6)
    with pytest.raises(ValueError, match="family must be"):
        load_schedule("gan")


def test_seeded_restorations_are_samples_around_the_mean():
    model, one = OMGSR.from_base("tiny", "ddpm", 273), [pair()]
    mean, again, first, second = (restored_pairs(model, one, seed=seed)[0] for seed in (None, None, 0, 1))
    assert torch.equal(mean, again) and torch.equal(first, restored_pairs(model, one, seed=0)[0])
    assert not torch.equal(first, mean) and not torch.equal(first, second)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        expected = model(one[0].lq[None], generator=generator).images[0].clamp(-1, 1)
    assert torch.allclose(first, expected, atol=1 / 255 + 1e-6)


def test_study_pairs_hold_the_small_degraded_centres_of_the_evaluation_photographs():
    pairs = study_pairs(None, size=64, scale=4, crops_per_photo=1)
    assert sorted(pair.name for pair in pairs) == ["astronaut", "chelsea", "china", "grace_hopper"]
    assert {pair.lq_small.shape for pair in pairs} == {(3, 16, 16)}
    restored = as_restored(pairs)  # training enlarges in random modes: that baseline would not be bicubic
    for pair, given in zip(pairs, restored, strict=True):
        assert to_image(given.lq) == to_image(pair.lq_small).resize((64, 64), Image.BICUBIC)
        assert given.hq is pair.hq and given.name == pair.name
    assert not all(torch.equal(pair.lq, given.lq) for pair, given in zip(pairs, restored, strict=True))


def test_a_users_photographs_are_split_by_content_without_overlap(tmp_path):
    for index in range(8):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"{index}.png")
    parts = {split: study_photos(tmp_path, split) for split in ("train", "eval")}
    assert len(parts["eval"]) == 2 and len(parts["train"]) == 6
    assert not set(parts["eval"]) & set(parts["train"])
    contents = {path.read_bytes() for path in parts["eval"]}
    parts["eval"][0].rename(tmp_path / "renamed.png")  # the split is by content, not by name
    assert {path.read_bytes() for path in study_photos(tmp_path, "eval")} == contents


def test_one_photograph_is_not_enough_for_a_study(tmp_path):
    for name in ("a.png", "copy.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(ValueError, match="two different photographs"):
        study_photos(tmp_path, "train")


@pytest.mark.skipif(not (WEIGHTS / "mini-s").is_dir(), reason="the shipped adapters are not in this checkout")
@pytest.mark.parametrize("variant", ["s", "f"])
def test_the_shipped_models_load_offline_at_their_own_timestep(variant):
    model = preset_model("mini", variant)
    assert model.ranks == (32, 64)
    assert model.timestep == {"s": 255, "f": 183}[variant]


def test_evaluated_models_name_what_a_preset_has(tmp_path):
    folder = tmp_path / "02_mid_timestep"
    folder.mkdir()
    (folder / "midstep.csv").write_text("variant,rule,timestep\ns,snr,300\nf,snr,200\n")
    for variant, number, family in (("s", "03", "ddpm"), ("f", "04", "flow")):
        model = OMGSR.from_base("tiny", family, 300 if variant == "s" else 200).add_adapters(2, 2)
        model.save_adapter(tmp_path / f"{number}_train_omgsr_{variant}" / "adapter")
    models = {name: model.timestep for name, model in evaluated_models("smoke", tmp_path)}
    assert models == {"prior-s": 300, "short-s": 300, "prior-f": 200, "short-f": 200}
