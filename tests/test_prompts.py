"""priors/prompts.py: the text encoders' own embeddings, computed once, kept by text, base, revision and family."""

import gc
import logging

import pytest
import torch
from safetensors.torch import load_file
from tiny_pipelines import save_pipeline

from omgsr_lib.model import OMGSR
from omgsr_lib.priors import PRIORS, prompts
from omgsr_lib.priors.loading import load_prior
from omgsr_lib.priors.prompts import cache_file, cache_folder, encode_prompt, load_prompt_embeds


PROMPT = "a sharp photo"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OMGSR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {family: save_pipeline(family, folder / family) for family in PRIORS}


@pytest.fixture
def encoded(monkeypatch):
    """Counts the calls of the text encoders."""
    calls = []
    monkeypatch.setattr(
        prompts, "encode_prompt", lambda *arguments: calls.append(arguments) or encode_prompt(*arguments)
    )
    return calls


@torch.no_grad()
def test_embeddings_are_those_of_the_text_encoders(bases):
    pipe, base = bases["ddpm"]
    tokens = pipe.tokenizer(PROMPT, padding="max_length", max_length=77, return_tensors="pt").input_ids
    assert tokens.shape == (1, 77) and int(tokens[0, 0]) == 52
    assert torch.equal(load_prompt_embeds(base, "ddpm", PROMPT)["prompt_embeds"], pipe.text_encoder(tokens)[0])

    pipe, base = bases["flow"]
    found = load_prompt_embeds(base, "flow", PROMPT)
    clip, t5 = pipe.text_encoder.to(torch.bfloat16), pipe.text_encoder_2.to(torch.bfloat16)
    pooled = clip(tokens).pooler_output
    tokens = pipe.tokenizer_2(PROMPT, padding="max_length", max_length=512, return_tensors="pt").input_ids
    assert torch.equal(found["prompt_embeds"], t5(tokens)[0]) and found["prompt_embeds"].shape == (1, 512, 16)
    assert torch.equal(found["pooled_prompt_embeds"], pooled)

    for family, thinking, layers in (("z_image", True, [-2]), ("flux2", False, [9, 18, 27])):
        pipe, base = bases[family]
        found = load_prompt_embeds(base, family, PROMPT)["prompt_embeds"]
        text = f"user {PROMPT} assistant" + ("" if thinking else " think")
        tokens = pipe.tokenizer(text, return_tensors="pt").input_ids
        length = tokens.shape[1]
        states = pipe.text_encoder.to(torch.bfloat16)(tokens, output_hidden_states=True).hidden_states
        expected = torch.cat([states[layer] for layer in layers], dim=-1)
        torch.testing.assert_close(found[:, :length], expected, rtol=0.02, atol=0.02)
        assert found.shape == (1, length if thinking else 512, 16 * len(layers))


@pytest.mark.parametrize("family", PRIORS)
def test_text_encoders_run_once_and_are_freed(family, bases, cache, encoded):
    _, base = bases[family]
    gc.collect()
    before = count_text_encoders()
    first = load_prompt_embeds(base, family, PROMPT)
    gc.collect()
    assert count_text_encoders() == before
    again = load_prompt_embeds(base, family, PROMPT)
    assert len(encoded) == 1 and set(again) == set(first)
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert [file.parent for file in cache.rglob("*") if file.is_file()] == [cache / "prompts"]


def count_text_encoders():
    from transformers import CLIPTextModel, Qwen3ForCausalLM, T5EncoderModel

    return sum(type(thing) in (CLIPTextModel, Qwen3ForCausalLM, T5EncoderModel) for thing in gc.get_objects())


def test_one_entry_per_text_base_revision_and_family(tmp_path):
    keys = [
        ("owner/base", "ddpm", "", None), ("owner/base", "ddpm", "a", None), ("owner/base", "ddpm", "", "abc"),
        ("owner/base", "flow", "", None), ("owner/mirror", "ddpm", "", None), (tmp_path, "ddpm", "", None),
    ]  # fmt: skip
    assert len({cache_file(*key) for key in keys}) == len(keys)
    (tmp_path / "sub").mkdir()
    assert cache_file(tmp_path / "sub" / "..", "ddpm", "") == cache_file(tmp_path, "ddpm", "")


def test_place_of_the_cache(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("OMGSR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "omgsr"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "omgsr"


def test_a_damaged_entry_is_computed_again(bases, encoded, caplog):
    _, base = bases["ddpm"]
    expected = load_prompt_embeds(base, "ddpm", PROMPT)["prompt_embeds"]
    file = cache_file(base, "ddpm", PROMPT)
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with caplog.at_level(logging.WARNING):
        found = load_prompt_embeds(base, "ddpm", PROMPT)["prompt_embeds"]
    assert torch.equal(found, expected) and len(encoded) == 2
    assert [record.getMessage() for record in caplog.records if record.name == prompts.__name__] == [
        f"Cached prompt embeddings are damaged and computed again: {file}"
    ]
    assert file.read_bytes() == whole and [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_a_failed_write_leaves_nothing(bases, cache, monkeypatch):
    def full_disk(tensors, file):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prompts, "save_file", full_disk)
    with pytest.raises(OSError, match="cannot write"):
        load_prompt_embeds(bases["ddpm"][1], "ddpm", PROMPT)
    assert not [file for file in cache.rglob("*") if file.is_file()]


@torch.no_grad()
@pytest.mark.parametrize("family", PRIORS)
def test_a_pipeline_folder_is_a_base(family, bases):
    pipe, base = bases[family]
    prior = load_prior(base, family, prompt=PROMPT)
    expected = load_file(cache_file(base, family, PROMPT))
    assert torch.equal(prior.prompt_embeds, expected["prompt_embeds"].float())
    model = OMGSR.from_base(base, family, 273, prompt=PROMPT)
    assert torch.equal(model.prior.prompt_embeds, prior.prompt_embeds)
    assert model.base == family
    images = model(torch.zeros(1, 3, 32, 32)).images
    assert images.shape == (1, 3, 32, 32) and torch.isfinite(images).all()
