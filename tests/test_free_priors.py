"""Z-Image and FLUX.2-klein: one step is one step of diffusers' pipeline on the same random weights."""

import math

import pytest
import torch

from omgsr_lib.priors import Flux2Prior, ZImagePrior
from omgsr_lib.priors.latents import decode_latents, encode_latents
from omgsr_lib.priors.tiny import tiny_autoencoder


PRIORS = {"z_image": ZImagePrior, "flux2": Flux2Prior}
TIMESTEPS = [1, 244, 500, 999]
SIZES = [(8, 8), (6, 20)]


def unshifted(scheduler, sigma, mu):
    """The sigma that `scheduler` shifts to `sigma`."""
    shift = math.exp(mu) if scheduler.config.use_dynamic_shifting else scheduler.config.shift
    return sigma / (shift - (shift - 1) * sigma)


def pipeline_step(prior, vae, latents, timestep):
    """Velocity and clean latents of the one step of diffusers' pipeline from the sigma of `timestep` to 0."""
    from diffusers import Flux2KleinPipeline, ZImagePipeline
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    scheduler = type(prior.scheduler).from_config(prior.scheduler.config)
    parts = dict(scheduler=scheduler, vae=vae, text_encoder=None, tokenizer=None, transformer=prior.denoiser)
    height, width = latents.shape[-2:]
    options = dict(height=8 * height, width=8 * width, num_inference_steps=1, output_type="latent")
    sigma, mu = float(prior.schedule.sigmas[timestep]), compute_empirical_mu(height * width // 4, 1)
    options["sigmas"] = [unshifted(scheduler, sigma, mu)]
    step, outputs = scheduler.step, []
    scheduler.step = lambda output, *rest, **kwargs: outputs.append(output) or step(output, *rest, **kwargs)
    if prior.family == "z_image":
        pipe, embeds = ZImagePipeline(**parts), [prior.prompt_embeds[0]] * len(latents)
        packed, options["guidance_scale"] = latents, 0.0
    else:
        pipe, embeds = Flux2KleinPipeline(**parts), prior.prompt_embeds.repeat(len(latents), 1, 1)
        packed, options["guidance_scale"] = pipe._patchify_latents(latents), 1.0
    pipe.set_progress_bar_config(disable=True)
    clean = pipe(prompt_embeds=embeds, latents=packed, **options).images
    assert float(scheduler.sigmas[0]) == pytest.approx(sigma, abs=1e-6)
    velocity = outputs[0]
    if prior.family == "flux2":
        velocity = pipe._unpatchify_latents(velocity.mT.reshape(packed.shape))
    return velocity, clean


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("timestep", TIMESTEPS)
@pytest.mark.parametrize("family", PRIORS)
def test_one_step_is_one_step_of_the_pipeline(family, timestep, height, width):
    """The pipeline of FLUX.2 gives latents as its decoder takes them, that of Z-Image scaled ones."""
    prior = PRIORS[family].tiny()
    vae = tiny_autoencoder(kind=prior.autoencoder_class)
    latents = torch.randn(2, 4, height, width, generator=torch.Generator().manual_seed(0))
    velocity, clean = pipeline_step(prior, vae, latents, timestep)
    output = prior(latents, timestep)
    torch.testing.assert_close(output, velocity, rtol=0, atol=2e-5)
    found = prior.schedule.predict_clean(latents, output, timestep)
    if family == "flux2":
        torch.testing.assert_close(decode_latents(vae, found), vae.decode(clean).sample, rtol=0, atol=2e-5)
    else:
        torch.testing.assert_close(found, clean, rtol=0, atol=2e-5)
    assert (found - latents).abs().max() > 1e-3 and (prior(latents, timestep - 1) - output).abs().max() > 1e-5


@torch.no_grad()
def test_latents_of_flux2_are_those_of_its_pipeline():
    from diffusers import Flux2KleinPipeline

    vae, prior = tiny_autoencoder(kind="AutoencoderKLFlux2"), Flux2Prior.tiny()
    parts = dict(scheduler=prior.scheduler, vae=vae, text_encoder=None, tokenizer=None, transformer=prior.denoiser)
    pixels = torch.rand(2, 3, 48, 80, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pipe, latents = Flux2KleinPipeline(**parts), encode_latents(vae, pixels)
    expected = pipe._encode_vae_image(pixels, None)
    torch.testing.assert_close(pipe._patchify_latents(latents), expected, rtol=0, atol=1e-6)
    decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    torch.testing.assert_close(decode_latents(vae, latents), decoded, rtol=0, atol=1e-5)
