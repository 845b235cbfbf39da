"""Every hyper-parameter of every preset, one aligned table each, with its source.

`paper` is the first version of the paper (August 2025), `first-release` the code that the authors published with it,
`release` their later code (October 2025 and on); `open` is for bases with a free licence; `mini` follows `paper` at
the scale of the priors in this package; `smoke` is for tests.
"""

from dataclasses import dataclass, replace


# The fixed prompt of the first release; the later one uses the empty prompt.
PROMPT_V1 = "A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, and natural lighting."


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One variant of OMGSR: what it starts from and how it is trained."""

    base: str  # folder of the package's weights, "tiny", or hub id
    family: str  # of the prior, a key of `priors.PRIORS`
    revision: str | None = None  # commit of the hub id
    start: str | None = None  # adapters to start from, a folder of the package's weights
    checkpointing: bool = False  # recompute activations of denoiser and autoencoder in the backward pass
    prompt: str = ""

    timestep: int  # mid-timestep t*, an index into the schedule
    adaptive: bool  # train each image at its own mid-timestep (`adaptive/`); not in the paper
    resolution: int  # side of a training crop in pixels
    scale: int  # down-scaling factor of the degradation
    dial: bool  # degradations from mild to extreme (`Degradation.dial`) instead of the published chain
    vae_rank: int  # of the LoRA on the encoder; alpha = rank
    denoiser_rank: int
    learning_rate: float
    warmup: int  # steps of linear warm-up
    decay: float  # last share of the steps with linear decay to zero
    steps: int
    batch_size: int
    accumulation: int
    save_every: int  # steps between checkpoints

    refinement: float  # weight of the LDR (= LRR) loss
    pixel: float  # weight of the pixel loss
    pixel_loss: str  # "mse" or "l1"
    perceptual: float  # weight of the perceptual loss
    perceptual_loss: str  # "lpips" (VGG), "lpips-squeeze", "ea-dists" (VGG), "dinov3-dists", "autoencoder"
    chunk: int | None  # side of its overlapping chunks in pixels; None: the whole image
    adversarial: float  # weight of both GAN losses
    discriminator: str  # features under its heads: "dinov2", "dinov3", "autoencoder" or "pixels" (none)
    critic_chunk: int | None  # side of the discriminator's overlapping chunks; None: the whole image
    at_once: int | None  # chunks that these two hold in memory together; None: all
    grid: float  # weight of the penalty on token-locked patterns; not in the paper
    offset: int  # images of the perceptual loss are cut at a random corner below this, mirrored and transposed
    sharpen_from: float  # share of the steps before the perceptual and the adversarial loss begin
    target: str  # of the pixel, perceptual and grid loss: "hq", or "mean": over views, by the first model

    weight_decay: float = 1e-4
    betas: tuple = (0.9, 0.999)
    clip: float = 1.0  # gradient norm, each optimiser


# What a training starts from; the commits of the hub ids.
_SD_TURBO, _FLUX = "b261bac6fd2cf515557d5d0707481eafa0485ec2", "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21"
_SD21_BASE = "5ede9e4bf3e3fd1cb0ef2f7a3fff13ee514fdf06"
_Z_IMAGE, _KLEIN = "f332072aa78be7aecdf3ee76d5c247082da564a6", "e7b7dc27f91deacad38e78976d1f2b499d76a294"
_BASE_COLUMNS = ("base", "family", "revision", "prompt", "checkpointing", "start")
_BASES = {
    #               base                                     family  commit      prompt     recomp. start
    "tiny-ddpm":   ("tiny",                                  "ddpm", None,       "",        False, None),
    "tiny-flow":   ("tiny",                                  "flow", None,       "",        False, None),
    "tiny-z":      ("tiny",                                  "z_image", None,    "",        False, None),
    "tiny-k":      ("tiny",                                  "flux2", None,      "",        False, None),
    "mini-ddpm":   ("mini-ddpm",                             "ddpm", None,       "",        False, None),
    "mini-flow":   ("mini-flow",                             "flow", None,       "",        False, None),
    "mini-s":      ("mini-ddpm",                             "ddpm", None,       "",        False, "mini-s"),
    "mini-f":      ("mini-flow",                             "flow", None,       "",        False, "mini-f"),
    "SD-Turbo":    ("stabilityai/sd-turbo",                  "ddpm", _SD_TURBO,  PROMPT_V1, False, None),
    "SD2.1-base":  ("stabilityai/stable-diffusion-2-1-base", "ddpm", _SD21_BASE, "",        False, None),
    "FLUX v1":     ("black-forest-labs/FLUX.1-dev",          "flow", _FLUX,      PROMPT_V1, True,  None),
    "FLUX":        ("black-forest-labs/FLUX.1-dev",          "flow", _FLUX,      "",        True,  None),
    "Z-Image":     ("Tongyi-MAI/Z-Image-Turbo",              "z_image", _Z_IMAGE, "",       True,  None),
    "klein":       ("black-forest-labs/FLUX.2-klein-4B",     "flux2", _KLEIN,    "",        True,  None),
}  # fmt: skip
# Bases with the t* of another model, and which one.
_BORROWED = {
    "Tongyi-MAI/Z-Image-Turbo": "FLUX.1-dev's, which has the same autoencoder",
    "black-forest-labs/FLUX.2-klein-4B": "FLUX.1-dev's, which has another autoencoder",
}

# Weights and networks of the losses. The perceptual and the adversarial loss of `mini` use features of the frozen
# autoencoder, since a clone has no pre-trained network; its `grid` is this project's: without it a perceptual loss
# leaves a pattern with the period of the tokens. `long` has L1 and LDR until edges are clean, then a light perceptual
# loss and a discriminator of pixels; `polish` continues from there and takes away the lattice that they leave, and
# `smooth` more of the transformer's, whose tokens are larger; `even` is last, its target a mean (`losses.views`).
_LOSS_COLUMNS = (
    "refinement", "pixel", "pixel_loss", "perceptual", "perceptual_loss", "chunk", "offset",
    "adversarial", "discriminator", "critic_chunk", "at_once", "grid", "sharpen_from",
    "target",
)  # fmt: skip
_LOSSES = {
    #            LDR  pixel        perceptual            chunk      GAN  discriminator chunk  once grid from target
    "mini":     (5.0,  2.0, "mse", 5.0, "autoencoder",     48,  0,  0.5, "autoencoder",   48, None, 4e3, 0.0, "hq"),
    "long":     (1.0, 10.0, "l1",  2.0, "lpips-squeeze", None, 16,  0.3, "pixels",      None, None, 0.0, 0.4, "hq"),
    "polish":   (1.0, 10.0, "l1",  2.0, "lpips-squeeze", None, 16,  0.3, "pixels",      None, None, 6e3, 0.0, "hq"),
    "smooth":   (1.0, 10.0, "l1",  1.0, "lpips-squeeze", None, 16, 0.15, "pixels",      None, None, 2e4, 0.0, "hq"),
    "even":     (1.0, 10.0, "l1",  0.0, "lpips-squeeze", None,  0,  0.0, "pixels",      None, None, 2e4, 0.0, "mean"),
    "paper":    (5.0,  2.0, "mse", 5.0, "lpips",          224,  0,  0.5, "dinov2",      None,    5, 0.0, 0.0, "hq"),
    "paper 1k": (5.0,  2.0, "mse", 5.0, "lpips",          224,  0,  0.5, "dinov2",       518,    5, 0.0, 0.0, "hq"),
    "first":    (5.0,  2.0, "mse", 5.0, "ea-dists",       224,  0,  0.5, "dinov2",      None,    5, 0.0, 0.0, "hq"),
    "first 1k": (5.0,  2.0, "mse", 5.0, "ea-dists",       224,  0,  0.5, "dinov2",       518,    5, 0.0, 0.0, "hq"),
    "release":  (5.0,  0.5, "l1",  5.0, "dinov3-dists",  None,  0,  0.5, "dinov3",      None,    5, 0.0, 0.0, "hq"),
}  # fmt: skip

# How images are degraded and where they enter: as published at the fixed t*; from mild to extreme at the fixed t*
# ("dial"), or each at its own mid-timestep.
_IMAGES = {
    "fixed":  dict(dial=False, adaptive=False),
    "dial":   dict(dial=True,  adaptive=False),
    "own t*": dict(dial=True,  adaptive=True),
}  # fmt: skip

# Mid-timesteps of mini: `--timestep auto` on the 1,340 photographs that its weights were trained on; notebook 02 finds
# its own on other photographs. The adapters that ship are `long`, then `polish`, of mini-f also `smooth`, then `even`;
# the full length is 100,000 crops (their cards tell how many they saw). Adaptive and dial variants continue from them,
# dial as the control of adaptive; an `even` of its own follows each adaptive one.
#
# `paper`: arXiv 2508.08227v1; `first-release`: the authors' code of 15 to 18 August 2025, with OC-EA-DISTS where the
# paper has OC-LPIPS; `release`: their configurations of October 2025. The timestep for 512 pixels is used at 1024 too,
# as they did. Their effective batch is 8 with two GPUs, 16 with four.
#
# `open`, not published: the values of `release` with the losses of `paper`, whose networks have free licences too. t*
# has the SNR of FLUX.1-dev's 244: Z-Image has its autoencoder and another shift; FLUX.2 has the same shift and another
# latent space, in which that is no more than a start.
_COLUMNS = (
    "timestep", "resolution", "scale", "vae_rank", "denoiser_rank",
    "learning_rate", "warmup", "decay", "steps", "batch_size", "accumulation", "save_every",
)  # fmt: skip
_ROWS = {
    #                  base          losses        images    t*   crop  x  ranks   rate  warm dec. steps   batch  save
    "smoke": {
        "s":          ("tiny-ddpm",  "mini",       "fixed",  273,   80, 4,  8, 16, 5e-4,  20, 0.3,      2, 4, 1,   50),
        "f":          ("tiny-flow",  "mini",       "fixed",  244,   80, 4,  8, 16, 5e-4,  20, 0.3,      2, 4, 1,   50),
        "z":          ("tiny-z",     "mini",       "fixed",  254,   80, 4,  8, 16, 5e-4,  20, 0.3,      2, 4, 1,   50),
        "k":          ("tiny-k",     "mini",       "fixed",  244,   80, 4,  8, 16, 5e-4,  20, 0.3,      2, 4, 1,   50),
    },
    "mini": {
        "s":          ("mini-ddpm",  "mini",       "fixed",  255,  128, 4,  8, 16, 5e-4,  20, 0.3,    100, 4, 1,   50),
        "f":          ("mini-flow",  "mini",       "fixed",  183,  128, 4,  8, 16, 5e-4,  20, 0.3,    100, 4, 1,   50),
        "s-adaptive": ("mini-s",     "polish",     "own t*", 255,  128, 4, 32, 64, 2e-4,  20, 0.5,    400, 8, 1,   50),
        "f-adaptive": ("mini-f",     "smooth",     "own t*", 183,  128, 4, 32, 64, 2e-4,  20, 0.5,    400, 8, 1,   50),
        "s-dial":     ("mini-s",     "polish",     "dial",   255,  128, 4, 32, 64, 2e-4,  20, 0.5,    400, 8, 1,   50),
        "f-dial":     ("mini-f",     "smooth",     "dial",   183,  128, 4, 32, 64, 2e-4,  20, 0.5,    400, 8, 1,   50),
        "s-polish":   ("mini-ddpm",  "polish",     "dial",   255,  128, 4, 32, 64, 3e-4,  20, 0.7,    700, 8, 1,  100),
        "f-polish":   ("mini-flow",  "polish",     "dial",   183,  128, 4, 32, 64, 3e-4,  20, 0.7,    700, 8, 1,  100),
        "f-smooth":   ("mini-flow",  "smooth",     "dial",   183,  128, 4, 32, 64, 3e-4,  20, 0.7,    450, 8, 1,   90),
        "s-even":     ("mini-ddpm",  "even",       "dial",   255,  128, 4, 32, 64, 3e-4,  20, 0.7,    200, 8, 1,   50),
        "f-even":     ("mini-flow",  "even",       "dial",   183,  128, 4, 32, 64, 3e-4,  20, 0.7,    700, 8, 1,   50),
        "s-adaptive-even":
                      ("mini-ddpm",  "even",       "own t*", 255,  128, 4, 32, 64, 3e-4,  20, 0.7,    200, 8, 1,   50),
        "f-adaptive-even":
                      ("mini-flow",  "even",       "own t*", 183,  128, 4, 32, 64, 3e-4,  20, 0.7,    700, 8, 1,   50),
        "s-long":     ("mini-ddpm",  "long",       "dial",   255,  128, 4, 32, 64, 5e-4, 100, 0.5, 12_500, 8, 1,  250),
        "f-long":     ("mini-flow",  "long",       "dial",   183,  128, 4, 32, 64, 5e-4, 100, 0.5, 12_500, 8, 1,  250),
    },
    "paper": {
        "s-512":      ("SD-Turbo",   "paper",      "fixed",  195,  512, 4, 16, 32, 2e-5,   0, 0.0, 50_000, 1, 4, 1000),
        "s-1024":     ("SD-Turbo",   "paper 1k",   "fixed",  195, 1024, 8, 16, 32, 2e-5,   0, 0.0, 25_000, 1, 4, 1000),
        "f-512":      ("FLUX v1",    "paper",      "fixed",  295,  512, 4, 64, 64, 2e-5,   0, 0.0, 50_000, 1, 4,  100),
        "f-1024":     ("FLUX v1",    "paper 1k",   "fixed",  295, 1024, 8, 64, 64, 5e-5,   0, 0.0, 25_000, 1, 4,  100),
    },
    "first-release": {
        "s-512":      ("SD-Turbo",   "first",      "fixed",  195,  512, 4, 16, 32, 2e-5,   0, 0.0, 50_000, 1, 4, 1000),
        "f-512":      ("FLUX v1",    "first",      "fixed",  295,  512, 4, 64, 64, 2e-5,   0, 0.0, 50_000, 1, 4,  100),
        "f-1024":     ("FLUX v1",    "first 1k",   "fixed",  295, 1024, 8, 64, 64, 5e-5,   0, 0.0, 25_000, 1, 4,  100),
    },
    "release": {
        "s-512":      ("SD2.1-base", "release",    "fixed",  273,  512, 4, 16, 32, 5e-5,   0, 0.0,  6_000, 1, 4, 1000),
        "f-1024":     ("FLUX",       "release",    "fixed",  244, 1024, 8, 64, 64, 5e-5,   0, 0.0,  6_000, 1, 4,  100),
    },
    "open": {
        "z-512":      ("Z-Image",    "paper",      "fixed",  254,  512, 4, 64, 64, 5e-5,   0, 0.0,  6_000, 1, 4,  100),
        "z-1024":     ("Z-Image",    "paper 1k",   "fixed",  254, 1024, 8, 64, 64, 5e-5,   0, 0.0,  6_000, 1, 4,  100),
        "k-512":      ("klein",      "paper",      "fixed",  244,  512, 4, 64, 64, 5e-5,   0, 0.0,  6_000, 1, 4,  100),
        "k-1024":     ("klein",      "paper 1k",   "fixed",  244, 1024, 8, 64, 64, 5e-5,   0, 0.0,  6_000, 1, 4,  100),
    },
}  # fmt: skip


def _recipe(base, losses, images, *values):
    return Recipe(
        **dict(zip(_BASE_COLUMNS, _BASES[base], strict=True)),
        **dict(zip(_LOSS_COLUMNS, _LOSSES[losses], strict=True)),
        **_IMAGES[images],
        **dict(zip(_COLUMNS, values, strict=True)),
    )


RECIPES = {(preset, variant): _recipe(*row) for preset, rows in _ROWS.items() for variant, row in rows.items()}


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """How a part of the `mini` preset is trained by `omgsr pretrain`; a prior sees a million crops."""

    steps: int
    batch_size: int  # of a prior: of its small windows, see `pretraining.prior.window_batch`
    learning_rate: float
    size: int = 64  # side of a crop in pixels (autoencoder)

    def on_gpu(self):
        """The same crops in batches sixteen times as large, at twice the learning rate."""
        return replace(
            self, steps=self.steps // 16, batch_size=16 * self.batch_size, learning_rate=2 * self.learning_rate
        )


PRETRAINING = {
    "autoencoder": Pretraining(steps=4000, batch_size=8, learning_rate=1.5e-3),
    "ddpm":        Pretraining(steps=77_000, batch_size=16, learning_rate=6e-4),
    "flow":        Pretraining(steps=77_000, batch_size=16, learning_rate=8e-4),
    "estimator":   Pretraining(steps=1000, batch_size=64, learning_rate=1e-3),
}  # fmt: skip

PRESETS = ("smoke", "mini", "latents", "paper", "first-release", "release")  # of the notebooks, which train S and F

PACKAGED_PRIORS = ("mini-ddpm", "mini-flow")  # folders of omgsr_lib/weights, beside mini-autoencoder

# Tiny autoencoders of preset `latents`: the real latent spaces of Stable Diffusion and FLUX.1, about 10 MB each.
TINY_AUTOENCODERS = {"s": "madebyollin/taesd", "f": "madebyollin/taef1"}
FAMILIES = {variant[0]: row.family for (_, variant), row in RECIPES.items()}

# Models by the name that `OMGSR.from_pretrained` takes.
MODELS = {
    "mini-s": ("mini", "s"),
    "mini-f": ("mini", "f"),
    "mini-s-adaptive": ("mini", "s-adaptive"),
    "mini-f-adaptive": ("mini", "f-adaptive"),
    "omgsr-s-512": ("release", "s-512"),
    "omgsr-s-1024": ("paper", "s-1024"),
    "omgsr-f-512": ("paper", "f-512"),
    "omgsr-f-1024": ("release", "f-1024"),
    "omgsr-z-512": ("open", "z-512"),
    "omgsr-z-1024": ("open", "z-1024"),
    "omgsr-k-512": ("open", "k-512"),
    "omgsr-k-1024": ("open", "k-1024"),
}

# Sides in pixels of the tiles of a prediction where those of training are not the best: the UNet of mini-s gains from
# a wider field and shows no borders, the transformer of mini-f loses (`omgsr benchmark RealSR --tile 512 --overlap 64`
# against its defaults, `benchmarks/photos.py`).
TILES = {"mini-s": 512, "mini-s-adaptive": 512}


def default_tile(name):
    """Side in pixels of the tiles in which the model `name` predicts best; None for one that is not in `MODELS`."""
    return TILES.get(name, recipe(*MODELS[name]).resolution) if name in MODELS else None


def small(name):
    """Whether the base of the model `name`, a key of `MODELS` or a folder, ships with this package."""
    return name in MODELS and ships(recipe(*MODELS[name]))


def recipe(preset, variant, **changes):
    """The `Recipe` of a preset and variant ("s", "f", "z", "k", or with a resolution: "s-512").

    `changes` that are not None replace fields. Raises `ValueError` that lists what there is.
    """
    if (preset, variant) not in RECIPES:
        known = ", ".join(f"{p} {v}" for p, v in RECIPES)
        raise ValueError(f"A recipe must be one of: {known}. Got {preset!r} {variant!r}.")
    return replace(RECIPES[preset, variant], **{name: value for name, value in changes.items() if value is not None})


def preset_of(variant):
    """The preset of a variant where none is named: the only one that has it, `smoke` aside.

    Raises `ValueError` that lists the presets and variants it may mean.
    """
    known = [(preset, name) for preset, name in RECIPES if preset != "smoke"]
    having = [preset for preset, name in known if name == variant]
    if len(having) == 1:
        return having[0]
    alike = [row for row in known if f"{row[1]}-".startswith(f"{variant}-")] or known
    raise ValueError(
        f"A variant without a preset must be of one preset alone: got {variant!r}, which may mean "
        f"{', '.join(map(' '.join, alike))}. Name --preset, --resolution or both."
    )


def timestep_caution(recipe):
    """One line if the recipe's t* is another model's, with the command that measures its own; else None."""
    own = recipe.timestep not in {row.timestep for row in RECIPES.values() if row.base == recipe.base}
    if own or recipe.base not in _BORROWED:
        return None
    return (
        f"The mid-timestep {recipe.timestep} was not measured for {recipe.base}: it has the SNR of "
        f"{_BORROWED[recipe.base]}. Measure it with --timestep auto, or with omgsr midstep --photos PATH --vae "
        f"{recipe.base} --family {recipe.family} --size {recipe.resolution} --scale {recipe.scale}."
    )


def preset_recipe(preset, variant, **changes):
    """The recipe of a preset's variant "s" or "f" (the first resolution listed), with `changes`."""
    for name, part in RECIPES:
        if name == preset and part[0] == variant:
            return recipe(preset, part, **changes)
    raise ValueError(f"A preset with recipes must be one of {sorted({name for name, _ in RECIPES})}: got {preset!r}.")


def ships(recipe):
    """Whether the recipe's base comes with this package (presets `mini` and `smoke`)."""
    return recipe.base in (*PACKAGED_PRIORS, "tiny")
