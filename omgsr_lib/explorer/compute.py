"""Compute what the explorer shows: frames of photographs, degraded and injected at many timesteps."""

import copy
import math
import tempfile
import threading
from pathlib import Path, PurePath

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ..adaptive.model import AdaptiveOMGSR
from ..adaptive.timesteps import shifted_timesteps
from ..data.degradation import STRENGTHS, Degradation, degrade
from ..data.pairs import EvaluationPair
from ..data.photos import find_photos, open_photo, packaged_photos, to_image, to_pixels
from ..gap import latent_gap
from ..images.detail import most_detailed
from ..lora import remove_lora
from ..metrics.evaluate import score_pairs
from ..model import OMGSR
from ..presets import FAMILIES, RECIPES, preset_recipe
from ..priors.latents import decoded_noisy_latents, encode_pairs
from ..restore.pairs import restored_pairs
from ..schedules import pair_power
from ..utils.files import atomic_write, sha256, writing
from .cache import FrameCache
from .page import explore_page


CURVE_STEP = 20  # timesteps between two points of a curve
AS_IT_IS = "as it is"  # in the place of a strength: the photograph is the input, there is no reference
CHOICES = (AS_IT_IS, *STRENGTHS)


def explorer_models(names=("mini-s", "mini-f"), *, base=None, adapter=None):
    """`{variant: (prior, tuned model)}` of names and folders that `OMGSR.from_pretrained` takes, as in `FAMILIES`.

    With adaptive models the slider is their dial, and t* is each photograph's own. `base` and `adapter` as there.
    Raises `ValueError` for two models of one family, or one without adapters.
    """
    models = {}
    for name in names:
        model = OMGSR.from_pretrained(name, base=base, adapter=adapter)
        if not model.ranks:
            raise ValueError(f"The explorer compares a prior with its adapters: '{name}' has none. Name an adapter.")
        variant = {family: variant for variant, family in FAMILIES.items()}[model.prior.family]
        if variant in models:
            raise ValueError(f"The explorer takes one model of a family: '{name}' is the second {model.prior.family}.")
        prior = OMGSR(copy.deepcopy(model.vae), copy.deepcopy(model.prior), model.timestep)
        remove_lora(prior.prior.denoiser)
        models[variant] = prior, model.merge()
    return {variant: models[variant] for variant in FAMILIES if variant in models}


def preset_models(preset, names=None):
    """`explorer_models` of preset "mini" (of `names`), or for "smoke" random ones, prior and tuned model alike.

    Raises `ValueError` for another preset, as no adapters of it ship.
    """
    if preset == "mini":
        return explorer_models(names or ("mini-s", "mini-f"))
    if preset != "smoke":
        raise ValueError(
            f"The explorer's notebook takes preset mini or smoke: got {preset!r}. No adapters of others ship."
        )
    variants = [variant for variant in FAMILIES if ("mini", variant) in RECIPES]
    return {variant: (OMGSR.from_recipe(preset_recipe(preset, variant)),) * 2 for variant in variants}


class Explorer:
    """Photographs through priors and tuned models, frame by frame.

    Args:
        models: `{"s": (prior, tuned), "f": (prior, tuned)}` or one of them; `OMGSR` models, schedules of one length.
        photos: photographs to choose from, as for `find_photos`; None for those of the evaluation inside the
            dependencies.
        folder: where frames and the user's own images are written.
        size: side in pixels of what is shown, a square of a photograph reduced to a short side of `2 * size`.
        steps: number of timesteps, evenly spread; the mid-timesteps of the models are added.

    Attributes: `photos` (names to choose from), `strengths`, `timesteps`.
    Raises `ValueError` for a size that the models cannot take, or less than two steps.
    """

    def __init__(self, models, photos, folder, *, size=128, steps=20, scale=4, seed=0):
        multiple = math.lcm(*(model.multiple for pair in models.values() for model in pair))
        if size < 32 or size % multiple:
            raise ValueError(f"size must be a multiple of {multiple} pixels, 32 or more: got {size}.")
        self.last = len(next(iter(models.values()))[0].prior.schedule.sigmas) - 1
        if not 2 <= steps <= self.last + 1:
            raise ValueError(f"steps must be a number of timesteps from 2 to {self.last + 1}: got {steps}.")
        grid = {round(self.last * index / (steps - 1)) for index in range(steps)}
        self.timesteps = sorted(grid | {tuned.timestep for _, tuned in models.values()})
        self.strengths = list(CHOICES)
        self.models, self.folder = models, Path(folder)
        self.size, self.scale, self.seed = size, scale, seed
        self._paths, self._cases, self._lock = {}, {}, threading.Lock()
        for path in find_photos(photos) if photos else packaged_photos("eval"):
            self._add(path)

    @property
    def photos(self):
        return list(self._paths)

    def add_photo(self, name, content):
        """Keep the user's image, the bytes `content` of a file `name`; returns the name to choose it by.

        Raises `ValueError`, and keeps nothing, if it is no image.
        """
        path = self.folder / "own" / PurePath(name.replace("\\", "/")).name
        with atomic_write(path) as part:
            part.write_bytes(content)
            try:
                open_photo(part)
            except ValueError as err:
                raise ValueError(str(err).replace(str(part), path.name)) from err
        return self._add(path)

    def open(self, photo, strength, centre=None):
        """The `FrameCache` of a square of a photograph, at first without a frame.

        `strength` is one of `CHOICES`: degraded, or `AS_IT_IS`, where `size / scale` pixels of the photograph are
        enlarged as by `restore` and nothing is known of what they should be. `centre` of the square, as shares of
        width and height; at an edge it moves inside. None takes the middle, `AS_IT_IS` the square with most detail.

        Raises `ValueError` for an unknown photograph or strength, or a degraded photograph of one colour.
        """
        if photo not in self._paths:
            raise ValueError(f"A photograph must be one of {', '.join(self._paths)}: got {photo!r}.")
        check_strength(strength)
        path, place = self._paths[photo], "".join(f"-{1000 * share:.0f}" for share in centre or ())
        folder = self.folder / f"{path.stem[:50]}-{sha256(path)[:8]}-{strength.replace(' ', '-')}{place}"
        if folder not in self._cases:
            pair, about = self._pair(path, strength, centre)
            latents = {variant: encode_pairs(prior.vae, [pair]) for variant, (prior, _) in self.models.items()}
            facts = about | {"photo": photo, "strength": strength}
            cache = FrameCache.create(folder, **self._case(facts, pair, latents))
            self._cases[folder] = cache, pair, latents
        return self._cases[folder][0]

    def overview(self, photo, side=200):
        """The whole photograph as a PIL image whose longer side measures at most `side` pixels."""
        image = open_photo(self._paths[photo])
        image.thumbnail((side, side))
        return image

    def compute(self, cache, timestep):
        """Add the frames of all variants at `timestep` to a cache of `open`, unless there; one thread at a time."""
        with self._lock:
            if not cache.has(timestep):
                cache.add(timestep, self._frames(cache, timestep))

    def fill(self, cache, timesteps=None, *, progress=False):
        """Compute what `cache` lacks of `timesteps` (of all by default) and return the cache."""
        from tqdm.auto import tqdm

        wanted = [t for t in cache.missing if timesteps is None or t in timesteps]
        for timestep in tqdm(wanted, desc=cache.folder.name, disable=None if progress else True):
            self.compute(cache, timestep)
        return cache

    def _frames(self, cache, timestep):
        """What `FrameCache.add` takes: images and scores of each variant."""
        _, pair, latents = self._cases[cache.folder]
        frames = {}
        for variant, (prior, tuned) in self.models.items():
            schedule, hq_latents = prior.prior.schedule, latents[variant][1][0]
            pixels = {
                "noisy": decoded_noisy_latents(prior.vae, schedule, hq_latents, [timestep], seed=self.seed)[0],
                "prior": restored_pairs(prior, [pair], timestep=timestep)[0],
                "tuned": restored_pairs(tuned, [pair], timestep=timestep)[0],
            }
            known = cache.reference == "photo"
            scores = {
                f"psnr_{panel}": psnr(pixels[panel], pair) if known else math.nan for panel in ("prior", "tuned")
            }
            frames[variant] = {panel: to_image(image) for panel, image in pixels.items()}, scores
        return frames

    def _add(self, path):
        name, number = path.stem, 1
        while self._paths.get(name, path) != path:
            number += 1
            name = f"{path.stem} ({number})"
        self._paths[name] = path
        return name

    @torch.no_grad()
    def _own(self, model, pair):
        """The mid-timestep of a model; of an adaptive one the timestep of the slider nearest to the estimated one."""
        if not isinstance(model, AdaptiveOMGSR):
            return model.timestep
        estimated = shifted_timesteps(model.difference(pair.lq[None]).mean(), model.prior.schedule)
        return min(self.timesteps, key=lambda timestep: abs(timestep - int(estimated)))

    def _pair(self, path, strength, centre):
        """An `EvaluationPair` of a square of a photograph; which part of it that is, and what to say of its size."""
        photo, as_it_is = open_photo(path), strength == AS_IT_IS
        side, shortest = self.size // self.scale if as_it_is else self.size, min(photo.size)
        wanted = max(side, shortest if as_it_is else min(shortest, 2 * self.size))
        warning = None
        if shortest < side:
            measured = f"{path.name} measures {photo.width}x{photo.height} pixels"
            warning = f"{measured}, fewer than the {side} of a side that are shown: it is enlarged first."
        if wanted != shortest:
            photo = photo.resize(
                [max(side, round(length * wanted / shortest)) for length in photo.size], Image.LANCZOS
            )
        if centre is None and as_it_is:
            corner = most_detailed(np.asarray(photo.convert("L").reduce(4), dtype=float), side // 4, power=2)
            centre = [(4 * edge + side / 2) / length for edge, length in zip(corner, photo.size, strict=True)]
        shares = zip(centre or (0.5, 0.5), photo.size, strict=True)
        corner = [min(max(int(share * length - side / 2), 0), length - side) for share, length in shares]
        edges = [*corner, corner[0] + side, corner[1] + side]
        crop = photo.crop(edges)
        if as_it_is:
            lq = to_pixels(crop.resize((self.size, self.size), Image.BICUBIC))
            pair = EvaluationPair(path.stem, lq, to_pixels(crop), lq)
        else:
            hq, settings = to_pixels(crop), Degradation.of_strength(strength)
            chain = dict(seed=self.seed, index=int(sha256(path)[:12], 16), scale=self.scale, settings=settings)
            pair = EvaluationPair(path.stem, degrade(hq, **chain), degrade(hq, **chain, upscale=False), hq)
        box = [round(edge / photo.size[i % 2], 4) for i, edge in enumerate(edges)]
        return pair, {"box": box, "warning": warning}

    def _case(self, facts, pair, latents):
        """What `FrameCache.create` takes: facts, images and curves of a pair."""
        known = facts["strength"] != AS_IT_IS
        if known and torch.equal(pair.lq, pair.hq):
            raise ValueError(
                f"A photograph must lose something when it is degraded: '{facts['photo']}' is flat. Take another."
            )
        variants, curves = {}, []
        points = sorted({*range(0, self.last + 1, CURVE_STEP), *self.timesteps})
        for variant, (prior, tuned) in self.models.items():
            schedule = prior.prior.schedule
            power, difference = (float(value) for value in pair_power(*latents[variant]))
            snr = 10 * math.log10(power / difference) if known else None
            variants[variant] = {"timestep": self._own(tuned, pair), "snr": snr}
            gap = np.nan
            if known:
                gap = latent_gap(*latents[variant], schedule, points, distances=("sliced_wasserstein",))["value"]
            decibel = 10 * torch.log10(power * schedule.snr()[points])
            curves.append(pd.DataFrame({"variant": variant, "timestep": points, "snr": decibel.numpy(), "gap": gap}))
        return {
            "about": {
                **facts,
                "timesteps": self.timesteps,
                "last": self.last,
                "psnr": psnr(pair.lq, pair) if known else None,
                "variants": variants,
            },
            "lq": to_image(pair.lq),
            "photo": to_image(pair.hq),
            "curves": pd.concat(curves),
        }


def check_strength(strength):
    """Raise `ValueError` unless `strength` is one of `CHOICES`."""
    if strength not in CHOICES:
        raise ValueError(f"A strength must be one of {', '.join(CHOICES)}: got {strength!r}.")


def write_explorer_page(
    path,
    names=("mini-s", "mini-f"),
    *,
    base=None,
    adapter=None,
    photos=None,
    first=3,
    strengths=tuple(STRENGTHS),
    size=128,
    steps=20,
    seed=0,
    progress=True,
):
    """Compute frames and write them as one HTML page to `path`, whole or not at all; returns the path.

    Args:
        names, base, adapter: as for `explorer_models`.
        photos, size, steps, seed: as for `Explorer`; of the photographs the `first` are taken. At 128 pixels one at a
            strength adds about half a megabyte.
        strengths: out of `CHOICES`.
        progress: show a bar for each photograph and strength, in a terminal.

    Raises `OSError` if the page cannot be written and `ValueError` for bad input, before any frame is computed.
    """
    path = Path(path)
    if path.suffix != ".html":
        raise ValueError(f"The explorer's page is an .html file: got '{path.name}'. Change the suffix.")
    if first < 1 or not strengths or not names:
        raise ValueError("A page needs at least one photograph, one strength and one model.")
    for strength in strengths:
        check_strength(strength)
    if photos:
        for photo in find_photos(photos)[:first]:
            open_photo(photo)
    with writing(path):  # fails here, before anything is loaded or computed, where the page cannot be written
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent)
    with frames as folder:
        models = explorer_models(names, base=base, adapter=adapter)
        explorer = Explorer(models, photos, folder, size=size, steps=steps, seed=seed)
        cases = [explorer.open(photo, strength) for photo in explorer.photos[:first] for strength in strengths]
        return explore_page(path, [explorer.fill(case, progress=progress) for case in cases])


def psnr(pixels, pair):
    """PSNR-Y in dB of an image `(3, H, W)` against the photograph of its pair."""
    return float(score_pairs([pixels], [pair], method="", metrics=("psnr_y",))["value"].iloc[0])
