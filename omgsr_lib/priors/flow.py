"""A latent flow-matching transformer (FLUX) as a one-call denoiser."""

import torch
from torch import nn

from ..schedules import NoiseSchedule
from ..utils.device import to_device
from .latents import pack_latents, position_ids, unpack_latents


GUIDANCE = 1.0  # of the distilled guidance embedding, in training and inference alike


class FlowPrior(nn.Module):
    """`FluxTransformer2DModel` with its schedule and a fixed prompt.

    Args:
        denoiser: the transformer.
        scheduler: its `FlowMatchEulerDiscreteScheduler`.
        prompt_embeds: `(1, tokens, width)` T5 hidden states of the fixed prompt.
        pooled_prompt_embeds: `(1, width)` pooled CLIP embedding.
        image_seq_len: tokens for which the schedule is shifted; the published timesteps use 4096 at any size.
    """

    family = "flow"
    latent_multiple = 2
    clamps_images = False  # the training of OMGSR-F does not clamp

    def __init__(self, denoiser, scheduler, prompt_embeds, pooled_prompt_embeds, image_seq_len=4096):
        super().__init__()
        self.denoiser = denoiser
        self.scheduler = scheduler
        self.schedule = NoiseSchedule.from_scheduler(scheduler, image_seq_len=image_seq_len)
        self.register_buffer("prompt_embeds", prompt_embeds)
        self.register_buffer("pooled_prompt_embeds", pooled_prompt_embeds)

    def forward(self, latents, timestep):
        """Velocity `eps - z_0`, `(B, C, H, W)`, for latents at `timestep`: an int or a `(B,)` tensor. Even sides."""
        batch, _, height, width = latents.shape
        sigmas = self.schedule.sigmas[self.schedule.expand(timestep, batch).cpu()].to(latents.dtype)
        guidance = torch.full((batch,), GUIDANCE, device=latents.device, dtype=latents.dtype)
        tokens = self.denoiser(
            hidden_states=pack_latents(latents),
            timestep=to_device(sigmas, latents.device),
            guidance=guidance if self.denoiser.config.guidance_embeds else None,
            pooled_projections=self.pooled_prompt_embeds.to(latents.dtype).expand(batch, -1),
            encoder_hidden_states=self.prompt_embeds.to(latents.dtype).expand(batch, -1, -1),
            txt_ids=torch.zeros(self.prompt_embeds.shape[1], 3, device=latents.device),
            img_ids=position_ids(height, width, latents.device),
        ).sample
        return unpack_latents(tokens, height, width)
