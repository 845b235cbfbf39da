import json

import numpy as np
import pytest
from explorer_case import SIZE, TIMESTEPS, colour, empty_cache, fill, photograph
from PIL import Image

from omgsr_lib.explorer.cache import PANELS, FrameCache, detail_centre


def test_a_cache_read_again_holds_what_was_added(tmp_path):
    cache = fill(empty_cache(tmp_path / "case"), [0, 325])
    again = FrameCache(tmp_path / "case")
    assert again.about == cache.about and again.about["size"] == SIZE
    assert again.timesteps == TIMESTEPS and again.missing == [223, 500, 999]
    assert again.photo.tobytes() == photograph().tobytes()
    for variant in ("s", "f"):
        for timestep in (0, 325):
            for name, image in again.panels(variant, timestep).items():
                assert image.getcolors() == [(SIZE**2, colour(variant, name, timestep))]
    assert list(again.panels("s", 0)) == list(PANELS)
    assert again.score("s", 325, "prior") == 20.325 and again.score("f", 0, "tuned") == 22
    assert (tmp_path / "case" / "index.csv").read_text().splitlines() == [
        "variant,timestep,file,psnr_prior,psnr_tuned",
        "s,0,s_t0000.png,20,22",
        "f,0,f_t0000.png,20,22",
        "s,325,s_t0325.png,20.325,22.325",
        "f,325,f_t0325.png,20.325,22.325",
    ]


def test_curves_keep_infinity_and_their_order(tmp_path):
    cache = empty_cache(tmp_path / "case")
    timesteps, snr = FrameCache(tmp_path / "case").curve("s", "snr")
    assert (np.diff(timesteps) > 0).all() and set(TIMESTEPS) <= set(timesteps.tolist())
    assert snr[0] == np.inf and snr[timesteps == 500] == 15
    assert cache.at("f", "gap", 223) == pytest.approx(0.2) and cache.at("s", "gap", 223) == pytest.approx(0.302)


def test_without_a_reference_there_are_no_scores(tmp_path):
    cache = fill(empty_cache(tmp_path / "case", strength="as it is"), [0])
    assert empty_cache(tmp_path / "other").reference == "photo" and cache.reference == "lq"
    again = FrameCache(tmp_path / "case")
    assert (
        np.isnan(again.score("s", 0, "tuned"))
        and np.isnan(again.at("s", "gap", 0))
        and again.at("s", "snr", 500) == 15
    )


def test_a_new_cache_replaces_the_old_one(tmp_path):
    fill(empty_cache(tmp_path / "case"))
    assert empty_cache(tmp_path / "case", photo="other").missing == TIMESTEPS
    assert FrameCache(tmp_path / "case").about["photo"] == "other"


def test_a_frame_that_cannot_be_written_leaves_the_index_as_it_was(tmp_path):
    cache = fill(empty_cache(tmp_path / "case"), [0])
    before = (tmp_path / "case" / "index.csv").read_bytes()
    (tmp_path / "case" / "f_t0325.png").mkdir()
    with pytest.raises(OSError, match="cannot write.*f_t0325.png"):
        fill(cache, [325])
    assert (tmp_path / "case" / "index.csv").read_bytes() == before and not cache.has(325)
    assert not list((tmp_path / "case").glob(".part*"))


def test_the_crop_lies_on_edges_not_on_texture():
    x, y = detail_centre(photograph().resize((128, 128), Image.NEAREST))
    assert abs(x - 80) <= 16 and abs(y - 48) <= 16  # the square around (80, 48)
    noise = np.random.default_rng(0).integers(60, 140, (128, 128), dtype=np.uint8)
    noise[32:64, 64:96] = 220
    x, y = detail_centre(Image.fromarray(noise).convert("RGB"))
    assert abs(x - 80) <= 16 and abs(y - 48) <= 16


def edit(path, change):
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    "damage, error, message",
    [
        (lambda f: (f / "case.json").unlink(), FileNotFoundError, "case.json' is missing"),
        (lambda f: (f / "case.json").write_text("{"), ValueError, "case.json' is damaged"),
        (lambda f: (f / "case.json").write_text('{"format": 9}'), ValueError, "of format 2: got 9"),
        (lambda f: (f / "case.json").write_text("[]"), ValueError, "of format 2"),
        (lambda f: (f / "curves.csv").unlink(), FileNotFoundError, "curves.csv' is missing"),
        (lambda f: edit(f / "index.csv", lambda t: t.replace("psnr_prior", "lpips")), ValueError, "needs the columns"),
        (lambda f: edit(f / "index.csv", lambda t: t.replace("s,0,", "s,zero,")), ValueError, "not a number"),
        (lambda f: edit(f / "index.csv", lambda t: t + "s\n"), ValueError, "not a number"),
        (lambda f: (f / "s_t0000.png").unlink(), FileNotFoundError, "missing image: '.*s_t0000.png"),
        (lambda f: (f / "s_t0000.png").write_text("text"), ValueError, "readable PNG: '.*s_t0000.png"),
        (
            lambda f: Image.new("RGB", (5, 5)).save(f / "lq.png"),
            ValueError,
            r"measure \(32, 32\) pixels, got \(5, 5\)",
        ),
    ],
)
def test_damaged_caches_are_named(tmp_path, damage, error, message):
    fill(empty_cache(tmp_path / "case"), [0])
    damage(tmp_path / "case")
    with pytest.raises(error, match=message):
        FrameCache(tmp_path / "case")


def test_facts_are_json(tmp_path):
    empty_cache(tmp_path / "case")
    assert json.loads((tmp_path / "case" / "case.json").read_text())["centre"] == detail_centre(photograph())
