"""losses/chunkwise.py: value and gradient of all chunks together, memory of a few."""

import weakref

import pytest
import torch
from torch import nn

from omgsr_lib.losses.chunks import chunk_mean, overlap_chunks
from omgsr_lib.losses.perceptual import FeatureDistance, chunked_distance


def uniform(*shape, seed=0, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


class Network(nn.Module):
    """A small convolutional network that keeps the batch sizes of its calls."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.GELU(), nn.Conv2d(6, 4, 3, stride=2), nn.GELU())
        self.batches = []

    def forward(self, pixels):
        self.batches.append(len(pixels))
        return [self.layers(pixels)]


@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize(("size", "chunk"), [((20, 20), 8), ((14, 23), 9), ((9, 12), None)])
def test_value_and_gradients_equal_the_mean_over_all_chunks(size, chunk, at_once):
    network = Network().double()
    parameters = list(network.parameters())

    def function(a, b):
        return (network(a)[0] - network(b)[0]).square()

    def gradients(mean):
        pictures = [uniform(2, 3, *size, seed=seed, dtype=torch.float64).requires_grad_() for seed in (0, 1)]
        value = mean(*pictures)
        return value, *torch.autograd.grad(3 * value, [*pictures, *parameters])

    def plain(a, b):
        chunks = (a, b) if chunk is None else (overlap_chunks(a, chunk), overlap_chunks(b, chunk))
        return function(*chunks).mean()

    expected = gradients(plain)
    found = gradients(lambda a, b: chunk_mean(function, (a, b), chunk, at_once=at_once, parameters=parameters))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_under_bf16_autocast_it_equals_the_mean_too():
    target = uniform(1, 3, 24, 31, seed=1)

    def gradient(at_once):
        predicted = uniform(1, 3, 24, 31).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            value = chunked_distance(FeatureDistance(Network()), predicted, target, 10, at_once=at_once)
        assert value.dtype == torch.float32
        value.backward()
        return value.detach(), predicted.grad

    (value, grad), (expected, expected_grad) = gradient(2), gradient(None)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-3 * float(expected_grad.abs().max()))


class Live:
    """Bytes of tensors that autograd holds for backward passes, parameters left out: at present and at most."""

    def __init__(self):
        self.now = self.most = 0

    def watch(self):
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: held.tensor)

    def _pack(self, tensor):
        held = _Held()
        held.tensor = tensor
        if not isinstance(tensor, nn.Parameter):
            self._add(tensor.nbytes)
            weakref.finalize(held, self._add, -tensor.nbytes)
        return held

    def _add(self, size):
        self.now += size
        self.most = max(self.most, self.now)


class _Held:
    pass


def test_memory_is_that_of_the_chunks_computed_together():
    network, target = Network().requires_grad_(False), uniform(1, 3, 64, 64, seed=1)
    most, left = {}, {}
    for at_once in (None, 4, 1):
        live, predicted = Live(), uniform(1, 3, 64, 64).requires_grad_()
        network.batches.clear()
        with live.watch():
            value = chunked_distance(FeatureDistance(network), predicted, target, 16, at_once=at_once)
            most[at_once], left[at_once] = live.most, live.now
        assert set(network.batches) == {at_once or 16}
        value.backward()
    picture = 3 * 64 * 64 * 4
    assert most[4] - picture < most[None] / 4 * 1.05 and most[1] - picture < most[None] / 16 * 1.05
    assert left[1] == left[4] == picture < left[None] / 4


def test_without_gradients_only_the_value_is_computed():
    network, live = Network(), Live()
    distance, a, b = FeatureDistance(network), uniform(1, 3, 16, 16), uniform(1, 3, 16, 16, seed=1)
    expected = chunked_distance(distance, a, b, 8)
    with live.watch(), torch.no_grad():
        value = chunked_distance(distance, a.clone().requires_grad_(), b, 8, at_once=1)
    torch.testing.assert_close(value, expected)
    assert live.most == 0 and not value.requires_grad
    assert not chunked_distance(distance, a, b, 8, at_once=1).requires_grad


def test_only_what_asks_for_a_gradient_gets_one():
    a, b = uniform(1, 3, 12, 12).requires_grad_(), uniform(1, 3, 12, 12, seed=1).requires_grad_()
    chunk_mean(lambda x, y: x * y.detach(), (a, b.detach()), 4, at_once=2).backward()
    torch.testing.assert_close(a.grad, b.detach() / a.numel())
    assert b.grad is None


def test_wrong_arguments():
    pictures = uniform(1, 3, 16, 16), uniform(1, 3, 16, 17)
    with pytest.raises(ValueError, match=r"one shape: got \[\(1, 3, 16, 16\), \(1, 3, 16, 17\)\]. Resize one"):
        chunk_mean(torch.sub, pictures, 8)
    with pytest.raises(ValueError, match="1 or more: got 0"):
        chunk_mean(torch.sub, pictures[:1] * 2, 8, at_once=0)
    with pytest.raises(ValueError, match="chunk 224 px, side 16 px"):
        chunk_mean(torch.sub, pictures[:1] * 2, 224, at_once=1)
