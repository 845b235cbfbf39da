import base64
import io
import json
import re

import numpy as np
import pytest
from explorer_case import SIZE, TIMESTEPS, colour, empty_cache, fill
from PIL import Image

from omgsr_lib.explorer.drawing import caption, columns_of, difference_colours
from omgsr_lib.explorer.page import explore_page


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches")
    cases = [(photo, strength) for photo in ("square", "</script>") for strength in ("mild", "extreme")]
    return [fill(empty_cache(folder / str(i), *case)) for i, case in enumerate(cases)]


@pytest.fixture(scope="module")
def text(caches, tmp_path_factory):
    return explore_page(tmp_path_factory.mktemp("page") / "out.html", caches, heading="S & F").read_text("utf-8")


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def opened(uri):
    kind, content = uri.split(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_nothing_is_loaded_from_elsewhere(text):
    without_images = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert set(re.findall(r"""https?:[^\s"'`\\]*""", without_images)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(link|iframe|script src)|@import|fetch\(|XMLHttpRequest", text)
    assert "%HEADING%" not in text and "%SHEET%" not in text and "%DATA%" not in text
    assert "<title>S &amp; F</title>" in text


def test_every_case_and_frame_is_inside(text, caches):
    data = data_of(text)
    assert [(case["photo"], case["strength"]) for case in data["cases"]] == [
        (cache.about["photo"], cache.about["strength"]) for cache in caches
    ]
    for case, cache in zip(data["cases"], caches, strict=True):
        assert case["timesteps"] == TIMESTEPS and case["centre"] == cache.about["centre"]
        assert case["mids"] == {"s": 325, "f": 223} and case["reference"] == cache.reference
        for variant in "sf":
            for timestep in TIMESTEPS:
                frame = case["frames"][str(timestep)][variant]
                for panel, place in frame["images"].items():
                    pixels = np.asarray(opened(data["images"][place])).astype(int)
                    assert pixels.shape == (SIZE, SIZE, 3)
                    assert abs(pixels - colour(variant, panel, timestep)).max() <= 3
                    assert frame["captions"][panel] == caption(cache, variant, panel, timestep)
        photo = np.asarray(opened(data["images"][case["images"]["photo"]])).astype(int)
        assert np.abs(photo - np.asarray(cache.photo)).mean() < 2


def test_values_of_the_curves_are_inside(text, caches):
    data = data_of(text)
    for case, cache in zip(data["cases"], caches, strict=True):
        for name in ("snr", "gap"):
            timesteps, values = cache.curve("s", name)
            assert case["curves"]["s"]["timestep"] == timesteps.tolist()
            found = [np.inf if value is None else value for value in case["curves"]["s"][name]]
            assert found == pytest.approx(values.tolist(), rel=1e-3)


def test_an_image_that_is_shown_twice_is_inside_once(text, caches):
    """The cases of this file differ in nothing but their names."""
    assert len(data_of(text)["images"]) == 2 + 2 * 3 * len(TIMESTEPS)


def test_views_are_those_of_the_notebook(text):
    data = data_of(text)
    assert list(data["views"]) == ["s", "f", "both", "compare"]
    for view in ("s", "f", "both"):
        columns = [(column["variant"], column["panel"]) for column in data["views"][view]["columns"]]
        assert columns == columns_of(view) and data["detail"][str(len(columns))] == (28 if view == "both" else 36)
    assert data["colours"] == difference_colours().tolist() and len(data["colours"]) == data["limit"] + 1
    for case in data["cases"]:
        assert all(len(plots) == 2 and plots[0].startswith("<svg ") for plots in case["plots"].values())


def test_controls_are_labelled(text):
    for name in ("timestep", "photo"):
        assert f'for="{name}"' in text and f'id="{name}"' in text
    assert text.count("<legend>") == 2 and 'aria-live="polite"' in text and '<html lang="en">' in text


def test_a_photograph_as_it_is_has_one_curve_and_no_reference(tmp_path):
    cache = fill(empty_cache(tmp_path / "own", strength="as it is"))
    (case,) = data_of(explore_page(tmp_path / "out.html", [cache]).read_text("utf-8"))["cases"]
    assert case["reference"] == "lq" and {len(plots) for plots in case["plots"].values()} == {1}
    assert set(case["curves"]["s"]) == {"timestep", "snr"}


def test_the_script_of_a_notebook_is_not_in_the_page(text):
    assert "omgsr-mail" not in text and "function buildMatrix" in text


def test_one_variant_is_enough(tmp_path):
    cache = fill(empty_cache(tmp_path / "case", variants=("f",)))
    data = data_of(explore_page(tmp_path / "out.html", [cache]).read_text("utf-8"))
    assert list(data["views"]) == ["f", "compare"] and data["variants"] == ["f"]


def test_unusable_caches_leave_the_page_as_it_was(tmp_path, caches):
    page = tmp_path / "out.html"
    page.write_text("old")
    half = fill(empty_cache(tmp_path / "half"), [0])
    with pytest.raises(ValueError, match=r"lacks timesteps \[223, 325, 500, 999\]"):
        explore_page(page, [half])
    with pytest.raises(ValueError, match="same variants: \\['s', 'f'\\] and \\['s'\\]"):
        explore_page(page, [caches[0], fill(empty_cache(tmp_path / "one", variants=("s",)))])
    with pytest.raises(ValueError, match="at least one frame cache"):
        explore_page(page, [])
    assert page.read_text() == "old" and list(tmp_path.glob(".part*")) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write"):
        explore_page(tmp_path / "file" / "out.html", caches[:1])
