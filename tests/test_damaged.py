"""Damaged files of our own are one line with the file and what to do."""

import numpy as np
import pytest
import torch
from PIL import Image

from omgsr_lib.cli import main
from omgsr_lib.data.photos import freely_licensed
from omgsr_lib.model import OMGSR
from omgsr_lib.priors.prompts import load_prompt_embeds
from omgsr_lib.training.checkpoint import load_state, read_log, save_state
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
    with pytest.raises(ValueError, match="state.pt' is empty, cut off, .* delete it and begin again"):
        load_state(tmp_path / "state.pt")


def test_a_checkpoint_of_something_else(tmp_path):
    save_state(tmp_path / "state.pt", {"other": 1})
    with pytest.raises(ValueError, match="holds step, settings, adapters: "):
        watched_recipe(tmp_path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_prompt_embeddings(damage, tmp_path):
    (tmp_path / "p.safetensors").write_bytes(DAMAGES[damage](b"\x08\0\0\0\0\0\0\0{}      "))
    with pytest.raises(ValueError, match="p.safetensors' is empty, cut off .* Copy it again"):
        load_prompt_embeds(tmp_path, "ddpm", "", tmp_path / "p.safetensors")


@pytest.mark.parametrize("text", ["{}", "", "[]", "1"])
def test_a_damaged_omgsr_json(text, tmp_path):
    (tmp_path / "omgsr.json").write_text(text)
    with pytest.raises(ValueError, match="omgsr.json' .*Copy it again"):
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
