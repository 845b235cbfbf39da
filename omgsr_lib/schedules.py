"""Noise schedules: DDPM and flow matching as the same two numbers per timestep.

    z_t = alpha_t * z_0 + sigma_t * eps
    DDPM            alpha = sqrt(abar_t)   sigma = sqrt(1 - abar_t)     model output: epsilon or v
    flow matching   alpha = 1 - sigma_t    sigma = sigma_t              model output: v = eps - z_0

Everything built on a `NoiseSchedule` is written once for both families (OMGSR, section 1: "DDPM/FM-based").
"""

from dataclasses import dataclass

import torch

from .utils.device import to_device


PREDICTION_TYPES = ("epsilon", "v_prediction", "flow_prediction")
FLUX_IMAGE_SEQ_LEN = 4096  # tokens of a 1024 x 1024 image; the published mid-timesteps use it at every size
CHUNK = 2**18  # latent elements whose squares are summed at a time, to stay in the processor's cache


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """`(alpha_t, sigma_t)` of every timestep; index 0 is the cleanest latent, `T - 1` the noisiest.

    Args:
        alphas, sigmas: `(T,)` float64, on the CPU.
        prediction_type: what the denoiser returns: "epsilon", "v_prediction" or "flow_prediction".
        model_timesteps: `(T,)` float64, the denoiser's time input: `t` itself for DDPM, `1000 sigma_t` for flow
            matching (`FluxTransformer2DModel` takes it divided by 1000).
    """

    alphas: torch.Tensor
    sigmas: torch.Tensor
    prediction_type: str
    model_timesteps: torch.Tensor

    def __post_init__(self):
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"prediction_type must be one of {PREDICTION_TYPES}, got {self.prediction_type!r}. "
                "Use a prior that predicts the noise or a velocity."
            )

    @classmethod
    def from_scheduler(cls, scheduler, image_seq_len=None):
        """The schedule of a diffusers scheduler.

        Args:
            scheduler: one with `alphas_cumprod` (DDPM, DDIM, Euler, ...) or a `FlowMatchEulerDiscreteScheduler`.
            image_seq_len: image tokens for which a flow schedule with `use_dynamic_shifting` is shifted, 4096 by
                default. It changes nothing for schedulers without dynamic shifting.

        DDPM tables are the running product of the scheduler's betas in float64. Flow tables are the scheduler's shift
        of `k / (T - 1)`, `k = 0 .. T - 1`: of FLUX's `shift(linspace(1, 0, 1000))` the element `-(k + 1)`. FLUX's mu
        runs linearly from `base_shift` at `base_image_seq_len` to `max_shift` at `max_image_seq_len` tokens.

        Raises `ValueError` for another kind of scheduler, one that predicts neither noise nor velocity, or one whose
        options change the tables in a way not covered here.
        """
        if hasattr(scheduler, "alphas_cumprod"):
            return cls._from_betas(scheduler)
        if hasattr(scheduler, "time_shift"):
            return cls._from_flow(scheduler, FLUX_IMAGE_SEQ_LEN if image_seq_len is None else image_seq_len)
        raise ValueError(
            "A schedule is built from a diffusers scheduler with alphas_cumprod or from a "
            f"FlowMatchEulerDiscreteScheduler: got {type(scheduler).__name__}."
        )

    @classmethod
    def _from_betas(cls, scheduler):
        alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), dim=0)
        if not torch.allclose(alphas_cumprod, scheduler.alphas_cumprod.double(), rtol=0, atol=2e-6):
            raise ValueError(
                f"alphas_cumprod must be the product of 1 - betas: {type(scheduler).__name__} rescales it. "
                "Build the NoiseSchedule from alphas and sigmas."
            )
        timesteps = torch.arange(len(alphas_cumprod), dtype=torch.float64)
        prediction_type = scheduler.config.prediction_type
        if prediction_type == "flow_prediction":
            raise ValueError(
                f"flow_prediction needs a flow-matching schedule: {type(scheduler).__name__} has betas. "
                "Load the prior with FlowMatchEulerDiscreteScheduler."
            )
        return cls(alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt(), prediction_type, timesteps)

    @classmethod
    def _from_flow(cls, scheduler, image_seq_len):
        config = scheduler.config
        options = ("shift_terminal", "invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
        used = [name for name in options if config.get(name)]
        if used:
            raise ValueError(
                f"A flow schedule must be linear up to its shift: got {used[0]}={config[used[0]]}. Switch it off."
            )
        unshifted = torch.arange(config.num_train_timesteps, dtype=torch.float64) / (config.num_train_timesteps - 1)
        if config.use_dynamic_shifting:
            slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
            mu = config.base_shift + slope * (image_seq_len - config.base_image_seq_len)
            sigmas = scheduler.time_shift(mu, 1.0, unshifted)
        else:
            sigmas = scheduler.shift * unshifted / (1 + (scheduler.shift - 1) * unshifted)
        return cls(1 - sigmas, sigmas, "flow_prediction", sigmas * config.num_train_timesteps)

    def snr(self):
        """Signal-to-noise ratio `alpha_t^2 / sigma_t^2`, `(T,)` float64, falling; `inf` where `sigma_t = 0`."""
        return (self.alphas / self.sigmas) ** 2

    def add_noise(self, latents, noise, t):
        """Noisy latents `alpha_t z_0 + sigma_t eps`.

        Args:
            latents, noise: `(B, ...)` of one shape.
            t: integer timestep, or a `(B,)` integer tensor: one timestep per image.

        The result has the dtype and device of `latents`; it is computed in float32 at least.
        Raises `ValueError` if shapes differ or `t` is no timestep of this schedule.
        """
        alphas, sigmas = self._coefficients(latents, noise, t)
        return (alphas * latents + sigmas * noise).to(latents.dtype)

    def predict_clean(self, latents, output, t):
        """The clean latents that a denoiser's `output` at `(latents, t)` stands for (OMGSR's one-step prediction).

        epsilon: `(z - sigma eps) / alpha`; v_prediction: `alpha z - sigma v` (both as `pred_original_sample` of
        diffusers' `DDPMScheduler`); flow_prediction: `z - sigma v` (one Euler step to sigma 0).
        Arguments, precision and errors as in `add_noise`.
        """
        alphas, sigmas = self._coefficients(latents, output, t)
        if self.prediction_type == "epsilon":
            clean = (latents - sigmas * output) / alphas
        elif self.prediction_type == "v_prediction":
            clean = alphas * latents - sigmas * output
        else:
            clean = latents - sigmas * output
        return clean.to(latents.dtype)

    def nearest_timestep(self, snr):
        """The timestep whose SNR is nearest, in `|SNR_t - snr|`, to each element of `snr`.

        Args:
            snr: number, array or tensor of any shape, not negative; `inf` gives timestep 0.

        Returns an int64 tensor of that shape, on the CPU; of two timesteps equally near the cleaner (smaller) one.
        Raises `ValueError` if a value is negative or NaN.
        """
        snr = torch.as_tensor(snr, dtype=torch.float64, device="cpu")
        if not (snr >= 0).all():  # also true for NaN
            raise ValueError(f"An SNR must not be negative or NaN: got {float(snr[~(snr >= 0)][0])}.")
        rising = self.snr().flip(0)
        above = torch.searchsorted(rising, snr).clamp(1, len(rising) - 1)
        nearer_below = snr - rising[above - 1] < (rising[above] - snr).abs()
        return len(rising) - 1 - torch.where(nearer_below, above - 1, above)

    def expand(self, t, batch_size):
        """`t`, an integer or a `(batch_size,)` integer tensor, as int64 timesteps `(batch_size,)` on `t`'s device.

        Raises `ValueError` unless `t` has one of these forms and lies in `0 .. T - 1`.
        """
        timesteps = torch.as_tensor(t)
        if timesteps.is_floating_point() or timesteps.dtype == torch.bool:
            raise ValueError(f"A timestep is an integer index: got {t!r}. Find one with nearest_timestep.")
        if timesteps.shape not in ((), (batch_size,)):
            raise ValueError(
                f"Timesteps must be one integer or one per image, ({batch_size},): got shape {tuple(timesteps.shape)}."
            )
        outside = timesteps[(timesteps < 0) | (timesteps >= len(self.alphas))]
        if outside.numel():
            raise ValueError(f"A timestep must lie in 0 .. {len(self.alphas) - 1}: got {int(outside[0])}.")
        return timesteps.long().expand(batch_size)

    def _coefficients(self, latents, other, t):
        if latents.shape != other.shape:
            raise ValueError(
                f"Latents and noise or model output must have one shape: got {tuple(latents.shape)} and "
                f"{tuple(other.shape)}."
            )
        timesteps = self.expand(t, latents.shape[0]).cpu()
        shape = (-1,) + (1,) * (latents.ndim - 1)
        dtype = torch.promote_types(latents.dtype, torch.float32)
        tables = (self.alphas[timesteps], self.sigmas[timesteps])
        return [to_device(table.view(shape).to(dtype), latents.device) for table in tables]


def snr_targets(difference, schedule):
    """The `alpha_t^2 / sigma_t^2` that pairs ask for, `1 / D` `(N,)`, of their `D = E[(z_L - z_H)^2]` `(N,)`.

    Where that is infinite, as of identical pairs, it is the finite ratio of the cleanest timestep.
    """
    ratios, targets = schedule.snr(), 1 / difference
    return torch.where(torch.isinf(targets), ratios[torch.isfinite(ratios)].max(), targets)


def pair_power(lq_latents, hq_latents):
    """What the SNR of an LQ latent needs to know of each pair: `SNR(z_L) = E[z_H^2] / E[(z_L - z_H)^2]`.

    Args:
        lq_latents, hq_latents: finite float tensors `(N, C, H, W)` of one shape, `N >= 1`; no HQ latent all zero.

    Returns `E[z_H^2]` and `E[(z_L - z_H)^2]`, each `(N,)`, summed in float64, on the CPU.
    Raises `ValueError` otherwise.
    """
    shapes = f"got {tuple(lq_latents.shape)} and {tuple(hq_latents.shape)}"
    if lq_latents.shape != hq_latents.shape or lq_latents.ndim != 4:
        raise ValueError(f"LQ and HQ latents must both be (N, C, H, W) of one shape: {shapes}. Encode them in pairs.")
    if lq_latents.numel() == 0:
        raise ValueError(f"At least one pair of latents is needed: {shapes}.")
    dtype = torch.promote_types(lq_latents.dtype, torch.float32)
    lq_latents, hq_latents = (latents.detach().cpu().flatten(1) for latents in (lq_latents, hq_latents))
    elements = hq_latents.shape[1]
    pairs = max(1, CHUNK // elements)
    norms = []
    for lq, hq in zip(lq_latents.split(pairs), hq_latents.split(pairs), strict=True):
        hq = hq.to(dtype)
        norms.append(torch.stack([torch.linalg.vector_norm(x, dim=1, dtype=torch.float64) for x in (hq, lq - hq)]))
    power, difference = torch.cat(norms, dim=1) ** 2 / elements
    wrong = ~(torch.isfinite(power) & torch.isfinite(difference) & (power > 0))
    if wrong.any():
        index = int(wrong.nonzero()[0])
        raise ValueError(
            f"Latents must be finite and an HQ latent not all zero: pair {index} has E[z_H^2] = {power[index]:g}, "
            f"E[(z_L - z_H)^2] = {difference[index]:g}. Remove it or encode it anew."
        )
    return power, difference
