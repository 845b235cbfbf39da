"""A latent DDPM (Stable Diffusion's UNet) as a one-call denoiser, with all that is particular to it."""

import torch
from torch import nn

from ..lora import CONVOLUTIONS_AND_ATTENTION
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
    label = "SD"
    subfolder = "unet"  # of a base, where the denoiser lies
    prompt_tensors = ("prompt_embeds",)
    prompt_positions = False  # the order of the prompt's tokens changes nothing
    prediction_type = "epsilon"  # for which the published timesteps and adapters were trained
    latent_multiple = 1
    rim = 8  # latents at a tile's border where the zero padding of the convolutions shows, up to 0.7 of 255 levels
    clamps_images = True  # the training of OMGSR-S clamps the decoded image to [-1, 1]
    lora_targets = CONVOLUTIONS_AND_ATTENTION
    adapter_folders = ("unet_lora_adapter", "vae_encoder_lora_adapter")  # of the denoiser and of the encoder
    compiles_blocks = False  # the network is compiled as a whole
    quantisable = False  # mostly convolutions, 1.7 GB
    autoencoder_class = "AutoencoderKL"
    autoencoder = dict(latent_channels=4, scaling_factor=0.18215)  # at full size

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

    @staticmethod
    def classes():
        """The diffusers classes of denoiser and scheduler."""
        from diffusers import DDPMScheduler, UNet2DConditionModel

        return UNet2DConditionModel, DDPMScheduler

    @classmethod
    def new_scheduler(cls):
        """The scheduler of Stable Diffusion."""
        _, scheduler = cls.classes()
        return scheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)

    @staticmethod
    def embed_prompt(source, prompt, **options):
        """The `prompt_tensors` of `prompt` by the text encoder of `source`; `options` of diffusers' pipeline."""
        from diffusers import StableDiffusionPipeline

        options |= dict(unet=None, safety_checker=None, feature_extractor=None, image_encoder=None)
        pipe = StableDiffusionPipeline.from_pretrained(source, dtype=torch.float32, **options)
        embeds, _ = pipe.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds}

    def folded(self, timestep, prompt):
        """The denoiser folded at `timestep` and a `fold.Prompt`."""
        from ..fold.unet import FoldedUNet

        return FoldedUNet(self, timestep, prompt)

    # Sizes

    @classmethod
    def new(cls, latent_channels, *, widths, heads, groups, prompt_width, seed, layers=1, attention=1):
        """An untrained prior: attention at one level and in the middle block, four constant prompt tokens.

        `attention` is the number of that level, from 0 (finest).
        """
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        kinds = ["CrossAttn" if level == attention else "" for level in range(len(widths))]
        unet = cls.classes()[0](
            in_channels=latent_channels,
            out_channels=latent_channels,
            block_out_channels=widths,
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            layers_per_block=layers,
            attention_head_dim=heads,
            norm_num_groups=groups,
            cross_attention_dim=prompt_width,
            use_linear_projection=True,
        )
        return cls(unet.eval(), cls.new_scheduler(), torch.randn(1, 4, prompt_width, generator=generator))

    @classmethod
    def tiny(cls, latent_channels=4, seed=0):
        """A random prior for tests and the `smoke` preset."""
        return cls.new(latent_channels, widths=(16, 32, 32), heads=(1, 2, 2), groups=8, prompt_width=16, seed=seed)

    @classmethod
    def mini(cls, latent_channels, seed):
        """The untrained prior of the `mini` preset: 9.4 M parameters."""
        return cls.new(
            latent_channels, widths=(48, 96, 160), heads=(3, 3, 5), layers=2, attention=2, groups=16, prompt_width=64,
            seed=seed,
        )  # fmt: skip

    @classmethod
    def full_size(cls):
        """A random denoiser and prompt tensors of the size of SD-Turbo and SD2.1-base: 865.9 M parameters."""
        prompt_embeds = torch.randn(1, 77, 1024)  # hidden states of CLIP
        unet = cls.classes()[0](
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            attention_head_dim=(5, 10, 20, 20),  # number of heads: diffusers' historical name
            cross_attention_dim=1024,
            use_linear_projection=True,
        )
        return unet, {"prompt_embeds": prompt_embeds}

    # Pre-training

    @staticmethod
    def target(latents, noise):
        """What the output is compared with for noisy `latents`: epsilon."""
        return noise

    def draw_timesteps(self, batch_size, generator):
        """Training timesteps `(B,)`: uniform, with one in four above 700.

        The high timesteps are drawn more often because their error is multiplied by sigma / alpha (up to 14.6) in x0.
        """
        last = len(self.schedule.sigmas) - 1
        timesteps = torch.randint(last + 1, (batch_size,), generator=generator)
        high = torch.randint(700, last + 1, (batch_size,), generator=generator)
        return torch.where(torch.rand(batch_size, generator=generator) < 0.25, high, timesteps)

    def loss_weights(self, timesteps):
        """Weights `(B,)` of the squared error, `1 + min(sigma^2 / alpha^2, 20)`.

        The error of epsilon counts `sigma^2 / alpha^2` times in x0, which is what a one-step prediction is made of.
        """
        return 1 + (1 / self.schedule.snr()[timesteps]).clamp(max=20).float()

    def sampler(self, steps):
        """DDIM of diffusers for `steps` steps, and the timestep at which each calls the prior."""
        from diffusers import DDIMScheduler

        sampler = DDIMScheduler.from_config(self.scheduler.config, timestep_spacing="trailing")
        sampler.set_timesteps(steps)
        return sampler, sampler.timesteps
