"""OMGSR: LQ latents in at the mid-timestep, one prediction, clean latents out (arXiv 2508.08227)."""

from dataclasses import dataclass

import torch
from torch import nn

from . import pretrained
from .fold import fold_prior
from .lora import CONVOLUTIONS_AND_ATTENTION, add_lora, lora_parameters, merge_lora, widen_lora
from .priors.latents import compression, decode_latents, encode_latents
from .tiling.arrays import blockwise
from .tiling.grid import tiled
from .tiling.vae import decode_tiled, encode_tiled
from .utils.copying import copied_with


@dataclass
class OMGSROutput:
    """Result of a forward pass.

    Attributes:
        images: `(B, 3, H, W)`; OMGSR-S clamps them to `[-1, 1]`, OMGSR-F does not, as published.
        clean_latents: `(B, C, H / f, W / f)`, the one-step prediction.
        lq_latents: same shape, the LoRA encoder's latents of the LQ image.
    """

    images: torch.Tensor
    clean_latents: torch.Tensor
    lq_latents: torch.Tensor


class OMGSR(nn.Module):
    """One-step restoration by a prior at its mid-timestep.

    Args:
        vae: frozen diffusers autoencoder; encodes HQ images and decodes.
        prior: of a class in `priors.PRIORS`.
        timestep: mid-timestep t*, an index into `prior.schedule`.

    Attributes:
        lq_vae: a copy of the autoencoder without its decoder, the encoder that LoRA adapts to LQ images.
        ranks: of the adapters, (encoder, denoiser); None without adapters.
        tile: side in pixels of the tiles in which the model predicts best; None if that is unknown.
        base, revision: where a loaded model is from, a hub id and its commit, or the name of a folder.
        prompt: text of the fixed prompt; None if that is unknown or there is none.
    """

    def __init__(self, vae, prior, timestep):
        super().__init__()
        self.vae = vae.requires_grad_(False).eval()
        self.prior = prior.requires_grad_(False).eval()
        self.timestep = int(timestep)
        self.lq_vae = copied_with(vae, {vae.decoder: None})
        self.ranks = self.tile = self.base = self.revision = self.prompt = None

    def forward(self, lq_pixels, timestep=None, *, generator=None):
        """Restore `lq_pixels` `(B, 3, H, W)` in `[-1, 1]`, already at the output's size; returns `OMGSROutput`.

        `timestep`: t* by default; an int or a `(B,)` tensor, one timestep per image. With a `generator` the latents
        are a sample of the encoder's posterior, as in the authors' code; without one its mean.
        """
        lq_latents = self.inject(self.encode(lq_pixels, generator=generator), timestep)
        clean_latents = self.predict_clean(lq_latents, timestep)
        return OMGSROutput(self.decode(clean_latents), clean_latents, lq_latents)

    def encode(self, lq_pixels, *, generator=None, mode=None, **options):
        """LQ latents of the adapted encoder. Sides must be multiples of `self.multiple` pixels.

        `mode` "exact" or "flat" encodes in parts, with the `options` of `tiling.vae.FlatPass`; None in one piece.
        """
        height, width = lq_pixels.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"Sides must be multiples of {self.multiple} pixels: got {height}x{width}. "
                "Pad the image or call restore()."
            )
        if mode is not None:
            return encode_tiled(self.lq_vae, lq_pixels, mode=mode, generator=generator, **options)
        return encode_latents(self.lq_vae, lq_pixels, generator=generator)

    def inject(self, lq_latents, timestep=None):
        """LQ latents as the denoiser's input at `timestep`: unchanged, as published.

        The refinement loss teaches the encoder the scale of the noisy latents at t*, `alpha_t* E[z_H | x_L]`.
        """
        return lq_latents

    def predict_clean(self, lq_latents, timestep=None, *, tile=None, overlap=None, window="gaussian", **options):
        """Clean latents of `lq_latents` in one step: the model output at t*, then the x0 formula of the schedule.

        With `tile` (in latents, as `overlap`) the model output of the tiles is blended and the formula is applied once
        to the whole, as in the two-stage tiled restoration of the paper. With an `overlap` the tiles lie as published;
        without one as few and as small tiles as possible are used. `options`: `planner`, `tile_batch`, `workers`,
        `progress` and `new` of `tiling.grid.tiled`.
        """
        timestep = self.timestep if timestep is None else timestep
        if tile is None:
            output = self.predict_output(lq_latents, timestep)
        else:
            options |= dict(tile=tile, overlap=overlap, window=window)
            options |= dict(multiple=self.prior.latent_multiple, rim=self.prior.rim)
            output = tiled(lambda parts: self.predict_output(parts, timestep), lq_latents, **options)
        return blockwise(lambda z, y: self.prior.schedule.predict_clean(z, y, timestep), lq_latents, output)

    def predict_output(self, latents, timestep):
        """Model output for latents `(n B, C, h, w)`, n tiles of B images; `timestep`: an int or `(B,)`."""
        if torch.is_tensor(timestep) and timestep.ndim:
            timestep = timestep.repeat(len(latents) // len(timestep))
        return self.prior(latents, timestep)

    def decode(self, clean_latents, *, mode=None, **options):
        """Images of clean latents by the frozen decoder; `mode` and `options` as in `encode`."""
        if mode is None:
            images = decode_latents(self.vae, clean_latents)
        else:
            images = decode_tiled(self.vae, clean_latents, mode=mode, **options)
        return blockwise(lambda x: x.clamp(-1, 1), images) if self.prior.clamps_images else images

    @property
    def multiple(self):
        """Sides of an image must be multiples of this many pixels."""
        return compression(self.vae) * self.prior.latent_multiple

    def add_adapters(self, vae_rank, denoiser_rank, *, seed=0):
        """Add trainable LoRA to the LQ encoder and the denoiser; a rank of 0 leaves that part frozen. Returns self."""
        torch.manual_seed(seed)
        if vae_rank:
            add_lora(self.lq_vae.encoder, vae_rank, CONVOLUTIONS_AND_ATTENTION)
        if denoiser_rank:
            add_lora(self.prior.denoiser, denoiser_rank, self.prior.lora_targets)
        self.ranks = (vae_rank, denoiser_rank)
        return self

    def widen_adapters(self, vae_rank, denoiser_rank, *, seed=0):
        """Give adapters that are narrower these ranks, without changing the model's output; returns the model.

        A part without an adapter stays without, and a wider one as wide.
        """
        torch.manual_seed(seed)
        modules, ranks = (self.lq_vae.encoder, self.prior.denoiser), []
        for module, has, rank in zip(modules, self.ranks, (vae_rank, denoiser_rank), strict=True):
            if 0 < has < rank:
                widen_lora(module, rank)
            ranks.append(max(has, rank) if has else 0)
        self.ranks = tuple(ranks)
        return self

    def trainable_parameters(self):
        """The LoRA parameters by name, encoder first."""
        encoder = {f"encoder.{name}": p for name, p in lora_parameters(self.lq_vae.encoder).items()}
        return encoder | {f"denoiser.{name}": p for name, p in lora_parameters(self.prior.denoiser).items()}

    def merge(self):
        """Add the adapters to the weights, in place: the same outputs, faster. Afterwards adapters can't be saved."""
        merge_lora(self.lq_vae.encoder)
        merge_lora(self.prior.denoiser)
        self.ranks = None
        return self

    def fold(self, *, merge_tokens=True):
        """The folded model: the same outputs at t* from fewer parameters and operations (see `fold`), for inference.

        Adapters are part of its weights, and its prior takes t* alone. `merge_tokens` as in `fold_prior`. This model
        stays as it is, so both are in memory until it is released; a folded model that was saved loads alone.
        """
        prior = fold_prior(self.prior, self.timestep, merge_tokens=merge_tokens)
        return copied_with(self, {self.prior: prior}).merge()

    # On disk and in memory, see `pretrained`
    save_adapter = pretrained.save_adapter
    load_adapter = pretrained.load_adapter
    save_pretrained = pretrained.save_pretrained
    save_pipeline = pretrained.save_pipeline
    from_pretrained = classmethod(pretrained.from_pretrained)
    from_recipe = classmethod(pretrained.from_recipe)
    from_base = classmethod(pretrained.from_base)
    full_size = classmethod(pretrained.full_size)
