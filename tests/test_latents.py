"""priors/latents.py: scale, shift, posterior and packing against plain calls of diffusers."""

import pytest
import torch

from omgsr_lib.priors.latents import (
    compression,
    decode_latents,
    encode_latents,
    pack_latents,
    position_ids,
    unpack_latents,
)
from omgsr_lib.priors.tiny import tiny_autoencoder


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def flux_vae():
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=16,
        norm_num_groups=4,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


@torch.no_grad()
def test_posterior_mean_is_scaled(pixels):
    vae = tiny_autoencoder()
    expected = vae.encode(pixels).latent_dist.mode() * 0.18215
    torch.testing.assert_close(encode_latents(vae, pixels), expected, rtol=0, atol=0)


@torch.no_grad()
def test_posterior_mean_is_shifted_then_scaled(pixels, flux_vae):
    expected = (flux_vae.encode(pixels).latent_dist.mean - 0.1159) * 0.3611
    torch.testing.assert_close(encode_latents(flux_vae, pixels), expected, rtol=0, atol=0)


@torch.no_grad()
def test_a_generator_samples_the_posterior(pixels, flux_vae):
    posterior = flux_vae.encode(pixels).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(7))
    expected = (posterior.mean + posterior.std * noise - 0.1159) * 0.3611
    found = encode_latents(flux_vae, pixels, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(found, expected)
    other = encode_latents(flux_vae, pixels, generator=torch.Generator().manual_seed(8))
    assert (found - other).abs().max() > 0.01


@torch.no_grad()
def test_autoencoder_tiny(pixels):
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_decoder_blocks=(1, 1, 1, 1),
        scaling_factor=1.7,
    ).eval()
    expected = vae.encode(pixels).latents
    torch.testing.assert_close(encode_latents(vae, pixels), expected * 1.7, rtol=0, atol=0)
    torch.testing.assert_close(decode_latents(vae, expected * 1.7), vae.decode(expected).sample)
    assert compression(vae) == pixels.shape[-1] // expected.shape[-1] == 8


@torch.no_grad()
def test_autoencoder_dc(pixels):
    from diffusers import AutoencoderDC

    torch.manual_seed(0)
    vae = AutoencoderDC(
        latent_channels=6,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(4, 8, 16),
        decoder_block_out_channels=(4, 8, 16),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
        encoder_out_shortcut=False,
        decoder_in_shortcut=False,
        scaling_factor=0.41,
    ).eval()
    expected = vae.encode(pixels).latent
    torch.testing.assert_close(encode_latents(vae, pixels), expected * 0.41, rtol=0, atol=0)
    assert compression(vae) == pixels.shape[-1] // expected.shape[-1] == 4


@torch.no_grad()
def test_decoding_undoes_scale_and_shift(pixels, flux_vae):
    latents = encode_latents(flux_vae, pixels)
    plain = flux_vae.decode(flux_vae.encode(pixels).latent_dist.mean).sample
    torch.testing.assert_close(decode_latents(flux_vae, latents), plain, rtol=0, atol=1e-5)
    assert compression(flux_vae) == 2 and compression(tiny_autoencoder()) == 8


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10), (12, 4)])
def test_packing_equals_flux_pipeline(height, width):
    from diffusers import FluxPipeline

    latents = torch.arange(2 * 4 * height * width, dtype=torch.float32).reshape(2, 4, height, width)
    tokens = pack_latents(latents)
    assert torch.equal(tokens, FluxPipeline._pack_latents(latents, 2, 4, height, width))
    assert torch.equal(unpack_latents(tokens, height, width), latents)
    assert torch.equal(FluxPipeline._unpack_latents(tokens, 8 * height, 8 * width, 8), latents)
    ids = FluxPipeline._prepare_latent_image_ids(2, height // 2, width // 2, "cpu", torch.float32)
    assert torch.equal(position_ids(height, width), ids)


@pytest.mark.parametrize("shape", [(1, 4, 7, 8), (1, 4, 8, 7)])
def test_packing_refuses_odd_sides(shape):
    with pytest.raises(ValueError, match=f"must be even: got {shape[2]}x{shape[3]}"):
        pack_latents(torch.zeros(shape))
