"""Overlap-Chunking (OMGSR, version 1): an image as a grid of equal, overlapping chunks that together cover it.

`chunk_mean` goes forward and backward a few chunks at a time: memory of a part, gradient of the whole.
"""

from contextlib import nullcontext

import torch


def chunk_offsets(length, chunk):
    """Offsets of the chunks along a side of `length` pixels; `ValueError` if it is shorter than `chunk`.

    The stride is `chunk` if that divides `length`, else `chunk - floor((n chunk - length) / (n - 1))` with
    `n = floor(length / chunk) + 1`, as published. Where the last chunk does not end at the border (1022 with 224) it
    is moved onto it; the release drops it and leaves pixels unseen.
    """
    if length < chunk:
        raise ValueError(f"A chunk must fit into the image: chunk {chunk} px, side {length} px. Use a smaller chunk.")
    if length % chunk == 0:
        return list(range(0, length, chunk))
    count = length // chunk + 1
    stride = chunk - (count * chunk - length) // (count - 1)
    return [min(index * stride, length - chunk) for index in range(count)]


def overlap_chunks(pixels, chunk):
    """`(B, C, H, W)` to `(B N, C, chunk, chunk)`: rows of chunks from the top left, all of the first image first."""
    rows, columns = chunk_offsets(pixels.shape[-2], chunk), chunk_offsets(pixels.shape[-1], chunk)
    chunks = [pixels[..., top : top + chunk, left : left + chunk] for top in rows for left in columns]
    return torch.stack(chunks, dim=1).flatten(0, 1)


def chunk_mean(function, images, chunk, *, at_once=None, parameters=()):
    """Mean of `function` over the overlapping chunks of `images`: a scalar, at least float32.

    Args:
        function: chunks `(n, C, chunk, chunk)`, one argument per entry of `images`, to values `(n, ...)`, each of
            its own chunk alone.
        images: sequence of tensors `(B, C, H, W)` of one shape; the same chunks are cut from each.
        chunk: side in pixels; None takes every image whole, as one chunk.
        at_once: chunks computed together, counted over the batch; None takes all. With fewer, memory holds the
            activations of so many only: the forward pass takes the gradient of each part at once and adds them up, the
            backward pass scales the sum. Value and gradients equal those of all together.
        parameters: the trainable tensors inside `function`, if there are any.

    Raises `ValueError` for images of several shapes or smaller than a chunk, and for `at_once` below 1.
    """
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) != 1:
        raise ValueError(f"Chunks are cut from images of one shape: got {sorted(shapes)}. Resize one to the other.")
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once counts the chunks computed together, 1 or more: got {at_once}. None takes all.")
    windows = _windows(*shapes.pop(), chunk)
    if at_once is None or at_once >= len(windows):
        return _mean(function(*(images if chunk is None else [overlap_chunks(p, chunk) for p in images])))
    parts = [windows[first : first + at_once] for first in range(0, len(windows), at_once)]
    inputs = (*images, *parameters)
    wanted = [torch.is_grad_enabled() and tensor.requires_grad for tensor in inputs]
    return _PartByPart.apply(function, parts, len(images), wanted, *inputs)


class _PartByPart(torch.autograd.Function):
    """`chunk_mean` whose gradients, of the inputs that are `wanted`, are complete when the forward pass ends."""

    @staticmethod
    def forward(ctx, function, parts, number_of_images, wanted, *inputs):
        images = [
            image.detach().requires_grad_(want) for image, want in zip(inputs[:number_of_images], wanted, strict=False)
        ]
        sources = [t for t, want in zip((*images, *inputs[number_of_images:]), wanted, strict=True) if want]
        gradients = [torch.zeros_like(source) for source in sources]
        total, count = 0.0, sum(map(len, parts))
        for part in parts:
            with torch.set_grad_enabled(bool(sources)):
                chunks = [torch.stack([image[window] for window in part]) for image in images]
                value = _mean(function(*chunks)) * (len(part) / count)
            if sources:
                with _without_autocast(value.device.type):
                    pieces = torch.autograd.grad(value, sources)
                for gradient, piece in zip(gradients, pieces, strict=True):
                    gradient += piece
            total = total + value.detach()
        ctx.wanted = wanted
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, scale):
        gradients = iter(ctx.saved_tensors)
        return (None,) * 4 + tuple(next(gradients) * scale if want else None for want in ctx.wanted)


def _windows(batch, _, height, width, chunk):
    """Index of each chunk in `(B, C, H, W)`, in the order of `overlap_chunks`."""
    rows = [slice(None)] if chunk is None else [slice(y, y + chunk) for y in chunk_offsets(height, chunk)]
    columns = [slice(None)] if chunk is None else [slice(x, x + chunk) for x in chunk_offsets(width, chunk)]
    return [(image, slice(None), y, x) for image in range(batch) for y in rows for x in columns]


def _mean(values):
    return values.to(torch.promote_types(values.dtype, torch.float32)).mean()


def _without_autocast(device):
    """How an ordinary backward pass runs. Devices without autocast, as meta, get an empty context."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
