"""Random tiny autoencoders: the `smoke` preset and the tests. Seconds on a CPU, no files."""

import torch


def tiny_autoencoder(latent_channels=4, seed=0, kind="AutoencoderKL"):
    """A random autoencoder with factor 8, in Stable Diffusion's layout; `kind`: "AutoencoderKL[Flux2]"."""
    import diffusers

    torch.manual_seed(seed)
    scale = {"scaling_factor": 0.18215} if kind == "AutoencoderKL" else {}
    vae = getattr(diffusers, kind)(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=latent_channels,
        layers_per_block=1,
        norm_num_groups=4,
        **scale,
    ).eval()
    if not scale:
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2)
    return vae
