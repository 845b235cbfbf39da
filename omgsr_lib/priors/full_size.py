"""The published models at full size, from their configurations alone: no files, no download.

On the meta device they take no memory; on a GPU they have random weights.
"""

from contextlib import contextmanager

import torch

from . import prior_class


def full_size_autoencoder(family, *, device="meta", dtype=torch.bfloat16, seed=0):
    """The autoencoder of `family`, 84 M parameters: 4 channels of "ddpm", 16 of "flow", "z_image", 32 of "flux2"."""
    import diffusers

    prior = prior_class(family)
    with _building(device, dtype, seed):
        return getattr(diffusers, prior.autoencoder_class)(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            **prior.autoencoder,
        ).eval()


def full_size_prior(family, *, device="meta", dtype=torch.bfloat16, seed=0):
    """The prior of `family` with random prompt embeddings.

    Parameters: "ddpm" 865.9 M, "flow" 11.9 G, "z_image" 6.2 G, "flux2" 3.9 G.
    """
    prior = prior_class(family)
    with _building(device, dtype, seed):
        denoiser, prompt = prior.full_size()
    return prior(denoiser.eval(), prior.new_scheduler(), **prompt)


@contextmanager
def _building(device, dtype, seed):
    """New tensors on `device` and in `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(seed)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)
