"""Licences of the bases, which adapters and merged weights inherit, as the header of a model card names them."""

from ..presets import PACKAGED_PRIORS


OWN = {"license": "apache-2.0"}  # Apache-2.0, as of this package's weights
BASES = {
    "stabilityai/stable-diffusion-2-1-base": {"license": "openrail++"},
    "stabilityai/sd-turbo": {
        "license": "other",
        "license_name": "licence-of-sd-turbo",
        "license_link": "https://huggingface.co/stabilityai/sd-turbo",
    },
    "black-forest-labs/FLUX.1-dev": {
        "license": "other",
        "license_name": "flux-1-dev-non-commercial-license",
        "license_link": "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
    },
    "Tongyi-MAI/Z-Image-Turbo": OWN,
    "black-forest-labs/FLUX.2-klein-4B": OWN,
}


def licence(base):
    """The fields `license`, `license_name` and `license_link` of what is made from `base`, as a model knows it."""
    if base in (*PACKAGED_PRIORS, "tiny"):
        return OWN
    return BASES.get(base, {"license": "other", "license_name": "licence-of-the-base-model"})
