"""losses/heads.py, features.py, adversarial.py: the published discriminators and their loss over chunks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from omgsr_lib.losses.adversarial import SOFT_LABEL, Discriminator, discriminator_loss, generator_loss
from omgsr_lib.losses.augment import diff_augment
from omgsr_lib.losses.backbones import DINOv2Features, DINOv3Features
from omgsr_lib.losses.chunks import overlap_chunks
from omgsr_lib.losses.heads import DINOV3_LEAST_SIDE, dinov2_heads, dinov3_heads


LARGE = (192, 384, 768)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=seeded(seed)) * 2 - 1


@pytest.fixture(scope="module")
def dinov2():
    """A random ViT with twelve blocks for images of 56 px: 4x4 patches of 14 px."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    return Dinov2Model(Dinov2Config(hidden_size=8, num_hidden_layers=12, num_attention_heads=2, image_size=56)).eval()


@pytest.fixture(scope="module")
def dinov3():
    """A random ConvNeXt with 8, 16 and 32 channels whose blocks count."""
    from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel

    torch.manual_seed(0)
    config = DINOv3ConvNextConfig(hidden_sizes=[8, 16, 32, 8], depths=[1, 1, 1, 1], layer_scale_init_value=0.5)
    return DINOv3ConvNextModel(config).eval()


# Heads


@pytest.mark.parametrize(("resolution", "parameters"), [(512, 4_729_443), (1024, 4_978_563)])
def test_dinov3_heads_have_the_published_size_and_end_at_one_logit(resolution, parameters):
    with torch.device("meta"):
        heads = nn.ModuleList(dinov3_heads(LARGE, resolution))
        assert sum(p.numel() for p in heads.parameters()) == parameters
        assert all(p.requires_grad for p in heads.parameters())
        for head, width, factor in zip(heads, LARGE, (4, 8, 16), strict=True):
            assert head(torch.zeros(2, width, resolution // factor, resolution // factor)).shape == (2, 1, 1, 1)


def test_dinov2_heads():
    """Two convolutional levels and a linear head per token, with weights of spectral norm 1."""
    with torch.device("meta"):
        heads = nn.ModuleList(dinov2_heads())
        assert [head(torch.zeros(1, 768, 37, 37)).shape[-1] for head in heads] == [10, 10, 37]
        convolutional, tokens = 768 * 128 * 9 + 128 + 129, 768 * 128 + 128 + 129
        assert sum(p.numel() for p in heads.parameters()) == 2 * convolutional + tokens
    torch.manual_seed(0)
    for head in dinov2_heads(width=8):
        for layer in head:
            if isinstance(layer, nn.Conv2d):
                for _ in range(20):  # steps of the power iteration
                    layer.weight  # noqa: B018
                norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
                assert float(norm) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("resolution", [512, 1024])
def test_pictures_too_small_for_a_logit_are_refused(dinov3, resolution):
    least = DINOV3_LEAST_SIDE[resolution]
    features = DINOv3Features(dinov3.model.stages[:3])
    critic = Discriminator(features, dinov3_heads(features.widths(), resolution), least_side=least)
    with torch.no_grad():
        assert [level.shape for level in critic(uniform(1, 3, least, least), seeded(0))] == [(1, 1, 1, 1)] * 3
        with pytest.raises(ValueError, match=f"need {least} px per side for a logit: got {least}x{least - 1}. Use"):
            critic(uniform(1, 3, least - 1, least), seeded(0))


# Features


@torch.no_grad()
@pytest.mark.parametrize("size", [(56, 56), (50, 64)])
def test_dinov2_features_are_the_patch_tokens_of_blocks_4_8_and_11(dinov2, size):
    outputs = []
    hooks = [dinov2.encoder.layer[i].register_forward_hook(lambda *args: outputs.append(args[2])) for i in (4, 8, 11)]
    pixels = uniform(2, 3, *size)
    found = DINOv2Features(dinov2)(pixels)
    for hook in hooks:
        hook.remove()
    for level, tokens in zip(found, outputs, strict=True):
        assert level.shape == (2, 8, 4, 4)
        assert torch.equal(level.flatten(2), tokens[:, 1:].transpose(1, 2))
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.229, 0.224, 0.225])
    resized = nn.functional.interpolate(pixels, (56, 56), mode="area")
    scaled = ((resized + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    last = dinov2.layernorm(outputs[-1])
    torch.testing.assert_close(last, dinov2(scaled).last_hidden_state, rtol=0, atol=1e-5)


@torch.no_grad()
def test_dinov3_features_are_those_of_transformers(dinov3):
    pixels = uniform(2, 3, 64, 96)
    found = DINOv3Features(dinov3.model.stages[:3])(pixels)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    scaled = ((pixels + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    states = dinov3(scaled, output_hidden_states=True).hidden_states
    expected = [state for state in states if state.shape[-1] in (24, 12, 6)]
    for level, state in zip(found, expected, strict=True):
        torch.testing.assert_close(level, state, rtol=0, atol=1e-6)


# Discriminators


@pytest.fixture(params=["dinov2", "dinov3"])
def critic(request, dinov2, dinov3):
    """Chunks of 56 and 64 px: four of each image of 100 px."""
    torch.manual_seed(1)
    if request.param == "dinov2":
        return Discriminator(DINOv2Features(dinov2), dinov2_heads(width=8, hidden=6), chunk=56)
    return Discriminator(DINOv3Features(dinov3.model.stages[:3]), [8, 16, 32], chunk=64)


def cross_entropy(logits, label):
    """Of logits `(n, 1, h, w)`, one per level: mean over chunks and positions, summed over levels."""
    levels = [level.float() for level in logits]
    return sum(F.binary_cross_entropy_with_logits(level, torch.full_like(level, label)) for level in levels)


def test_only_the_heads_train_and_gradients_pass_through_the_backbone(critic):
    assert {p for p in critic.parameters() if p.requires_grad} == set(critic.heads.parameters())
    pixels = uniform(2, 3, 100, 100).requires_grad_()
    logits = critic(pixels, seeded(0))
    assert all(len(level) == 8 and level.shape[1] == 1 for level in logits)
    sum(level.mean() for level in logits).backward()
    assert pixels.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in critic.features.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in critic.heads.parameters())


def test_augmentation_comes_before_the_chunks(critic):
    pixels = uniform(1, 3, 100, 100)
    chunks = overlap_chunks(diff_augment(pixels, seeded(0)), critic.chunk)
    critic.eval()
    with torch.no_grad():
        expected = [head(level) for head, level in zip(critic.heads, critic.features(chunks), strict=True)]
        assert all(torch.equal(a, b) for a, b in zip(critic(pixels, seeded(0)), expected, strict=True))


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("at_once", [None, 3, 1])
def test_loss_by_chunks_equals_the_loss_of_the_logits(critic, at_once, frozen):
    """Value, gradients of pixels and heads, and the state of the power iteration. With heads that are not frozen the
    generator's loss leaks into their gradients, as in the release."""
    state = {name: value.clone() for name, value in critic.heads.state_dict().items()}
    seen = []
    hook = critic.features.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))

    def gradients(loss):
        critic.heads.load_state_dict(state)
        critic.heads.requires_grad_(not frozen)
        pixels = uniform(2, 3, 100, 100).requires_grad_()
        value = loss(pixels)
        value.backward()
        heads = [parameter.grad for parameter in critic.heads.parameters()]
        critic.zero_grad()
        return value.detach(), pixels.grad, heads, [b.clone() for b in critic.heads.buffers()]

    expected = gradients(lambda pixels: cross_entropy(critic(pixels, seeded(0)), SOFT_LABEL))
    seen.clear()
    found = gradients(lambda pixels: generator_loss(critic, pixels, seeded(0), at_once=at_once))
    hook.remove()
    assert max(seen) == (at_once or 8) and sum(seen) == 8
    assert critic.heads.training
    torch.testing.assert_close(found[0], expected[0])
    for mine, other in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)
    assert frozen == all(grad is None for grad in found[2])


def test_discriminator_loss_by_chunks_under_autocast(critic):
    """Real and restored images in one autocast region, whose cache of cast weights outlives each part."""
    real, fake = uniform(1, 3, 100, 100), uniform(1, 3, 100, 100, seed=1)
    critic.heads.eval()  # keeps the weights equal in both

    def gradients(loss):
        with torch.autocast("cpu", torch.bfloat16):
            value = loss()
        value.backward()
        found = torch.cat([parameter.grad.flatten() for parameter in critic.heads.parameters()])
        critic.zero_grad()
        return value.detach(), found

    def parts():
        return discriminator_loss(critic, real, fake, seeded(0), at_once=1)

    def whole():
        generator = seeded(0)
        return cross_entropy(critic(real, generator), SOFT_LABEL) + cross_entropy(critic(fake, generator), 0.0)

    (value, found), (expected_value, expected) = gradients(parts), gradients(whole)
    torch.testing.assert_close(value, expected_value, rtol=1e-3, atol=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * float(expected.abs().max()))
