"""Mean and variance of data that comes in parts."""

import torch


class Moments:
    """Mean and biased variance per image and group of channels, pooled over parts (Chan, Golub & LeVeque, 1983).

    Attributes:
        mean, variance: `(B, groups)`, float32 or better.
        count: values per group seen so far.
    """

    def __init__(self, groups):
        self.groups, self.count, self.mean, self.variance = groups, 0, 0.0, 0.0

    def update(self, x, weight=1):
        """Add a part `(B, C, h, w)`, its values counted `weight` times. Returns self."""
        values = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(len(x), self.groups, -1)
        mean = values.mean(-1)
        variance = torch.linalg.vector_norm(values - mean[..., None], dim=-1).square() / values.shape[-1]
        count = weight * values.shape[-1]
        share = count / (self.count + count)
        shift = mean - self.mean
        self.variance = self.variance + share * (variance - self.variance) + share * (1 - share) * shift.square()
        self.mean = self.mean + share * shift
        self.count += count
        return self
