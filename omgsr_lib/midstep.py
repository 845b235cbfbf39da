"""The mid-timestep: where a noisy latent of the clean image is as noisy as the LQ latent is wrong.

    SNR(z_t) = E[z_H^2] alpha_t^2 / sigma_t^2        SNR(z_L) = E[z_H^2] / E[(z_L - z_H)^2]
    t* = argmin_t (1/N) sum_i |SNR(z_t^i) - SNR(z_L^i)|

(OMGSR, the pre-computation of the revised paper.) With power E_i = E[z_H^2], difference D_i = E[(z_L - z_H)^2] and
r_t = alpha_t^2 / sigma_t^2 the summand is E_i |r_t - 1/D_i|: convex in r_t and least at the E_i-weighted median of
1/D_i. So two numbers per pair replace the scan over all timesteps: they can be gathered in batches and on several
machines, and serve any schedule afterwards.

An identical pair (D_i = 0) has an infinite SNR. It asks for the cleanest timestep with a finite SNR instead, which
drops an infinite constant from the objective and leaves t* as it is.
"""

from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd
import torch

from .schedules import NoiseSchedule, pair_power, snr_targets


RESAMPLES = 1000  # of the bootstrap
BLOCK = 2_000_000  # resampled pairs held at a time
TIE = 1e-12  # relative difference below which two timesteps are equally good: the smaller is taken
SEED = 2508  # of the noise of the historic rules, if no generator is given
HISTORIC_RULES = ("mse_difference", "absolute_difference")


def snr_mid_timestep(lq_latents, hq_latents, schedule, *, seed=0):
    """The timestep at which to inject LQ latents, by the SNR rule.

    Args:
        lq_latents, hq_latents: `(N, C, H, W)` latents of the same images, by the same *untrained* autoencoder.
        schedule: the `NoiseSchedule` of the prior.
        seed: of the bootstrap behind `.interval`.

    Returns a `MidTimestep`, equal to the scan over all timesteps. Raises `ValueError` as `pair_power`.
    """
    return SNRStatistics().update(lq_latents, hq_latents).mid_timestep(schedule, seed=seed)


@dataclass(eq=False)
class SNRStatistics:
    """The two numbers per pair that decide the mid-timestep; gather them with `update` and `merge`.

    Args:
        power: `(N,)` float64, `E[z_H^2]` of each pair.
        difference: `(N,)` float64, `E[(z_L - z_H)^2]` of each pair.
    """

    power: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    difference: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))

    def update(self, lq_latents, hq_latents):
        """Append a batch of pairs `(N, C, H, W)`; returns self. Raises `ValueError` as `pair_power`."""
        return self.merge(SNRStatistics(*pair_power(lq_latents, hq_latents)))

    def merge(self, other):
        """Append the pairs of `other`, as gathered elsewhere; returns self."""
        self.power = torch.cat([self.power, other.power])
        self.difference = torch.cat([self.difference, other.difference])
        return self

    def mid_timestep(self, schedule, *, seed=0):
        """The `MidTimestep` of all pairs for `schedule`. Raises `ValueError` if there is no pair yet."""
        if not len(self.power):
            raise ValueError("A mid-timestep needs at least one pair: got none. Call update(lq, hq) first.")
        target, order = snr_targets(self.difference, schedule).sort()
        timestep = _weighted_median_timestep(self.power[order][None], target, schedule)
        per_image = schedule.nearest_timestep(snr_targets(self.difference, schedule))
        return MidTimestep(int(timestep), per_image, SNRStatistics(self.power, self.difference), schedule, seed)

    def objective(self, schedule):
        """`(1/N) sum_i |SNR(z_t^i) - SNR(z_L^i)|` for every timestep, `(T,)` float64; `inf` where `sigma_t = 0`."""
        target = snr_targets(self.difference, schedule)
        return torch.stack([(self.power * (ratio - target).abs()).mean() for ratio in schedule.snr()])

    def bootstrap(self, schedule, *, seed=0):
        """Mid-timesteps `(1000,)` of as many resamples of the pairs; the order of the pairs does not matter."""
        target, order = snr_targets(self.difference, schedule).sort()
        power, count = self.power[order], len(order)
        generator = torch.Generator().manual_seed(seed)
        rows = max(1, BLOCK // count)
        timesteps = []
        for start in range(0, RESAMPLES, rows):
            drawn = torch.randint(count, (min(rows, RESAMPLES - start), count), generator=generator)
            times = torch.zeros(drawn.shape, dtype=torch.float64)
            times.scatter_add_(1, drawn, torch.ones_like(times))
            timesteps.append(_weighted_median_timestep(times * power, target, schedule))
        return torch.cat(timesteps)


@dataclass(frozen=True, eq=False)
class MidTimestep:
    """The result of the SNR rule.

    Attributes:
        timestep: t*, the timestep of all pairs together.
        per_image: `(N,)` int64, the timestep nearest in SNR to each pair's own LQ latent.
        interval: `(low, high)`, the 95 % bootstrap interval of `timestep` over the pairs; computed when asked for.
        statistics: the `SNRStatistics` behind it.
    """

    timestep: int
    per_image: torch.Tensor = field(repr=False)
    statistics: SNRStatistics = field(repr=False)
    schedule: NoiseSchedule = field(repr=False)
    seed: int = 0

    @cached_property
    def interval(self):
        timesteps = self.statistics.bootstrap(self.schedule, seed=self.seed).double()
        low = torch.quantile(timesteps, 0.025, interpolation="lower")
        high = torch.quantile(timesteps, 0.975, interpolation="higher")
        return int(low), int(high)

    def curve(self):
        """Data frame `timestep`, `objective` of every timestep; see `SNRStatistics.objective`."""
        return _curve(self.statistics.objective(self.schedule))


@torch.no_grad()
def historic_mid_timestep(lq_latents, hq_latents, schedule, rule, *, noise=None, generator=None):
    """The mid-timestep by one of the two rules that came before the SNR rule, from one noise draw.

    Args:
        lq_latents, hq_latents: `(N, C, H, W)`, computed with in float32 at least.
        rule: "mse_difference" (August 21, 2025), the least mean over pairs of `|MSE(z_t, z_H) - MSE(z_L, z_H)|`, or
            "absolute_difference" (August 26, 2025), the least `MSE(|z_t - z_H|, |z_L - z_H|)` over all elements.
        noise: `(N, C, H, W)` for `z_t`; drawn from `generator` (by default one of seed 2508) if not given.

    Returns `(timestep, curve)`, the curve a data frame `timestep`, `objective`; of equal timesteps the smallest.
    Raises `ValueError` for another rule, and as `pair_power`.
    """
    if rule not in HISTORIC_RULES:
        raise ValueError(f"rule must be one of {HISTORIC_RULES}, got {rule!r}. The SNR rule is snr_mid_timestep.")
    _, difference = pair_power(lq_latents, hq_latents)
    if noise is None:
        generator = torch.Generator().manual_seed(SEED) if generator is None else generator
        noise = torch.randn(hq_latents.shape, generator=generator)
    dtype = torch.promote_types(hq_latents.dtype, torch.float32)
    lq_latents, hq_latents = lq_latents.to(dtype), hq_latents.to(dtype)
    noise = noise.to(hq_latents)
    lq_error = (lq_latents - hq_latents).abs()
    objective = []
    for timestep in range(len(schedule.alphas)):
        error = (schedule.add_noise(hq_latents, noise, timestep) - hq_latents).abs()
        if rule == "mse_difference":
            mse = error.square().flatten(1).mean(1, dtype=torch.float64).cpu()
            objective.append((mse - difference).abs().mean())
        else:
            objective.append((error - lq_error).square().mean(dtype=torch.float64).cpu())
    objective = torch.stack(objective)
    return int(objective.argmin()), _curve(objective)


def _weighted_median_timestep(weights, target, schedule):
    """For each row of `weights (R, N)` the timestep with the least `sum_i w_i |r_t - target_i|`; `target` rising."""
    ratios = schedule.snr()
    rising = ratios[torch.isfinite(ratios)].flip(0)
    cumulative = weights.cumsum(1)
    total = cumulative[:, -1:]
    index = torch.searchsorted(cumulative, total / 2 * (1 + TIE), right=True).squeeze(1)
    # The median lies between two grid points; the nearer need not win. Their objectives are compared term by term:
    # |above - x| - |below - x| is a clamped line in x, so that far-off targets cancel exactly.
    upper = torch.searchsorted(rising, target[index.clamp(max=len(target) - 1)]).clamp(1, len(rising) - 1)
    above, below = rising[upper][:, None], rising[upper - 1][:, None]
    step = above - below
    excess = (weights * torch.minimum(torch.maximum(above + below - 2 * target, -step), step)).sum(1)
    lower_wins = excess > TIE * (total * step).squeeze(1)
    return len(ratios) - 1 - torch.where(lower_wins, upper - 1, upper)


def _curve(objective):
    return pd.DataFrame({"timestep": range(len(objective)), "objective": objective.numpy()})
