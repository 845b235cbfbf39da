"""utils/workers.py: single-threaded workers, and that a restored image does not depend on their number."""

import os
import threading

import pytest
import torch
from PIL import Image

from omgsr_lib.model import OMGSR
from omgsr_lib.restore.pipeline import Restorer, restore
from omgsr_lib.utils import workers
from omgsr_lib.utils.workers import in_order, on_threads


@pytest.fixture
def two_threads():
    with on_threads(2):
        yield


@pytest.mark.usefixtures("two_threads")
def test_results_come_in_order_from_threads_with_one_thread_each():
    """The first result waits for the second, so both are computed at once."""
    second = threading.Event()

    def function(item):
        assert second.wait(10) if item == 0 else item != 1 or second.set() is None
        return item, torch.get_num_threads(), torch.is_inference_mode_enabled(), threading.get_ident()

    with torch.inference_mode():
        results = list(in_order(function, range(6), 2))
    assert [item for item, *_ in results] == [*range(6)]
    assert {(threads, inference) for _, threads, inference, _ in results} == {(1, True)}
    assert len({thread for *_, thread in results}) == 2 and torch.get_num_threads() == 2


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not tell the cores of a process")
@pytest.mark.parametrize("spare", [0, 1])
def test_as_many_workers_as_cores_stay_each_on_its_own(monkeypatch, spare):
    mine = os.sched_getaffinity(0)
    if len(mine) < 2:
        pytest.skip("two workers need two cores")
    cores = sorted(mine)[:2]
    monkeypatch.setattr(workers, "_cores", lambda: cores + ["another"] * spare)
    pool = workers._pool.__wrapped__(2)
    meet = threading.Barrier(2)  # so that each of the two threads takes one

    def own(_):
        meet.wait(10)
        return os.sched_getaffinity(0)

    found = list(pool.map(own, range(2)))
    pool.shutdown()
    assert sorted(map(sorted, found)) == ([[core] for core in cores] if not spare else [sorted(mine)] * 2)
    assert os.sched_getaffinity(0) == mine


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("items", "workers"), [([7], 2), ([7, 8], 1)])
def test_one_item_or_one_worker_takes_all_threads_here(items, workers):
    here = threading.get_ident()
    found = list(in_order(lambda item: (item, torch.get_num_threads(), threading.get_ident()), items, workers))
    assert found == [(item, 2, here) for item in items]


@pytest.mark.usefixtures("two_threads")
def test_an_error_ends_what_waits():
    done = []

    def function(item):
        if item == 0:
            raise ValueError("damaged")
        done.append(item)

    with pytest.raises(ValueError, match="damaged"):
        list(in_order(function, range(100), 2))
    assert len(done) <= 3 and torch.get_num_threads() == 2


@pytest.mark.parametrize("finish", [OMGSR.merge, OMGSR.fold])
@pytest.mark.parametrize("name", ["mini-s", "mini-f"])
def test_merged_weights_do_not_depend_on_the_number_of_threads(name, finish):
    weights = []
    for threads in (1, 2):
        with on_threads(threads):
            weights.append(finish(OMGSR.from_pretrained(name)).state_dict())
    one, two = weights
    assert one.keys() == two.keys() and not [key for key in one if not torch.equal(one[key], two[key])]


def test_restored_bytes_do_not_depend_on_the_number_of_workers():
    model, image = OMGSR.from_pretrained("mini-f").merge(), Image.effect_noise((64, 128), 90)
    images = {}
    for threads in (1, 2):
        with on_threads(threads):
            restorer = Restorer(model, tile=128)
            settings = restorer.settings(512, 256)
            assert (settings.workers, settings.vae_mode, settings.vae_tile) == (threads, "flat", 64)
            images[threads] = restore(model, image, tile=128, progress=False).images[0].tobytes()
    assert images[1] == images[2]


@pytest.mark.parametrize(("name", "side"), [("mini-s", 32), ("mini-f", 16)])
def test_images_of_one_tile_share_the_workers(name, side, monkeypatch):
    """The first waits for the second, so both are computed at once; their bytes are those of each alone."""
    model, tile = OMGSR.from_pretrained(name).merge(), 4 * side
    images = [Image.effect_noise((side, side), 60 + seed).convert("RGB") for seed in range(2)]
    images += [Image.effect_noise((2 * side, side), 70).convert("RGB"), Image.effect_noise((side, side - 8), 80)]
    alone = [restore(model, image, tile=tile, progress=False).images[0].tobytes() for image in images]
    threads, second, run = [], threading.Event(), Restorer.run

    def meet(self, padded, *arguments):
        threads.append(torch.get_num_threads())
        assert len(threads) > 1 and second.set() is None or second.wait(60)
        return run(self, padded, *arguments)

    with on_threads(2):
        monkeypatch.setattr(Restorer, "run", meet)
        results = restore(model, images, tile=tile, progress=False).images
        assert threads == [1, 1, 2, 1]
        monkeypatch.undo()
        alone[2] = restore(model, images[2], tile=tile, progress=False).images[0].tobytes()  # on both threads
    assert [image.tobytes() for image in results] == alone


@pytest.mark.parametrize(("base", "expected"), [("tiny", None), ("mini-ddpm", "flat")])
def test_an_autoencoder_that_sees_the_whole_image_stays_in_one_piece(base, expected):
    model = OMGSR.from_base(base, "ddpm", 250)
    assert Restorer(model).settings(1024, 1024).vae_mode == expected
    assert Restorer(model).settings(256, 256).vae_mode is None
