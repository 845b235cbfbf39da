"""OMGSR: LQ latents in at the mid-timestep, one prediction, clean latents out (arXiv 2508.08227)."""

import copy
import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.attention import sdpa_kernel

from . import presets
from .adaptive.timesteps import difference_map
from .fold import FoldedPrior, fold_prior, load_folded, save_folded
from .lora import CONVOLUTIONS_AND_ATTENTION, add_lora, load_adapter, lora_parameters, merge_lora, save_adapter
from .priors import prior_class
from .priors.full_size import full_size_autoencoder, full_size_prior
from .priors.latents import compression, decode_latents, encode_latents
from .priors.loading import WEIGHTS, load_autoencoder, load_prior, load_scheduler, save_model, save_prior
from .priors.tiny import tiny_autoencoder
from .schedules import NoiseSchedule
from .tiling.grid import tiled
from .tiling.vae import decode_tiled, encode_tiled
from .utils.device import to_device
from .utils.files import atomic_folder, verify_hashes


LQ_ENCODER = "lq_encoder.safetensors"  # of a folded model


@dataclass
class OMGSROutput:
    """Result of a forward pass.

    Attributes:
        images: `(B, 3, H, W)`; OMGSR-S clamps them to `[-1, 1]`, OMGSR-F does not, as published.
        clean_latents: `(B, C, H / f, W / f)`, the one-step prediction.
        lq_latents: same shape, the LoRA encoder's latents of the LQ picture.
    """

    images: torch.Tensor
    clean_latents: torch.Tensor
    lq_latents: torch.Tensor


class OMGSR(nn.Module):
    """One-step restoration by a prior at its mid-timestep.

    Args:
        vae: frozen diffusers autoencoder; encodes HQ pictures and decodes.
        prior: of a class in `priors.PRIORS`.
        timestep: mid-timestep t*, an index into `prior.schedule`.

    `lq_vae` is a copy of the autoencoder without its decoder: the encoder that LoRA adapts to LQ pictures. `base` and
    `revision` say where a loaded model is from: a hub id and its commit, or the name of a folder. `attention` has the
    kernels of `scaled_dot_product_attention`, first choice first, for the stages "encode", "denoiser" and "decode";
    torch chooses where it has none. An `adaptive` model takes each
    picture at a timestep of its own (see `at_timestep`), which its `estimator` chooses.
    """

    def __init__(self, vae, prior, timestep):
        super().__init__()
        self.vae = vae.requires_grad_(False).eval()
        self.prior = prior.requires_grad_(False).eval()
        self.timestep = int(timestep)
        decoder, vae.decoder = vae.decoder, None
        self.lq_vae = copy.deepcopy(vae)
        vae.decoder = decoder
        self.ranks = None
        self.adaptive, self.estimator = False, None
        self.base = self.revision = None
        self.attention = {}

    def forward(self, lq_pixels, timestep=None, *, generator=None):
        """Restore `lq_pixels` `(B, 3, H, W)` in `[-1, 1]`, already at the output's size; returns `OMGSROutput`.

        `timestep`: t* by default; an int or a `(B,)` tensor, one timestep per image. With a `generator` the latents
        are a sample of the encoder's posterior, as in the authors' code; without one its mean.
        """
        lq_latents = self.at_timestep(self.encode(lq_pixels, generator=generator), timestep)
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
                "Pad the picture or call restore()."
            )
        with self._kernels("encode"):
            if mode is not None:
                return encode_tiled(self.lq_vae, lq_pixels, mode=mode, generator=generator, **options)
            return encode_latents(self.lq_vae, lq_pixels, generator=generator)

    def at_timestep(self, lq_latents, timestep=None):
        """LQ latents as the denoiser takes them at `timestep` (t* by default, an int or `(B,)`).

        The refinement loss teaches the encoder the scale of noisy latents, `alpha_t* E[z_H | x_L]`. An adaptive model
        keeps one encoder for all timesteps and carries its latents over by `alpha_t / alpha_t*`; any other takes them
        as they are, as published.
        """
        if not self.adaptive or timestep is None:
            return lq_latents
        alphas = self.prior.schedule.alphas
        gain = alphas[self.prior.schedule.expand(timestep, len(lq_latents)).cpu()] / alphas[self.timestep]
        return lq_latents * to_device(gain.to(lq_latents.dtype), lq_latents.device)[:, None, None, None]

    def estimates(self, timestep):
        """Whether the estimator chooses where `timestep` is asked for: always for "auto", for None if there is one."""
        return timestep == "auto" or (timestep is None and self.estimator is not None)

    def difference(self, lq_pixels, *, mode=None, **options):
        """Estimated D of each neighbourhood, `(B, 1, H / f, W / f)`, which an adaptive model's timesteps follow.

        `mode` and `options` as in `encode`. Raises `ValueError` if the model has no estimator.
        """
        if self.estimator is None:
            raise ValueError(
                f"Only a model with an estimator knows D of a photograph: this one has t* = {self.timestep}. "
                "Train one (omgsr pretrain estimator) and set model.estimator."
            )
        if mode is None:
            latents = encode_latents(self.vae, lq_pixels)
        else:
            latents = encode_tiled(self.vae, lq_pixels, mode=mode, **options)
        return difference_map(self.estimator, latents)

    def predict_clean(self, lq_latents, timestep=None, *, tile=None, overlap=None, window="gaussian", **options):
        """Clean latents of `lq_latents` in one step: the model output at t*, then the x0 formula of the schedule.

        With `tile` (in latents, as `overlap`) the model output of the tiles is blended and the formula is applied once
        to the whole, as in the two-stage tiled restoration of the paper. With an `overlap` the tiles lie as published;
        without one as few and as small tiles as possible are used. `options`: `planner`, `tile_batch` and `progress`
        of `tiling.grid.tiled`.
        """
        timestep = self.timestep if timestep is None else timestep
        if tile is None:
            output = self.predict_output(lq_latents, timestep)
        else:
            options = dict(tile=tile, overlap=overlap, window=window, multiple=self.prior.latent_multiple, **options)
            output = tiled(lambda parts: self.predict_output(parts, timestep), lq_latents, **options)
        return self.prior.schedule.predict_clean(lq_latents, output, timestep)

    def predict_output(self, latents, timestep):
        """Model output for latents `(n B, C, h, w)`, n tiles of B pictures; `timestep`: an int or `(B,)`."""
        if torch.is_tensor(timestep) and timestep.ndim:
            timestep = timestep.repeat(len(latents) // len(timestep))
        with self._kernels("denoiser"):
            return self.prior(latents, timestep)

    def decode(self, clean_latents, *, mode=None, **options):
        """Pictures of clean latents by the frozen decoder; `mode` and `options` as in `encode`."""
        with self._kernels("decode"):
            if mode is None:
                images = decode_latents(self.vae, clean_latents)
            else:
                images = decode_tiled(self.vae, clean_latents, mode=mode, **options)
        return images.clamp(-1, 1) if self.prior.clamps_images else images

    def _kernels(self, stage):
        order = self.attention.get(stage)
        return sdpa_kernel(order, set_priority=True) if order else nullcontext()

    @property
    def multiple(self):
        """Sides of a picture must be multiples of this many pixels."""
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
        stays as it is, so both are in memory until it is released; a folded model that was saved loads alone. Raises
        `ValueError` for an adaptive model.
        """
        if self.adaptive:
            raise ValueError(
                "A folded model has one timestep, and an adaptive model takes each image at its own: leave folding "
                "out, or set model.adaptive = False first."
            )
        prior = fold_prior(self.prior, self.timestep, merge_tokens=merge_tokens)
        folded = copy.deepcopy(self, {id(self.prior): prior})
        merge_lora(folded.lq_vae.encoder)
        folded.ranks = None
        return folded

    def save_adapter(self, folder):
        """Write both adapters in the official layout (see `lora`) and the timestep in `omgsr.json`."""
        if self.ranks is None:
            raise ValueError("A model must have adapters to save them: this one has none (never added, or merged).")
        denoiser_folder, encoder_folder = self.prior.adapter_folders
        vae_rank, denoiser_rank = self.ranks
        with atomic_folder(folder) as part:
            if denoiser_rank:
                save_adapter(self.prior.denoiser, part / denoiser_folder)
            if vae_rank:
                save_adapter(self.lq_vae.encoder, part / encoder_folder)
            about = {"family": self.prior.family, "timestep": self.timestep, "ranks": list(self.ranks)}
            if self.adaptive:
                about["adaptive"] = True
            (part / "omgsr.json").write_text(json.dumps(about, indent=2) + "\n")
        return Path(folder)

    def load_adapter(self, folder):
        """Load the adapters of a folder in the official layout and return self.

        The `omgsr.json` of `save_adapter`, where there is one, gives the timestep they were trained for and says if
        one part was trained without; otherwise both must be there and the model's timestep stays.
        """
        folder = Path(folder)
        expected = (True, True)
        if (folder / "omgsr.json").is_file():
            about = _read_about(folder, "family", "timestep", "ranks")
            if about["family"] != self.prior.family:
                raise ValueError(
                    f"An adapter must be of its prior's family, {self.prior.family}: '{folder}' is {about['family']}."
                )
            expected, self.timestep = about["ranks"], about["timestep"]
            self.adaptive = about.get("adaptive", False)
        denoiser_folder, encoder_folder = self.prior.adapter_folders
        parts = (self.lq_vae.encoder, encoder_folder), (self.prior.denoiser, denoiser_folder)
        self.ranks = tuple(
            load_adapter(module, folder / name) if rank else 0
            for (module, name), rank in zip(parts, expected, strict=True)
        )
        return self

    def save_pretrained(self, folder):
        """Write autoencoder, prior and adapters below `folder`; `OMGSR.from_pretrained` reads them back exactly.

        Of a folded model the prior and the LQ encoder are written as they are, adapters included.
        """
        with atomic_folder(folder) as part:
            save_model(self.vae, part / "vae")
            if self.estimator is not None:
                save_model(self.estimator, part / "estimator")
            if isinstance(self.prior, FoldedPrior):
                save_folded(self.prior, part)
                save_file(self.lq_vae.encoder.state_dict(), part / LQ_ENCODER)
            else:
                self.save_adapter(part)
                save_prior(self.prior, part)
        return Path(folder)

    @classmethod
    def from_pretrained(cls, name, *, base=None, adapter=None, prompt_embeds=None, dtype=torch.float32, revision=None):
        """Load a model by name, or from a folder that `save_pretrained` wrote.

        Args:
            name: "mini-s", "mini-f", "mini-s-adaptive" or "mini-f-adaptive" (they ship with the package),
                "omgsr-{s,f}-{512,1024}", or a folder.
            base: folder or hub id in diffusers layout, instead of the preset's.
            adapter: folder in the official layout, instead of the preset's. "omgsr-*" has none of its own: without one
                the un-tuned prior is returned.
            prompt_embeds: safetensors file of the fixed prompt's embeddings; the base then needs no text encoders.
            dtype: precision of the base's weights; adapters are float32 until merged.
            revision: of a hub id; by default that of the preset if the base is its own.
        """
        folder = Path(name)
        options = dict(prompt_embeds=prompt_embeds, dtype=dtype, revision=revision)
        if (folder / "omgsr.json").is_file():
            about = _read_about(folder, "family", "timestep")
            if "folded" in about:
                if base or adapter or prompt_embeds:
                    raise ValueError(
                        f"A folded model holds its base, adapter and prompt: '{folder}' is folded. Give none of them."
                    )
                return cls._from_folded(folder, about["timestep"], dtype)
            model = cls.from_base(base or folder, about["family"], about["timestep"], **options)
            if (folder / "estimator").is_dir():
                model.estimator = _load_estimator(folder / "estimator")
            return model.load_adapter(adapter or folder)
        if name not in presets.MODELS:
            raise ValueError(
                f"A model must be one of {', '.join(presets.MODELS)} or a folder with omgsr.json: got {str(name)!r}."
            )
        recipe = presets.recipe(*presets.MODELS[name])
        model = cls.from_recipe(recipe, base=base, **options)
        if base is None and recipe.base in presets.PACKAGED_PRIORS:
            adapter = adapter or WEIGHTS / name
            model.estimator = _load_estimator(WEIGHTS / "mini-estimator") if recipe.adaptive else None
        return model.load_adapter(adapter) if adapter else model

    @classmethod
    def from_recipe(cls, recipe, *, base=None, prompt_embeds=None, dtype=torch.float32, revision=None, seed=0):
        """The un-tuned model of a `presets.Recipe` at its mid-timestep, on its own base or on `base`.

        The recipe's revision goes with its own base only. Raises `ValueError` if the base predicts something else than
        its family's `prediction_type`, which the published timesteps and adapters are for; `from_base` takes any.
        """
        if base is None or base == recipe.base:
            base, revision = recipe.base, revision or recipe.revision
        if base != "tiny" and base not in presets.PACKAGED_PRIORS:
            expected = prior_class(recipe.family).prediction_type
            predicted = NoiseSchedule.from_scheduler(load_scheduler(base, recipe.family, revision)).prediction_type
            if predicted != expected:
                raise ValueError(
                    f"The timestep and the adapters of this recipe are for a base that predicts {expected}: '{base}' "
                    f"predicts {predicted}. Use {recipe.base} or a copy of it."
                )
        options = dict(prompt=recipe.prompt, prompt_embeds=prompt_embeds, dtype=dtype, revision=revision, seed=seed)
        return cls.from_base(base, recipe.family, recipe.timestep, **options)

    @classmethod
    def _from_folded(cls, folder, timestep, dtype):
        model = cls(load_autoencoder(folder, subfolder="vae", dtype=dtype), load_folded(folder, dtype), timestep)
        model.lq_vae.encoder.load_state_dict(load_file(folder / LQ_ENCODER))
        return model

    @classmethod
    def from_base(
        cls, base, family, timestep, *, prompt="", prompt_embeds=None, dtype=torch.float32, revision=None, seed=0
    ):
        """The un-tuned model on `base`: "tiny" (random, from `seed`), a prior of this package, a folder or a hub id.

        `family`: a key of `priors.PRIORS`. `prompt` is embedded by the base's text encoders where no embeddings are
        given.
        """
        options = dict(dtype=dtype, revision=revision)
        if base == "tiny":
            vae, prior = tiny_autoencoder(seed=seed), prior_class(family).tiny(seed=seed)
        elif base in presets.PACKAGED_PRIORS:
            verify_hashes(WEIGHTS)
            vae = load_autoencoder(WEIGHTS / "mini-autoencoder", dtype=dtype)
            prior = load_prior(WEIGHTS / base, family, prompt_embeds=prompt_embeds, dtype=dtype)
        else:
            prior = load_prior(base, family, prompt=prompt, prompt_embeds=prompt_embeds, **options)
            vae = load_autoencoder(base, subfolder="vae", **options)
        model = cls(vae, prior, timestep)
        model.base, model.revision = Path(base).name if Path(base).is_dir() else base, revision
        return model

    @classmethod
    def full_size(cls, family, timestep, *, device="meta", dtype=torch.bfloat16, seed=0):
        """The un-tuned model at the size of SD-Turbo or SD2.1-base ("ddpm") or FLUX.1-dev ("flow"), without weights.

        On the meta device, to count; on a GPU with random weights from `seed`, to time.
        """
        options = dict(device=device, dtype=dtype, seed=seed)
        return cls(full_size_autoencoder(family, **options), full_size_prior(family, **options), timestep)


def _read_about(folder, *keys):
    """The content of `omgsr.json` in `folder`; `ValueError` if it is no JSON object with `keys`."""
    file = folder / "omgsr.json"
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        missing = [key for key in keys if key not in about]
    except (ValueError, TypeError) as err:
        raise ValueError(f"A model's omgsr.json must be JSON: '{file}' is damaged ({err}). Copy it again.") from err
    if missing:
        raise ValueError(
            f"A model's omgsr.json needs {', '.join(keys)}: '{file}' lacks {', '.join(missing)}. Copy it again."
        )
    return about


def _load_estimator(folder):
    from .adaptive.estimator import load_estimator  # of a class of diffusers, which takes seconds to import

    return load_estimator(folder)
