"""FLUX's transformer at one timestep, guidance and prompt: a plain pre-norm transformer.

Modulation is constant: `(1 + scale) * norm(x) + shift` goes into the layers after the norm, a gate into the layer
before it. The text is constant up to the first joint attention, and of the last block only the image is used.
Tokens of all images of a batch lie in one matrix, `(B * tokens, width)`, outside attention.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ..priors.latents import pack_latents, position_ids, unpack_latents
from .affine import Affine, embed, frozen
from .attention import Positions, attend, attention, norm_weights, rotate


EPS = 1e-6  # of every norm of FLUX


def folded_flux(prior, timestep, prompt):
    """The `FluxTransformer2DModel` of `prior` at `timestep`, with the constant `prompt` (a `Prompt`)."""
    flux = prior.denoiser
    check_blocks(flux)
    condition = F.silu(_condition(prior, timestep, prompt.tokens.device))
    text = Affine.of(flux.context_embedder)(prompt.tokens)

    def single(block):
        attn = block.attn
        value_key_query, mlp = [Affine.of(layer) for layer in (attn.to_v, attn.to_k, attn.to_q)], block.proj_mlp
        modulation = Affine.of(block.norm.linear)(condition).chunk(3)
        return attn, [*value_key_query, Affine.of(mlp)], Affine.of(block.proj_out), modulation, gelu_

    def double(block, text):
        modulations = [Affine.of(norm.linear)(condition).chunk(6) for norm in (block.norm1_context, block.norm1)]
        layers = [(feed.net[0].proj, feed.net[2]) for feed in (block.ff_context, block.ff)]
        return DoubleBlock(block.attn, modulations, layers, gelu_, text)

    *blocks, last = flux.single_transformer_blocks
    return FoldedFlux(
        text=text.to(flux.context_embedder.weight.dtype),
        counts=prompt.counts,
        text_ids=torch.zeros(len(text), 3, dtype=torch.float64),
        axes=flux.config.axes_dims_rope,
        theta=10_000,
        x_embedder=Affine.of(flux.x_embedder).linear(),
        double_blocks=[double(block, None if k else text) for k, block in enumerate(flux.transformer_blocks)],
        single_blocks=[SingleBlock(*single(block)) for block in blocks],
        last_block=LastBlock(*single(last), len(text)),
        proj_out=projection_out(flux, condition),
    )


class FoldedFlux(nn.Module):
    """A folded transformer of FLUX.1 (`folded_flux`) or FLUX.2 (`flux2.folded_flux2`).

    Args:
        text: constant tokens `(T, width)` that enter the first block.
        counts: of `Prompt`.
        text_ids: position ids of the text `(T, axes)`, float64, on the CPU.
        axes: widths of the rotary embedding of each position id; `theta`: its longest wavelength over 2 pi.
        x_embedder, double_blocks, single_blocks, last_block, proj_out: the layers, in their order.
    """

    def __init__(
        self, *, text, counts, text_ids, axes, theta, x_embedder, double_blocks, single_blocks, last_block, proj_out
    ):
        super().__init__()
        self.axes, self.theta, self.text_ids = tuple(axes), theta, text_ids
        self.text = frozen(text)
        self.register_buffer("counts", counts)
        self.x_embedder = x_embedder
        self.double_blocks = nn.ModuleList(double_blocks)
        self.single_blocks = nn.ModuleList(single_blocks)
        self.last_block = last_block
        self.proj_out = proj_out
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
        image = F.pad(position_ids(height, width).double(), (0, len(self.axes) - 3))
        ids = torch.cat([self.text_ids, image])
        angles = [
            torch.outer(column, self.theta ** -(torch.arange(0, axis, 2, dtype=torch.float64) / axis))
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

    Args:
        attn: diffusers' attention.
        modulations: of text and image: shift, scale, gate of the attention, then of the feed-forward.
        layers: of text and image: the first and the second layer of the feed-forward.
        activate: between these, as `gelu_`.
        text: the constant `(T, width)` that enters the first block.
    """

    def __init__(self, attn, modulations, layers, activate, text=None):
        super().__init__()
        self.heads = attn.heads
        text_scale = norm_weights(attn.norm_added_k, attn.norm_added_q)
        self.scale = frozen(torch.stack([text_scale, norm_weights(attn.norm_k, attn.norm_q)]))
        projections = attn.add_v_proj, attn.add_k_proj, attn.add_q_proj
        self.text = Stream(modulations[0], projections, attn.to_add_out, *layers[0], activate, text)
        projections = attn.to_v, attn.to_k, attn.to_q
        self.image = Stream(modulations[1], projections, attn.to_out[0], *layers[1], activate)

    def forward(self, text, image, batch, positions):
        vkq = _join(self.text.vkq(text), self.image.vkq(image), batch).unflatten(-1, (3, self.heads, -1))
        attended = attend(vkq, self.scale.index_select(0, positions.kind), positions)
        to_text, to_image = attended.split([len(text) // batch, len(image) // batch], dim=1)
        return self.text.update(text, to_text), self.image.update(image, to_image)


class Stream(nn.Module):
    """The layers of a double block for one kind of tokens; `constant` where these are the same for every image."""

    def __init__(self, modulation, projections, out, up, down, activate, constant=None):
        super().__init__()
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = modulation
        vkq = Affine.stacked(*(Affine.of(layer) for layer in projections)).after(1 + scale, shift)
        self.vkq = vkq.linear(EPS) if constant is None else Constant(vkq(_norm(constant)).to(vkq.dtype))
        self.out = Affine.of(out).gated(gate).linear()
        self.up = Affine.of(up).after(1 + scale_mlp, shift_mlp).linear(EPS)
        self.down = Affine.of(down).gated(gate_mlp).linear()
        self.activate = activate

    def update(self, x, attended):
        x = self.out(attended.reshape(x.shape)).add_(x)
        return self.down(self.activate(self.up(x))).add_(x)


class Constant(nn.Module):
    """`(B * T, width)`: the rows of `table` `(T, width)` for every image, whatever the input `(B * T, ...)`."""

    def __init__(self, table):
        super().__init__()
        self.table = frozen(table)

    def forward(self, x):
        return self.table.repeat(len(x) // len(self.table), 1)


class SingleBlock(nn.Module):
    """Text and image in one: attention and feed-forward side by side.

    Args:
        attn: diffusers' attention.
        inputs: `Affine`s to values, keys, queries and the feed-forward.
        out: `Affine` of attention and feed-forward, one after the other.
        modulation: shift, scale, gate.
        activate: of the feed-forward, as `gelu_`.
    """

    def __init__(self, attn, inputs, out, modulation, activate):
        super().__init__()
        shift, scale, gate = modulation
        self.heads, self.activate = attn.heads, activate
        self.scale = frozen(norm_weights(attn.norm_k, attn.norm_q))
        self.up = Affine.stacked(*inputs).after(1 + scale, shift).linear(EPS)
        self.out = out.gated(gate).linear()

    def forward(self, x, batch, positions):
        width = x.shape[1]
        up = self.up(x)
        vkq = up[:, : 3 * width].view(batch, -1, 3, self.heads, width // self.heads)
        vkq[:, :, 2] = attend(vkq, self.scale, positions)
        fed = self.activate(up[:, 3 * width :])
        return self.out(up[:, 2 * width : 3 * width + fed.shape[1]]).add_(x)


class LastBlock(nn.Module):
    """A single block of which only the image's tokens are wanted: the text gives keys and values alone.

    Arguments as of `SingleBlock`; `tokens`: number of the text's.
    """

    def __init__(self, attn, inputs, out, modulation, activate, tokens):
        super().__init__()
        shift, scale, gate = modulation
        self.heads, self.tokens, self.activate = attn.heads, tokens, activate
        self.scale = frozen(norm_weights(attn.norm_k, attn.norm_q))
        value_key, up = (Affine.stacked(*part).after(1 + scale, shift) for part in (inputs[:2], inputs[2:]))
        self.value_key, self.up = value_key.linear(), up.linear()
        self.out = out.gated(gate).linear()

    def forward(self, x, batch, positions):
        """`(B * image tokens, width)` of all tokens `(B * tokens, width)`."""
        width = x.shape[1]
        normed = _norm(x)
        image, normed_image = (y.view(batch, -1, width)[:, self.tokens :].flatten(0, 1) for y in (x, normed))
        up = self.up(normed_image)
        query = up[:, :width].view(batch, -1, 1, self.heads, width // self.heads)
        value_key = self.value_key(normed).view(batch, -1, 2, self.heads, width // self.heads)
        rotate(query, self.scale[1:], positions.rotation[self.tokens :], positions.floor)
        rotate(value_key[:, :, 1:], self.scale[:1], positions.rotation, positions.floor)
        query[:, :, 0] = attention(*value_key.permute(2, 0, 3, 1, 4), query[:, :, 0].transpose(1, 2), positions.mask)
        fed = self.activate(up[:, width:])
        return self.out(up[:, : width + fed.shape[1]]).add_(image)


def gelu_(x):
    """GELU in place; like every activation here it returns the part of `x` with the result, its first columns."""
    return torch.ops.aten.gelu_(x, approximate="tanh")


def check_blocks(flux):
    """Raises `ValueError` unless `flux` has double and single blocks."""
    if not (flux.transformer_blocks and flux.single_transformer_blocks):
        raise ValueError("Folding takes FLUX transformers with double and single blocks. Use this one unfolded.")


def projection_out(flux, condition):
    """The last norm, its modulation and the layer after it."""
    scale, shift = Affine.of(flux.norm_out.linear)(condition).chunk(2)
    return Affine.of(flux.proj_out).after(1 + scale, shift).linear(norm_eps=EPS)


def _norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


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
