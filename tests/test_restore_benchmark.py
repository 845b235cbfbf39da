"""benchmarks/restore.py: what it measures against is the same image."""

import time

import pytest
from benchmark_case import load_benchmark

from omgsr_lib.model import OMGSR
from omgsr_lib.restore.pipeline import restore


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", time.perf_counter)  # the script counts the processor's seconds
    return load_benchmark("restore")


@pytest.mark.parametrize("tile", [None, 128])
def test_the_bare_networks_give_the_image_of_restore(script, tile):
    result = script.overhead(OMGSR.from_pretrained("mini-f").merge(), tile, repeats=1)
    assert result["levels_apart"] == 0 and result["tiles"] == (9 if tile else 1)


def test_the_published_pipeline_gives_the_image_of_restore(script, tmp_path):
    model, source = OMGSR.from_pretrained("mini-f").merge(), tmp_path / "source.png"
    image = script.picture(48)
    image.save(source)
    script.published(model, source, tmp_path / "published.png")
    options = dict(tile=script.TILE, overlap=script.TILE // 2, colour_fix="wavelet", progress=False)
    (ours,) = restore(model, image, scale=script.SCALE, **options).images
    assert script.levels(ours, script.open_photo(tmp_path / "published.png")) <= 1
