"""tiled_vae.py: both modes against the autoencoder in one piece."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from omgsr_lib.data.photos import open_photo, packaged_photos, to_pixels
from omgsr_lib.priors.latents import decode_latents, encode_latents
from omgsr_lib.priors.loading import WEIGHTS, load_autoencoder
from omgsr_lib.priors.tiny import tiny_autoencoder
from omgsr_lib.tiling import vae as tiled_vae
from omgsr_lib.tiling.vae import FlatPass, decode_tiled, encode_tiled
from omgsr_lib.tiling.vae_layers import decoder_layers, encoder_layers
from omgsr_lib.utils.meter import Meter


def stable_diffusion_layout(latent_channels=4, layers=2):
    """The layers of the Stable Diffusion VAE, with 16 channels of FLUX's (no quantising convolutions), but narrow."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=latent_channels,
        layers_per_block=layers,
        norm_num_groups=4,
        use_quant_conv=latent_channels == 4,
        use_post_quant_conv=latent_channels == 4,
        shift_factor=None if latent_channels == 4 else 0.1159,
    ).eval()


def residual_autoencoder():
    """An `AutoencoderDC` with the blocks of the mini autoencoder."""
    from diffusers import AutoencoderDC

    torch.manual_seed(0)
    return AutoencoderDC(
        latent_channels=8,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(3, 12, 24, 48),
        decoder_block_out_channels=(12, 12, 24, 48),
        encoder_layers_per_block=(1, 1, 1, 2),
        decoder_layers_per_block=(1, 2, 2, 3),
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
        encoder_out_shortcut=True,
        decoder_in_shortcut=True,
    ).eval()


def tiny():
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8), latent_channels=4
    ).eval()


AUTOENCODERS = {
    "sd": stable_diffusion_layout,
    "flux": lambda: stable_diffusion_layout(16),
    "flux2": lambda: tiny_autoencoder(kind="AutoencoderKLFlux2"),
    "dc": residual_autoencoder,
    "tiny": tiny,
}


def picture(height, width, batch=1, seed=0):
    """Smooth shapes and fine noise in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 6, 6, generator=generator) * 2 - 1
    fine = torch.randn(batch, 3, height, width, generator=generator)
    return (F.interpolate(coarse, (height, width), mode="bicubic") + 0.1 * fine).clamp(-1, 1)


def latents_like(vae, height, width, batch=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, vae.config.latent_channels, height, width, generator=generator)


def psnr(a, b, span=2.0):
    """Decibels; the span of values is that of pixels in [-1, 1]."""
    return 20 * torch.log10(span / (a - b).square().mean().sqrt()).item()


def largest(difference):
    return difference.abs().max().item()


@torch.no_grad()
@pytest.mark.parametrize("name", AUTOENCODERS)
def test_exact_mode_equals_one_piece(name):
    """Batches and sides that no strip divides; in float32 one piece itself is up to 2e-5 from its float64 result."""
    vae = AUTOENCODERS[name]()
    pixels, latents = picture(200, 136, batch=2), latents_like(vae, 25, 17, batch=2)
    encoded, decoded = encode_tiled(vae, pixels, mode="exact"), decode_tiled(vae, latents, mode="exact")
    vae, pixels, latents = vae.double(), pixels.double(), latents.double()
    whole_encoded, whole_decoded = encode_latents(vae, pixels), decode_latents(vae, latents)
    assert largest(encoded - whole_encoded) <= 1e-5 and largest(decoded - whole_decoded) <= 1e-5
    tolerance = 1e-6 if name == "dc" else 1e-11  # diffusers' RMSNorm takes its root in float32, whatever it is given
    assert largest(encode_tiled(vae, pixels, mode="exact") - whole_encoded) <= tolerance
    assert largest(decode_tiled(vae, latents, mode="exact") - whole_decoded) <= tolerance


@torch.no_grad()
@pytest.mark.parametrize("name", AUTOENCODERS)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 5)])
def test_strips_and_single_latents(name, size):
    """In float64 both modes equal one piece: statistics and keys are those of the whole image."""
    vae, height, width = AUTOENCODERS[name]().double(), *size
    pixels, latents = picture(8 * height, 8 * width, batch=2).double(), latents_like(vae, *size, batch=2).double()
    encoded, decoded = encode_latents(vae, pixels), decode_latents(vae, latents)
    for mode, tolerance in (("exact", 1e-6 if name == "dc" else 1e-11), ("flat", 1e-5)):
        assert largest(encode_tiled(vae, pixels, mode=mode) - encoded) <= tolerance
        assert largest(decode_tiled(vae, latents, mode=mode) - decoded) <= tolerance


@torch.no_grad()
@pytest.mark.parametrize("mode", ["exact", "flat"])
def test_a_sample_of_the_posterior_is_that_of_one_piece(mode):
    """One generator for the batch, or one per image. Without a posterior there is nothing to draw."""
    vae, pixels = stable_diffusion_layout(), picture(96, 64, batch=2)

    def generators():
        return [torch.Generator().manual_seed(seed) for seed in (3, 4)]

    def both(generator):
        options = dict(mode=mode) | (dict(tile=8) if mode == "flat" else {})
        return encode_tiled(vae, pixels, generator=generator(), **options), encode_latents(
            vae, pixels, generator=generator()
        )

    mean, _ = both(lambda: None)
    for generator in (generators, lambda: torch.Generator().manual_seed(3)):
        tiled, whole = both(generator)
        assert largest(tiled - whole) < 0.02 * whole.std() < 0.5 * largest(tiled - mean)
    assert torch.equal(encode_tiled(tiny(), pixels, generator=generators()), encode_tiled(tiny(), pixels))


@torch.no_grad()
@pytest.mark.parametrize("name", ["sd", "flux"])
def test_flat_mode_is_close_to_one_piece(name):
    """Four tiles; statistics and keys from 36 patches, corrected by one pass over the tiles."""
    vae = stable_diffusion_layout(layers=1) if name == "sd" else stable_diffusion_layout(16, layers=1)
    pixels, latents = picture(48 * 8, 40 * 8), latents_like(vae, 48, 40)
    options = dict(mode="flat", tile=24, patches=6)
    whole = encode_latents(vae, pixels)
    assert psnr(encode_tiled(vae, pixels, **options), whole, span=whole.max() - whole.min()) >= 45
    assert psnr(decode_tiled(vae, latents, **options), decode_latents(vae, latents)) >= 45


@torch.no_grad()
def test_small_tiles_take_fewer_patches():
    """Their accuracy is that of the flat mode still: 64 patches of 9 by 9 tiles."""
    vae = stable_diffusion_layout(layers=1)
    latents = latents_like(vae, 72, 72)
    assert psnr(decode_tiled(vae, latents, tile=16), decode_latents(vae, latents)) >= 45
    flats = [FlatPass(decoder_layers(vae), None, 72, 72, tile=tile) for tile in (16, 32, 48, 64, 128)]
    assert [flat.patches for flat in flats] == [8, 8, 12, 16, 16]


@torch.no_grad()
def test_flat_mode_with_known_statistics_is_as_good_as_its_halo():
    """Patches that cover the image give the statistics and keys of one piece, and need no pass over the tiles."""
    vae, latents = stable_diffusion_layout(layers=1), latents_like(stable_diffusion_layout(layers=1), 36, 30)
    whole = decode_latents(vae, latents)
    options = dict(mode="flat", tile=18, patches=9)
    errors = [psnr(decode_tiled(vae, latents, halo=halo, **options), whole) for halo in (2, 12)]
    assert errors[0] < 60 and errors[1] > 90


@torch.no_grad()
def test_flat_mode_of_the_shipped_autoencoder_on_a_photograph():
    """Its norms look at one position, so a halo of 12 latents leaves rounding."""
    vae = load_autoencoder(WEIGHTS / "mini-autoencoder")
    pixels = to_pixels(open_photo(packaged_photos("eval")[0]).resize((336, 272)))[None]
    latents = encode_latents(vae, pixels)
    options = dict(mode="flat", tile=16)
    assert psnr(encode_tiled(vae, pixels, **options), latents, span=latents.max() - latents.min()) > 100
    assert psnr(decode_tiled(vae, latents, **options), decode_latents(vae, latents)) > 100


@torch.no_grad()
def test_exact_mode_of_an_autoencoder_of_factor_4_that_repeats_pixels():
    """To the rounding of diffusers' RMS norm, which takes its mean square in float32."""
    from diffusers import AutoencoderDC

    from omgsr_lib.pretraining.autoencoder import CONFIG

    torch.manual_seed(0)
    vae = AutoencoderDC(**CONFIG).double().eval()
    pixels = torch.rand(1, 3, 88, 120, dtype=torch.float64) * 2 - 1
    latents = encode_latents(vae, pixels)
    assert latents.shape == (1, 16, 22, 30)
    options = dict(mode="exact", tile=8)
    torch.testing.assert_close(encode_tiled(vae, pixels, **options), latents, rtol=0, atol=1e-7)
    torch.testing.assert_close(decode_tiled(vae, latents, **options), decode_latents(vae, latents), rtol=0, atol=1e-7)


@torch.inference_mode()
def test_a_residual_block_in_strips_is_the_same_in_two_tensors_of_its_size():
    vae = residual_autoencoder()
    block, layer = vae.decoder.up_blocks[0][-1], decoder_layers(vae)[-3]
    x = torch.randn(1, 12, 301, 213)
    with Meter() as memory:
        y = layer.run(x)
    assert torch.equal(y, block(x))
    assert memory.peak < 2.5 * y.nbytes


@torch.inference_mode()
def test_memory_is_given_back_before_the_largest_layers(monkeypatch):
    """Of a large image once per tile, when the layers after the last enlargement of a decoder are still to come."""
    seen, given_back = [], []
    monkeypatch.setattr(tiled_vae, "SMALL", 0)
    monkeypatch.setattr(tiled_vae, "release_memory", lambda: given_back.append(len(seen)))
    vae = residual_autoencoder()
    layers = decoder_layers(vae)
    watched = [replace(layer, run=lambda x, run=layer.run: seen.append(x.shape[-1]) or run(x)) for layer in layers]
    latents = torch.randn(1, 8, 8, 16)
    flat = FlatPass(watched, lambda rows, columns: latents[..., rows, columns], 8, 16, tile=8)
    assert len(list(flat.tiles())) == len(given_back) == flat.count == 2
    last = max(k for k, layer in enumerate(layers) if layer.scale == 2)
    assert given_back == [last, len(layers) + last]


def test_what_cannot_be_tiled_is_refused():
    vae = tiny()
    with pytest.raises(ValueError, match="must be one of exact, flat; got 'fast'"):
        decode_tiled(vae, latents_like(vae, 4, 4), mode="fast")
    with pytest.raises(ValueError, match=r"multiples of 8 pixels to encode in parts: got \(40, 36\)"):
        encode_tiled(vae, picture(40, 36))
    with pytest.raises(ValueError, match="must be AutoencoderKL, .* or AutoencoderTiny: got Linear"):
        unsupported = torch.nn.Linear(1, 1)
        unsupported.encoder = None
        encoder_layers(unsupported)
