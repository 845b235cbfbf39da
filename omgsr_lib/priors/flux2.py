"""The transformer of FLUX.2-klein as a one-call denoiser, with all that is particular to it."""

import torch
from torch import nn

from ..schedules import NoiseSchedule
from ..utils.device import to_device
from .latents import pack_latents, position_ids, unpack_latents


class Flux2Prior(nn.Module):
    """`Flux2Transformer2DModel` without guidance embedding, its schedule and a fixed prompt.

    Its latents are normalised per channel and place in a 2x2 patch (`latents.scale_latents`), and packed as FLUX.1's.

    diffusers' pipeline shifts by tokens and number of steps, between one line for 10 steps and one for 200, which is
    FLUX.1's and that of the scheduler's configuration. The schedule here is shifted by the latter, the finer.

    Args:
        denoiser: the transformer.
        scheduler: its `FlowMatchEulerDiscreteScheduler`.
        prompt_embeds: `(1, tokens, width)` of the fixed prompt: hidden states of three layers of Qwen3 side by side.
        image_seq_len: tokens for which the schedule is shifted: those of 1024 x 1024 pixels, at any size.
    """

    family = "flux2"
    label = "FLUX.2"
    subfolder = "transformer"  # of a base, where the denoiser lies
    prompt_tensors = ("prompt_embeds",)
    prompt_positions = True  # a token of the prompt has its place
    prediction_type = "flow_prediction"
    rim = 0  # nothing is padded
    latent_multiple = 2  # a token is 2x2 latents
    clamps_images = False  # as OMGSR-F
    lora_targets = [
        "x_embedder", "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
        "ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out", "attn.to_qkv_mlp_proj",
    ]  # fmt: skip
    adapter_folders = ("flux2_adapter", "vae_encoder_adapter")  # of the denoiser and of the encoder
    compiles_blocks = True  # blocks repeat: a few compilations serve all of them
    quantisable = True  # linear layers
    autoencoder_class = "AutoencoderKLFlux2"
    autoencoder = dict(latent_channels=32)  # at full size

    def __init__(self, denoiser, scheduler, prompt_embeds, image_seq_len=4096):
        super().__init__()
        if denoiser.config.guidance_embeds:
            raise ValueError(
                "A flux2 base must have no guidance embedding, as FLUX.2-klein: got guidance_embeds=True. Give "
                "another base."
            )
        self.denoiser = denoiser
        self.scheduler = scheduler
        self.schedule = NoiseSchedule.from_scheduler(scheduler, image_seq_len=image_seq_len)
        self.register_buffer("prompt_embeds", prompt_embeds)

    def forward(self, latents, timestep):
        """Velocity `eps - z_0`, `(B, C, H, W)`, for latents at `timestep`: an int or a `(B,)` tensor. Even sides."""
        batch, _, height, width = latents.shape
        sigmas = self.schedule.sigmas[self.schedule.expand(timestep, batch).cpu()].to(latents.dtype)
        tokens = self.denoiser(
            hidden_states=pack_latents(latents),
            timestep=to_device(sigmas, latents.device),
            encoder_hidden_states=self.prompt_embeds.to(latents.dtype).expand(batch, -1, -1),
            txt_ids=self.prompt_ids(self.prompt_embeds.shape[1], latents.device),
            img_ids=self.image_ids(height, width, latents.device),
        ).sample
        return unpack_latents(tokens, height, width)

    @staticmethod
    def prompt_ids(tokens, device=None):
        """Position ids `(tokens, 4)` of the prompt: (0, 0, 0, place)."""
        ids = torch.zeros(tokens, 4, device=device)
        ids[:, 3] = torch.arange(tokens)
        return ids

    @staticmethod
    def image_ids(height, width, device=None):
        """Position ids `(H/2 * W/2, 4)` of latents `height` x `width`: (0, row, column, 0)."""
        return nn.functional.pad(position_ids(height, width, device), (0, 1))

    @staticmethod
    def classes():
        """The diffusers classes of denoiser and scheduler."""
        from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel

        return Flux2Transformer2DModel, FlowMatchEulerDiscreteScheduler

    @classmethod
    def new_scheduler(cls):
        """The scheduler of FLUX.2-klein."""
        _, scheduler = cls.classes()
        return scheduler(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)

    @staticmethod
    def embed_prompt(source, prompt, **options):
        """The `prompt_tensors` of `prompt` by Qwen3 in `source`; `options` of diffusers' pipeline."""
        from diffusers import Flux2KleinPipeline

        pipe = Flux2KleinPipeline.from_pretrained(source, transformer=None, dtype=torch.bfloat16, **options)
        embeds, _ = pipe.encode_prompt(prompt, device="cpu")
        return {"prompt_embeds": embeds}

    def folded(self, timestep, prompt):
        """The denoiser folded at `timestep` and a `fold.Prompt`."""
        from ..fold.flux2 import folded_flux2

        return folded_flux2(self, timestep, prompt)

    # Sizes

    @classmethod
    def tiny(cls, latent_channels=4, seed=0):
        """A random prior for tests and the `smoke` preset."""
        torch.manual_seed(seed)
        transformer = cls.classes()[0](
            in_channels=4 * latent_channels,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=48,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
        return cls(transformer.eval(), cls.new_scheduler(), torch.randn(1, 4, 48))

    @classmethod
    def full_size(cls):
        """A random denoiser and prompt tensors of the size of FLUX.2-klein-4B: 3.9 G parameters."""
        transformer = cls.classes()[0](
            num_layers=5,
            num_single_layers=20,
            num_attention_heads=24,
            joint_attention_dim=7680,
            guidance_embeds=False,
        )
        return transformer, {"prompt_embeds": torch.randn(1, 512, 7680)}  # padded to 512 tokens, which are all seen
