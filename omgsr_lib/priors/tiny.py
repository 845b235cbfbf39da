"""A random tiny autoencoder: the `smoke` preset and the tests. Seconds on a CPU, no files."""

import torch


def tiny_autoencoder(latent_channels=4, seed=0):
    """A random `AutoencoderKL` with factor 8, in Stable Diffusion's layout."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=latent_channels,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.18215,
    ).eval()
