"""OMGSR with diffusers alone: the pipeline of a folder that `OMGSR.save_pipeline` wrote; this file is copied there.

    pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
    pipe(image, scale=4).images[0].save("restored.png")

It restores as `omgsr_lib.restore` does by default: bicubic enlargement, LQ latents in at the mid-timestep, one
prediction, the colours of the enlargement.
"""

import math
from numbers import Integral, Real

import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image, ImageOps
from torch.nn import functional as F


MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
IMAGE_TOKENS = 4096  # for which FLUX's schedule is shifted, whatever the size of the image


class OMGSRPipeline(DiffusionPipeline):
    """Restores photographs in one step.

    Args:
        vae: any autoencoder of diffusers, whose encoder is adapted to LQ images.
        scheduler: gives alpha and sigma of a timestep, and what `unet` predicts.
        prompt: a module that returns the embeddings of the fixed prompt, by name.
        unet: a `UNet2DConditionModel` (OMGSR-S), or None.
        transformer: a `FluxTransformer2DModel` (OMGSR-F), or None.
        timestep: the mid-timestep.
    """

    model_cpu_offload_seq = "prompt->unet->transformer->vae"
    _optional_components = ["unet", "transformer"]

    def __init__(self, vae, scheduler, prompt, unet=None, transformer=None, timestep=None):
        super().__init__()
        self.register_modules(vae=vae, scheduler=scheduler, prompt=prompt, unet=unet, transformer=transformer)
        self.register_to_config(timestep=timestep)
        widths = vae.config.get("block_out_channels") or vae.config["encoder_block_out_channels"]
        self.factor = 2 ** (len(widths) - 1)  # pixels per latent along a side
        self.multiple = 1 if unet is not None else 2  # latents per token along a side
        self.rim = 8 if unet is not None else 0  # latents at the border of a tile where its padding shows

    @torch.no_grad()
    def __call__(self, image, scale=4, timestep=None, tile=None, generator=None, output_type="pil", return_dict=True):
        """Restore `image`, a PIL image with 8 bits or a list of them; returns an `ImagePipelineOutput`.

        Args:
            scale: side of the output over side of the input, at least 1.
            timestep: where the LQ latents enter, instead of the model's own mid-timestep.
            tile: side in pixels of the output of the tiles in which the latents are predicted; None: in one piece.
                For large images call `pipe.vae.enable_tiling()` too, which changes the result slightly.
            generator: draws the latents from the encoder's posterior; without one its mean is taken.
            output_type: "pil" (RGB, each of its own size), or of images of one size "np" `(B, H, W, 3)` or "pt"
                `(B, 3, H, W)`, both in [0, 1].
            return_dict: False returns `(images,)`.

        Images are turned upright by their EXIF orientation. Transparency is left out.
        Raises `ValueError` for a wrong argument.
        """
        images = list(image) if isinstance(image, (list, tuple)) else [image]
        timestep = self.config.timestep if timestep is None else timestep
        self.check_inputs(images, scale, timestep, tile, output_type)
        images = [ImageOps.exif_transpose(each) for each in images]
        sizes = [tuple(round(side * scale) for side in each.size) for each in images]
        if output_type != "pil" and len(set(sizes)) > 1:
            raise ValueError(f'output_type="{output_type}" needs images of one size: got {sizes}. Take "pil".')
        tilings = [self.tiles(size, tile) for size in sizes]
        restored = []
        with self.progress_bar(total=sum(map(len, tilings))) as bar:
            for each, size, tiles in zip(images, sizes, tilings, strict=True):
                enlarged = np.array(each.convert("RGB").resize(size, Image.BICUBIC), dtype=np.float32)
                enlarged = (torch.from_numpy(enlarged) / 127.5 - 1).permute(2, 0, 1)[None].to(self._execution_device)
                restored.append(self.restore(enlarged, timestep, tiles, generator, bar))
        self.maybe_free_model_hooks()
        if output_type == "pil":
            levels = [((x[0] + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy() for x in restored]
            restored = [Image.fromarray(level) for level in levels]
            for source, result in zip(images, restored, strict=True):
                if source.mode in ("P", "PA", "RGB", "RGBA") and "icc_profile" in source.info:
                    result.info["icc_profile"] = source.info["icc_profile"]
        else:
            restored = torch.cat(restored) / 2 + 0.5
            restored = restored.permute(0, 2, 3, 1).cpu().numpy() if output_type == "np" else restored
        return ImagePipelineOutput(images=restored) if return_dict else (restored,)

    def check_inputs(self, images, scale, timestep, tile, output_type):
        """Raise `ValueError` for a wrong argument of `__call__`."""
        wrong = [image.mode if isinstance(image, Image.Image) else type(image).__name__ for image in images]
        if not images or not all(isinstance(image, Image.Image) and image.mode in MODES for image in images):
            raise ValueError(f"image must be PIL images with 8 bits, of mode {', '.join(MODES)}: got {wrong}.")
        if not (isinstance(scale, Real) and 1 <= scale < math.inf):
            raise ValueError(f"scale must be a number of at least 1: got {scale!r}.")
        last, step = self.scheduler.config.num_train_timesteps - 1, self.factor * self.multiple
        if isinstance(timestep, bool) or not (isinstance(timestep, Integral) and 0 <= timestep <= last):
            raise ValueError(f"timestep must be an integer in 0 .. {last}: got {timestep!r}.")
        if tile is not None and not (isinstance(tile, Integral) and tile >= 2 * step and tile % step == 0):
            raise ValueError(f"tile must be a multiple of {step} pixels, at least {2 * step}: got {tile!r}.")
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f'output_type must be "pil", "np" or "pt": got {output_type!r}.')

    def restore(self, enlarged, timestep, tiles, generator, bar):
        """Restored pixels of enlarged ones, `(1, 3, H, W)` in [-1, 1]: encode, predict, decode, fix the colours."""
        height, width = enlarged.shape[-2:]
        bottom, right = (-side % (self.factor * self.multiple) for side in (height, width))
        mode = "reflect" if bottom < height and right < width else "replicate"
        latents = self.encode(F.pad(enlarged, (0, right, 0, bottom), mode=mode).to(self.vae.dtype), generator)
        output = torch.zeros_like(latents, dtype=torch.float32)
        for rows, columns, weights in tiles:
            output[..., rows, columns] += weights.to(output) * self.denoise(latents[..., rows, columns], timestep)
            bar.update()
        clean = self.predict_clean(latents.float(), output, timestep).to(latents.dtype)
        scale, shift = self.scale_and_shift()
        restored = self.vae.decode(clean / scale + shift).sample[..., :height, :width].float().clamp(-1, 1)
        moments = dict(dim=(2, 3), keepdim=True, correction=min(height * width - 1, 1))
        (variance, mean), (wanted, target) = (torch.var_mean(x, **moments) for x in (restored, enlarged))
        return ((restored - mean) * ((wanted + 4e-5) / (variance + 4e-5)).sqrt() + target).clamp(-1, 1)

    def encode(self, pixels, generator=None):
        """Scaled latents of pixels: the mean of the encoder's posterior, with a `generator` a sample of it."""
        encoded, (scale, shift) = self.vae.encode(pixels), self.scale_and_shift()
        if hasattr(encoded, "latent_dist"):
            latents = encoded.latent_dist.mean
            if generator is not None:
                noise = randn_tensor(latents.shape, generator, latents.device, torch.float32)
                latents = latents + encoded.latent_dist.std * noise.to(latents.dtype)
        else:
            latents = encoded.latent if hasattr(encoded, "latent") else encoded.latents
        return (latents - shift) * scale

    def denoise(self, latents, timestep):
        """The model's output for latents `(1, C, h, w)`: epsilon or v of a UNet, the velocity of FLUX."""
        prompt = {name: value.to(latents) for name, value in self.prompt().items()}
        if self.unet is not None:
            time = torch.tensor([timestep], device=latents.device)
            return self.unet(latents, time, encoder_hidden_states=prompt["prompt_embeds"]).sample
        rows, columns = (side // 2 for side in latents.shape[-2:])
        places = torch.cartesian_prod(*(torch.arange(side, dtype=torch.float32) for side in (1, rows, columns)))
        tokens = self.transformer(
            hidden_states=F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2).contiguous(),
            timestep=self.coefficients(timestep)[1].to(latents)[None],
            guidance=latents.new_ones(1) if self.transformer.config.guidance_embeds else None,
            pooled_projections=prompt["pooled_prompt_embeds"],
            encoder_hidden_states=prompt["prompt_embeds"],
            txt_ids=torch.zeros(prompt["prompt_embeds"].shape[1], 3, device=latents.device),
            img_ids=places.to(latents.device),
        ).sample
        return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), 2)

    def predict_clean(self, latents, output, timestep):
        """The clean latents that the model's output at `timestep` stands for."""
        alpha, sigma = (value.to(latents) for value in self.coefficients(timestep))
        if self.unet is None:
            return latents - sigma * output
        if self.scheduler.config.prediction_type == "v_prediction":
            return alpha * latents - sigma * output
        return (latents - sigma * output) / alpha

    def coefficients(self, timestep):
        """`(alpha_t, sigma_t)` of the noisy latents `z_t = alpha_t z_0 + sigma_t eps`."""
        if self.unet is not None:
            kept = torch.cumprod(1 - self.scheduler.betas.double(), 0)[timestep]
            return kept.sqrt(), (1 - kept).sqrt()
        config = self.scheduler.config
        sigma = torch.tensor(timestep / (config.num_train_timesteps - 1), dtype=torch.float64)
        if config.use_dynamic_shifting:
            slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
            mu = config.base_shift + slope * (IMAGE_TOKENS - config.base_image_seq_len)
            sigma = self.scheduler.time_shift(mu, 1.0, sigma)
        else:
            sigma = config.shift * sigma / (1 + (config.shift - 1) * sigma)
        return 1 - sigma, sigma

    def scale_and_shift(self):
        """Latents are `(latent of the encoder - shift) * scale`."""
        return self.vae.config.scaling_factor or 1.0, getattr(self.vae.config, "shift_factor", None) or 0.0

    def tiles(self, size, tile):
        """`(rows, columns, weights)` of tiles of `tile` pixels that cover the latents of an image of `size`.

        As few tiles as possible, as small as possible, that overlap by a ninth and by twice the rim; their Gaussian
        weights sum to 1 everywhere.
        """
        step = self.factor * self.multiple
        width, height = (side + -side % step for side in size)
        if tile is None or height * width <= tile * tile:
            return [(slice(None), slice(None), torch.ones(1, 1))]
        rows, columns = (self.along(side // step, tile // step) for side in (height, width))
        return [(y, x, v[:, None] * w) for y, v in rows for x, w in columns]

    def along(self, size, tile):
        """`(slice, weights)` of tiles along an axis, in latents; `size` and `tile` are in tokens."""
        wanted = min(2 * self.rim, tile * self.multiple // 4)
        overlap = max(tile // 9, 1, -(-wanted // self.multiple))
        count = max(1, -(-(size - overlap) // (tile - overlap)))
        length = -(-(size + (count - 1) * overlap) // count)
        starts = [(size - length) * k // max(count - 1, 1) * self.multiple for k in range(count)]
        size, length = size * self.multiple, length * self.multiple
        place = (torch.arange(length, dtype=torch.float64) - (length - 1) / 2) / length
        window, total = torch.exp(-place.square() / 0.02), torch.zeros(size, dtype=torch.float64)
        spans = [slice(start, start + length) for start in starts]
        for span in spans:
            total[span] += window
        return [(span, window / total[span]) for span in spans]
