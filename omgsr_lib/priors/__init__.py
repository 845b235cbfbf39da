"""One file per prior, which owns its facts; the autoencoder's latents, loading from folders or the hub."""

from .ddpm import DDPMPrior
from .flow import FlowPrior
from .flux2 import Flux2Prior
from .z_image import ZImagePrior


PRIORS = {prior.family: prior for prior in (DDPMPrior, FlowPrior, ZImagePrior, Flux2Prior)}


def prior_class(family):
    """The class in `PRIORS` of a family ("ddpm", "flow", "z_image", "flux2"). Raises `ValueError` for another name."""
    if family not in PRIORS:
        raise ValueError(f"family must be one of {sorted(PRIORS)}, got {family!r}.")
    return PRIORS[family]
