"""A part of an image on its way through the layers of an autoencoder: what it reads, holds and shows.

A part is a crop. At its edges inside the image every convolution pads with zeros where one piece would see the
neighbours, so the rim of the crop goes wrong, layer by layer; the part reads a halo for that and drops the rim as soon
as the layers that follow need it no more. At the image's own border the padding is the right one.
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


def geometry(found):
    """What of the spans of an axis decides how a part is computed: the lengths, not where in the image they lie."""
    ends = ((s.held[0], *s.held, *s.clean, *s.shown) for s in found)
    return tuple(tuple(end - first for end in rest) for first, *rest in ends)


class Part:
    """Crops of equal geometry, before layer `k`.

    Attributes:
        x: `(n B, C, h, w)`, the B images of the first crop first.
        places: `(rows, columns)` of each crop, lists of `Span`.
        weight: how often the crops count.
    """

    def __init__(self, crops, places, weight=1.0):
        self.x, self.places, self.weight = torch.cat(crops) if len(crops) > 1 else crops[0], places, weight
        self.k = 0
        self.start = None  # of the residual branch, and the rows and columns that it held

    def spans(self, place=0):
        """The `Span`s of rows and columns of one crop before the current layer."""
        rows, columns = self.places[place]
        return rows[self.k], columns[self.k]

    def shown(self):
        """What the part stands for: `(B, C, n h', w')`, its crops one below the other."""
        rows, columns = self.spans()
        shown = _crop(self.x, rows.held, columns.held, rows.shown, columns.shown)
        return shown.unflatten(0, (len(self.places), -1)).movedim(0, 2).flatten(2, 3)

    def step(self, layer, estimate):
        """Go through `layer`, whose norm and attention use the `Estimate`."""
        rows, columns = self.spans()
        x = self.x if layer.norm is None else normalise(self.x, layer.norm, estimate)
        if layer.attention is not None:
            places = [self.spans(place) for place in range(len(self.places))]
            self.x = self.x + attend(layer.attention, x, places, estimate.sample)
            self.k += 1
            return
        if layer.keeps:
            self.start = self.x, rows.held, columns.held
        x = layer.run(x)
        held = (_scaled(rows.held, layer.scale), _scaled(columns.held, layer.scale))
        self.k += 1
        kept = tuple(span.held for span in self.spans())
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
        chosen, positions = [], []
        for place, shown in enumerate(part.shown().chunk(len(part.places), dim=2)):
            (top, bottom), (left, right) = (span.shown for span in part.spans(place))
            y, x = -(-top // stride) * stride, -(-left // stride) * stride
            chosen.append(shown[..., y - top :: stride, x - left :: stride].flatten(2))
            positions.append(torch.cartesian_prod(torch.arange(y, bottom, stride), torch.arange(x, right, stride)))
        values, positions = torch.cat(chosen, dim=2)[..., None], torch.cat(positions)
        tokens = normalise(values, layer.norm, estimate).flatten(2).transpose(1, 2)
        counts = torch.full((len(positions),), part.weight * stride**2)
        return cls(layer.attention.to_k(tokens), layer.attention.to_v(tokens), *positions.unbind(1), counts)

    @classmethod
    def join(cls, samples):
        """One sample of all positions of several."""
        parts = [(s.keys, s.values, s.rows, s.columns, s.counts) for s in samples]
        return cls(*(torch.cat(tensors, dim=min(tensors[0].ndim - 1, 1)) for tensors in zip(*parts, strict=True)))


@dataclass
class Estimate:
    """What a layer must know of the whole image: `mean` and `variance` `(B, groups)`, for an attention a sample."""

    mean: torch.Tensor
    variance: torch.Tensor
    sample: KeySample | None = None


def normalise(x, norm, statistics):
    """Group normalisation `norm` of `x` `(n B, C, h, w)` with given `mean` and `variance` `(B, groups)`."""
    batch, channels, height, width = x.shape
    repeats, crops = channels // norm.num_groups, batch // len(statistics.mean)
    mean, variance = (
        v.repeat_interleave(repeats, dim=1).repeat(crops, 1).flatten() for v in (statistics.mean, statistics.variance)
    )
    weight, bias = norm.weight.repeat(batch).to(mean.dtype), norm.bias.repeat(batch).to(mean.dtype)
    y = F.batch_norm(x.reshape(1, -1, height, width), mean, variance, weight, bias, training=False, eps=norm.eps)
    return y.view(batch, channels, height, width)


def attend(attention, x, places, sample):
    """Self-attention of normalised crops `x` `(n B, C, h, w)`, each over its own positions and the sample.

    `places`: the `Span`s of rows and columns of each crop. Within what is clean of a crop, its own positions stand for
    themselves; the sample stands for those outside.
    """

    def heads(tokens):
        return tokens.unflatten(-1, (attention.heads, -1)).transpose(1, 2)

    height, width = x.shape[-2:]
    tokens = x.flatten(2).transpose(1, 2)
    crops = [heads(project(tokens)).chunk(len(places)) for project in (attention.to_q, attention.to_k, attention.to_v)]
    sample_keys, sample_values = heads(sample.keys), heads(sample.values)
    outputs = []
    for (rows, columns), query, keys, values in zip(places, *crops, strict=True):
        own = torch.full((height, width), -math.inf)
        _crop(own, rows.held, columns.held, rows.clean, columns.clean).zero_()
        inside = _inside(sample.rows, rows.clean) & _inside(sample.columns, columns.clean)
        mask = torch.cat([own.flatten(), sample.counts.log().masked_fill(inside, -math.inf)]).to(x)
        keys, values = torch.cat([keys, sample_keys], dim=2), torch.cat([values, sample_values], dim=2)
        mask = mask.expand(1, 1, height * width, -1)
        outputs.append(F.scaled_dot_product_attention(query, keys, values, attn_mask=mask))
    y = torch.cat(outputs).transpose(1, 2).flatten(2)
    return attention.to_out[0](y).transpose(1, 2).unflatten(2, (height, width))


def _inside(positions, span):
    return (positions >= span[0]) & (positions < span[1])
