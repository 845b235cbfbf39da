"""A latent DDPM (Stable Diffusion's UNet) as a one-call denoiser."""

from torch import nn

from ..schedules import NoiseSchedule
from ..utils.device import to_device


class DDPMPrior(nn.Module):
    """`UNet2DConditionModel` with its schedule and a fixed prompt.

    Args:
        denoiser: the UNet.
        scheduler: its diffusers scheduler; gives `(alpha_t, sigma_t)` and the prediction type.
        prompt_embeds: `(1, tokens, width)` hidden states of the fixed prompt.
    """

    family = "ddpm"
    latent_multiple = 1
    clamps_images = True  # the training of OMGSR-S clamps the decoded picture to [-1, 1]

    def __init__(self, denoiser, scheduler, prompt_embeds):
        super().__init__()
        self.denoiser = denoiser
        self.scheduler = scheduler
        self.schedule = NoiseSchedule.from_scheduler(scheduler)
        self.register_buffer("prompt_embeds", prompt_embeds)

    def forward(self, latents, timestep):
        """Model output (epsilon or v) `(B, C, H, W)` for latents at `timestep`: an int or a `(B,)` tensor."""
        timesteps = to_device(self.schedule.expand(timestep, latents.shape[0]).cpu(), latents.device)
        prompt = self.prompt_embeds.to(latents.dtype).expand(latents.shape[0], -1, -1)
        return self.denoiser(latents, timesteps, encoder_hidden_states=prompt).sample
