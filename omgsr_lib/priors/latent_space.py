"""A latent space without its prior: the frozen autoencoder and the noise schedule of a preset or of a name."""

from ..presets import FAMILIES, TINY_AUTOENCODERS, preset_recipe, ships
from ..schedules import NoiseSchedule
from ..utils.files import verify_hashes
from . import prior_class
from .loading import WEIGHTS, load_autoencoder
from .tiny import tiny_autoencoder


def latent_space(preset, variant):
    """The frozen autoencoder and the `NoiseSchedule` of a preset's variant ("s": DDPM, "f": flow matching).

    Preset `latents` takes the tiny autoencoders of Stable Diffusion and FLUX.1 from the hub and the models' schedules.
    """
    if preset == "latents":
        return load_latent_space(TINY_AUTOENCODERS[variant], FAMILIES[variant])
    chosen = preset_recipe(preset, variant)
    if ships(chosen):
        return load_latent_space("tiny" if chosen.base == "tiny" else "mini", chosen.family)
    vae = load_autoencoder(chosen.base, subfolder="vae", revision=chosen.revision)
    return vae, load_schedule(chosen.family)


def load_latent_space(name, family):
    """Autoencoder `name` with the schedule of `family` ("ddpm": Stable Diffusion's, "flow": FLUX's).

    `name`: "mini" (ships with the package), "tiny" (random), a folder or a hub id of any diffusers autoencoder.
    """
    if name == "tiny":
        return tiny_autoencoder(), load_schedule(family)
    if name == "mini":
        verify_hashes(WEIGHTS)
        name = WEIGHTS / "mini-autoencoder"
    return load_autoencoder(name), load_schedule(family)


def load_schedule(family):
    """The schedule of Stable Diffusion ("ddpm") or of FLUX.1-dev at 1024 pixels ("flow"), without a download."""
    return NoiseSchedule.from_scheduler(prior_class(family).new_scheduler())
