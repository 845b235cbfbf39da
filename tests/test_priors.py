"""priors/: one call equals the denoiser called by hand; folders round trip."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from omgsr_lib.priors import PRIORS, DDPMPrior, FlowPrior, prompts
from omgsr_lib.priors.loading import load_autoencoder, load_prior, randomise, save_model, save_prior
from omgsr_lib.priors.tiny import tiny_autoencoder
from omgsr_lib.tiling.grid import plan_tiles, tiled


def latents_of(batch, height=8, width=8, seed=0):
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=PRIORS)
def prior(request):
    return PRIORS[request.param].tiny().requires_grad_(False)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10)])
def test_ddpm_equals_the_unet(height, width):
    prior, latents = DDPMPrior.tiny(), latents_of(2, height, width)
    prompt = prior.prompt_embeds.repeat(2, 1, 1)
    expected = prior.denoiser(latents, 273, encoder_hidden_states=prompt).sample
    assert torch.equal(prior(latents, 273), expected)
    assert not torch.allclose(prior(latents, 500), expected, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10)])
def test_flow_equals_the_transformer_of_flux(height, width):
    from diffusers import FluxPipeline

    prior, latents = FlowPrior.tiny(), latents_of(2, height, width)
    sigma = float(prior.schedule.sigmas[244])
    assert sigma == pytest.approx(0.5051124, abs=1e-6)
    tokens = prior.denoiser(
        hidden_states=FluxPipeline._pack_latents(latents, 2, 4, height, width),
        timestep=torch.full((2,), sigma),
        guidance=torch.full((2,), 1.0),
        pooled_projections=prior.pooled_prompt_embeds.repeat(2, 1),
        encoder_hidden_states=prior.prompt_embeds.repeat(2, 1, 1),
        txt_ids=torch.zeros(4, 3),
        img_ids=FluxPipeline._prepare_latent_image_ids(2, height // 2, width // 2, "cpu", torch.float32),
    ).sample
    expected = FluxPipeline._unpack_latents(tokens, 8 * height, 8 * width, 8)
    torch.testing.assert_close(prior(latents, 244), expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_position_ids_of_flux_are_those_of_each_tile():
    """10 x 20 latents in tiles of 6 x 8: one row of ids per 2 x 2 latents, counted from each tile's own corner."""
    from diffusers import FluxPipeline

    prior, latents, seen = FlowPrior.tiny(), latents_of(2, 10, 20), []
    plan = plan_tiles(10, 20, 8, multiple=2)
    prior.denoiser.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["img_ids"]), with_kwargs=True)
    tiled(lambda tiles: prior(tiles, 244), latents, tile=8, multiple=2)
    assert len(seen) == len(plan.slices()) == 6 and (plan.tile_h, plan.tile_w) == (6, 8)
    ids = FluxPipeline._prepare_latent_image_ids(2, plan.tile_h // 2, plan.tile_w // 2, "cpu", torch.float32)
    assert all(torch.equal(found, ids) for found in seen)


@torch.no_grad()
def test_one_timestep_per_image(prior):
    latents, timesteps = latents_of(3), torch.tensor([25, 273, 999])
    together = prior(latents, timesteps)
    alone = torch.cat([prior(latents[i : i + 1], int(timesteps[i])) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("timestep", [-1, 1000, 2.5, torch.tensor([1, 2, 3])])
def test_wrong_timesteps_are_refused(prior, timestep):
    with pytest.raises(ValueError, match="[Tt]imestep"):
        prior(latents_of(2), timestep)


@torch.no_grad()
def test_folder_round_trip(prior, tmp_path):
    save_prior(prior, tmp_path)
    loaded = load_prior(tmp_path, prior.family)
    state = loaded.state_dict()
    assert set(state) == set(prior.state_dict())
    assert all(torch.equal(state[name], value) for name, value in prior.state_dict().items())
    latents = latents_of(1)
    torch.testing.assert_close(loaded(latents, 300), prior(latents, 300), rtol=0, atol=1e-6)
    assert torch.equal(loaded.schedule.sigmas, prior.schedule.sigmas)
    assert not loaded.denoiser.training and not any(p.requires_grad for p in loaded.parameters())


def test_weights_are_rounded_to_the_precision_asked_for(tmp_path):
    vae = tiny_autoencoder()
    save_model(vae, tmp_path, torch.float16)
    stored = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    loaded = load_autoencoder(tmp_path)
    weight = vae.encoder.conv_in.weight
    assert torch.equal(loaded.encoder.conv_in.weight, weight.half().float())
    assert type(loaded) is type(vae)


def test_randomise_equals_a_fresh_initialisation():
    prior, trained = DDPMPrior.tiny(seed=0), DDPMPrior.tiny(seed=0).denoiser.state_dict()
    randomise(prior, seed=5)
    fresh = DDPMPrior.tiny(seed=5).denoiser.state_dict()
    state = prior.denoiser.state_dict()
    assert all(torch.equal(state[name], fresh[name]) for name in fresh)
    assert not torch.equal(state["conv_in.weight"], trained["conv_in.weight"])


def test_prompt_embeddings_come_from_the_named_file(tmp_path, monkeypatch):
    prior = FlowPrior.tiny()
    save_prior(prior, tmp_path)
    own = {"prompt_embeds": torch.ones(1, 4, 16), "pooled_prompt_embeds": torch.ones(1, 16)}
    save_file(own, tmp_path / "own.safetensors")
    loaded = load_prior(tmp_path, "flow", prompt_embeds=tmp_path / "own.safetensors")
    assert torch.equal(loaded.prompt_embeds, own["prompt_embeds"])
    assert torch.equal(loaded.pooled_prompt_embeds, own["pooled_prompt_embeds"])

    (tmp_path / "prompt_embeds.safetensors").unlink()
    asked = []
    monkeypatch.setenv("OMGSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prompts, "encode_prompt", lambda *arguments: asked.append(arguments) or own)
    load_prior(tmp_path, "flow", prompt="a photograph")
    assert asked == [(tmp_path, "flow", "a photograph", None)]


def test_errors_of_loading(tmp_path):
    save_prior(FlowPrior.tiny(), tmp_path)
    save_model(tiny_autoencoder(), tmp_path / "vae")
    save_file({"prompt_embeds": torch.ones(1, 4, 16)}, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match="must hold the tensors .*pooled_prompt_embeds"):
        load_prior(tmp_path, "flow", prompt_embeds=tmp_path / "half.safetensors")
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        load_prior(tmp_path, "flow", prompt_embeds=tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="family must be one of .*'ddpm', 'flow'.*'gan'"):
        load_prior(tmp_path, "gan")
    with pytest.raises(ValueError, match="must name an Autoencoder class.*FluxTransformer2DModel"):
        load_autoencoder(tmp_path / "transformer")
