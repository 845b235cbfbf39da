"""A third prior is one class and one row: it trains, restores, is saved and loaded, and has a mid-timestep."""

from dataclasses import replace

import pytest
import torch
from diffusers import ConfigMixin, DDPMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from omgsr_lib import OMGSR, NoiseSchedule, restore, snr_mid_timestep
from omgsr_lib.data.photos import to_image
from omgsr_lib.presets import recipe
from omgsr_lib.priors import PRIORS
from omgsr_lib.training.loop import train


class Pairs:
    """Endless random images and their halves in contrast."""

    def __getitem__(self, index):
        hq = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(index)) * 2 - 1
        return {"lq": hq / 2, "hq": hq}

    def describe(self):
        return "random images"


class Convolutions(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, channels=4):
        super().__init__()
        self.first, self.last = (nn.Conv2d(*sides, 3, padding=1) for sides in ((channels + 1, 16), (16, channels)))


class ConvolutionalPrior(nn.Module):
    family, subfolder, prompt_tensors = "third", "convolutions", ()
    latent_multiple, rim, clamps_images, prediction_type = 1, 2, True, "v_prediction"
    autoencoder_class = "AutoencoderKL"
    lora_targets, adapter_folders = ["first", "last"], ("third_adapter", "encoder_adapter")

    def __init__(self, denoiser, scheduler):
        super().__init__()
        self.denoiser, self.scheduler = denoiser, scheduler
        self.schedule = NoiseSchedule.from_scheduler(scheduler)

    def forward(self, latents, timestep):
        sigmas = self.schedule.sigmas[self.schedule.expand(timestep, len(latents))].to(latents)
        level = sigmas[:, None, None, None].expand(-1, 1, *latents.shape[2:])
        return self.denoiser.last(self.denoiser.first(torch.cat([latents, level], dim=1)).relu())

    @staticmethod
    def classes():
        return Convolutions, DDPMScheduler

    @classmethod
    def tiny(cls, seed=0):
        torch.manual_seed(seed)
        scheduler = DDPMScheduler(100, beta_schedule="squaredcos_cap_v2", prediction_type=cls.prediction_type)
        return cls(Convolutions(), scheduler)


def test_a_third_prior_is_one_class_and_one_row(tmp_path, monkeypatch):
    monkeypatch.setitem(PRIORS, ConvolutionalPrior.family, ConvolutionalPrior)
    chosen = replace(recipe("smoke", "s"), family="third", timestep=29)
    model = OMGSR.from_recipe(chosen).add_adapters(chosen.vae_rank, chosen.denoiser_rank)
    before = {name: value.clone() for name, value in model.trainable_parameters().items()}
    train(model, Pairs(), chosen, tmp_path / "run", progress=False)
    assert not any(torch.equal(value, before[name]) for name, value in model.trainable_parameters().items())

    folder = model.save_pretrained(tmp_path / "model")
    loaded = OMGSR.from_pretrained(folder)
    assert isinstance(loaded.prior, ConvolutionalPrior) and loaded.timestep == 29
    assert {"convolutions", *ConvolutionalPrior.adapter_folders} < {path.name for path in folder.iterdir()}
    image = to_image(Pairs()[0]["lq"][:, :16, :16])
    first, second = (restore(each, image, scale=4, progress=False).images[0] for each in (model, loaded))
    assert first.size == (64, 64) and first.tobytes() == second.tobytes()

    hq = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mid, schedule = snr_mid_timestep(hq + 0.5, hq, loaded.prior.schedule), loaded.prior.schedule
    assert float(schedule.sigmas[mid.timestep] / schedule.alphas[mid.timestep]) == pytest.approx(0.5, rel=0.03)
