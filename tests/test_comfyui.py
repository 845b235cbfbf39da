"""The nodes of ComfyUI, with stand-ins for ComfyUI itself: what they restore, and what they do when stopped."""

import asyncio
import json
import tomllib

import numpy as np
import pytest
import torch
from comfyui_stand_ins import FOLDER, InterruptProcessingException, ProgressBar, load_nodes
from PIL import Image

from omgsr_lib import OMGSR, restore


@pytest.fixture
def package(monkeypatch, tmp_path):
    return load_nodes(monkeypatch, tmp_path)


@pytest.fixture
def nodes(package):
    return package.nodes


@pytest.fixture(params=["ddpm", "flow"])
def model(request):
    return OMGSR.from_base("tiny", request.param, {"ddpm": 273, "flow": 244}[request.param])


@pytest.fixture
def ddpm():
    return OMGSR.from_base("tiny", "ddpm", 273)


def batch(count=1, channels=3, height=20, width=28):
    levels = np.random.default_rng(0).integers(0, 256, (count, 5, 7, channels), dtype=np.uint8)
    small = torch.from_numpy(levels).permute(0, 3, 1, 2).float()
    large = torch.nn.functional.interpolate(small, (height, width), mode="bilinear")
    return large.permute(0, 2, 3, 1).round() / 255


def run(nodes, model, image, scale=4.0, timestep="auto", tile=0, colour_fix="adain", seed=-1):
    """What the node returns for its inputs, of the types that ComfyUI passes."""
    (result,) = nodes.RestoreOMGSR.execute(model, image, scale, timestep, tile, colour_fix, seed).result
    return result


def levels(image):
    return (image.numpy() * 255).round().astype(np.uint8)


def test_comfyui_finds_both_nodes_with_their_types(package):
    extension = asyncio.run(package.comfy_entrypoint())
    schemas = [node.define_schema() for node in asyncio.run(extension.get_node_list())]
    assert [schema.node_id for schema in schemas] == ["OMGSRLoad", "OMGSRRestore"]
    load, restoring = schemas
    assert [output.io_type for output in load.outputs] == ["OMGSR_MODEL"]
    assert [output.io_type for output in restoring.outputs] == ["IMAGE"]
    types = {inputs.id: inputs.io_type for inputs in restoring.inputs}
    assert types == {
        "model": "OMGSR_MODEL", "image": "IMAGE", "scale": "FLOAT", "timestep": "STRING", "tile": "INT",
        "colour_fix": "COMBO", "seed": "INT",
    }  # fmt: skip


def test_the_models_offered_are_packaged_or_folders_of_comfyui(nodes, tmp_path):
    OMGSR.from_base("tiny", "ddpm", 273).add_adapters(2, 2).save_pretrained(tmp_path / "omgsr" / "own")
    (tmp_path / "omgsr" / "empty").mkdir()
    names, precision = nodes.LoadOMGSR.define_schema().inputs
    assert names.options == ["mini-s", "mini-f", "mini-s-adaptive", "mini-f-adaptive", "own"]
    assert precision.default == "auto"


@torch.inference_mode()  # in which ComfyUI runs its nodes
def test_a_saved_model_is_loaded_and_restores(nodes, tmp_path):
    saved = OMGSR.from_base("tiny", "ddpm", 273).add_adapters(2, 2)
    for number, parameter in enumerate(saved.trainable_parameters().values()):
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    saved.save_pretrained(tmp_path / "omgsr" / "own")
    (loaded,) = nodes.LoadOMGSR.execute("own", "auto").result
    assert loaded.ranks is None and next(loaded.parameters()).dtype == torch.float32
    expected = np.asarray(restore(saved, Image.fromarray(levels(batch())[0]), progress=False).images[0], int)
    assert np.abs(levels(run(nodes, loaded, batch()))[0].astype(int) - expected).max() <= 1
    (half,) = nodes.LoadOMGSR.execute("own", "bfloat16").result
    assert next(half.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_batch_is_restored_image_by_image(nodes, model, channels):
    image = batch(2, channels)
    result = run(nodes, model, image)
    assert result.dtype == torch.float32 and result.shape == (2, 80, 112, channels)
    assert result.min() >= 0 and result.max() <= 1
    for restored, lq in zip(levels(result), levels(image), strict=True):
        lq = Image.fromarray(lq.squeeze(2) if channels == 1 else lq)
        expected = restore(model, lq, scale=4, progress=False, tile=512).images[0]
        assert np.array_equal(restored, np.atleast_3d(np.asarray(expected)))


def test_inputs_are_those_of_restore(nodes, model):
    image = batch()
    result = run(nodes, model, image, scale=2.5, timestep=" 400", tile=64, colour_fix="none", seed=5)
    options = dict(scale=2.5, timestep=400, tile=64, colour_fix=None, seed=5)
    expected = restore(model, Image.fromarray(levels(image)[0]), progress=False, **options).images[0]
    assert np.array_equal(levels(result)[0], np.asarray(expected))


@pytest.mark.parametrize("timestep", ["soon", "1.5", "-3", "", "1000"])
def test_a_timestep_that_is_none_is_named_before_the_work(nodes, timestep):
    assert repr(timestep) in nodes.RestoreOMGSR.validate_inputs(timestep)
    for good in ("Auto", "999", None):  # None: of another node
        assert nodes.RestoreOMGSR.validate_inputs(good) is True


@pytest.mark.parametrize("tile", [8, 65, -64, 5000])
def test_tiles_that_do_not_work_are_refused_before_the_work(nodes, model, tile):
    with pytest.raises(ValueError, match=f"0 or from 64 to 4096 pixels, a multiple of {model.multiple}: got {tile}"):
        run(nodes, model, batch(), tile=tile)


def test_what_the_lists_do_not_offer_is_refused(nodes):
    with pytest.raises(ValueError, match="precision must be one of auto, float32, bfloat16: got 'fp8'"):
        nodes.LoadOMGSR.execute("mini-s", "fp8")
    with pytest.raises(ValueError, match="model_name must be one of mini-s, .*: got 'omgsr-s-512'"):
        nodes.LoadOMGSR.execute("omgsr-s-512", "auto")


def test_the_progress_bar_counts_the_tiles_of_all_images(nodes, model):
    run(nodes, model, batch(2), tile=64)
    (bar,) = ProgressBar.made
    assert bar.total > 4 and bar.seen == [*range(1, bar.total + 1), bar.total]


def test_out_of_memory_halves_the_tile(nodes, ddpm, monkeypatch):
    tiles = []

    def short_of_memory(model, image, tile, **options):
        tiles.append(tile)
        if tile > 96:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return restore(model, image, tile=tile, **options)

    monkeypatch.setattr(nodes, "restore", short_of_memory)
    result = run(nodes, ddpm, batch(), tile=400)
    assert tiles == [400, 200, 96]
    expected = restore(ddpm, Image.fromarray(levels(batch())[0]), tile=96, progress=False).images[0]
    assert np.array_equal(levels(result)[0], np.asarray(expected))


@pytest.mark.parametrize(
    ("error", "tried"),
    [(torch.OutOfMemoryError("CUDA out of memory."), [128, 64]), (RuntimeError("another reason"), [128])],
)
def test_an_error_that_smaller_tiles_do_not_help_is_raised(nodes, ddpm, monkeypatch, error, tried):
    tiles = []

    def failing(model, image, tile, **options):
        tiles.append(tile)
        raise error

    monkeypatch.setattr(nodes, "restore", failing)
    with pytest.raises(type(error), match=str(error)):
        run(nodes, ddpm, batch(), tile=128)
    assert tiles == tried


@pytest.mark.parametrize("share", [0.01, 0.99])  # while it encodes, while it decodes
def test_stopping_ends_the_work_and_leaves_the_model_as_it_was(nodes, ddpm, share):
    nodes.model_management.looks_before_stop = looks = 10**6
    expected = run(nodes, ddpm, batch(), tile=64)
    looks -= nodes.model_management.looks_before_stop
    made, tiles = [], ProgressBar.made[-1].total
    nodes.model_management.looks_before_stop = round(share * looks)
    ddpm.to = lambda device: made.append(device)
    with pytest.raises(InterruptProcessingException):
        run(nodes, ddpm, batch(), tile=64)
    assert len(made) == 2  # to the device, and back
    nodes.model_management.looks_before_stop = None
    assert ProgressBar.made[-1].current == {0.01: 0, 0.99: tiles}[share]
    assert torch.equal(run(nodes, ddpm, batch(), tile=64), expected)


def test_the_example_workflow_fits_the_nodes(nodes):
    workflow = json.loads((FOLDER / "example_workflows" / "restore.json").read_text())
    request = json.loads((FOLDER / "restore_api.json").read_text())["prompt"]
    schemas = {s.node_id: s for s in (node.define_schema() for node in (nodes.LoadOMGSR, nodes.RestoreOMGSR))}
    links = {number: (source, slot) for number, source, slot, *_ in workflow["links"]}
    for node in workflow["nodes"]:
        sent = request[str(node["id"])]
        assert sent["class_type"] == node["type"]
        connected = {i["name"]: [str(links[i["link"]][0]), links[i["link"]][1]] for i in node["inputs"]}
        assert connected.items() <= sent["inputs"].items()
        if node["type"] in schemas:
            inputs = schemas[node["type"]].inputs
            widgets = [i for i in inputs if i.io_type not in ("OMGSR_MODEL", "IMAGE")]
            values = dict(zip([i.id for i in widgets], node["widgets_values"], strict=True))
            assert sent["inputs"] == connected | values and list(sent["inputs"]) == [i.id for i in inputs]
            for widget in widgets:
                assert widget.io_type != "COMBO" or values[widget.id] in widget.options


def test_the_registry_reads_the_facts_of_this_project():
    facts = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    own = tomllib.loads((FOLDER.parents[2] / "pyproject.toml").read_text())["project"]
    assert facts["tool"]["comfy"]["DisplayName"] == "OMGSR" and facts["project"]["license"]["text"] == own["license"]
    assert facts["project"]["version"] == own["version"] and facts["project"]["dependencies"] == [own["name"]]
