"""losses/networks.py, pretrained.py: the networks of each recipe, where their weights come from, what is shared."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from omgsr_lib.losses.backbone_weights import vgg16_features
from omgsr_lib.losses.build import build_losses
from omgsr_lib.losses.dists import VGG16_WIDTHS, vgg16_dists
from omgsr_lib.losses.perceptual import chunked_distance, lpips_squeeze, lpips_vgg
from omgsr_lib.presets import recipe
from omgsr_lib.priors.tiny import tiny_autoencoder


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def count(module, *, trainable=False):
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


@pytest.fixture(autouse=True)
def no_cached_downloads(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="module")
def dino_weights(tmp_path_factory):
    """A weights folder with a small DINOv2 and a small DINOv3-ConvNeXt in transformers' layout."""
    from transformers import Dinov2Config, Dinov2Model, DINOv3ConvNextConfig, DINOv3ConvNextModel

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=8, num_hidden_layers=12, num_attention_heads=2, image_size=56)
    Dinov2Model(config).save_pretrained(folder / "dinov2")
    config = DINOv3ConvNextConfig(hidden_sizes=[8, 16, 32, 8], depths=[1, 1, 2, 1])
    DINOv3ConvNextModel(config).save_pretrained(folder / "dinov3")
    return folder


@pytest.fixture(scope="module")
def vgg_state():
    """A random VGG16 under torchvision's names, its classifier cut to one tensor."""
    torch.manual_seed(0)
    state, channels, index = {"classifier.0.bias": torch.zeros(1)}, 3, 0
    for stage in VGG16_WIDTHS:
        for width in stage:
            layer = nn.Conv2d(channels, width, 3)
            state |= {f"features.{index}.{name}": value for name, value in layer.state_dict().items()}
            channels, index = width, index + 2
        index += 1
    return state


@pytest.fixture
def vgg_weights(vgg_state, tmp_path):
    (tmp_path / "vgg16").mkdir()
    save_file(vgg_state, tmp_path / "vgg16" / "vgg16.safetensors")
    return tmp_path


# Real architectures, without memory


@pytest.mark.parametrize(("key", "perceptual", "trained"), [
    (("paper", "s-512"), 14_714_688 + 1_472, 1_868_547),
    (("release", "f-1024"), None, 4_978_563),
])  # fmt: skip
def test_published_recipes_on_the_meta_device(key, perceptual, trained):
    """VGG16's convolutions and the heads of LPIPS; the trainable heads; one loss of each in the size of a crop."""
    r = recipe(*key)
    with torch.device("meta"):
        networks = build_losses(r, None, pretrained=False)
        pixels = torch.zeros(1, 3, r.resolution, r.resolution, requires_grad=True)
        distance = chunked_distance(networks.perceptual, pixels, pixels, r.chunk, at_once=5)
    assert distance.shape == () and distance.is_meta
    assert all(tensor.is_meta for tensor in (*networks.perceptual.parameters(), *networks.perceptual.buffers()))
    assert count(networks.perceptual, trainable=True) == 0
    assert count(networks.discriminator, trainable=True) == count(networks.discriminator.heads) == trained
    assert networks.discriminator.chunk == r.critic_chunk
    if perceptual is None:  # the three stages of the large network, shared
        assert networks.perceptual.alpha.numel() == 1347
        backbone = set(networks.perceptual.parameters())
        assert backbone == set(networks.discriminator.features.parameters())
    else:
        assert count(networks.perceptual) == perceptual


def test_other_names_on_the_meta_device():
    r = replace(recipe("release", "s-512"), adversarial=0.0)
    with torch.device("meta"):
        edge_aware = build_losses(replace(r, perceptual_loss="ea-dists"), None, pretrained=False).perceptual
        squeeze = build_losses(replace(r, perceptual_loss="lpips-squeeze"), None, pretrained=False).perceptual
    assert count(edge_aware) == 14_714_688 and edge_aware.dists.alpha.numel() == 1475
    assert count(squeeze) == 722_496 + 64 + 128 + 256 + 2 * 384 + 2 * 512


# Weights


def test_release_from_a_folder_shares_one_backbone(dino_weights):
    r = replace(recipe("release", "s-512"), resolution=384)  # takes the heads for 512
    torch.manual_seed(3)
    perceptual, critic = build_losses(r, None, weights=dino_weights)
    assert critic.least_side == 384 and [len(head) for head in critic.heads] == [3 * 3 + 2] * 3
    backbones = perceptual.maps.stages, critic.features.stages
    pointers = [[p.data_ptr() for p in stages.parameters()] for stages in backbones]
    assert pointers[0] == pointers[1] and len(set(pointers[0])) == len(pointers[0])
    stored = load_file(dino_weights / "dinov3" / "model.safetensors")
    for name, value in backbones[0].state_dict().items():
        assert torch.equal(value, stored[next(key for key in stored if key.endswith(f"stages.{name}"))])
    a, b = uniform(1, 3, 384, 384).requires_grad_(), uniform(1, 3, 384, 384, seed=1)
    (perceptual(a, b).sum() + critic.loss(a, torch.Generator().manual_seed(0), 0.8)).backward()
    assert a.grad.abs().sum() > 0 and all(p.grad is None for p in backbones[0].parameters())
    torch.manual_seed(3)
    again = build_losses(r, None, weights=dino_weights).discriminator
    assert all(torch.equal(x, y) for x, y in zip(critic.parameters(), again.parameters(), strict=True))


def test_dinov2_from_a_folder(dino_weights):
    r = replace(recipe("paper", "s-1024"), perceptual=0.0, critic_chunk=56)
    perceptual, critic = build_losses(r, None, weights=dino_weights)
    assert perceptual is None
    logits = critic(uniform(1, 3, 110, 110), torch.Generator().manual_seed(0))
    assert [tuple(level.shape) for level in logits] == [(4, 1, 1, 1), (4, 1, 1, 1), (4, 1, 4, 4)]


def test_autoencoder_features_are_shared_and_losses_of_weight_zero_left_out():
    vae, r = tiny_autoencoder(), recipe("smoke", "s")
    perceptual, critic = build_losses(r, vae)
    assert perceptual.features is critic.features and critic.features.encoder is vae.encoder
    assert critic.chunk == r.critic_chunk
    assert build_losses(replace(r, perceptual=0.0, adversarial=0.0), vae) == (None, None)


@pytest.mark.parametrize("file", [
    "vgg16/vgg16.safetensors", "vgg16/vgg16-397923af.pth", "torch/hub/checkpoints/vgg16-397923af.pth",
])  # fmt: skip
def test_vgg16_features_of_each_file(vgg_state, tmp_path, file):
    """Two in the weights folder, one in torch's cache."""
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    (save_file if path.suffix == ".safetensors" else torch.save)(vgg_state, path)
    found = vgg16_features(tmp_path)
    assert {f"features.{name}" for name in found} == set(vgg_state) - {"classifier.0.bias"}
    assert all(torch.equal(value, vgg_state[f"features.{name}"]) for name, value in found.items())


def test_lpips_vgg_equals_the_lpips_package(vgg_weights, monkeypatch):
    import lpips

    monkeypatch.setattr(nn.Linear, "reset_parameters", lambda self: None)  # of VGG16's classifier: seconds for nothing
    monkeypatch.setattr(nn.init, "normal_", lambda *arguments: None)
    package = lpips.LPIPS(net="vgg", version="0.1", pnet_rand=True, verbose=False)
    model = lpips_vgg(vgg_weights)
    package.net.load_state_dict(model.net.state_dict())
    a, b = uniform(2, 3, 32, 48).requires_grad_(), uniform(2, 3, 32, 48, seed=1)
    expected = package(a, b)
    assert expected.shape == (2, 1, 1, 1) and (expected > 0).all()
    torch.testing.assert_close(model(a, b), expected, rtol=1e-5, atol=0)
    released = lpips_vgg(vgg_weights, as_released=True)
    torch.testing.assert_close(released(a, b), package((a + 1) / 2, (b + 1) / 2), rtol=1e-5, atol=0)
    assert (released(a, b) < 0.9 * expected).all()
    released(a, b).sum().backward()
    assert a.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in (*model.parameters(), *released.parameters()))


def test_dists_takes_its_learned_weights_and_vgg16(reference, vgg_weights, vgg_state):
    (vgg_weights / "dists").symlink_to(reference / "weights" / "dists")
    model = vgg16_dists(vgg_weights)
    stored = torch.load(reference / "weights" / "dists" / "weights.pt", map_location="cpu", weights_only=True)
    total = float(stored["alpha"].sum() + stored["beta"].sum())
    torch.testing.assert_close(model.alpha * total, stored["alpha"].flatten(), rtol=1e-5, atol=0)
    torch.testing.assert_close(model.beta * total, stored["beta"].flatten(), rtol=1e-5, atol=0)
    weights = [value for name, value in vgg_state.items() if name.endswith("weight")]
    for layer, weight in zip(model.maps.convolutions, weights, strict=True):
        assert torch.equal(layer.weight, weight)
    a, b = uniform(1, 3, 64, 64), uniform(1, 3, 64, 64, seed=1)
    assert abs(float(model(a, a))) < 1e-6 < float(model(a, b)) < 1


def test_paper_recipe_with_squeezenet(reference):
    r = replace(recipe("paper", "s-512"), perceptual_loss="lpips-squeeze", adversarial=0.0)
    model = build_losses(r, None, weights=reference / "weights").perceptual
    a, b = uniform(1, 3, 64, 64), uniform(1, 3, 64, 64, seed=1)
    assert torch.equal(model(a, b), lpips_squeeze(reference / "weights")(a, b))


# Errors


@pytest.mark.parametrize("field", ["perceptual_loss", "discriminator"])
def test_unknown_names_list_what_there_is(field):
    known = {"perceptual_loss": "lpips, lpips-squeeze, ea-dists, dinov3-dists, autoencoder"}
    known = known.get(field, "dinov2, dinov3, autoencoder, pixels")
    changes = {field: "vgg", "perceptual": float(field == "perceptual_loss")}
    with pytest.raises(ValueError, match=f"{field} must be one of {known}: got 'vgg'"):
        build_losses(replace(recipe("smoke", "s"), **changes), tiny_autoencoder())


@pytest.mark.parametrize(("changes", "message"), [
    (dict(perceptual_loss="lpips"), r"put 'vgg16-397923af.pth' from https://download.pytorch.org\S+ into '\S+/vgg16'"),
    (dict(perceptual_loss="lpips-squeeze"), "squeezenet1_1_fp16.safetensors' is missing. Give the weights folder"),
    (dict(perceptual_loss="ea-dists"), r"'weights.pt' of https://github.com/dingkeyan93/DISTS .* into '\S+/dists'"),
    (dict(perceptual_loss="dinov3-dists"),
     r"https://huggingface.co/facebook/dinov3-convnext-large-pretrain-lvd1689m into '\S+/dinov3', .* licence"),
    (dict(perceptual=0.0), r"https://huggingface.co/facebook/dinov2-base into '\S+/dinov2'"),
])  # fmt: skip
@pytest.mark.parametrize("folder", [True, False])
def test_missing_weights_say_where_to_get_them(changes, message, folder, tmp_path):
    r = replace(recipe("paper", "s-512"), **changes)
    with pytest.raises(FileNotFoundError, match=message):
        build_losses(r, None, weights=tmp_path if folder else None)


def test_an_incomplete_folder_and_one_of_another_network(dino_weights, tmp_path):
    from transformers import Dinov2Model

    r = replace(recipe("paper", "s-512"), perceptual=0.0)
    (tmp_path / "dinov2").mkdir()
    with pytest.raises(FileNotFoundError, match=r"dinov2' is not a complete folder"):
        build_losses(r, None, weights=tmp_path)
    model = Dinov2Model.from_pretrained(dino_weights / "dinov2")
    state = {name: value for name, value in model.state_dict().items() if "layer.3." not in name}
    model.save_pretrained(tmp_path / "dinov2", state_dict=state)
    with pytest.raises(
        ValueError, match="weights of a Dinov2Model: 18 of them are missing, 'encoder.layer.3.attention"
    ):
        build_losses(r, None, weights=tmp_path)
