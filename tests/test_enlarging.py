"""fold/enlarging.py: nearest enlargement and convolution as four convolutions."""

import copy

import pytest
import torch
from torch.nn import functional as F

from omgsr_lib.fold.enlarging import FoldedEnlargement, fold_enlargements
from omgsr_lib.model import OMGSR
from omgsr_lib.priors.latents import decode_latents
from omgsr_lib.priors.tiny import tiny_autoencoder
from omgsr_lib.restore.prepare import prepare
from omgsr_lib.tiling.vae import decode_tiled


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_four_convolutions_equal_the_one_of_the_enlarged_tensor(dtype, tolerance, layout):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(5, 7, 3, padding=1, dtype=dtype)
    x = torch.randn(2, 5, 6, 9, dtype=dtype).contiguous(memory_format=layout)
    expected = conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(FoldedEnlargement(conv)(x), expected, rtol=0, atol=tolerance)


@torch.no_grad()
@pytest.mark.parametrize(("channels", "output"), [(16, 4), (8, 8), (8, 2)])
@pytest.mark.parametrize("shortcut", [True, False])
def test_the_shortcut_of_a_deep_compression_block_is_part_of_them(channels, output, shortcut):
    from diffusers.models.autoencoders.autoencoder_dc import DCUpBlock2d

    torch.manual_seed(0)
    block = DCUpBlock2d(channels, output, interpolate=True, shortcut=shortcut).double()
    x = torch.randn(2, channels, 6, 9, dtype=torch.float64)
    (folded,) = fold_enlargements(torch.nn.Sequential(block))
    assert isinstance(folded, FoldedEnlargement)
    torch.testing.assert_close(folded(x), block(x), rtol=0, atol=1e-14)


@torch.no_grad()
def test_a_decoder_keeps_its_images_and_what_is_saved():
    vae = tiny_autoencoder().double()
    folded = copy.deepcopy(vae)
    fold_enlargements(folded.decoder)
    assert sum(isinstance(module, FoldedEnlargement) for module in folded.modules()) == 3
    latents = torch.randn(1, 4, 12, 10, dtype=torch.float64)
    torch.testing.assert_close(decode_latents(folded, latents), decode_latents(vae, latents), rtol=0, atol=1e-12)
    exact = decode_tiled(folded, latents, mode="exact")
    torch.testing.assert_close(exact, decode_latents(vae, latents), rtol=0, atol=1e-12)
    assert folded.state_dict().keys() == vae.state_dict().keys()


@pytest.mark.parametrize(("name", "count"), [("tiny", 3), ("mini-s", 2)])
def test_folded_models_on_a_cpu_have_it(name, count):
    model = OMGSR.from_base(name, "ddpm", 273) if name == "tiny" else OMGSR.from_pretrained(name)
    prepared = prepare(model, fold=True)
    for found, expected in ((model, 0), (prepared, count)):
        assert sum(isinstance(module, FoldedEnlargement) for module in found.vae.decoder.modules()) == expected
