"""model.py: the forward pass by hand, folders, merging, tiles, seeds and errors."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from omgsr_lib import pretrained
from omgsr_lib.model import OMGSR
from omgsr_lib.presets import PROMPT_V1, recipe
from omgsr_lib.priors import PRIORS
from omgsr_lib.priors.latents import scale_latents, unscale_latents
from omgsr_lib.priors.loading import WEIGHTS
from omgsr_lib.priors.tiny import tiny_autoencoder
from omgsr_lib.utils.files import sha256


TIMESTEPS = {"ddpm": 273, "flow": 244, "z_image": 254, "flux2": 244}


def untuned(family):
    return OMGSR.from_base("tiny", family, TIMESTEPS[family])


def tuned(family, ranks=(4, 4)):
    """A model whose adapters change its output."""
    model = untuned(family).add_adapters(*ranks)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.trainable_parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


@pytest.fixture(params=PRIORS)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def test_forward_by_hand(family, pixels):
    model = untuned(family)
    mean = model.vae.encode(pixels).latent_dist.mean
    latents = scale_latents(model.vae, mean) if family == "flux2" else mean * 0.18215
    output = model.prior(latents, model.timestep)
    if family == "ddpm":
        abar = float(model.prior.scheduler.alphas_cumprod[273])
        clean = (latents - (1 - abar) ** 0.5 * output) / abar**0.5
        images = model.vae.decode(clean / 0.18215).sample.clamp(-1, 1)
    else:
        clean = latents - {254: 0.50564034, 244: 0.50511247}[model.timestep] * output
        unscaled = unscale_latents(model.vae, clean) if family == "flux2" else clean / 0.18215
        images = model.vae.decode(unscaled).sample
    found = model(pixels)
    torch.testing.assert_close(found.lq_latents, latents, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.clean_latents, clean, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.images, images, rtol=0, atol=1e-5)


@torch.no_grad()
def test_only_omgsr_s_clamps():
    latents = 40 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = untuned("flow").decode(latents)
    assert float(plain.abs().max()) > 1
    assert torch.equal(untuned("ddpm").decode(latents), plain.clamp(-1, 1))


@torch.no_grad()
def test_one_timestep_per_image(family, pixels):
    model, pixels = tuned(family).double(), pixels.double()
    together = model(pixels, torch.tensor([100, 700])).images
    alone = torch.cat([model(pixels[:1], 100).images, model(pixels[1:], 700).images])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-8)
    assert not torch.allclose(together, model(pixels).images, atol=1e-3)


@torch.no_grad()
def test_new_adapters_change_nothing(family, pixels):
    before = untuned(family)(pixels).images
    assert torch.equal(untuned(family).add_adapters(4, 4)(pixels).images, before)
    assert not torch.allclose(tuned(family)(pixels).images, before, atol=1e-3)


@torch.no_grad()
def test_merging_keeps_the_outputs(family, pixels):
    model, pixels = tuned(family).double(), pixels.double()
    before = model(pixels)
    after = model.merge()(pixels)
    torch.testing.assert_close(after.clean_latents, before.clean_latents, rtol=0, atol=1e-8)
    torch.testing.assert_close(after.images, before.images, rtol=0, atol=1e-8)
    assert model.trainable_parameters() == {}
    assert set(model.vae.state_dict()) == set(untuned(family).vae.state_dict())


@torch.no_grad()
def test_pretrained_round_trip_is_exact(family, pixels, tmp_path):
    model = tuned(family)
    model.timestep = 321
    loaded = OMGSR.from_pretrained(model.save_pretrained(tmp_path / "model"))
    assert (loaded.timestep, loaded.ranks) == (321, (4, 4))
    state = loaded.state_dict()
    assert set(state) == set(model.state_dict())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    torch.testing.assert_close(loaded(pixels).images, model(pixels).images, rtol=0, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@torch.no_grad()
def test_a_frozen_encoder_round_trips(pixels, tmp_path):
    model = tuned("ddpm", ranks=(0, 4))
    assert all(name.startswith("denoiser.") for name in model.trainable_parameters())
    loaded = untuned("ddpm").load_adapter(model.save_adapter(tmp_path / "a"))
    assert loaded.ranks == (0, 4)
    assert torch.equal(loaded(pixels).images, model(pixels).images)
    shutil.rmtree(tmp_path / "a" / "unet_lora_adapter")
    with pytest.raises(FileNotFoundError, match="unet_lora_adapter"):
        untuned("ddpm").load_adapter(tmp_path / "a")


def test_a_part_without_an_adapter_is_not_widened(tmp_path):
    model = tuned("ddpm", ranks=(0, 4)).widen_adapters(2, 8)
    assert model.ranks == (0, 8)
    assert untuned("ddpm").load_adapter(model.save_adapter(tmp_path / "a")).ranks == (0, 8)


def test_a_folder_of_adapters_alone_is_no_model(tmp_path):
    folder = tuned("ddpm").save_adapter(tmp_path / "adapters")
    with pytest.raises(ValueError, match="'.*adapters' holds adapters alone. Give their base too .*adapter="):
        OMGSR.from_pretrained(folder)
    base = tuned("ddpm").save_pretrained(tmp_path / "base")
    assert OMGSR.from_pretrained(folder, base=base).ranks == (4, 4)


def test_adapter_files_are_the_official_ones(family, tmp_path):
    model = tuned(family)
    folder = model.save_adapter(tmp_path / "weight-100")
    denoiser, encoder = PRIORS[family].adapter_folders
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == sorted(
        ["omgsr.json"]
        + [
            f"{part}/{file}"
            for part in (denoiser, encoder)
            for file in ("adapter_config.json", "adapter_model.safetensors")
        ]
    )
    assert "base_model.model.conv_in.lora_A.weight" in load_file(folder / encoder / "adapter_model.safetensors")


@torch.no_grad()
def test_adapters_load_with_peft_alone(family, pixels, tmp_path):
    """What another program does with the folder: `PeftModel.from_pretrained` on the bare modules."""
    from peft import PeftModel

    model, bare, pixels = tuned(family).double(), untuned(family).double(), pixels.double()
    folder = model.save_adapter(tmp_path / "a")
    denoiser, encoder = PRIORS[family].adapter_folders
    bare.lq_vae.encoder = PeftModel.from_pretrained(bare.lq_vae.encoder, folder / encoder)
    bare.prior.denoiser = PeftModel.from_pretrained(bare.prior.denoiser, folder / denoiser)
    torch.testing.assert_close(bare(pixels).images, model(pixels).images, rtol=0, atol=1e-8)


@torch.no_grad()
def test_official_folder_without_omgsr_json(pixels, tmp_path):
    model = tuned("flow")
    folder = model.save_adapter(tmp_path / "a")
    (folder / "omgsr.json").unlink()
    assert torch.equal(untuned("flow").load_adapter(folder)(pixels).images, model(pixels).images)
    shutil.rmtree(folder / "vae_encoder_adapter")
    with pytest.raises(FileNotFoundError, match="vae_encoder_adapter"):
        untuned("flow").load_adapter(folder)


@torch.no_grad()
def test_seeds_sample_the_posterior(family, pixels):
    model = tuned(family)

    def restored(seed):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return model(pixels, generator=generator).images

    assert torch.equal(restored(None), restored(None)) and torch.equal(restored(3), restored(3))
    assert not torch.equal(restored(3), restored(4)) and not torch.equal(restored(3), restored(None))


@torch.no_grad()
def test_tiles(family):
    model = untuned(family)
    latents = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    whole = model.predict_clean(latents)
    assert torch.equal(model.predict_clean(latents, tile=24), whole)  # one tile covers all
    tiles = model.predict_clean(latents, tile=8, overlap=4)
    # The mean of the whole x0 formula over tiles: linear in the output, so blending x0 instead gives the same.
    schedule, total, weights = model.prior.schedule, torch.zeros_like(latents), torch.zeros(16, 24)
    index = torch.arange(8)
    profile = torch.exp(-(((index - 3.5) / 8) ** 2) / 0.02)
    window = profile[:, None] * profile
    for top in range(0, 9, 4):
        for left in range(0, 17, 4):
            part = latents[..., top : top + 8, left : left + 8]
            clean = schedule.predict_clean(part, model.prior(part, model.timestep), model.timestep)
            total[..., top : top + 8, left : left + 8] += window * clean
            weights[top : top + 8, left : left + 8] += window
    torch.testing.assert_close(tiles, total / weights, rtol=0, atol=1e-4)
    assert 0 < float((tiles - whole).square().mean().sqrt()) < 0.3 * float(whole.std())


def test_wrong_sizes_and_names(tmp_path):
    with pytest.raises(ValueError, match="multiples of 8 pixels: got 64x60.*restore"):
        untuned("ddpm")(torch.zeros(1, 3, 64, 60))
    with pytest.raises(ValueError, match="multiples of 16 pixels: got 56x64"):
        untuned("flow")(torch.zeros(1, 3, 56, 64))
    with pytest.raises(ValueError, match="must be one of mini-s, .*omgsr-f-1024.*'mini-x'"):
        OMGSR.from_pretrained("mini-x")
    with pytest.raises(ValueError, match="must have adapters"):
        untuned("ddpm").save_adapter(tmp_path / "a")
    with pytest.raises(ValueError, match="must have adapters"):
        tuned("ddpm").merge().save_pretrained(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_of_the_other_family_is_refused(tmp_path):
    folder = tuned("ddpm").save_adapter(tmp_path / "a")
    with pytest.raises(ValueError, match="prior's family, flow: '.*a' is ddpm"):
        untuned("flow").load_adapter(folder)


def test_models_of_a_hub_base_get_base_timestep_and_prompt(monkeypatch):
    asked = {}
    monkeypatch.setattr(pretrained, "load_autoencoder", lambda *a, **k: tiny_autoencoder())

    def load_prior(base, family, **options):
        asked.update(base=base, family=family, **options)
        return PRIORS[family].tiny()

    monkeypatch.setattr(pretrained, "load_prior", load_prior)
    monkeypatch.setattr(pretrained, "load_scheduler", lambda base, family, *a: PRIORS[family].new_scheduler())
    model = OMGSR.from_pretrained("omgsr-f-512", prompt_embeds="embeds.safetensors")
    assert asked["base"] == "black-forest-labs/FLUX.1-dev" and asked["prompt"] == PROMPT_V1
    assert asked["prompt_embeds"] == "embeds.safetensors" and model.timestep == 295
    assert asked["revision"] == model.revision == recipe("paper", "f-512").revision
    model = OMGSR.from_pretrained("omgsr-s-512", base="other/base")
    assert (asked["base"], asked["prompt"], model.timestep) == ("other/base", "", 273)
    assert asked["revision"] is None and model.base == "other/base"
    OMGSR.from_pretrained("omgsr-s-512", base="other/base", revision="abc")
    assert asked["revision"] == "abc"
    OMGSR.from_pretrained("omgsr-f-512", base="black-forest-labs/FLUX.1-dev")
    assert asked["revision"] == recipe("paper", "f-512").revision


def test_an_adapter_brings_the_base_and_the_prompt_it_was_trained_with(monkeypatch, tmp_path):
    """As after `omgsr train --preset paper`: the model's name is that of another recipe."""
    asked = {}
    monkeypatch.setattr(pretrained, "load_autoencoder", lambda *a, **k: tiny_autoencoder())

    def load_prior(base, family, **options):
        asked.update(base=base, **options)
        return PRIORS[family].tiny()

    monkeypatch.setattr(pretrained, "load_prior", load_prior)
    monkeypatch.setattr(pretrained, "load_scheduler", lambda base, family, *a: PRIORS[family].new_scheduler())
    paper = recipe("paper", "s-512")
    trained = OMGSR.from_recipe(paper).add_adapters(4, 4).save_adapter(tmp_path / "paper")
    asked.clear()
    model = OMGSR.from_pretrained("omgsr-s-512", adapter=trained)
    assert (asked["base"], asked["revision"], asked["prompt"]) == (paper.base, paper.revision, PROMPT_V1)
    assert (model.base, model.revision, model.prompt, model.timestep) == (paper.base, paper.revision, PROMPT_V1, 195)
    for load in (lambda **options: OMGSR.from_pretrained("omgsr-s-512", adapter=trained, **options),
                 lambda **options: OMGSR.from_pretrained(trained, **options)):  # fmt: skip
        load(base="a/mirror")
        assert (asked["base"], asked["revision"], asked["prompt"]) == ("a/mirror", None, PROMPT_V1)
    model = OMGSR.from_pretrained("omgsr-s-512", adapter=trained, prompt_embeds="embeds.safetensors")
    assert asked["prompt_embeds"] == "embeds.safetensors" and model.prompt is None


@torch.no_grad()
def test_a_base_folder_and_adapters_by_path(pixels, tmp_path):
    model = tuned("ddpm")
    base, adapter = model.save_pretrained(tmp_path / "base"), model.save_adapter(tmp_path / "adapter")
    (adapter / "omgsr.json").write_text((adapter / "omgsr.json").read_text().replace("273", "150"))
    loaded = OMGSR.from_pretrained("omgsr-s-512", base=base, adapter=adapter)
    assert loaded.timestep == 150  # an adapter is used at the timestep it was trained for
    loaded.timestep = 273
    torch.testing.assert_close(loaded(pixels).images, model(pixels).images, rtol=0, atol=1e-6)
    bare = OMGSR.from_pretrained("omgsr-s-512", base=base)
    torch.testing.assert_close(bare(pixels).images, untuned("ddpm")(pixels).images, rtol=0, atol=1e-6)


@torch.no_grad()
def test_half_precision_base(tmp_path):
    folder = tuned("flow").save_pretrained(tmp_path / "model")
    model = OMGSR.from_pretrained(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in model.vae.parameters()} == {torch.bfloat16}
    assert model(torch.zeros(1, 3, 32, 32, dtype=torch.bfloat16)).images.dtype == torch.bfloat16


def test_damaged_shipped_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="SHA256SUMS is missing"):
        OMGSR.from_pretrained("mini-s")
    (tmp_path / "mini-ddpm").mkdir()
    file = tmp_path / "mini-ddpm" / "weights.safetensors"
    save_file({"a": torch.zeros(100)}, file)
    (tmp_path / "SHA256SUMS").write_text(f"{sha256(file)}  mini-ddpm/weights.safetensors\n")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="'mini-ddpm/weights.safetensors' has .* expected .* git checkout"):
        OMGSR.from_pretrained("mini-s")


@torch.no_grad()
@pytest.mark.parametrize("name", ["mini-s", "mini-f"])
def test_shipped_models(name, pixels):
    if not (WEIGHTS / name).is_dir():
        pytest.skip(f"the weights of {name} are not in this package yet")
    model = OMGSR.from_pretrained(name)
    images = model(pixels).images
    assert torch.isfinite(images).all() and images.shape == pixels.shape
    untuned_images = OMGSR.from_base(
        {"mini-s": "mini-ddpm", "mini-f": "mini-flow"}[name], model.prior.family, model.timestep
    )
    assert not torch.allclose(untuned_images(pixels).images, images, atol=1e-2)
