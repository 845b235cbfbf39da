"""Encode and decode large images in parts: exactly, or in memory that does not grow with the image.

exact   Layer by layer over the whole image, each layer in strips of rows: group normalisation sees the statistics
        of the whole image, the attention of the middle block all its positions. Equal to one piece up to rounding;
        holds two activations of the whole image instead of about four.
flat    Tile by tile through all layers, with a halo. What the normalisations and the attention must know of the whole
        image is estimated first, from patches that take the memory of a few tiles. Without such layers
        (`AutoencoderDC`, `AutoencoderTiny`) a halo as wide as the receptive field makes it exact too.
"""

import math
from itertools import pairwise

from ..priors.latents import compression, posterior_latents, unscale_latents
from ..utils.memory import release_memory
from ..utils.meter import Meter
from ..utils.moments import Moments
from ..utils.random import randn
from ..utils.workers import in_order
from .receptive_field import Estimate, KeySample, Part, geometry, normalise, spans
from .vae_layers import decoder_layers, encoder_layers


MODES = ("exact", "flat")
ROWS = 64  # output rows of a strip, exact mode
HALO = 12  # latents around a tile where its output depends on the whole image, flat mode
SMALL = 1024**2  # pixels of an image for which freed memory is kept: giving it back costs a tenth of the time
KEYS = 4096  # positions that stand for the whole image in an attention, flat mode


def run_exact(layers, x, rows=ROWS):
    """Output of `layers` for the whole `x` `(B, C, H, W)`, each layer in strips of `rows` output rows."""
    start = None
    for layer in layers:
        if layer.attention is not None:
            x = layer.attention(x)
            continue
        statistics = None
        if layer.norm is not None:
            statistics = Moments(layer.norm.num_groups)
            for strip in x.split(rows, dim=2):
                statistics.update(strip)
        if layer.keeps:
            start = x
        x = _in_strips(layer, x, statistics, start, rows)
    return x


def _in_strips(layer, x, statistics, start, rows):
    height, output = int(x.shape[2] * layer.scale), None
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = (min(max(edge, 0), x.shape[2]) for edge in layer.input_span(top, bottom))
        strip = x[:, :, first:last]
        y = layer.run(strip if statistics is None else normalise(strip, layer.norm, statistics))
        y = y[:, :, top - int(first * layer.scale) :][:, :, : bottom - top]
        if layer.shortcut is not None:
            y = y + layer.shortcut(start[:, :, top:bottom])
        if output is None:  # a residual branch without a change of channels ends in the memory of its start
            ends_in_place = layer.shortcut is not None and y.shape[1] == start.shape[1]
            output = start if ends_in_place else y.new_empty(*y.shape[:2], height, y.shape[3])
        output[:, :, top:bottom] = y
    return output


class FlatPass:
    """`layers` over an image of `height` x `width` input positions, tile by tile.

    Args:
        crop: `crop(rows, columns)` gives the input at two slices, `(B, C, h, w)` on the layers' device.
        tile, halo: side of a tile and of the surroundings that it reads, in latents, the coarser side of the layers;
            by default 12, or as wide as the receptive field if no layer depends on the whole image.
        patches, core, margin: what a tile must know of the whole is estimated from `patches` x `patches` squares of
            `core` latents, with `margin` latents around, spread evenly with the borders in their own right; along a
            side of at most `patches * core` latents from all of it. By default a quarter of `tile`, 8 to 16: smaller
            tiles take less memory only if the patches do too.
        passes: how often all tiles are run beforehand to correct what the patches missed.
        workers: how many tiles are computed side by side (`utils.workers.in_order`).
    """

    def __init__(
        self, layers, crop, height, width, *, tile=64, halo=None, patches=None, core=4, margin=4, passes=1, workers=1
    ):
        scale = math.prod(layer.scale for layer in layers)
        self.layers, self.crop, self.size = layers, crop, (height, width)
        self.units = max(1, round(1 / scale)), max(1, round(scale))  # input and output positions per latent
        self.latents = tuple(side // self.units[0] for side in self.size)
        if halo is None:
            halo = HALO if any(map(_sees_all, layers)) else max(self.latents)
        self.tile, self.halo, self.core, self.margin, self.workers = tile, halo, core, margin, workers
        self.patches = min(max(tile // 4, 8), 16) if patches is None else patches
        covered = all(side <= self.patches * core for side in self.latents)
        self.passes = 0 if covered else passes
        large = math.prod(self.latents) * max(self.units) ** 2 > SMALL
        self.largest = max((k for k, layer in enumerate(layers) if layer.scale > 1), default=None) if large else None
        self.estimates = None

    @property
    def count(self):
        """Number of tiles."""
        return math.prod(len(self._tile_spans(side)) for side in self.latents)

    def tiles(self, distinct=False):
        """Yield `(rows, columns, output)` of every tile: slices of the output and what belongs there.

        `distinct`: of one tile of each geometry only, which is enough to know the memory of all.
        """
        if self.estimates is None:
            self.estimates = self.estimate()
        for part in in_order(self._through, self._tiles(distinct), self.workers):
            rows, columns = part.spans()
            yield slice(*rows.held), slice(*columns.held), part.x

    def _through(self, part):
        for layer, estimate in zip(self.layers, self.estimates, strict=True):
            self._step(part, layer, estimate)
        return part

    def estimate(self):
        """The `Estimate` of each layer with a norm, None for the others."""
        if all(layer.norm is None for layer in self.layers):
            return [None] * len(self.layers)
        estimates, seen = self._from_patches(corrections=None)
        for _ in range(self.passes):
            measured, samples = self._from_tiles(estimates)
            estimates, seen = self._from_patches(list(zip(measured, seen, samples, strict=True)))
        return estimates

    def _from_patches(self, corrections):
        """Estimates from all patches at once, layer by layer, and the `Moments` of the patches that they rest on.

        `corrections`, for each layer: the moments of all tiles and of the patches under one set of estimates, and a
        sample of the keys. What tells tiles from patches changes little with the estimates, so it is added here.
        """
        parts, estimates, seen = self._patches(), [], []
        for k, layer in enumerate(self.layers):
            estimate = moments = None
            if layer.norm is not None:
                moments = Moments(layer.norm.num_groups)
                for part in parts:
                    moments.update(part.shown(), part.weight)
                estimate = Estimate(moments.mean, moments.variance)
                if corrections is not None:
                    tiles, patches, estimate.sample = corrections[k]
                    estimate.mean = estimate.mean + (tiles.mean - patches.mean)
                    estimate.variance = estimate.variance * (tiles.variance / patches.variance)
                elif layer.attention is not None:
                    estimate.sample = KeySample.join([KeySample.of(part, layer, estimate) for part in parts])
            for part in parts:
                part.step(layer, estimate)
            estimates.append(estimate)
            seen.append(moments)
        return estimates, seen

    def _from_tiles(self, estimates):
        """Moments at every norm and keys at every attention of all tiles, run with `estimates`."""
        moments = [layer.norm and Moments(layer.norm.num_groups) for layer in self.layers]
        samples = [[] for _ in self.layers]
        stride = math.ceil(math.sqrt(math.prod(self.latents) / KEYS))
        for part in self._tiles():
            for layer, estimate, pooled, keys in zip(self.layers, estimates, moments, samples, strict=True):
                if layer.norm is not None:
                    pooled.update(part.shown())
                if layer.attention is not None:
                    keys.append(KeySample.of(part, layer, estimate, stride))
                self._step(part, layer, estimate)
        return moments, [KeySample.join(keys) if keys else None for keys in samples]

    def _step(self, part, layer, estimate):
        if part.k == self.largest:  # what the layers before have freed does not fit the tensors from here on
            release_memory()
        part.step(layer, estimate)

    def _tiles(self, distinct=False):
        """A `Part` for each tile, made when its turn comes."""
        places = [(rows, columns) for rows, columns, _ in self._places(self._tile_spans, self.halo)]
        if distinct:
            places = list({tuple(map(geometry, place)): place for place in places}.values())
        for place in places:
            yield Part([self._crop(*place)], [place])

    def _patches(self):
        """The patches, those of equal geometry and weight in one `Part`."""
        groups = {}
        for rows, columns, weight in self._places(self._patch_spans, self.margin):
            groups.setdefault((geometry(rows), geometry(columns), weight), []).append((rows, columns))
        return [Part([self._crop(*place) for place in places], places, key[2]) for key, places in groups.items()]

    def _places(self, along, halo):
        """`(rows, columns, weight)` for each pair of the output spans that `along(latents)` gives for an axis."""
        unit = self.units[1]
        rows, columns = (
            [
                (spans(self.layers, start * unit, stop * unit, size, halo * self.units[0]), weight)
                for start, stop, weight in along(side)
            ]
            for size, side in zip(self.size, self.latents, strict=True)
        )
        return [(row, column, row_weight * weight) for row, row_weight in rows for column, weight in columns]

    def _crop(self, rows, columns):
        return self.crop(slice(*rows[0].held), slice(*columns[0].held))

    def _tile_spans(self, side):
        return _even(side, -(-side // self.tile))

    def _patch_spans(self, side):
        core, inner = self.core, self.patches - 2
        if side <= self.patches * core:
            return [(0, side, 1.0)]
        share = (side - 2 * core) / inner
        starts = [core + round((k + 0.5) * share - core / 2) for k in range(inner)]
        inside = [(start, start + core, share / core) for start in starts]
        return [(0, core, 1.0), *inside, (side - core, side, 1.0)]


def _even(side, count):
    edges = [side * k // count for k in range(count + 1)]
    return [(start, stop, 1.0) for start, stop in pairwise(edges)]


def exact_in_tiles(vae):
    """Whether mode "flat" of `vae` equals one piece: no layer depends on the whole image."""
    try:
        return not any(map(_sees_all, encoder_layers(vae) + decoder_layers(vae)))
    except ValueError:
        return False


def _sees_all(layer):
    return layer.norm is not None or layer.attention is not None


def flat_peak(layers, x, **options):
    """Bytes that a `FlatPass` with `options` over `x` `(B, C, H, W)`, on the meta device, takes at the most beside it.

    Of passes over the tiles beforehand there are none: they take time, not memory.
    """
    with Meter() as meter:
        flat = FlatPass(layers, lambda rows, columns: x[..., rows, columns].clone(), *x.shape[2:], passes=0, **options)
        for _ in flat.tiles(distinct=True):
            pass
    return meter.peak


def encode_tiled(vae, pixels, *, mode="flat", generator=None, new=None, progress=None, **options):
    """`encode_latents` of large `pixels` `(B, 3, H, W)` in mode "exact" or "flat"; `options` of `FlatPass`.

    A `generator` draws the same sample of the posterior as in one piece. In mode "flat" `pixels` may be any array,
    `new` makes that of the latents (see `arrays`), and `progress(done, total)` is called after each tile. Raises
    `ValueError` for sides that are no multiples of the compression and for other modes and autoencoders.
    """
    _check_mode(mode)
    factor = compression(vae)
    if pixels.shape[-2] % factor or pixels.shape[-1] % factor:
        raise ValueError(
            f"Sides must be multiples of {factor} pixels to encode in parts: got {tuple(pixels.shape[-2:])}."
        )
    layers, like = encoder_layers(vae), next(vae.parameters())
    shape = (pixels.shape[0], vae.config.latent_channels, *(side // factor for side in pixels.shape[-2:]))
    noise = None if generator is None else randn(shape, generator, like)
    if mode == "exact":
        return posterior_latents(vae, run_exact(layers, pixels), noise=noise)

    def latents(rows, columns, encoded):
        part = None if noise is None else noise[..., rows, columns]
        return posterior_latents(vae, encoded, noise=part, corner=(rows.start, columns.start))

    flat = FlatPass(layers, lambda y, x: pixels[..., y, x].to(like), *pixels.shape[-2:], **options)
    return _collect(flat, latents, new, progress)


def decode_tiled(vae, latents, *, mode="flat", new=None, progress=None, **options):
    """`decode_latents` of large scaled latents in mode "exact" or "flat"; the rest as in `encode_tiled`."""
    _check_mode(mode)
    layers, like = decoder_layers(vae), next(vae.parameters())
    if mode == "exact":
        return run_exact(layers, unscale_latents(vae, latents))

    def crop(y, x):
        return unscale_latents(vae, latents[..., y, x].to(like), (y.start, x.start))

    flat = FlatPass(layers, crop, *latents.shape[-2:], **options)
    return _collect(flat, lambda rows, columns, decoded: decoded, new, progress)


def _check_mode(mode):
    if mode not in MODES:
        raise ValueError(f"The mode of a tiled autoencoder must be one of {', '.join(MODES)}; got {mode!r}.")


def _collect(flat, finish, new, progress):
    """The array of all tiles, each after `finish(rows, columns, tile)`."""
    size, output = [side * flat.units[1] for side in flat.latents], None
    for done, (rows, columns, tile) in enumerate(flat.tiles(), start=1):
        part = finish(rows, columns, tile)
        if output is None:
            shape = (*part.shape[:2], *size)
            output = part.new_empty(shape) if new is None else new(shape)
        output[..., rows, columns] = part
        if progress is not None:
            progress(done, flat.count)
    return output
