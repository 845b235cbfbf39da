import pytest
import torch

from omgsr_lib.utils.moments import Moments


def values(seed=0, offset=0.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(2, 6, 20, 31, generator=generator, dtype=torch.float64) + offset).to(dtype)


def pooled(groups, parts, weights=None):
    moments = Moments(groups)
    for part, weight in zip(parts, weights or [1] * len(parts), strict=True):
        moments.update(part, weight)
    return moments


def test_parts_of_any_size_pool_to_the_whole():
    x = values()
    moments = pooled(3, [*x[..., :13, :].split(5, dim=2), *x[..., 13:, :].split(8, dim=3)])
    groups = x.reshape(2, 3, -1)
    assert torch.allclose(moments.mean, groups.mean(-1), atol=1e-14)
    assert torch.allclose(moments.variance, groups.var(-1, correction=0), atol=1e-14)
    assert moments.count == 2 * 20 * 31 and moments.mean.dtype == torch.float64


def test_a_weight_is_a_number_of_repetitions():
    first, second = values(0), values(1, offset=2.0)
    weighted, repeated = pooled(2, [first, second], [3, 1]), pooled(2, [first, first, first, second])
    assert torch.allclose(weighted.mean, repeated.mean, atol=1e-14)
    assert torch.allclose(weighted.variance, repeated.variance, atol=1e-14)


def test_a_mean_far_from_zero_costs_no_precision():
    """The textbook formula, mean of squares minus squared mean, would lose the variance altogether."""
    x = values(offset=4096.0, dtype=torch.float32)
    moments = pooled(1, x.split(7, dim=2))
    exact = x.double().flatten(1).var(1, correction=0)
    assert moments.variance.flatten().tolist() == pytest.approx(exact.tolist(), rel=1e-5)


def test_half_precision_is_pooled_in_float32():
    moments = pooled(3, values(dtype=torch.bfloat16).split(4, dim=2))
    assert moments.mean.dtype == moments.variance.dtype == torch.float32
