"""FLUX.2's transformer at one timestep and prompt: the folded FLUX, with other layers to fold.

All double blocks share one modulation for text and one for the image, all single blocks a third; the feed-forward is
gated by SiLU, and a single block has queries, keys, values and feed-forward in one layer.
"""

import torch
from torch.nn import functional as F

from .affine import Affine, embed
from .flux import DoubleBlock, FoldedFlux, LastBlock, SingleBlock, check_blocks, projection_out


def folded_flux2(prior, timestep, prompt):
    """The `Flux2Transformer2DModel` of `prior` at `timestep`, with the constant `prompt` (a `Prompt`)."""
    flux = prior.denoiser
    check_blocks(flux)
    condition = F.silu(_condition(prior, timestep, prompt.tokens.device))
    text = Affine.of(flux.context_embedder)(prompt.tokens)
    of_text, of_image, of_both = (
        Affine.of(modulation.linear)(condition).chunk(parts)
        for modulation, parts in (
            (flux.double_stream_modulation_txt, 6),
            (flux.double_stream_modulation_img, 6),
            (flux.single_stream_modulation, 3),
        )
    )

    def double(block, text):
        layers = [(feed.linear_in, feed.linear_out) for feed in (block.ff_context, block.ff)]
        return DoubleBlock(block.attn, (of_text, of_image), layers, swiglu_, text)

    def single(block):
        attn, width = block.attn, block.attn.inner_dim
        query, key, value, fed = Affine.of(attn.to_qkv_mlp_proj).split([width, width, width, 2 * attn.mlp_hidden_dim])
        return attn, [value, key, query, fed], Affine.of(attn.to_out), of_both, swiglu_

    *blocks, last = flux.single_transformer_blocks
    return FoldedFlux(
        text=text.to(flux.context_embedder.weight.dtype),
        counts=None,
        text_ids=prior.prompt_ids(len(text)).double(),
        axes=flux.config.axes_dims_rope,
        theta=flux.config.rope_theta,
        x_embedder=Affine.of(flux.x_embedder).linear(),
        double_blocks=[double(block, None if k else text) for k, block in enumerate(flux.transformer_blocks)],
        single_blocks=[SingleBlock(*single(block)) for block in blocks],
        last_block=LastBlock(*single(last), len(text)),
        proj_out=projection_out(flux, condition),
    )


def swiglu_(x):
    """SiLU of the first half times the second, in place: returns the first half."""
    gate, linear = x.chunk(2, dim=-1)
    return F.silu(gate, inplace=True).mul_(linear)


def _condition(prior, timestep, device):
    """FLUX.2's embedding of the timestep, `(width,)` float64."""
    embedders = prior.denoiser.time_guidance_embed
    dtype = torch.promote_types(prior.prompt_embeds.dtype, torch.float32)
    sigma = prior.schedule.sigmas[timestep].to(device, dtype)
    return embed(embedders.timestep_embedder, embedders.time_proj(1000 * sigma[None]))[0]
