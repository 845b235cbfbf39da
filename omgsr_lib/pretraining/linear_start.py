"""Start an `AutoencoderDC` of factor 4 at the principal components of 4x4 patches.

The pixel-unshuffle shortcuts of the deep-compression autoencoder (Chen et al., arXiv 2410.10733) carry an image
through the encoder unchanged if every residual branch is silent. Its last convolution may then project onto the
principal components. The decoder undoes the projection and returns the mean of each 2x2 pixels, since its last
enlargement repeats pixels. Training starts from that solution instead of from noise.
"""

import torch
from torch.nn import functional as F


OFFSET = 2.0  # keeps the decoder's last ReLU open on the pixel range
ANCHOR = 16.0  # constant channels that make the decoder's last RMS norm an affine map to 0.6 %


def unshuffle(pixels, factor):
    """`(B, 3, H, W)` to `(B, 3 factor^2, H / factor, W / factor)` in the channel order of repeated 2x2 unshuffles."""
    while factor > 1:
        pixels, factor = F.pixel_unshuffle(pixels, 2), factor // 2
    return pixels


def patch_pca(pixels, factor, channels):
    """Mean `(P,)`, standard deviations `(channels,)` and orthonormal components `(P, channels)` of the patches."""
    patches = unshuffle(pixels, factor).permute(0, 2, 3, 1).reshape(-1, 3 * factor**2).double()
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    return patches.mean(0), values.flip(0)[:channels].sqrt(), vectors.flip(1)[:, :channels]


@torch.no_grad()
def start_linear(vae, pixels):
    """Set `vae` (layout of `autoencoder.CONFIG`) to the PCA of `pixels` `(B, 3, H, W)`; latents get unit power.

    Component i is divided by the square root of its standard deviation: half-way between pixel units, where noise of
    equal power hides the fine structure entirely, and whitened units, where it shows as blocks of wrong brightness.
    """
    factor = vae.spatial_compression_ratio
    mean, deviations, components = patch_pca(pixels, factor, vae.config.latent_channels)
    gains = deviations.rsqrt() / deviations.mean().sqrt()

    for parameter in vae.parameters():
        if parameter.dim() == 1:
            parameter.zero_()
    encoder, decoder = vae.encoder, vae.decoder
    _set_centre(encoder.conv_in.conv, torch.eye(3))
    for stage in encoder.down_blocks[1:-1]:
        stage[-1].conv.weight.zero_()
    _set_centre(encoder.conv_out, gains[:, None] * components.T)
    encoder.conv_out.bias.copy_(-gains * (components.T @ mean))

    _set_centre(decoder.conv_in, components / gains)
    decoder.conv_in.bias[: len(mean)] = mean.float()
    for stage in decoder.up_blocks[:-1]:
        stage[0].conv.weight.zero_()
    # After one shuffle three colours are left in the four phases of 2x2 pixels; the rest of the channels is constant.
    phases, channels = 4, decoder.norm_out.weight.numel()
    used = 3 * phases
    decoder.up_blocks[0][0].conv.bias[used:] = ANCHOR
    decoder.norm_out.weight[:used] = ANCHOR * ((channels - used) / channels) ** 0.5
    decoder.norm_out.bias[:used] = OFFSET
    _set_centre(decoder.conv_out, torch.eye(3).repeat_interleave(phases, 1) / phases)
    decoder.conv_out.bias.fill_(-OFFSET)


def _set_centre(conv, matrix):
    conv.weight.zero_()
    conv.weight[: matrix.shape[0], : matrix.shape[1], 1, 1] = matrix.to(conv.weight)
