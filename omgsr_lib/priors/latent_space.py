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
    """Autoencoder `name` with the schedule of `family` (`load_schedule`).

    `name`: "mini" (ships with the package), "tiny" (random), a folder or a hub id of any diffusers autoencoder or of a
    base with its `vae/`.
    """
    if name == "tiny":
        return tiny_autoencoder(kind=prior_class(family).autoencoder_class), load_schedule(family)
    if name == "mini":
        verify_hashes(WEIGHTS)
        name = WEIGHTS / "mini-autoencoder"
    try:
        vae = load_autoencoder(name)
    except (FileNotFoundError, ConnectionError):  # the latter if only vae/ is in the hub's cache
        vae = load_autoencoder(name, subfolder="vae")
    return vae, load_schedule(family)


def load_schedule(family):
    """The schedule of the published base of `family`, of FLUX.1-dev and FLUX.2 at 1024 pixels; without a download."""
    return NoiseSchedule.from_scheduler(prior_class(family).new_scheduler())
