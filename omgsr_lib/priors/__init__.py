"""One file per prior, which owns its facts; the autoencoder's latents, loading from folders or the hub."""

from .ddpm import DDPMPrior
from .flow import FlowPrior


PRIORS = {prior.family: prior for prior in (DDPMPrior, FlowPrior)}


def prior_class(family):
    """The class in `PRIORS` of a family ("ddpm", "flow"). Raises `ValueError` for another name."""
    if family not in PRIORS:
        raise ValueError(f"family must be one of {sorted(PRIORS)}, got {family!r}.")
    return PRIORS[family]
