"""Attention of a folded transformer: norms of queries and keys, rotary embedding, one fused kernel."""

from typing import NamedTuple

import torch
from torch.nn import functional as F


class Positions(NamedTuple):
    """What attention needs to know of its `S` tokens.

    Attributes:
        rotation: `(S, 1, 1, head / 2, 2)` float32, cosine and sine of the rotary embedding times the root of the
            head's width.
        floor: the norm of a vector whose elements are the root of the norms' epsilon, `()`.
        kind: `(S,)` int64, which norms a token has; None where all have the same.
        mask: `(1, 1, 1, S)`, log of the number of equal tokens that one stands for; None if there are none.
    """

    rotation: torch.Tensor
    floor: torch.Tensor
    kind: torch.Tensor | None = None
    mask: torch.Tensor | None = None


def attend(vkq, scale, positions):
    """Attention `(B, S, heads, head)` of values, keys and queries `(B, S, 3, heads, head)`; changes the last two."""
    rotate(vkq[:, :, 1:], scale, positions.rotation, positions.floor)
    return attention(*vkq.permute(2, 0, 3, 1, 4).unbind(), positions.mask)


def attention(value, key, query, mask):
    """Attention `(B, S, heads, head)` of `(B, heads, S, head)`."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def rotate(x, scale, rotation, floor):
    """In place, on queries and keys `(B, S, 2, heads, head)`: root-mean-square norm, `scale`, rotary embedding.

    `x / sqrt(mean(x^2) + eps) = x sqrt(head) / hypot(|x|, sqrt(head eps))`, where `sqrt(head)` is in `rotation`.
    """
    wide = x if x.dtype.itemsize >= 4 else x.float()
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    wide.div_(torch.hypot(length, floor)).mul_(scale)
    pairs = wide.unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # real numbers, which the compiler makes one kernel of; slower in eager mode
        (first, second), (cosine, sine) = pairs.unbind(-1), rotation.unbind(-1)
        pairs = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
        x.copy_(pairs.flatten(-2))
        return
    torch.view_as_complex(pairs).mul_(torch.view_as_complex(rotation))
    if wide is not x:
        x.copy_(wide)


def norm_weights(key, query):
    """Weights of the norms of keys and queries, `(2, 1, head)`."""
    return torch.stack([key.weight, query.weight]).detach()[:, None]
