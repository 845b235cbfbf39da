"""Pairs of photographs through a latent space or a model: latents, pictures, scores."""

from functools import partial

import pandas as pd
import torch
from PIL import Image

from .data.degradation import Degradation, random_dial
from .data.pairs import Pairs
from .data.photo_pairs import PhotoPairs
from .data.photos import to_pixels
from .files import verify_hashes
from .metrics.evaluate import evaluate_images
from .metrics.measures import checkerboard, psnr_rgb, seam_energy, seam_lines
from .presets import FAMILIES, PACKAGED_PRIORS, RECIPES, TINY_AUTOENCODERS, recipe
from .priors.latents import compression, decode_latents, encode_latents
from .priors.loading import WEIGHTS, load_autoencoder
from .priors.tiny import tiny_autoencoder
from .restore import restore
from .schedules import NoiseSchedule
from .tiling import plan_tiles


def preset_recipe(preset, variant, **changes):
    """The recipe of a preset's variant "s" or "f" (the first resolution listed), with `changes`."""
    for name, part in RECIPES:
        if name == preset and part[0] == variant:
            return recipe(preset, part, **changes)
    raise ValueError(f"A preset with recipes must be one of {sorted({name for name, _ in RECIPES})}: got {preset!r}.")


def latent_space(preset, variant):
    """The frozen autoencoder and the `NoiseSchedule` of a preset's variant ("s": DDPM, "f": flow matching).

    Preset `latents` takes the tiny autoencoders of Stable Diffusion and FLUX.1 from the hub and the models' schedules.
    """
    if preset == "latents":
        return load_latent_space(TINY_AUTOENCODERS[variant], FAMILIES[variant])
    chosen = preset_recipe(preset, variant)
    if ships(chosen):
        return load_latent_space("tiny" if chosen.base == "tiny" else "mini", chosen.family)
    vae = load_autoencoder(chosen.base, subfolder="vae", revision=chosen.revision)
    return vae, load_schedule(chosen.family)


def load_latent_space(name, family):
    """Autoencoder `name` with the schedule of `family` ("ddpm": Stable Diffusion's, "flow": FLUX's).

    `name`: "mini" (ships with the package), "tiny" (random), a folder or a hub id of any diffusers autoencoder.
    """
    if name == "tiny":
        return tiny_autoencoder(), load_schedule(family)
    if name == "mini":
        verify_hashes(WEIGHTS)
        name = WEIGHTS / "mini-autoencoder"
    return load_autoencoder(name), load_schedule(family)


def load_schedule(family):
    """The schedule of Stable Diffusion ("ddpm") or of FLUX.1-dev at 1024 pixels ("flow"), without a download."""
    from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

    if family == "ddpm":
        scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    elif family == "flow":
        scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    else:
        raise ValueError(f"family must be 'ddpm' or 'flow', got {family!r}.")
    return NoiseSchedule.from_scheduler(scheduler)


def training_dataset(paths, recipe, *, seed, synthetic=0, portraits=()):
    """Training pairs at the recipe's size: crops of small pyramids held in memory for the priors of this package, else
    crops of photographs at their own size, opened one at a time (`PhotoPairs`, to which `portraits` go too).
    """
    if ships(recipe):
        settings = partial(random_dial, seed=seed) if recipe.dial else None
        options = dict(seed=seed, scale=recipe.scale, synthetic=synthetic, settings=settings)
        return Pairs(paths, recipe.resolution, **options)
    settings = Degradation.for_size(recipe.resolution)
    return PhotoPairs(paths, recipe.resolution, seed=seed, scale=recipe.scale, settings=settings, portraits=portraits)


def ships(recipe):
    """Whether the recipe's base comes with this package (presets `mini` and `smoke`)."""
    return recipe.base in (*PACKAGED_PRIORS, "tiny")


@torch.no_grad()
def encode_pairs(vae, pairs):
    """LQ and HQ latents of `EvaluationPair`s, one picture at a time."""
    lq = [encode_latents(vae, pair.lq[None])[0] for pair in pairs]
    hq = [encode_latents(vae, pair.hq[None])[0] for pair in pairs]
    return torch.stack(lq), torch.stack(hq)


@torch.no_grad()
def decoded_noisy_latents(vae, schedule, hq_latents, timesteps, *, seed=0):
    """Pictures `(3, H, W)` in `[-1, 1]` of the noisy latents of one photograph `(C, h, w)`, one per timestep."""
    noise = torch.randn(hq_latents.shape, generator=torch.Generator().manual_seed(seed))
    noisy = [schedule.add_noise(hq_latents[None], noise[None], timestep) for timestep in timesteps]
    return [decode_latents(vae, latents)[0].clamp(-1, 1) for latents in noisy]


@torch.inference_mode()
def restored_pairs(model, pairs, *, timestep=None, seed=None, batch_size=4):
    """The model's pictures of `EvaluationPair`s, a list of `(3, H, W)` in `[-1, 1]` rounded to 8 bits like a file.

    `timestep`: None for the model's, an int, or `(n,)` with one for each pair.
    `seed`: None for the mean of the encoder's posterior, else that of its samples.
    """
    device = next(model.parameters()).device
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    parts = torch.stack([pair.lq for pair in pairs]).split(batch_size)
    each = torch.is_tensor(timestep) and timestep.ndim
    timesteps = timestep.split(batch_size) if each else [timestep] * len(parts)
    images = [
        model(part.to(device), t, generator=generator).images.float().cpu()
        for part, t in zip(parts, timesteps, strict=True)
    ]
    images = torch.cat(images)
    return list(((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1)


def compare_tilings(model, image, tile, *, scale=4):
    """One picture restored in one pass and in tiles of `tile` pixels of several layouts.

    Returns a data frame and the PIL pictures by name, "one pass" first. Columns: tiling, tiles, overdraw (area of all
    tiles over that of the picture), seconds of the prediction, psnr to one pass (dB), seam and seam_one_pass (the seam
    meter at the borders of the tiles, in this picture and in that of one pass), line and line_one_pass (likewise how
    far lines along the borders stand out, in levels of 255), checkerboard (dB at 8 pixels).
    """
    layouts = {  # planner, overlap in pixels, window
        "no overlap": ("published", 0, "gaussian"),
        "published": ("published", tile // 2, "gaussian"),
        "smallest": ("smallest", None, "gaussian"),
        "smallest, cosine": ("smallest", None, "cosine"),
        "smallest, ramp": ("smallest", None, "ramp"),
    }
    whole = restore(model, image, scale=scale, progress=False)
    pictures, expected = {"one pass": whole.images[0]}, to_pixels(whole.images[0])[None]
    enlarged = to_pixels(image.resize(whole.images[0].size, Image.BICUBIC))[None]
    rows = [{"tiling": "one pass", "tiles": 1, "overdraw": 1.0, "seconds": whole.seconds["predict"]}]
    for name, (planner, overlap, window) in layouts.items():
        layout = dict(tile=tile, overlap=overlap, planner=planner, window=window)
        result = restore(model, image, scale=scale, progress=False, **layout)
        pictures[name], pixels = result.images[0], to_pixels(result.images[0])[None]
        plan, borders = tile_borders(model, pictures[name].size, tile, overlap, planner=planner)
        row = {"tiling": name, "tiles": len(plan.slices()), "overdraw": plan.overdraw}
        row |= {"seconds": result.seconds["predict"], "psnr": psnr_rgb(pixels, expected).item()}
        row |= {"seam": seam_energy(pixels, *borders).item(), "seam_one_pass": seam_energy(expected, *borders).item()}
        lines = [seam_lines(x, enlarged, *borders)[0].item() for x in (pixels, expected)]
        rows.append(row | dict(zip(("line", "line_one_pass"), lines, strict=True)))
    grids = [checkerboard(to_pixels(picture)[None]).item() for picture in pictures.values()]
    return pd.DataFrame(rows).assign(checkerboard=grids), pictures


def tile_borders(model, size, tile, overlap=None, *, planner="smallest"):
    """`(plan, borders)` of a restored picture of `size` (width, height) in tiles of at most `tile` pixels.

    The `TilePlan` of its latents, and the rows and columns in pixels where two tiles weigh the same.
    """
    factor = compression(model.vae)
    height, width = (-(-side // model.multiple) * model.multiple // factor for side in reversed(size))
    overlap = overlap if overlap is None else overlap // factor
    plan = plan_tiles(height, width, tile // factor, overlap, planner=planner, multiple=model.prior.latent_multiple)
    return plan, [[factor * seam for seam in seams] for seams in plan.seams()]


def prediction_tiles(model, height, width, tile):
    """The tiles in which `restore_array` predicts a picture of `height` x `width` pixels, of at most `tile` pixels.

    A data frame with a row per tile: left, top, right, bottom in pixels, cut at the picture's edge.
    """
    plan, _ = tile_borders(model, (width, height), tile)
    rows = [(x.start, y.start, x.stop, y.stop) for y, x in plan.slices()]
    frame = pd.DataFrame(rows, columns=["left", "top", "right", "bottom"]) * compression(model.vae)
    return frame.assign(right=frame["right"].clip(upper=width), bottom=frame["bottom"].clip(upper=height))


def score_pairs(restored, pairs, *, method, metrics, weights=None):
    """Long data frame (method, image, metric, value, ...) of restored pictures against the photographs."""
    frame = evaluate_images(
        restored, [pair.hq for pair in pairs], metrics, [pair.name for pair in pairs], weights=weights
    )
    frame.insert(0, "method", method)
    return frame
