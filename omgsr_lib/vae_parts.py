"""A part of a picture on its way through the layers of an autoencoder: what it reads, holds and shows.

A part is a crop. At its edges inside the picture every convolution pads with zeros where one piece would see the
neighbours, so the rim of the crop goes wrong, layer by layer; the part reads a halo for that and drops the rim as soon
as the layers that follow need it no more. At the picture's own border the padding is the right one.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class Span:
    """One axis of a part before one layer, each a range of positions `(start, stop)` of that resolution."""

    held: tuple
    clean: tuple  # of those held, the ones that one piece would have as well
    shown: tuple  # the ones that the part's output stands for


def spans(layers, start, stop, size, halo):
    """One `Span` before each of `layers` and one after the last, for the output positions `[start, stop)`.

    `size` and `halo` are in positions of the input. The input reaches as far as the output depends on it, yet at most
    `halo` beyond what is shown.
    """
    sizes = [size]
    for layer in layers:
        sizes.append(int(sizes[-1] * layer.scale))
    needed = [(start, stop)]
    for layer, limit in zip(reversed(layers), reversed(sizes[:-1]), strict=True):
        first, last = layer.input_span(*needed[0])
        needed.insert(0, (max(first, 0), min(last, limit)))
    shown = [(start * n // sizes[-1], -(-stop * n // sizes[-1])) for n in sizes]
    held = clean = max(needed[0][0], shown[0][0] - halo), min(needed[0][1], shown[0][1] + halo)
    found = [Span(held, clean, shown[0])]
    for layer, limit, after, need, show in zip(layers, sizes[:-1], sizes[1:], needed[1:], shown[1:], strict=True):
        low, high = need[0], need[1]
        held = max(low, int(held[0] * layer.scale)), min(high, int(held[1] * layer.scale))
        edge = math.ceil(layer.reach * max(layer.scale, 1))  # output positions that zero padding reaches
        inner = _scaled(clean, layer.scale)
        clean = (
            max(held[0], inner[0] + edge if clean[0] > 0 else 0),
            min(held[1], inner[1] - edge if clean[1] < limit else after),
        )
        found.append(Span(held, clean, show))
    return found


def _scaled(span, scale):
    return math.floor(span[0] * scale), math.ceil(span[1] * scale)


class Part:
    """`x` `(B, C, h, w)` with its `rows` and `columns` (lists of `Span`), before layer `k`; counts `weight` times."""

    def __init__(self, x, rows, columns, weight=1.0):
        self.x, self.rows, self.columns, self.weight = x, rows, columns, weight
        self.k = 0
        self.start = None  # of the residual branch, and the layer that it left from

    def shown(self, x):
        """What the part stands for of `x`, a tensor before the current layer."""
        rows, columns = self.rows[self.k], self.columns[self.k]
        return _crop(x, rows.held, columns.held, rows.shown, columns.shown)

    def step(self, layer, estimate):
        """Go through `layer`, whose norm and attention use the `Estimate`."""
        rows, columns = self.rows[self.k], self.columns[self.k]
        x = self.x if layer.norm is None else normalise(self.x, layer.norm, estimate)
        if layer.attention is not None:
            self.x = self.x + attend(layer.attention, x, rows, columns, estimate.sample)
            self.k += 1
            return
        if layer.keeps:
            self.start = self.x, rows.held, columns.held
        x = layer.run(x)
        held = (_scaled(rows.held, layer.scale), _scaled(columns.held, layer.scale))
        self.k += 1
        kept = self.rows[self.k].held, self.columns[self.k].held
        x = _crop(x, *held, *kept)
        if layer.shortcut is not None:
            start, *held = self.start
            x, self.start = x + layer.shortcut(_crop(start, *held, *kept)), None
        self.x = x


def _crop(x, rows, columns, to_rows, to_columns):
    (top, _), (left, _) = rows, columns
    return x[..., to_rows[0] - top : to_rows[1] - top, to_columns[0] - left : to_columns[1] - left]


@dataclass
class KeySample:
    """Keys and values `(B, N, C)` of positions `rows`, `columns` `(N,)`; each stands for `counts` `(N,)` positions."""

    keys: torch.Tensor
    values: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    counts: torch.Tensor

    @classmethod
    def of(cls, part, layer, estimate, stride=1):
        """Of what `part` shows before `layer`: the positions that are multiples of `stride`."""
        (top, bottom), (left, right) = part.rows[part.k].shown, part.columns[part.k].shown
        y, x = -(-top // stride) * stride, -(-left // stride) * stride
        shown = part.shown(part.x)[..., y - top :: stride, x - left :: stride]
        tokens = normalise(shown, layer.norm, estimate).flatten(2).transpose(1, 2)
        positions = torch.cartesian_prod(torch.arange(y, bottom, stride), torch.arange(x, right, stride))
        keys, values = layer.attention.to_k(tokens), layer.attention.to_v(tokens)
        counts = torch.full((len(positions),), part.weight * stride**2)
        return cls(keys, values, *positions.unbind(1), counts)

    @classmethod
    def join(cls, samples):
        """One sample of all positions of several."""
        parts = [(s.keys, s.values, s.rows, s.columns, s.counts) for s in samples]
        return cls(*(torch.cat(tensors, dim=min(tensors[0].ndim - 1, 1)) for tensors in zip(*parts, strict=True)))


@dataclass
class Estimate:
    """What a layer must know of the whole picture: `mean` and `variance` `(B, groups)`, for an attention a sample."""

    mean: torch.Tensor
    variance: torch.Tensor
    sample: KeySample | None = None


def normalise(x, norm, statistics):
    """Group normalisation `norm` of `x` `(B, C, h, w)` with given `mean` and `variance` `(B, groups)`."""
    batch, channels, height, width = x.shape
    repeats = channels // norm.num_groups
    mean, variance = (v.repeat_interleave(repeats, dim=1).flatten() for v in (statistics.mean, statistics.variance))
    weight, bias = norm.weight.repeat(batch).to(mean.dtype), norm.bias.repeat(batch).to(mean.dtype)
    y = F.batch_norm(x.reshape(1, -1, height, width), mean, variance, weight, bias, training=False, eps=norm.eps)
    return y.view(batch, channels, height, width)


def attend(attention, x, rows, columns, sample):
    """Self-attention of the normalised `x`: over its own clean positions, and over the sample's outside of them."""
    height, width = x.shape[-2:]
    tokens = x.flatten(2).transpose(1, 2)
    own = torch.full((height, width), -math.inf)
    _crop(own, rows.held, columns.held, rows.clean, columns.clean).zero_()
    inside = _inside(sample.rows, rows.clean) & _inside(sample.columns, columns.clean)
    mask = torch.cat([own.flatten(), sample.counts.log().masked_fill(inside, -math.inf)]).to(x)
    keys = torch.cat([attention.to_k(tokens), sample.keys], dim=1)
    values = torch.cat([attention.to_v(tokens), sample.values], dim=1)
    query, keys, values = (
        t.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for t in (attention.to_q(tokens), keys, values)
    )
    y = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask.expand(1, 1, height * width, -1))
    return attention.to_out[0](y.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, (height, width))


def _inside(positions, span):
    return (positions >= span[0]) & (positions < span[1])
