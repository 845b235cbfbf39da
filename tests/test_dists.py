"""losses/dists.py, blur.py: DISTS, its edge-aware and its DINOv3 form against definitions written out in float64."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate, sobel
from scipy.special import erf
from torch import nn

from omgsr_lib.losses.blur import BlurPool, L2Pool
from omgsr_lib.losses.chunks import overlap_chunks
from omgsr_lib.losses.dists import DISTS, EdgeAware, VGG16Maps, dinov3_dists, edge_map
from omgsr_lib.losses.perceptual import chunked_distance


MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
HANNING = np.outer([1, 2, 1], [1, 2, 1]) / 16


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


# The definitions, for one image (C, H, W) in numpy


def convolve(x, weight, bias):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("chwij,ocij->ohw", windows, weight) + bias[:, None, None]


def l2_pool(x, stride):
    blurred = np.stack([correlate(channel**2, HANNING, mode="constant") for channel in x])
    return np.sqrt(blurred[:, ::stride, ::stride] + 1e-12)


def standardise(picture):
    return (picture - MEAN[:, None, None]) / STD[:, None, None]


def vgg_maps(picture, stages):
    maps, hidden = [picture], standardise(picture)
    for index, stage in enumerate(stages):
        hidden = l2_pool(hidden, 2) if index else hidden
        for layer in stage:
            if isinstance(layer, nn.Conv2d):
                hidden = np.maximum(convolve(hidden, layer.weight.numpy(), layer.bias.numpy()), 0)
        maps.append(hidden)
    return maps


def dists(maps_x, maps_y, alpha, beta):
    score, c = 0.0, 1e-6
    weights = iter(zip(alpha, beta, strict=True))
    for x, y in zip((m for maps in maps_x for m in maps), (m for maps in maps_y for m in maps), strict=True):
        a, b = next(weights)
        texture = (2 * x.mean() * y.mean() + c) / (x.mean() ** 2 + y.mean() ** 2 + c)
        covariance = (x * y).mean() - x.mean() * y.mean()
        score += a * texture + b * (2 * covariance + c) / (x.var() + y.var() + c)
    return 1 - score / (sum(alpha) + sum(beta))


@pytest.fixture(scope="module")
def tiny_vgg():
    torch.manual_seed(0)
    maps = VGG16Maps(widths=((4, 4), (5,), (6, 6, 6))).double()
    for layer in maps.convolutions:
        nn.init.normal_(layer.weight, std=0.3)
        nn.init.normal_(layer.bias, std=0.3)
    alpha, beta = torch.rand(18, dtype=torch.float64), torch.rand(18, dtype=torch.float64)
    return DISTS(maps, alpha, beta), alpha.numpy(), beta.numpy()


@pytest.mark.parametrize("size", [(16, 16), (17, 22)])
def test_dists_equals_its_definition(tiny_vgg, size):
    model, alpha, beta = tiny_vgg
    x, y = uniform(2, 3, *size), uniform(2, 3, *size, seed=1)
    stages = model.maps.stages
    expected = [
        dists(vgg_maps((a.numpy() + 1) / 2, stages), vgg_maps((b.numpy() + 1) / 2, stages), alpha, beta)
        for a, b in zip(x, y, strict=True)
    ]
    found = model(x, y)
    assert found.shape == (2, 1, 1, 1)
    np.testing.assert_allclose(found.flatten().numpy(), expected, rtol=0, atol=1e-7)
    assert float(model(x, x).abs().max()) < 1e-9
    torch.testing.assert_close(model(y, x), found)


def test_vgg16_has_1475_maps_of_halving_size():
    with torch.device("meta"):
        maps = VGG16Maps()(torch.zeros(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (3, 64, 96), (64, 64, 96), (128, 32, 48), (256, 16, 24), (512, 8, 12), (512, 4, 6),
    ]  # fmt: skip
    assert sum(m.shape[1] for m in maps) == 1475


def test_dists_equals_pyiqa(monkeypatch):
    """Same random VGG16 and weights in both; pyiqa's learned alpha and beta need a download."""
    pyiqa = pytest.importorskip("pyiqa", reason="pyiqa is an optional extra")
    del pyiqa
    import torchvision
    from pyiqa.archs import dists_arch

    torch.manual_seed(0)
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"], batch_norm=False)
    stub = type("VGG", (), {"features": layers})()
    monkeypatch.setattr(dists_arch.models, "vgg16", lambda **options: stub)
    theirs = dists_arch.DISTS(pretrained=False)
    nn.init.uniform_(theirs.alpha)
    nn.init.uniform_(theirs.beta)
    maps = VGG16Maps()
    for mine, layer in zip(maps.convolutions, (layer for layer in layers if hasattr(layer, "bias")), strict=True):
        mine.load_state_dict(layer.state_dict())
    ours = DISTS(maps, theirs.alpha.detach().flatten(), theirs.beta.detach().flatten())
    x, y = uniform(1, 3, 64, 80).float(), uniform(1, 3, 64, 80, seed=1).float()
    torch.testing.assert_close(ours(x, y).flatten(), theirs((x + 1) / 2, (y + 1) / 2).flatten(), rtol=1e-4, atol=1e-5)


def test_gradient_reaches_the_first_picture_and_not_the_network(tiny_vgg):
    model = tiny_vgg[0]
    x, y = uniform(1, 3, 8, 8).requires_grad_(), uniform(1, 3, 8, 8, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: model(p, y.detach()), x, atol=1e-6, fast_mode=True)
    model(x, y).sum().backward()
    assert x.grad.abs().sum() > 0 and y.grad is None
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_statistics_keep_float32_under_autocast(tiny_vgg):
    """A bright flat image: in bf16, the square of the mean would swallow the variance."""
    import copy

    model = copy.deepcopy(tiny_vgg[0]).float()
    x = (0.8 + 0.01 * uniform(1, 3, 32, 32)).float()
    y = (0.8 + 0.01 * uniform(1, 3, 32, 32, seed=1)).float()
    expected = model(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x, y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0)


# Pools


@pytest.mark.parametrize(("stride", "size"), [(1, (7, 9)), (2, (8, 9))])
def test_l2_pool(stride, size):
    x = uniform(1, 2, *size)
    np.testing.assert_allclose(L2Pool(stride).double()(x)[0].numpy(), l2_pool(x[0].numpy(), stride), atol=1e-12)


@pytest.mark.parametrize(("padding", "pads"), [(1, ((1, 1), (1, 1))), ((2, 3, 1, 2), ((1, 2), (2, 3)))])
@pytest.mark.parametrize("stride", [1, 2])
def test_blur_pool(stride, padding, pads):
    """The kernel [1, 3, 3, 1] x [1, 3, 3, 1] / 64 over zero padding, every stride-th value."""
    x = uniform(1, 2, 8, 11)
    kernel = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x[0].numpy(), ((0, 0), *pads)), (4, 4), axis=(1, 2))
    expected = np.einsum("chwij,ij->chw", windows, kernel)[:, ::stride, ::stride]
    np.testing.assert_allclose(BlurPool(stride, padding).double()(x)[0].numpy(), expected, atol=1e-12)


# Edges


@pytest.mark.parametrize("channels", [1, 3])
def test_edge_map_is_the_sobel_magnitude_of_the_grey_picture(channels):
    pictures = (uniform(2, channels, 9, 13) + 1) / 2
    for picture, edges in zip(pictures.numpy(), edge_map(pictures).numpy(), strict=True):
        grey = np.tensordot([0.2989, 0.5870, 0.1140], picture, 1) if channels == 3 else picture[0]
        x, y = (sobel(grey, axis=axis, mode="constant") for axis in (1, 0))
        np.testing.assert_allclose(edges[0], np.sqrt(x**2 + y**2 + 1e-6), atol=1e-12)


def test_edge_aware_adds_dists_of_the_edges_of_each_chunk(tiny_vgg):
    model, _, _ = tiny_vgg
    x, y = uniform(1, 3, 20, 20), uniform(1, 3, 20, 20, seed=1)
    expected = []
    for pair in zip(overlap_chunks(x, 12), overlap_chunks(y, 12), strict=True):
        a, b = ((chunk[None] + 1) / 2 for chunk in pair)
        edges = (edge_map(chunk).repeat(1, 3, 1, 1) * 2 - 1 for chunk in (a, b))
        expected.append(model(*(chunk[None] for chunk in pair)) + model(*edges))
    for at_once in (None, 1):
        found = chunked_distance(EdgeAware(model), x, y, 12, at_once=at_once)
        torch.testing.assert_close(found, torch.stack(expected).mean(), rtol=1e-9, atol=1e-9)


# DINOv3-ConvNeXt


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def layer_norm(x, state, name):
    """Over the channels, the first axis."""
    normal = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6)
    return normal * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def patches(x, state, name, side):
    """A convolution whose kernel is as large as its stride."""
    channels, height, width = x.shape
    x = x[:, : height // side * side, : width // side * side].reshape(channels, height // side, side, -1, side)
    return np.einsum("chiwj,ocij->ohw", x, state[f"{name}.weight"]) + state[f"{name}.bias"][:, None, None]


def block(x, state, name):
    kernels = state[f"{name}.depthwise_conv.weight"][:, 0]
    hidden = np.stack([correlate(c, k, mode="constant") for c, k in zip(x, kernels, strict=True)])
    hidden = layer_norm(hidden + state[f"{name}.depthwise_conv.bias"][:, None, None], state, f"{name}.layer_norm")
    for layer, function in (("pointwise_conv1", gelu), ("pointwise_conv2", lambda x: x)):
        bias = state[f"{name}.{layer}.bias"][:, None, None]
        hidden = function(np.tensordot(state[f"{name}.{layer}.weight"], hidden, 1) + bias)
    return x + state[f"{name}.gamma"][:, None, None] * hidden


def dinov3_maps(picture, state, depths):
    maps, hidden = [picture], standardise(picture)
    for stage, depth in enumerate(depths):
        if stage == 0:
            hidden = layer_norm(patches(hidden, state, "0.downsample_layers.0", 4), state, "0.downsample_layers.1")
        else:
            hidden = layer_norm(hidden, state, f"{stage}.downsample_layers.0")
            hidden = patches(hidden, state, f"{stage}.downsample_layers.1", 2)
        for index in range(depth):
            hidden = block(hidden, state, f"{stage}.layers.{index}")
        hidden = l2_pool(hidden, 1)
        maps.append(hidden)
    return maps


@pytest.fixture(scope="module")
def tiny_dinov3():
    from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel

    torch.manual_seed(0)
    config = DINOv3ConvNextConfig(hidden_sizes=[4, 6, 8, 10], depths=[1, 2, 1, 1], layer_scale_init_value=0.5)
    model = DINOv3ConvNextModel(config).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_dinov3_dists_equals_its_definition(tiny_dinov3):
    stages = tiny_dinov3.model.stages[:3]
    state = {name: value.numpy() for name, value in stages.state_dict().items()}
    model = dinov3_dists(stages).double()
    x, y = uniform(2, 3, 48, 64), uniform(2, 3, 48, 64, seed=1)
    weights = np.full(21, 1 / 42)
    expected = [
        dists(*(dinov3_maps((p.numpy() + 1) / 2, state, (1, 2, 1)) for p in pair), weights, weights)
        for pair in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(model(x, y).flatten().numpy(), expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(model.alpha, torch.full((21,), 1 / 42, dtype=torch.float64))
    assert float(model(x, x).abs().max()) < 1e-9
