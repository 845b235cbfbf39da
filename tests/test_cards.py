"""model_card.py: what the cards say, and whether the Hub can read their headers."""

import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard

from omgsr_lib.data.pairs import EvaluationPair
from omgsr_lib.model import OMGSR
from omgsr_lib.presets import recipe
from omgsr_lib.pretraining.autoencoder import new_autoencoder
from omgsr_lib.priors.loading import WEIGHTS
from omgsr_lib.priors.tiny import tiny_autoencoder
from omgsr_lib.training.model_card import adapter_card, autoencoder_card, command_line, prior_card
from omgsr_lib.utils.files import sha256


LOG = [{"step": step, "pixel": 1 / step, "seconds": 0.1} for step in (1, 2, 3)]
FACTS = {"preset": "release f-1024", "steps": 3, "photographs": "12, CC0"}


def adapters(folder, base, revision=None, family="flow"):
    model = OMGSR.from_base("tiny", family, 244).add_adapters(2, 2)
    model.base, model.revision = base, revision
    return model, model.save_adapter(folder / "adapter")


def card_of(folder):
    card = ModelCard.load(folder / "README.md")
    lines = [line.strip("| ").split(" | ") for line in card.text.splitlines() if line.startswith("| ")]
    return card.data.to_dict(), dict(line for line in lines if len(line) == 2)  # without the tables' heads


def test_card_of_a_full_size_training_without_pictures(tmp_path):
    own = recipe("release", "f-1024")
    model, folder = adapters(tmp_path, own.base, own.revision)
    adapter_card(folder, model, [], [], None, LOG, FACTS, command="omgsr train --variant f")
    header, rows = card_of(folder)
    assert header == {
        "base_model": "black-forest-labs/FLUX.1-dev",
        "base_model_relation": "adapter",
        "library_name": "diffusers",
        "license": "other",
        "license_name": "flux-1-dev-non-commercial-license",
        "license_link": "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
        "pipeline_tag": "image-to-image",
        "tags": ["super-resolution", "image-restoration", "one-step", "lora"],
    }
    hashes = {f"`{file.relative_to(folder)}`": sha256(file) for file in folder.rglob("*.safetensors")}
    assert rows == {
        "base": own.base, "revision": own.revision, "mid-timestep": "244", "preset": "release f-1024", "steps": "3",
        "photographs": "12, CC0", **hashes,
    }  # fmt: skip
    text = (folder / "README.md").read_text()
    assert "\n```\nomgsr train --variant f\n```\n" in text
    assert len(hashes) == 2 and "measured" not in text and "restored.png" not in text
    assert (folder / "losses.png").stat().st_size > 1000 and not (folder / "restored.png").exists()


def test_card_of_an_evaluated_training(tmp_path):
    model, folder = adapters(tmp_path, "mini-flow")
    picture = torch.zeros(3, 16, 16)
    pairs = [EvaluationPair(name="a", lq=picture, lq_small=picture, hq=picture + 0.5)] * 2
    scores = pd.DataFrame({"metric": ["psnr_y"] * 4, "method": ["lq", "omgsr"] * 2, "value": [20, 22, 21, 24.5]})
    adapter_card(folder, model, pairs, [picture] * 2, scores, LOG, FACTS, command="omgsr train")
    header, rows = card_of(folder)
    assert header["license"] == "apache-2.0" and "base_model" not in header
    assert rows["base"] == "mini-flow" and "revision" not in rows
    assert rows["PSNR-Y (dB)"] == "23.25 (LQ, enlarged: 20.5)" and rows["images"] == "2"
    assert "![restored.png](restored.png)" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("stabilityai/stable-diffusion-2-1-base", {"license": "openrail++"}),
        ("stabilityai/sd-turbo", {"license": "other", "license_link": "https://huggingface.co/stabilityai/sd-turbo"}),
        (
            "owner/mirror",
            {"license": "other", "license_name": "licence-of-the-base-model", "base_model": "owner/mirror"},
        ),
        ("folder", {"license": "other", "license_name": "licence-of-the-base-model"}),
    ],
)
def test_adapters_inherit_the_licence_of_their_base(tmp_path, base, expected):
    model, folder = adapters(tmp_path, base, family="ddpm")
    adapter_card(folder, model, [], [], None, LOG, FACTS, command="omgsr train")
    header, _ = card_of(folder)
    assert {name: header[name] for name in expected} == expected
    assert ("base_model" in header) == ("/" in base)


def test_card_of_an_autoencoder_states_its_own_factor(tmp_path):
    pixels = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    vae = new_autoencoder(pixels, seed=0)
    autoencoder_card(tmp_path, vae, pixels, {"psnr": [20.0, 22.0]}, LOG, {"steps": 3}, command="omgsr pretrain")
    text = " ".join((tmp_path / "README.md").read_text().split())
    assert "factor 4, 16 channels" in text and "components of 4x4 patches" in text and "8x8" not in text
    assert card_of(tmp_path)[1]["PSNR, RGB"] == "21.00 dB"


def test_card_of_a_prior_compares_its_samples_and_its_loss_with_photographs(tmp_path):
    latents = torch.randn(12, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    facts = {"crops seen": 40, "measured on": "held-out photographs"}
    arguments = [tmp_path, tiny_autoencoder(), latents / 2, latents, 0.25, {25: 0.5}, LOG, facts]
    prior_card(*arguments, command="omgsr pretrain ddpm")
    _, rows = card_of(tmp_path)
    assert rows["crops seen"] == "40" and rows["loss on held-out photographs"] == "0.2500"
    deviations = f"{float(latents.std()) / 2:.2f} (latents of photographs {float(latents.std()):.2f})"
    assert rows["standard deviation of 20-step samples"] == deviations
    assert (tmp_path / "samples.png").stat().st_size > 1000


def test_a_card_names_no_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside = [
        "train",
        "--photos",
        f"{tmp_path}/photos",
        "../other",
        f"--out={tmp_path}/runs/a",
        "--data",
        "my own, CC0",
    ]
    assert command_line(inside) == "omgsr train --photos photos ../other --out=runs/a --data 'my own, CC0'"
    assert (
        command_line(["train", "--photos", "/srv/someone/set", "--out=/srv/b"]) == "omgsr train --photos set --out=b"
    )


@pytest.mark.parametrize("name", ["mini-s", "mini-f"])
def test_cards_of_the_shipped_adapters_are_readable(name):
    header, rows = card_of(WEIGHTS / name)
    assert (header["library_name"], header["license"]) == ("diffusers", "apache-2.0")
    for file in (WEIGHTS / name).rglob("*.safetensors"):
        assert rows[f"`{file.relative_to(WEIGHTS / name)}`"] == sha256(file)
