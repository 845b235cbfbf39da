"""Z-Image and FLUX.2-klein: one step is one step of diffusers' pipeline; presets, sizes, parts, limits."""

import math

import pytest
import torch

from omgsr_lib.cli import main
from omgsr_lib.data.photos import to_image, to_pixels
from omgsr_lib.model import OMGSR
from omgsr_lib.presets import recipe, timestep_caution
from omgsr_lib.priors import Flux2Prior, ZImagePrior
from omgsr_lib.priors.latent_space import load_schedule
from omgsr_lib.priors.latents import decode_latents, encode_latents
from omgsr_lib.priors.tiny import tiny_autoencoder
from omgsr_lib.restore.pipeline import restore
from omgsr_lib.study.costs import inference_costs
from omgsr_lib.tiling.vae import decode_tiled, encode_tiled


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


def test_timesteps_have_the_snr_of_flux():
    """Exactly as near as Z-Image's schedule comes; that of FLUX.2 is the same."""
    flow, z_image, flux2 = (load_schedule(family) for family in ("flow", "z_image", "flux2"))
    snr = flow.snr()[recipe("release", "f-1024").timestep]
    assert torch.equal(flux2.sigmas, flow.sigmas)
    for size in (512, 1024):
        assert recipe("open", f"z-{size}").timestep == int(z_image.nearest_timestep(snr))
        assert recipe("open", f"k-{size}").timestep == int(flux2.nearest_timestep(snr))
    assert float(z_image.sigmas[254]) == pytest.approx(float(flow.sigmas[244]), abs=1e-3)


def test_a_timestep_of_another_model_is_a_warning_with_the_command_that_measures_it(capsys, monkeypatch):
    monkeypatch.setattr("omgsr_lib.study.costs.dry_run", lambda chosen, **options: f"t* {chosen.timestep}")
    command = ["train", "--variant", "k", "--resolution", "1024", "--dry-run"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out == "t* 244\n" and err.startswith("omgsr train: The mid-timestep 244 was not measured for black-forest")
    assert "--vae black-forest-labs/FLUX.2-klein-4B --family flux2 --size 1024 --scale 8" in err
    for options in (["--timestep", "300"], ["--timestep", "auto"]):
        assert main([*command, *options]) == 0
        assert capsys.readouterr().err == ""
    assert timestep_caution(recipe("release", "f-1024")) is None


@pytest.mark.parametrize("family", PRIORS)
def test_midstep_takes_a_base(family, tmp_path, capsys):
    OMGSR.from_base("tiny", family, 0).add_adapters(1, 1).save_pretrained(tmp_path / "base")
    (tmp_path / "photos").mkdir()
    to_image(torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1).save(tmp_path / "photos/a.png")
    options = ["--photos", str(tmp_path / "photos"), "--vae", str(tmp_path / "base"), "--family", family]
    assert main(["midstep", *options, "--size", "64"]) == 0
    assert capsys.readouterr().out.startswith("mid-timestep ")


@torch.no_grad()
@pytest.mark.parametrize("mode", ["exact", "flat"])
def test_flux2_latents_in_parts_that_begin_anywhere(mode):
    """Tiles of 5 latents: some begin at an odd one, in the middle of a 2x2 patch of the batch normalisation."""
    vae = tiny_autoencoder(kind="AutoencoderKLFlux2")
    pixels = torch.rand(1, 3, 96, 120, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = encode_latents(vae, pixels)
    options = dict(tile=5, halo=15) if mode == "flat" else {}
    tolerance = 2e-5 if mode == "exact" else 0.02 * float(latents.std())
    assert (encode_tiled(vae, pixels, mode=mode, **options) - latents).abs().max() <= tolerance
    decoded = decode_latents(vae, latents)
    tolerance = 2e-5 if mode == "exact" else 0.02 * float(decoded.std())
    assert (decode_tiled(vae, latents, mode=mode, **options) - decoded).abs().max() <= tolerance


@torch.no_grad()
@pytest.mark.parametrize("family", PRIORS)
def test_restoring_in_tiles_folded_or_from_a_folder(family, tmp_path):
    model = OMGSR.from_base("tiny", family, 254).add_adapters(2, 2)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.trainable_parameters().values():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    image = to_image(torch.rand(3, 20, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    options = dict(scale=4, tile=48, overlap=16, vae_mode="flat", progress=False)
    expected = restore(model, image, **options).images[0]
    assert expected.size == (112, 80)
    folder = model.save_pretrained(tmp_path / "model")
    level = 2 / 255 + 1e-6
    for other in (OMGSR.from_pretrained(folder), model.fold()):
        assert (to_pixels(restore(other, image, **options).images[0]) - to_pixels(expected)).abs().max() <= level


def test_sides_without_positions_are_refused():
    prior = ZImagePrior.tiny().to("meta")
    for size in ((130, 64), (64, 130), (7, 8)):
        with pytest.raises(ValueError, match=f"at most 128x128: got {size[0]}x{size[1]}. Pad the image, or predict"):
            prior(torch.empty(1, 4, *size, device="meta"), 254)


def test_a_flux2_with_guidance_is_refused():
    with torch.device("meta"):
        dev = Flux2Prior.classes()[0](num_layers=1, num_single_layers=1, num_attention_heads=1)
    with pytest.raises(ValueError, match="no guidance embedding, as FLUX.2-klein: got guidance_embeds=True"):
        Flux2Prior(dev, Flux2Prior.new_scheduler(), torch.empty(1, 4, 15360))


ADAPTED = {"z_image": 1 + 34 * 7, "flux2": 1 + 5 * 12 + 20}


@pytest.mark.parametrize(("family", "parameters"), [("z_image", 6_154_908_736), ("flux2", 3_875_544_576)])
def test_sizes_at_full_size(family, parameters):
    """Parameters of denoiser and autoencoder, and trained ones in closed form."""
    model = OMGSR.full_size(family, 254).add_adapters(64, 64)
    denoiser = model.prior.denoiser
    frozen = [p.numel() for name, p in denoiser.named_parameters() if ".lora_" not in name]
    assert sum(frozen) == parameters
    names = [name for name, _ in denoiser.named_parameters() if ".lora_A." in name]
    d, hidden = {"z_image": (3840, 10_240), "flux2": (3072, 9216)}[family]
    if family == "z_image":
        sides = (64 + d) + 34 * (4 * 2 * d + 3 * (d + hidden))
    else:
        streams = 8 * 2 * d + 2 * (d + 2 * hidden) + 2 * (hidden + d)
        sides = (128 + d) + 5 * streams + 20 * (d + 3 * d + 2 * hidden)
    trained = [p.numel() for name, p in model.trainable_parameters().items() if name.startswith("denoiser.")]
    assert len(names) == ADAPTED[family] and sum(trained) == 64 * sides
    autoencoder = {"z_image": 83_819_683, "flux2": 84_046_115}[family]
    assert sum(p.numel() for p in model.vae.parameters()) == autoencoder


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "flops"), [("z-1024", 55.12), ("k-1024", 34.82)])
def test_a_card_of_24_gb_restores_at_1024_pixels(variant, flops):
    frame = inference_costs(recipe("open", variant)).set_index("stage")
    assert frame.loc["denoiser", "flops"] / 1e12 == pytest.approx(flops, rel=1e-3)
    assert 2 * frame["parameters"].sum() + frame["activations"].max() < 16e9
