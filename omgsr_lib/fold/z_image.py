"""Z-Image's transformer at one timestep and prompt.

The prompt's own blocks are run once. A scale goes with the weight of its norm into the layers after it; a gate stands
before a norm's output, so that it stays, as the weight of that norm. Packing is that of `latents.pack_latents`, and
the last layer gives the velocity with the sign of the schedule.
"""

import copy
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from ..priors.latents import pack_latents, position_ids, unpack_latents
from ..priors.z_image import check_sides
from .affine import Affine, frozen
from .attention import Positions, attend, norm_weights


TOKENS = 32  # the tokens of image and prompt are padded to multiples of this
EPS_OF_HEADS = 1e-5  # of the norms of queries and keys


class FoldedZImage(nn.Module):
    """The `ZImageTransformer2DModel` of `prior` at `timestep`, with the constant `prompt` (a `Prompt`)."""

    def __init__(self, prior, timestep, prompt):
        super().__init__()
        model = prior.denoiser
        config = model.config
        for name, value in {"siglip_feat_dim": None, "qk_norm": True}.items():
            if config[name] != value:
                raise ValueError(
                    f"Folding takes Z-Image as published: this one has {name}={config[name]!r}, not {value!r}. "
                    "Use it unfolded."
                )
        condition = _condition(prior, timestep, prompt.tokens.device)
        rope = model.rope_embedder
        self.rope = type(rope)(rope.theta, rope.axes_dims, rope.axes_lens)
        self.head = config.dim // config.n_heads
        self.text = frozen(_refined_text(model, prompt.tokens).to(model.cap_pad_token.dtype))
        self.pad = frozen(model.x_pad_token.detach().clone())
        self.x_embedder = _packed_input(Affine.of(model.all_x_embedder["2-1"])).linear()
        self.refiner = nn.ModuleList(Block(block, condition) for block in model.noise_refiner)
        self.blocks = nn.ModuleList(Block(block, condition) for block in model.layers)
        last = model.all_final_layer["2-1"]
        scale = 1 + Affine.of(last.adaLN_modulation[1])(F.silu(condition))
        self.proj_out = _packed_output(Affine.of(last.linear).scaled(scale)).linear(norm_eps=last.norm_final.eps)
        self._cached = None

    def forward(self, latents):
        """Velocity `(B, C, H, W)` of latents `(B, C, H, W)`; sides as of `ZImagePrior`."""
        check_sides(latents, self.rope.axes_lens)
        batch, _, height, width = latents.shape
        of_image, of_all = self._positions(height, width, latents.device)
        x = self.x_embedder(pack_latents(latents))
        tokens = x.shape[1]
        x = torch.cat([x, self.pad.expand(batch, -tokens % TOKENS, -1)], dim=1)
        for block in self.refiner:
            x = block(x, of_image)
        x = torch.cat([x, self.text.expand(batch, -1, -1)], dim=1)
        for block in self.blocks:
            x = block(x, of_all)
        return unpack_latents(self.proj_out(x[:, :tokens]), height, width)

    @torch.compiler.disable  # made once: no part of the compiled graph
    def _positions(self, *size):
        """`Positions` of the image alone and with the text, of `(height, width, device)`; the last ones are kept."""
        if self._cached is None or self._cached[0] != size:
            with torch.inference_mode(False):
                self._cached = size, self._new_positions(*size)
        return self._cached[1]

    def _new_positions(self, height, width, device):
        """Image tokens are in the frame after the text's last place; padding is at the origin."""
        ids = position_ids(height, width).long()
        ids[:, 0] = len(self.text) + 1
        ids = F.pad(ids, (0, 0, 0, -len(ids) % TOKENS))
        floor = torch.tensor((self.head * EPS_OF_HEADS) ** 0.5, device=device)
        both = ids, torch.cat([ids, _places(len(self.text))])
        return [Positions(self._rotation(part).to(device), floor) for part in both]

    def _rotation(self, ids):
        return self.head**0.5 * torch.view_as_real(self.rope(ids))[:, None, None]


class Block(nn.Module):
    """A block whose modulation is constant; tokens `(B, S, width)`."""

    def __init__(self, block, condition):
        super().__init__()
        scale, gate, scale_mlp, gate_mlp = Affine.of(block.adaLN_modulation[0])(condition).chunk(4)
        attn, feed = block.attention, block.feed_forward
        self.heads, self.eps = attn.heads, block.attention_norm1.eps
        self.scale = frozen(norm_weights(attn.norm_k, attn.norm_q))
        vkq = Affine.stacked(*(Affine.of(layer) for layer in (attn.to_v, attn.to_k, attn.to_q)))
        self.vkq = vkq.scaled(_weight(block.attention_norm1) * (1 + scale)).linear()
        self.out = Affine.of(attn.to_out[0]).linear()
        up = Affine.stacked(Affine.of(feed.w1), Affine.of(feed.w3))
        self.up = up.scaled(_weight(block.ffn_norm1) * (1 + scale_mlp)).linear()
        self.down = Affine.of(feed.w2).linear()
        dtype = vkq.dtype
        self.gate = frozen((_weight(block.attention_norm2) * gate.tanh()).to(dtype))
        self.gate_mlp = frozen((_weight(block.ffn_norm2) * gate_mlp.tanh()).to(dtype))

    def forward(self, x, positions):
        vkq = self.vkq(self._norm(x)).unflatten(-1, (3, self.heads, -1))
        attended = attend(vkq, self.scale, positions).flatten(-2)
        x = self._norm(self.out(attended), self.gate).add_(x)
        gate, linear = self.up(self._norm(x)).chunk(2, dim=-1)
        fed = F.silu(gate, inplace=True).mul_(linear)
        return self._norm(self.down(fed), self.gate_mlp).add_(x)

    def _norm(self, x, weight=None):
        return F.rms_norm(x, x.shape[-1:], weight, self.eps)


def _refined_text(model, tokens):
    """The prompt as it enters the joint blocks, `(T, width)` float64, T a multiple of `TOKENS`."""
    norm, linear = model.cap_embedder
    text = Affine.of(linear)(F.rms_norm(tokens, tokens.shape[-1:], _weight(norm), norm.eps))
    text = torch.cat([text, model.cap_pad_token.detach().double().expand(-len(text) % TOKENS, -1)])
    rotation = model.rope_embedder(_places(len(text)).to(text.device))[None]
    for block in model.context_refiner:
        text = copy.deepcopy(block).double()(text[None], None, rotation)[0]
    return text


def _places(tokens):
    """Position ids `(tokens, 3)` of the text: (place from 1, 0, 0)."""
    return F.pad(torch.arange(1, tokens + 1)[:, None], (0, 2))


def _packed_input(embedder):
    """`embedder` of tokens in the order of `pack_latents`, channels first: Z-Image has them last."""
    return replace(embedder, weight=embedder.weight.unflatten(1, (4, -1)).mT.flatten(1))


def _packed_output(projection):
    """The negative of `projection` in the order of `pack_latents`."""
    weight, bias = (
        -x.unflatten(0, (4, -1)).transpose(0, 1).flatten(0, 1) for x in (projection.weight, projection.bias)
    )
    return replace(projection, weight=weight, bias=bias)


def _weight(norm):
    return norm.weight.detach().double()


def _condition(prior, timestep, device):
    """Z-Image's embedding of the timestep, `(width,)` float64."""
    embedder = prior.denoiser.t_embedder
    times = (1 - prior.schedule.sigmas[timestep, None]).float().to(device) * prior.denoiser.t_scale
    waves = embedder.timestep_embedding(times, embedder.frequency_embedding_size).double()
    first, _, last = embedder.mlp
    return Affine.of(last)(F.silu(Affine.of(first)(waves)))[0]
