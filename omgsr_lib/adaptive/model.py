"""OMGSR with a mid-timestep for each image (beyond the paper)."""

from pathlib import Path

from ..model import OMGSR
from ..priors.latents import encode_latents
from ..priors.loading import save_model
from ..tiling.vae import encode_tiled
from ..utils.device import to_device
from ..utils.files import atomic_folder
from .timesteps import difference_map


class AdaptiveOMGSR(OMGSR):
    """An `OMGSR` whose one encoder serves all timesteps, of which each image has its own.

    `timestep` is the one that its latents are scaled for. `estimator`: the `DifferenceEstimator` that finds the
    timestep of an image, or None.
    """

    def __init__(self, vae, prior, timestep):
        super().__init__(vae, prior, timestep)
        self.estimator = None

    def inject(self, lq_latents, timestep=None):
        """LQ latents carried over to `timestep` (t* by default, an int or `(B,)`) by `alpha_t / alpha_t*`."""
        if timestep is None:
            return lq_latents
        schedule = self.prior.schedule
        gain = schedule.alphas[schedule.expand(timestep, len(lq_latents)).cpu()] / schedule.alphas[self.timestep]
        return lq_latents * to_device(gain.to(lq_latents.dtype), lq_latents.device)[:, None, None, None]

    def difference(self, lq_pixels, *, mode=None, **options):
        """Estimated D of each neighbourhood, `(B, 1, H / f, W / f)`, which the timesteps follow.

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

    def fold(self, *, merge_tokens=True):
        """Raises `ValueError`: a folded prior knows one timestep."""
        raise ValueError(
            "A folded model has one timestep, and an adaptive model takes each image at its own. Leave folding out."
        )

    def save_pretrained(self, folder):
        """See `OMGSR.save_pretrained`; the estimator goes to `estimator/`."""
        with atomic_folder(folder) as part:
            super().save_pretrained(part)
            if self.estimator is not None:
                save_model(self.estimator, part / "estimator")
        return Path(folder)

    def load_estimator(self, folder):
        """Take the estimator in `folder`; returns self."""
        from .estimator import load_estimator  # of a class of diffusers, which takes seconds to import

        self.estimator = load_estimator(folder)
        return self
