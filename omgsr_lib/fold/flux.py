"""FLUX's transformer at one timestep, guidance and prompt: a plain pre-norm transformer.

Modulation is constant: `(1 + scale) * norm(x) + shift` goes into the layers after the norm, a gate into the layer
before it. The text is constant up to the first joint attention, and of the last block only the image is used.
Tokens of all images of a batch lie in one matrix, `(B * tokens, width)`, outside attention.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from ..priors.latents import pack_latents, position_ids, unpack_latents
from .affine import Affine, embed, frozen


EPS = 1e-6  # of every norm of FLUX
THETA = 10000  # longest wavelength of the rotary embedding over 2 pi


class Positions(NamedTuple):
    """What the attention of `S` tokens, text first, needs to know of them.

    Attributes:
        rotation: `(S, 1, 1, head / 2, 2)` float32, cosine and sine of the rotary embedding times the root of the
            head's width.
        floor: the norm of a vector whose elements are the root of `EPS`, `()`.
        kind: `(S,)` int64, 0 for text, 1 for image.
        mask: `(1, 1, 1, S)`, log of the number of equal text tokens that one stands for; None if there are none.
    """

    rotation: torch.Tensor
    floor: torch.Tensor
    kind: torch.Tensor
    mask: torch.Tensor | None


class FoldedFlux(nn.Module):
    """The `FluxTransformer2DModel` of `prior` at `timestep`, with the constant `prompt` (a `Prompt`)."""

    def __init__(self, prior, timestep, prompt):
        super().__init__()
        flux = prior.denoiser
        if not (flux.transformer_blocks and flux.single_transformer_blocks):
            raise ValueError("Folding takes FLUX transformers with double and single blocks. Use this one unfolded.")
        condition = F.silu(_condition(prior, timestep, prompt.tokens.device))
        text = Affine.of(flux.context_embedder)(prompt.tokens)
        *single, last = flux.single_transformer_blocks
        self.axes = tuple(flux.config.axes_dims_rope)
        self.text = frozen(text.to(flux.context_embedder.weight.dtype))
        self.register_buffer("counts", prompt.counts)
        self.x_embedder = Affine.of(flux.x_embedder).linear()
        self.double_blocks = nn.ModuleList(
            DoubleBlock(block, condition, None if index else text)
            for index, block in enumerate(flux.transformer_blocks)
        )
        self.single_blocks = nn.ModuleList(SingleBlock(block, condition) for block in single)
        self.last_block = LastBlock(last, condition, len(text))
        scale, shift = Affine.of(flux.norm_out.linear)(condition).chunk(2)
        self.proj_out = Affine.of(flux.proj_out).after(1 + scale, shift).linear(norm_eps=EPS)
        self._cached = None

    def forward(self, latents):
        """Velocity `(B, C, H, W)` of latents `(B, C, H, W)`; even sides."""
        batch, _, height, width = latents.shape
        positions = self._positions(height, width, latents.device, latents.dtype)
        image = self.x_embedder(pack_latents(latents).flatten(0, 1))
        text = self.text.repeat(batch, 1)
        for block in self.double_blocks:
            text, image = block(text, image, batch, positions)
        x = _join(text, image, batch).flatten(0, 1)
        for block in self.single_blocks:
            x = block(x, batch, positions)
        tokens = self.proj_out(self.last_block(x, batch, positions))
        return unpack_latents(tokens.unflatten(0, (batch, -1)), height, width)

    @torch.compiler.disable  # made once: no part of the compiled graph
    def _positions(self, *size):
        """`Positions` of latents of `(height, width, device, dtype)`; those of the last size are kept."""
        if self._cached is None or self._cached[0] != size:
            with torch.inference_mode(False):
                self._cached = size, self._new_positions(*size)
        return self._cached[1]

    def _new_positions(self, height, width, device, dtype):
        image = position_ids(height, width).double()
        ids = torch.cat([image.new_zeros(len(self.text), 3), image])
        angles = [
            torch.outer(column, THETA ** -(torch.arange(0, axis, 2, dtype=torch.float64) / axis))
            for column, axis in zip(ids.T, self.axes, strict=True)
        ]
        angles = torch.cat(angles, dim=1)
        head = sum(self.axes)
        rotation = (head**0.5 * torch.stack([angles.cos(), angles.sin()], dim=-1)).float()[:, None, None]
        floor = torch.tensor((head * EPS) ** 0.5)
        kind = (torch.arange(len(ids)) >= len(self.text)).long()
        mask = None
        if self.counts is not None:
            mask = F.pad(self.counts.log(), (0, len(image))).to(device, dtype)[None, None, None]
        return Positions(rotation.to(device), floor.to(device), kind.to(device), mask)


class DoubleBlock(nn.Module):
    """Text and image attend to both, each with its own layers.

    `text`: the constant `(T, width)` that enters the first block.
    """

    def __init__(self, block, condition, text=None):
        super().__init__()
        attn = block.attn
        self.heads = attn.heads
        text_scale, image_scale = _scale(attn.norm_added_k, attn.norm_added_q), _scale(attn.norm_k, attn.norm_q)
        self.scale = frozen(torch.stack([text_scale, image_scale]))
        projections = attn.add_v_proj, attn.add_k_proj, attn.add_q_proj
        self.text = Stream(block.norm1_context, projections, attn.to_add_out, block.ff_context, condition, text)
        projections = attn.to_v, attn.to_k, attn.to_q
        self.image = Stream(block.norm1, projections, attn.to_out[0], block.ff, condition)

    def forward(self, text, image, batch, positions):
        vkq = _join(self.text.vkq(text), self.image.vkq(image), batch).unflatten(-1, (3, self.heads, -1))
        attended = _attend(vkq, self.scale.index_select(0, positions.kind), positions)
        to_text, to_image = attended.split([len(text) // batch, len(image) // batch], dim=1)
        return self.text.update(text, to_text), self.image.update(image, to_image)


class Stream(nn.Module):
    """The layers of a double block for one kind of tokens; `constant` where these are the same for every image."""

    def __init__(self, norm, projections, out, feed_forward, condition, constant=None):
        super().__init__()
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = Affine.of(norm.linear)(condition).chunk(6)
        vkq = Affine.stacked(*(Affine.of(layer) for layer in projections)).after(1 + scale, shift)
        self.vkq = vkq.linear(EPS) if constant is None else Constant(vkq(_norm(constant)).to(vkq.dtype))
        self.out = Affine.of(out).gated(gate).linear()
        self.up = Affine.of(feed_forward.net[0].proj).after(1 + scale_mlp, shift_mlp).linear(EPS)
        self.down = Affine.of(feed_forward.net[2]).gated(gate_mlp).linear()

    def update(self, x, attended):
        x = self.out(attended.reshape(x.shape)).add_(x)
        return self.down(_gelu_(self.up(x))).add_(x)


class Constant(nn.Module):
    """`(B * T, width)`: the rows of `table` `(T, width)` for every image, whatever the input `(B * T, ...)`."""

    def __init__(self, table):
        super().__init__()
        self.table = frozen(table)

    def forward(self, x):
        return self.table.repeat(len(x) // len(self.table), 1)


class SingleBlock(nn.Module):
    """Text and image in one: attention and feed-forward side by side."""

    def __init__(self, block, condition):
        super().__init__()
        attn = block.attn
        shift, scale, gate = Affine.of(block.norm.linear)(condition).chunk(3)
        self.heads = attn.heads
        self.scale = frozen(_scale(attn.norm_k, attn.norm_q))
        layers = attn.to_v, attn.to_k, attn.to_q, block.proj_mlp
        self.up = Affine.stacked(*(Affine.of(layer) for layer in layers)).after(1 + scale, shift).linear(EPS)
        self.out = Affine.of(block.proj_out).gated(gate).linear()

    def forward(self, x, batch, positions):
        width = x.shape[1]
        up = self.up(x)
        vkq = up[:, : 3 * width].view(batch, -1, 3, self.heads, width // self.heads)
        vkq[:, :, 2] = _attend(vkq, self.scale, positions)
        _gelu_(up[:, 3 * width :])
        return self.out(up[:, 2 * width :]).add_(x)


class LastBlock(nn.Module):
    """A single block of which only the image's tokens are wanted: the text gives keys and values alone."""

    def __init__(self, block, condition, tokens):
        super().__init__()
        attn = block.attn
        shift, scale, gate = Affine.of(block.norm.linear)(condition).chunk(3)
        self.heads, self.tokens = attn.heads, tokens
        self.scale = frozen(_scale(attn.norm_k, attn.norm_q))
        value_key, up = (attn.to_v, attn.to_k), (attn.to_q, block.proj_mlp)
        value_key, up = (
            Affine.stacked(*(Affine.of(layer) for layer in layers)).after(1 + scale, shift)
            for layers in (value_key, up)
        )
        self.value_key, self.up = value_key.linear(), up.linear()
        self.out = Affine.of(block.proj_out).gated(gate).linear()

    def forward(self, x, batch, positions):
        """`(B * image tokens, width)` of all tokens `(B * tokens, width)`."""
        width = x.shape[1]
        normed = _norm(x)
        image, normed_image = (y.view(batch, -1, width)[:, self.tokens :].flatten(0, 1) for y in (x, normed))
        up = self.up(normed_image)
        query = up[:, :width].view(batch, -1, 1, self.heads, width // self.heads)
        value_key = self.value_key(normed).view(batch, -1, 2, self.heads, width // self.heads)
        _rotate(query, self.scale[1:], positions.rotation[self.tokens :], positions.floor)
        _rotate(value_key[:, :, 1:], self.scale[:1], positions.rotation, positions.floor)
        query[:, :, 0] = _attention(*value_key.permute(2, 0, 3, 1, 4), query[:, :, 0].transpose(1, 2), positions.mask)
        _gelu_(up[:, width:])
        return self.out(up).add_(image)


def _attend(vkq, scale, positions):
    """Attention `(B, S, heads, head)` of values, keys and queries `(B, S, 3, heads, head)`; changes the last two."""
    _rotate(vkq[:, :, 1:], scale, positions.rotation, positions.floor)
    return _attention(*vkq.permute(2, 0, 3, 1, 4).unbind(), positions.mask)


def _attention(value, key, query, mask):
    """Attention `(B, S, heads, head)` of `(B, heads, S, head)`."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def _rotate(x, scale, rotation, floor):
    """In place, on queries and keys `(B, S, 2, heads, head)`: root-mean-square norm, `scale`, rotary embedding.

    `x / sqrt(mean(x^2) + EPS) = x sqrt(head) / hypot(|x|, sqrt(head EPS))`, where `sqrt(head)` is in `rotation`.
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


def _scale(key, query):
    """Weights of the norms of keys and queries, `(2, 1, head)`."""
    return torch.stack([key.weight, query.weight]).detach()[:, None]


def _norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


def _gelu_(x):
    return torch.ops.aten.gelu_(x, approximate="tanh")


def _join(text, image, batch):
    """Tokens `(B * T, width)` and `(B * N, width)` of each image one after the other, `(B, T + N, width)`."""
    return torch.cat([x.view(batch, -1, x.shape[1]) for x in (text, image)], dim=1)


def _condition(prior, timestep, device):
    """The sum of FLUX's embeddings of timestep, guidance and pooled prompt, `(width,)` float64."""
    embedders = prior.denoiser.time_text_embed
    dtype = torch.promote_types(prior.prompt_embeds.dtype, torch.float32)
    sigma = prior.schedule.sigmas[timestep].to(device, dtype)
    total = embed(embedders.timestep_embedder, embedders.time_proj(1000 * sigma[None]))
    if prior.denoiser.config.guidance_embeds:
        guidance = torch.full((1,), 1000 * prior.guidance, device=device)
        total = total + embed(embedders.guidance_embedder, embedders.time_proj(guidance))
    return (total + embed(embedders.text_embedder, prior.pooled_prompt_embeds))[0]
