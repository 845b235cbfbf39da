"""Damaged files of our own are one line with the file and what to do."""

import numpy as np
import pytest
import torch
from PIL import Image

from omgsr_lib.cli import main
from omgsr_lib.data.photos import find_photos, freely_licensed
from omgsr_lib.lora import add_lora, load_adapter, save_adapter
from omgsr_lib.losses.backbone_weights import dists_weights, squeezenet_features, vgg16_features
from omgsr_lib.metrics.evaluate import evaluate_folder
from omgsr_lib.metrics.scorers import metric_scorer
from omgsr_lib.metrics.specs import metric_spec
from omgsr_lib.model import OMGSR
from omgsr_lib.priors.prompts import load_prompt_embeds
from omgsr_lib.training.checkpoint import keep_settings, load_state, read_log, save_state
from omgsr_lib.training.loop import watched_recipe


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
DAMAGES = {
    "empty": lambda whole: b"",
    "half": lambda whole: whole[: len(whole) // 2],
    "pointer": lambda whole: POINTER,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint(damage, tmp_path):
    save_state(tmp_path / "state.pt", {"step": 1, "weights": torch.zeros(100)})
    (tmp_path / "state.pt").write_bytes(DAMAGES[damage]((tmp_path / "state.pt").read_bytes()))
    with pytest.raises(ValueError, match="state.pt' is damaged: .* delete it and begin again"):
        load_state(tmp_path / "state.pt")


def test_a_checkpoint_of_something_else(tmp_path):
    save_state(tmp_path / "state.pt", {"other": 1})
    with pytest.raises(ValueError, match="holds step, settings, adapters: "):
        watched_recipe(tmp_path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_prompt_embeddings(damage, tmp_path):
    (tmp_path / "p.safetensors").write_bytes(DAMAGES[damage](b"\x08\0\0\0\0\0\0\0{}      "))
    with pytest.raises(ValueError, match="p.safetensors' is damaged: .* Copy the prompt's"):
        load_prompt_embeds(tmp_path, "ddpm", "", tmp_path / "p.safetensors")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'{"peft_type": "LORA"', POINTER, b"\xff\xfe", b'{"peft_type": "LORA", "r": "x"}']
)
def test_a_damaged_adapter_config(content, tmp_path):
    module = torch.nn.ModuleDict({"conv1": torch.nn.Conv2d(1, 1, 1)})
    save_adapter(add_lora(module, 1, ["conv1"]), tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_bytes(content)
    with pytest.raises(ValueError, match="adapter_config.json' is damaged: .* Copy the adapter again."):
        load_adapter(module, tmp_path / "adapter")


LOSS_WEIGHTS = {
    "squeezenet/squeezenet1_1_fp16.safetensors": squeezenet_features,
    "vgg16/vgg16-397923af.pth": vgg16_features,
    "vgg16/vgg16.safetensors": vgg16_features,
    "dists/weights.pt": dists_weights,
    "niqe/niqe_pris_params.npz": lambda folder: metric_scorer(metric_spec("niqe"), "cpu", folder),
}


@pytest.mark.parametrize("name", LOSS_WEIGHTS)
@pytest.mark.parametrize("content", [b"", POINTER, b"\x08\0\0\0\0\0\0\0{}      "])
def test_damaged_weights_of_losses_and_metrics(name, content, tmp_path):
    file = tmp_path / name
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file.name}' is damaged: .* Copy the weights again."):
        LOSS_WEIGHTS[name](tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"{", b"null", b'{"pictures": [], "scores": 3}', b"\xff"])
def test_a_damaged_cache_of_scores_is_computed_again(content, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    options = dict(metrics=("psnr_y",), cache=tmp_path / "cache")
    expected = evaluate_folder(tmp_path, tmp_path, **options)
    (tmp_path / "cache" / "a.json").write_bytes(content)
    assert evaluate_folder(tmp_path, tmp_path, **options).equals(expected)
    assert evaluate_folder(tmp_path, tmp_path, **options).equals(expected)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"1"])
def test_damaged_settings_of_a_run(content, tmp_path):
    (tmp_path / "settings.json").write_bytes(content)
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(ValueError, match="settings.json' is damaged: .* delete the folder"):
        keep_settings(tmp_path, {"seed": 0})


@pytest.mark.parametrize("text", ["{}", "", "[]", "1", '{"family": "ddpm", "timestep": null}',
                                  '{"family": "ddpm", "timestep": 3, "ranks": 2}'])  # fmt: skip
def test_a_damaged_omgsr_json(text, tmp_path):
    (tmp_path / "omgsr.json").write_text(text)
    with pytest.raises(ValueError, match="omgsr.json' .*Copy it again"):
        OMGSR.from_pretrained(tmp_path)


@pytest.mark.parametrize("folder", ["vae", "unet"])
@pytest.mark.parametrize("text", ["", "{}", "[1]"])
def test_a_damaged_configuration_of_a_base(folder, text, tmp_path):
    OMGSR.from_base("tiny", "ddpm", 3).add_adapters(1, 1).save_pretrained(tmp_path)
    (tmp_path / folder / "config.json").write_text(text)
    with pytest.raises((FileNotFoundError, ValueError), match=f"'{tmp_path}'"):
        OMGSR.from_pretrained(tmp_path)


@pytest.mark.parametrize("line", [b'{"step": 2, "pi', b"\0\0\0", b"[1]", b"{}"])
def test_a_torn_line_of_a_log(line, tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2 of '.*log.jsonl' is damaged. Remove the line"):
        read_log(tmp_path / "log.jsonl")


def test_a_provenance_with_a_byte_order_mark(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "provenance.csv").write_text("file,licence\na.png,CC0\n", encoding="utf-8-sig")
    assert freely_licensed(tmp_path, tmp_path / "provenance.csv") == [tmp_path / "a.png"]


def test_a_training_that_diverges_is_a_line(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    options = ["--preset", "smoke", "--variant", "s", "--batch-size", "1", "--steps", "4", "--learning-rate", "1e30"]
    arguments = ["train", *options, "--warmup", "0", "--photos", str(tmp_path / "in"), "--out", str(tmp_path / "run")]
    assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("omgsr train: ")]
    assert len(lines) == 1 and lines[0].endswith("Lower the learning rate.")


@pytest.mark.parametrize("name", ["list.txt", "manifest.csv"])
@pytest.mark.parametrize("content", ["path,sha256\nJörg.png,1\n".encode("latin-1"), b"\xff\xfep\0a\0t\0h\0"])
def test_a_list_in_another_encoding_is_named(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}' is damaged: .* Save it as UTF-8"):
        find_photos(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}' is damaged: .* Save it as UTF-8"):
        freely_licensed(tmp_path, tmp_path / name)
