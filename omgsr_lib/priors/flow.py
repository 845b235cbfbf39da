"""A latent flow-matching transformer (FLUX) as a one-call denoiser, with all that is particular to it."""

import torch
from torch import nn

from ..schedules import NoiseSchedule
from ..utils.device import to_device
from .latents import pack_latents, position_ids, unpack_latents


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
    label = "FLUX"
    subfolder = "transformer"  # of a base, where the denoiser lies
    prompt_tensors = ("prompt_embeds", "pooled_prompt_embeds")
    prompt_positions = False  # all of the prompt's tokens have the same one
    prediction_type = "flow_prediction"
    guidance = 1.0  # of the distilled guidance embedding, in training and inference alike
    rim = 0  # nothing is padded
    latent_multiple = 2  # a token is 2x2 latents
    clamps_images = False  # the training of OMGSR-F does not clamp
    lora_targets = [
        "x_embedder", "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
        "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
    ]  # fmt: skip
    adapter_folders = ("flux_adapter", "vae_encoder_adapter")  # of the denoiser and of the encoder
    compiles_blocks = True  # blocks repeat: a few compilations serve all of them
    quantisable = True  # linear layers
    autoencoder_class = "AutoencoderKL"
    autoencoder = dict(
        latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
    )  # at full size

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
        guidance = torch.full((batch,), self.guidance, device=latents.device, dtype=latents.dtype)
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

    @staticmethod
    def classes():
        """The diffusers classes of denoiser and scheduler."""
        from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

        return FluxTransformer2DModel, FlowMatchEulerDiscreteScheduler

    @classmethod
    def new_scheduler(cls):
        """The scheduler of FLUX.1-dev."""
        _, scheduler = cls.classes()
        return scheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)

    @staticmethod
    def embed_prompt(source, prompt, **options):
        """The `prompt_tensors` of `prompt` by the text encoders of `source`; `options` of diffusers' pipeline."""
        from diffusers import FluxPipeline

        pipe = FluxPipeline.from_pretrained(source, transformer=None, dtype=torch.bfloat16, **options)
        embeds, pooled, _ = pipe.encode_prompt(prompt, None, device="cpu", max_sequence_length=512)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def folded(self, timestep, prompt):
        """The denoiser folded at `timestep` and a `fold.Prompt`."""
        from ..fold.flux import folded_flux

        return folded_flux(self, timestep, prompt)

    # Sizes

    @classmethod
    def new(cls, latent_channels, *, blocks, single_blocks, heads, head_axes, prompt_width, seed):
        """An untrained prior: 2x2-packed latents, four constant prompt tokens, guidance embedding as FLUX.1-dev."""
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        transformer = cls.classes()[0](
            in_channels=4 * latent_channels,
            num_layers=blocks,
            num_single_layers=single_blocks,
            attention_head_dim=sum(head_axes),
            num_attention_heads=heads,
            joint_attention_dim=prompt_width,
            pooled_projection_dim=prompt_width,
            guidance_embeds=True,
            axes_dims_rope=head_axes,
        )
        prompt_embeds = torch.randn(1, 4, prompt_width, generator=generator)
        pooled = torch.randn(1, prompt_width, generator=generator)
        return cls(transformer.eval(), cls.new_scheduler(), prompt_embeds, pooled)

    @classmethod
    def tiny(cls, latent_channels=4, seed=0):
        """A random prior for tests and the `smoke` preset."""
        return cls.new(
            latent_channels, blocks=1, single_blocks=1, heads=2, head_axes=(4, 6, 6), prompt_width=16, seed=seed
        )

    @classmethod
    def mini(cls, latent_channels, seed):
        """The untrained prior of the `mini` preset: 11.2 M parameters."""
        return cls.new(
            latent_channels, blocks=2, single_blocks=6, heads=8, head_axes=(8, 12, 12), prompt_width=64, seed=seed
        )

    @classmethod
    def full_size(cls):
        """A random denoiser and prompt tensors of the size of FLUX.1-dev: 11.9 G parameters."""
        prompt_embeds = torch.randn(1, 512, 4096)  # hidden states of T5
        transformer = cls.classes()[0](
            in_channels=64,
            num_layers=19,
            num_single_layers=38,
            num_attention_heads=24,
            attention_head_dim=128,
            joint_attention_dim=4096,
            pooled_projection_dim=768,
            guidance_embeds=True,
            axes_dims_rope=(16, 56, 56),
        )
        return transformer, {"prompt_embeds": prompt_embeds, "pooled_prompt_embeds": torch.randn(1, 768)}

    # Pre-training

    @staticmethod
    def target(latents, noise):
        """What the output is compared with for noisy `latents`: the velocity."""
        return noise - latents

    def draw_timesteps(self, batch_size, generator):
        """Training timesteps `(B,)` with logit-normal sigma."""
        sigmas = torch.sigmoid(torch.randn(batch_size, generator=generator, dtype=torch.float64))
        return torch.searchsorted(self.schedule.sigmas, sigmas).clamp(max=len(self.schedule.sigmas) - 1)

    def loss_weights(self, timesteps):
        """Weights `(B,)` of the squared error: 1."""
        return torch.ones(len(timesteps))

    def sampler(self, steps):
        """Euler of diffusers for `steps` steps, and the timestep at which each calls the prior."""
        sampler = type(self.scheduler).from_config(self.scheduler.config)
        sampler.set_timesteps(steps, mu=self.scheduler.config.max_shift)
        distances = sampler.sigmas[:-1, None].double() - self.schedule.sigmas
        return sampler, distances.abs().argmin(1)
