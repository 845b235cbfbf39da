"""A single-stream flow-matching transformer (Z-Image) as a one-call denoiser, with all that is particular to it."""

import torch
from torch import nn

from ..schedules import NoiseSchedule
from ..utils.device import to_device


class ZImagePrior(nn.Module):
    """`ZImageTransformer2DModel` with its schedule and a fixed prompt.

    Its time runs from noise (0) to image (1), and its output is the velocity `z_0 - eps`: both are turned round here.
    It packs 2x2 latents by itself, and pads the tokens of image and prompt to multiples of 32 with a token of its own.

    Args:
        denoiser: the transformer.
        scheduler: its `FlowMatchEulerDiscreteScheduler`; the shift is a constant, 3 for Z-Image-Turbo.
        prompt_embeds: `(1, tokens, width)` hidden states of the fixed prompt, of the last but one layer of Qwen3,
            without padding.
    """

    family = "z_image"
    label = "Z-Image"
    subfolder = "transformer"  # of a base, where the denoiser lies
    prompt_tensors = ("prompt_embeds",)
    prompt_positions = True  # a token of the prompt has its place
    prediction_type = "flow_prediction"
    rim = 0  # what is padded is no border
    latent_multiple = 2  # a token is 2x2 latents
    clamps_images = False  # as OMGSR-F
    lora_targets = [
        "all_x_embedder.2-1", "attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0",
        "feed_forward.w1", "feed_forward.w2", "feed_forward.w3",
    ]  # fmt: skip
    adapter_folders = ("z_image_adapter", "vae_encoder_adapter")  # of the denoiser and of the encoder
    compiles_blocks = True  # blocks repeat: a few compilations serve all of them
    quantisable = True  # linear layers
    autoencoder_class = "AutoencoderKL"
    autoencoder = dict(
        latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
    )  # at full size: that of FLUX.1

    def __init__(self, denoiser, scheduler, prompt_embeds):
        super().__init__()
        self.denoiser = denoiser
        self.scheduler = scheduler
        self.schedule = NoiseSchedule.from_scheduler(scheduler)
        self.register_buffer("prompt_embeds", prompt_embeds)

    def forward(self, latents, timestep):
        """Velocity `eps - z_0`, `(B, C, H, W)`, for latents at `timestep`: an int or a `(B,)` tensor. Even sides.

        Raises `ValueError` for a side without positions: of Z-Image from 1024 latents, 8192 pixels.
        """
        check_sides(latents, self.denoiser.config.axes_lens)
        clean = 1 - self.schedule.sigmas[self.schedule.expand(timestep, len(latents)).cpu()]
        prompt = self.prompt_embeds[0].to(latents.dtype)
        output = self.denoiser(
            list(latents[:, :, None].unbind()),
            to_device(clean.float(), latents.device),
            [prompt] * len(latents),
            return_dict=False,
        )[0]
        return -torch.stack(output)[:, :, 0]

    @staticmethod
    def classes():
        """The diffusers classes of denoiser and scheduler."""
        from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel

        return ZImageTransformer2DModel, FlowMatchEulerDiscreteScheduler

    @classmethod
    def new_scheduler(cls):
        """The scheduler of Z-Image-Turbo."""
        _, scheduler = cls.classes()
        return scheduler(shift=3.0)

    @staticmethod
    def embed_prompt(source, prompt, **options):
        """The `prompt_tensors` of `prompt` by Qwen3 in `source`; `options` of diffusers' pipeline."""
        from diffusers import ZImagePipeline

        pipe = ZImagePipeline.from_pretrained(source, transformer=None, dtype=torch.bfloat16, **options)
        embeds, _ = pipe.encode_prompt(prompt, "cpu", do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds[0][None]}

    def folded(self, timestep, prompt):
        """The denoiser folded at `timestep` and a `fold.Prompt`."""
        from ..fold.z_image import FoldedZImage

        return FoldedZImage(self, timestep, prompt)

    # Sizes

    @classmethod
    def tiny(cls, latent_channels=4, seed=0):
        """A random prior for tests and the `smoke` preset."""
        torch.manual_seed(seed)
        transformer = cls.classes()[0](
            in_channels=latent_channels,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[4, 6, 6],
            axes_lens=[1024, 64, 64],
        )
        with torch.no_grad():
            transformer.x_pad_token.normal_()
            transformer.cap_pad_token.normal_()
        return cls(transformer.eval(), cls.new_scheduler(), torch.randn(1, 4, 16))

    @classmethod
    def full_size(cls):
        """A random denoiser and prompt tensors of the size of Z-Image-Turbo: 6.2 G parameters; the empty prompt."""
        prompt_embeds = torch.randn(1, 8, 2560)  # hidden states of Qwen3: its template around nothing
        return cls.classes()[0](axes_lens=[1536, 512, 512]), {"prompt_embeds": prompt_embeds}


def check_sides(latents, axes_lens):
    """Raises `ValueError` unless the sides of `latents` are even and within Z-Image's positions, `axes_lens`."""
    height, width = latents.shape[-2:]
    most = [2 * length for length in axes_lens[1:]]
    if height % 2 or width % 2 or height > most[0] or width > most[1]:
        raise ValueError(
            f"Z-Image packs 2x2 latents, at most {most[0]}x{most[1]}: got {height}x{width}. Pad the image, or predict "
            "in tiles."
        )
