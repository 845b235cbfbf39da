"""Stable Diffusion's UNet at one timestep and prompt: no time embedding, the prompt as tables, norms without weights.

For a resnet block the time embedding is one number per channel, added before the second norm: it goes into the bias of
the first convolution. The prompt enters by cross-attention alone, whose keys and values are constant. The affine part
of a norm that feeds a linear layer goes into that layer.
"""

import inspect

import torch
from torch import nn
from torch.nn import functional as F

from .affine import Affine, convolution, embed, frozen


BLOCKS = {"DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}
# Options of `UNet2DConditionModel` that may differ from its defaults.
OPTIONS = {
    "sample_size", "in_channels", "out_channels", "flip_sin_to_cos", "freq_shift", "down_block_types",
    "up_block_types", "block_out_channels", "layers_per_block", "dropout", "norm_num_groups", "norm_eps",
    "cross_attention_dim", "transformer_layers_per_block", "attention_head_dim", "num_attention_heads",
    "use_linear_projection", "upcast_attention",
}  # fmt: skip


class FoldedUNet(nn.Module):
    """The `UNet2DConditionModel` of `prior` at `timestep`, with the constant `prompt` (a `Prompt`)."""

    def __init__(self, prior, timestep, prompt):
        super().__init__()
        unet = prior.denoiser
        _check(unet.config)
        time = unet.time_proj(torch.tensor([timestep], device=prompt.tokens.device))
        time = F.silu(embed(unet.time_embedding, time))[0]
        self.conv_in = convolution(unet.conv_in)
        self.down = nn.ModuleList(Stage(block, time, prompt) for block in unet.down_blocks)
        self.middle = Middle(unet.mid_block, time, prompt)
        self.up = nn.ModuleList(Stage(block, time, prompt) for block in unet.up_blocks)
        self.norm_out = group_norm(unet.conv_norm_out)
        self.conv_out = convolution(unet.conv_out)

    def forward(self, latents):
        """Model output `(B, C, H, W)` of latents `(B, C, H, W)`."""
        x = self.conv_in(latents)
        skips = [x]
        for stage in self.down:
            for layer in stage.layers:
                x = layer(x)
                skips.append(x)
            if stage.resample is not None:
                x = stage.resample(x)
                skips.append(x)
        x = self.middle(x)
        for stage in self.up:
            for layer in stage.layers:
                x = layer(torch.cat([x, skips.pop()], dim=1))
            if stage.resample is not None:
                x = stage.resample(F.interpolate(x, size=skips[-1].shape[-2:], mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(x), inplace=True))


class Stage(nn.Module):
    """The layers of one resolution, down or up, and the convolution that leads to the next (None in the last)."""

    def __init__(self, block, time, prompt):
        super().__init__()
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        self.layers = nn.ModuleList(
            Layer(resnet, attention, time, prompt) for resnet, attention in zip(block.resnets, attentions, strict=True)
        )
        resamplers = getattr(block, "downsamplers", None) or getattr(block, "upsamplers", None)
        self.resample = convolution(resamplers[0].conv) if resamplers else None


class Layer(nn.Module):
    """A resnet block and, at the resolutions that have them, its transformer."""

    def __init__(self, resnet, attention, time, prompt):
        super().__init__()
        self.resnet = Resnet(resnet, time)
        self.attention = None if attention is None else Transformer(attention, prompt)

    def forward(self, x):
        x = self.resnet(x)
        return x if self.attention is None else self.attention(x)


class Middle(nn.Module):
    def __init__(self, block, time, prompt):
        super().__init__()
        self.first = Layer(block.resnets[0], block.attentions[0], time, prompt)
        self.second = Layer(block.resnets[1], None, time, prompt)

    def forward(self, x):
        return self.second(self.first(x))


class Resnet(nn.Module):
    """`conv2(silu(norm2(conv1(silu(norm1(x))))))` plus `x`, the time embedding in the bias of `conv1`."""

    def __init__(self, block, time):
        super().__init__()
        self.norm1, self.norm2 = group_norm(block.norm1), group_norm(block.norm2)
        shift = Affine.of(block.time_emb_proj)(time)
        self.conv1 = convolution(block.conv1, shift)
        self.conv2 = convolution(block.conv2)
        shortcut = block.conv_shortcut
        self.shortcut = None if shortcut is None else convolution(shortcut)

    def forward(self, x):
        inner = self.conv1(F.silu(self.norm1(x), inplace=True))
        inner = self.conv2(F.silu(self.norm2(inner), inplace=True))
        return inner.add_(x if self.shortcut is None else self.shortcut(x))


class Transformer(nn.Module):
    """diffusers' `Transformer2DModel`: tokens are pixels."""

    def __init__(self, module, prompt):
        super().__init__()
        self.groups, self.eps = module.norm.num_groups, module.norm.eps
        self.proj_in = Affine.of(module.proj_in).flat().after(*norm_weights(module.norm)).linear()
        self.blocks = nn.ModuleList(Block(block, prompt) for block in module.transformer_blocks)
        self.proj_out = Affine.of(module.proj_out).flat().linear()

    def forward(self, x):
        batch, _, height, width = x.shape
        tokens = self.proj_in(F.group_norm(x, self.groups, eps=self.eps).flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens = block(tokens)
        return x + self.proj_out(tokens).transpose(1, 2).unflatten(2, (height, width))


class Block(nn.Module):
    """Self-attention, cross-attention to the prompt, gated feed-forward; each after a norm and with a residual."""

    def __init__(self, block, prompt):
        super().__init__()
        self.heads = block.attn1.heads
        self.qkv = (
            Affine.stacked(*(Affine.of(layer) for layer in (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v)))
            .after(*norm_weights(block.norm1))
            .linear(block.norm1.eps)
        )
        self.out = Affine.of(block.attn1.to_out[0]).linear()
        self.cross = cross_attention(block.attn2, block.norm2, prompt)
        self.ff_in = Affine.of(block.ff.net[0].proj).after(*norm_weights(block.norm3)).linear(block.norm3.eps)
        self.ff_out = Affine.of(block.ff.net[2]).linear()

    def forward(self, x):
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*qkv.unbind()).transpose(1, 2).flatten(2)
        x = self.out(attended).add_(x)
        x = self.cross(x).add_(x)
        hidden, gate = self.ff_in(x).chunk(2, dim=-1)
        return self.ff_out(F.gelu(gate).mul_(hidden)).add_(x)


def cross_attention(attention, norm, prompt):
    """Attention to the constant prompt after `norm`, in the form with fewer weights (and multiplications)."""
    query = Affine.of(attention.to_q).after(*norm_weights(norm))
    key, value = Affine.of(attention.to_k)(prompt.tokens), Affine.of(attention.to_v)(prompt.tokens)
    tokens, channels = key.shape
    smaller = attention.heads * tokens < channels + tokens
    form = PromptMatrices if smaller else PromptTables
    counts = None if prompt.counts is None else prompt.counts.clone()  # each layer is saved with its own
    return form(query, norm.eps, key, value, Affine.of(attention.to_out[0]), attention.heads, counts)


class PromptTables(nn.Module):
    """Cross-attention with stored keys and values."""

    def __init__(self, query, eps, key, value, out, heads, counts):
        super().__init__()
        self.heads = heads
        self.query, self.out = query.linear(eps), out.linear()
        key, value = (table.unflatten(1, (heads, -1)).transpose(0, 1) for table in (key, value))
        self.key, self.value = frozen(key.to(query.dtype)), frozen(value.to(query.dtype))
        self.register_buffer("counts", counts)

    def forward(self, x):
        batch = x.shape[0]
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key.expand(batch, -1, -1, -1), self.value.expand(batch, -1, -1, -1)
        mask = None if self.counts is None else self.counts.log()[None].to(x.dtype)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(attended.transpose(1, 2).flatten(2))


class PromptMatrices(nn.Module):
    """Cross-attention to few tokens as two matrices, `K W_q` and `W_o V`, with the softmax between them."""

    def __init__(self, query, eps, key, value, out, heads, counts):
        super().__init__()
        self.heads = heads
        key, value = (table.unflatten(1, (heads, -1)) for table in (key, value))
        scale = key.shape[-1] ** -0.5
        weight = torch.einsum("thd,hdc->htc", scale * key, query.weight.unflatten(0, (heads, -1)))
        bias = torch.einsum("thd,hd->ht", scale * key, query.bias.unflatten(0, (heads, -1)))
        self.scores = Affine(weight.flatten(0, 1), bias.flatten(), query.dtype).linear(eps)
        mixture = torch.einsum("thd,ohd->oht", value, out.weight.unflatten(1, (heads, -1)))
        self.mix = Affine(mixture.flatten(1), out.bias, query.dtype).linear()
        self.register_buffer("counts", counts)

    def forward(self, x):
        scores = self.scores(x).unflatten(-1, (self.heads, -1))
        if self.counts is not None:
            scores = scores + self.counts.log()
        return self.mix(scores.softmax(dim=-1).to(x.dtype).flatten(-2))


def group_norm(norm):
    """A frozen copy of a `GroupNorm`."""
    copy = nn.GroupNorm(norm.num_groups, norm.num_channels, norm.eps, device="meta")
    copy.weight, copy.bias = frozen(norm.weight.detach().clone()), frozen(norm.bias.detach().clone())
    return copy


def norm_weights(norm):
    """Scale and shift of a norm, float64."""
    return norm.weight.detach().double(), norm.bias.detach().double()


def _check(config):
    from diffusers import UNet2DConditionModel

    defaults = inspect.signature(UNet2DConditionModel.__init__).parameters
    for name, parameter in defaults.items():
        if name not in OPTIONS | {"self"} and config[name] != parameter.default:
            raise ValueError(
                f"Folding takes UNets of Stable Diffusion 1 and 2: this one has {name}={config[name]!r}, "
                f"not {parameter.default!r}. Use it unfolded."
            )
    unsupported = {*config.down_block_types, *config.up_block_types} - BLOCKS
    if unsupported:
        raise ValueError(
            f"Folding takes UNets with the blocks {sorted(BLOCKS)}: got {sorted(unsupported)}. Use it unfolded."
        )
