"""The latent gap: how far the LQ latents are from the noisy latents of the prior, timestep by timestep.

OMGSR's observation is that noisy latents of a middle timestep are closest to LQ latents. What "close" means is a
choice, so several distances are offered, of three kinds:

    of powers           snr                     the rule that sets the mid-timestep
    of distributions    sliced_wasserstein, frechet, power_spectrum
    of pairs            paired_mse, mse_difference, absolute_difference

They need not agree: a variance-preserving DDPM adds variance that LQ latents lack, so there the distances of
distributions may be least at the clean end, whereas flow matching shrinks the signal and has a minimum between.
"""

import numpy as np
import pandas as pd
import torch

from .schedules import pair_power, snr_targets


DISTANCES = (
    "snr",
    "sliced_wasserstein",
    "frechet",
    "power_spectrum",
    "paired_mse",
    "mse_difference",
    "absolute_difference",
)
PROJECTIONS = 64  # random directions of the sliced Wasserstein distance
SEED = 2508  # of the noise, if no generator is given


@torch.no_grad()
def latent_gap(lq_latents, hq_latents, schedule, timesteps, *, distances=DISTANCES, generator=None):
    """Distance between LQ latents and the noisy latents of the same images, for each timestep.

    Args:
        lq_latents, hq_latents: `(N, C, H, W)` latents by the same untrained autoencoder.
        schedule: the `NoiseSchedule` of the prior.
        timesteps: integers; at each, `z_t` is made, measured and dropped, so memory does not grow with their number.
        distances: names out of `DISTANCES`.
        generator: of the noise and the projections, on the CPU; one of seed 2508 by default. Noise and projections
            are drawn once and used at all timesteps, so that a curve shows the schedule and not the draw.

    Returns a data frame `timestep, alpha, sigma, distance, value`, one row per timestep and distance.
    Raises `ValueError` for an unknown distance, no timestep or one out of range, and as `pair_power`.
    """
    unknown = [name for name in distances if name not in DISTANCES]
    if unknown or not distances:
        raise ValueError(f"distances must be names out of {DISTANCES}, got {distances!r}.")
    timesteps = list(timesteps)
    if not timesteps:
        raise ValueError("A gap needs at least one timestep: got none. Pass for instance range(0, 1000, 25).")
    timesteps = schedule.expand(timesteps, len(timesteps)).tolist()
    powers = pair_power(lq_latents, hq_latents)

    dtype = torch.promote_types(hq_latents.dtype, torch.float32)
    lq, hq = lq_latents.cpu().to(dtype), hq_latents.cpu().to(dtype)
    generator = torch.Generator().manual_seed(SEED) if generator is None else generator
    noise = torch.randn(hq.shape, dtype=dtype, generator=generator)
    directions = random_directions(hq.shape[1], PROJECTIONS, generator)
    measures = {
        "snr": lambda noisy, t: snr_difference(*powers, schedule, t),
        "sliced_wasserstein": lambda noisy, t: sliced_wasserstein(noisy, lq, directions),
        "frechet": lambda noisy, t: frechet_distance(noisy, lq),
        "power_spectrum": lambda noisy, t: power_spectrum_distance(noisy, lq),
        "paired_mse": lambda noisy, t: paired_mse(noisy, lq),
        "mse_difference": lambda noisy, t: mse_difference(noisy, lq, hq),
        "absolute_difference": lambda noisy, t: absolute_difference(noisy, lq, hq),
    }

    rows = []
    for t in timesteps:
        noisy = schedule.add_noise(hq, noise, t)
        coefficients = float(schedule.alphas[t]), float(schedule.sigmas[t])
        rows += [(t, *coefficients, name, measures[name](noisy, t)) for name in distances]
        del noisy
    return pd.DataFrame(rows, columns=["timestep", "alpha", "sigma", "distance", "value"])


def gap_minimum(frame):
    """Where each curve of a `latent_gap` frame is least, and how it compares with both ends.

    Returns a data frame with a row per distance: `distance, timestep, alpha, sigma, value` at the minimum (of equal
    values the cleanest), and `clean_value`, `noisy_value` at the smallest and the largest timestep of the frame.
    """
    rows = []
    for name, curve in frame.groupby("distance", sort=False):
        curve = curve.sort_values("timestep")
        least = curve.loc[curve["value"].idxmin()]
        clean, noisy = curve["value"].iloc[[0, -1]]
        rows.append((name, int(least.timestep), least.alpha, least.sigma, least.value, clean, noisy))
    columns = ["distance", "timestep", "alpha", "sigma", "value", "clean_value", "noisy_value"]
    return pd.DataFrame(rows, columns=columns)


def snr_difference(power, difference, schedule, timestep):
    """Mean `|SNR(z_t) - SNR(z_L)|` of pairs with `E[z_H^2]`, `E[(z_L - z_H)^2]` (see `pair_power`).

    Of identical pairs see `snr_targets`. `inf` at sigma 0.
    """
    excess = schedule.snr()[timestep] - snr_targets(difference, schedule)
    return float((power * excess.abs()).mean())


def random_directions(channels, count, generator):
    """`(channels, count)` float32 unit vectors, uniform on the sphere."""
    directions = torch.randn(channels, count, generator=generator)
    return directions / directions.norm(dim=0)


def sliced_wasserstein(first, second, directions):
    """Sliced 2-Wasserstein distance between the channel vectors of two sets of latents `(N, C, H, W)`.

    Each position of each latent is one sample. Along each of the `(C, K)` unit `directions` the squared distance of
    the projections is the mean square of their sorted differences; the root of its mean over directions is returned
    (Bonneel et al. 2015).
    """
    first, second = (_channel_vectors(latents) for latents in (first, second))
    total = 0.0
    for direction in directions.to(first.dtype).T:
        # NumPy's vectorised sort is some 25 times faster than torch's on a CPU.
        sorted_pair = [np.sort((vectors @ direction).numpy()) for vectors in (first, second)]
        total += np.mean(np.square(sorted_pair[0] - sorted_pair[1]), dtype=np.float64)
    return float(np.sqrt(total / directions.shape[1]))


def frechet_distance(first, second):
    """Frechet distance between Gaussians fitted to the channel vectors of two sets of latents `(N, C, H, W)`.

    `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`, the form of the FID, in float64 (Dowson and Landau 1982).
    """
    (mean1, cov1), (mean2, cov2) = (_moments(latents) for latents in (first, second))
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    trace_of_root = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * trace_of_root
    return float(distance.clamp(min=0))


def power_spectrum_distance(first, second):
    """Mean absolute difference of the log radial power spectra of two sets of latents `(N, C, H, W)`, in nats.

    Per channel and whole-number radius up to Nyquist of the shorter side, the power is averaged over latents and ring.
    """
    tiny = torch.finfo(torch.float32).tiny
    logs = [radial_power_spectrum(latents).clamp(min=tiny).log() for latents in (first, second)]
    return float((logs[0] - logs[1]).abs().mean())


def radial_power_spectrum(latents):
    """Power `(C, R)`, float64, of latents `(N, C, H, W)` at radius 0 to R - 1, in periods per shorter side.

    Averaged over latents and over each ring; white noise of variance `a` has power `a` everywhere.
    """
    height, width = latents.shape[-2:]
    power = torch.zeros(latents.shape[1:], dtype=torch.float64)
    for latent in latents:
        power += torch.fft.fft2(latent, norm="ortho").abs().square()
    power /= len(latents)
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    side = min(height, width)
    radius = (frequency * side).round().long().flatten()
    inside = radius <= side // 2
    rings = torch.zeros(len(power), side // 2 + 1, dtype=torch.float64)
    rings.index_add_(1, radius[inside], power.flatten(1)[:, inside])
    return rings / radius[inside].bincount()


def paired_mse(noisy, lq):
    """`E[(z_t - z_L)^2]` over all elements."""
    return float((noisy - lq).square().mean(dtype=torch.float64))


def mse_difference(noisy, lq, hq):
    """Mean over pairs of `|MSE(z_t, z_H) - MSE(z_L, z_H)|`: the authors' rule of August 21, 2025."""
    noisy_mse, lq_mse = ((latents - hq).square().flatten(1).mean(1, dtype=torch.float64) for latents in (noisy, lq))
    return float((noisy_mse - lq_mse).abs().mean())


def absolute_difference(noisy, lq, hq):
    """`MSE(|z_t - z_H|, |z_L - z_H|)` over all elements: the authors' rule of August 26, 2025."""
    return float(((noisy - hq).abs() - (lq - hq).abs()).square().mean(dtype=torch.float64))


def _channel_vectors(latents):
    return latents.movedim(1, -1).reshape(-1, latents.shape[1])


def _moments(latents):
    vectors = _channel_vectors(latents).double()
    mean = vectors.mean(0)
    centred = vectors - mean
    return mean, centred.T @ centred / (len(vectors) - 1)
