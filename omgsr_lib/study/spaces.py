"""One table of all latent spaces known: t*, D and where distances are least, on the same pairs of photographs."""

from pathlib import Path

import pandas as pd
import torch

from ..data.pairs import evaluation_pairs
from ..gap import gap_minimum, latent_gap
from ..midstep import snr_mid_timestep
from ..presets import RECIPES
from ..priors.latent_space import load_schedule
from ..priors.latents import encode_latents
from ..priors.loading import WEIGHTS, load_autoencoder
from ..priors.taef2 import load_encoder
from ..report.claims import DISTRIBUTIONS
from ..utils.files import atomic_write


SCHEDULES = {"ddpm": "DDPM", "flow": "flow matching"}
TINY = {"taesd": "Stable Diffusion, tiny (TAESD)", "taef1": "FLUX.1, tiny (TAEF1)"}  # folders in diffusers layout
STEP = 50  # between the timesteps at which distances are measured
PUBLISHED = {"paper": "arXiv 2508.08227v1", "release": "authors' release, October 2025"}


def write_latent_spaces(file, photos, *, spaces=None, size=128, short_side=256):
    """Write the table to `file` (CSV) and return it: a row for each latent space and schedule, then published t*.

    Args:
        photos: paths of photographs, whose centres are degraded as published.
        spaces: folder with what there is of `taef2_encoder.pth` (FLUX.2), `taesd/` and `taef1/`; None for the
            package's own latent space alone.
        size, short_side: in pixels, as in `evaluation_pairs`.

    Columns: space, schedule, timestep (t*), low, high, power (E[z_H^2]), difference (D, mean over pairs), the timestep
    at which each of `DISTRIBUTIONS` is least, source.
    """
    pairs, rows = evaluation_pairs(photos, size, seed=0, short_side=short_side), []
    for name, encode in _encoders(spaces).items():
        with torch.inference_mode():
            lq, hq = (torch.cat([encode(getattr(p, side)[None]) for p in pairs]).float() for side in ("lq", "hq"))
        for family, label in SCHEDULES.items():
            schedule = load_schedule(family)
            mid = snr_mid_timestep(lq, hq, schedule)
            gap = gap_minimum(latent_gap(lq, hq, schedule, [*range(0, 1000, STEP), 999], distances=DISTRIBUTIONS))
            powers = (float(x.mean()) for x in (mid.statistics.power, mid.statistics.difference))
            least = gap.set_index("distance")["timestep"].to_dict()
            about = dict(zip(("low", "high", "power", "difference"), (*mid.interval, *powers), strict=True))
            rows.append(
                dict(space=name, schedule=label, timestep=mid.timestep) | about | least | dict(source="measured")
            )
    frame = pd.concat([pd.DataFrame(rows), _published()], ignore_index=True)
    with atomic_write(Path(file)) as part:
        frame.to_csv(part, index=False, float_format="%.4g")
    return frame


def _encoders(folder):
    """`{name: function}` from pixels `(B, 3, H, W)` in `[-1, 1]` to latents."""
    paths = {"mini (4x4 pixels, 16 channels)": WEIGHTS / "mini-autoencoder"}
    if folder is not None:
        paths |= {label: Path(folder, name) for name, label in TINY.items() if Path(folder, name).is_dir()}
    vaes = {name: load_autoencoder(path) for name, path in paths.items()}
    encoders = {name: lambda pixels, vae=vae: encode_latents(vae, pixels) for name, vae in vaes.items()}
    if folder is not None and Path(folder, "taef2_encoder.pth").is_file():
        encoder = load_encoder(Path(folder))
        encoders["FLUX.2, tiny (TAEF2)"] = lambda pixels: encoder((pixels + 1) / 2)
    return encoders


def _published():
    rows = {
        (chosen.base, SCHEDULES[chosen.family], chosen.timestep, PUBLISHED[preset])
        for (preset, _), chosen in RECIPES.items()
        if preset in PUBLISHED
    }
    return pd.DataFrame(sorted(rows), columns=["space", "schedule", "timestep", "source"])
