"""Every hyper-parameter of every preset, one aligned table each, with its source.

`paper` is the first version of the paper (August 2025), `release` the authors' later code (October 2025 and on);
`mini` follows `paper` at the scale of the priors in this package; `smoke` is for tests.
"""

from dataclasses import dataclass, replace


# The fixed prompt of the first release; the later one uses the empty prompt.
PROMPT_V1 = "A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, and natural lighting."


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One variant of OMGSR: what it starts from and how it is trained."""

    base: str  # folder of the package's weights, "tiny", or hub id
    family: str  # "ddpm" (OMGSR-S) or "flow" (OMGSR-F)
    resolution: int  # side of a training crop in pixels
    scale: int  # down-scaling factor of the degradation
    timestep: int  # mid-timestep t*, an index into the schedule
    adaptive: bool = False  # train each picture at its own mid-timestep (`adaptive/`); not in the paper
    dial: bool = False  # degradations from mild to extreme (`Degradation.dial`) instead of the published chain
    start: str | None = None  # adapters to start from, a folder of the package's weights
    revision: str | None = None  # commit of the hub id
    prompt: str = ""
    vae_rank: int = 16  # of the LoRA on the encoder; alpha = rank
    denoiser_rank: int = 32
    refinement: float = 5.0  # weight of the LDR (= LRR) loss
    pixel: float = 2.0  # weight of the pixel loss
    pixel_loss: str = "mse"  # "mse" or "l1"
    perceptual: float = 5.0  # weight of the perceptual loss
    perceptual_loss: str = "lpips"  # "lpips" (VGG), "lpips-squeeze", "ea-dists" (VGG), "dinov3-dists", "autoencoder"
    chunk: int | None = 224  # side of its overlapping chunks in pixels; None: the whole picture
    adversarial: float = 0.5  # weight of both GAN losses
    discriminator: str = "dinov2"  # features under its heads: "dinov2", "dinov3", "autoencoder" or "pixels" (none)
    critic_chunk: int | None = None  # side of the discriminator's overlapping chunks; None: the whole picture
    at_once: int | None = None  # chunks that these two hold in memory together; None: all
    grid: float = 0.0  # weight of the penalty on token-locked patterns; not in the paper
    offset: int = 0  # pictures of the perceptual loss are cut at a random corner below this, mirrored and transposed
    sharpen_from: float = 0.0  # share of the steps before the perceptual and the adversarial loss begin
    learning_rate: float = 2e-5
    warmup: int = 0  # steps of linear warm-up
    decay: float = 0.0  # last share of the steps with linear decay to zero
    steps: int = 50_000
    batch_size: int = 1
    accumulation: int = 4
    weight_decay: float = 1e-4
    betas: tuple = (0.9, 0.999)
    clip: float = 1.0  # gradient norm, each optimiser
    checkpointing: bool = False  # recompute the denoiser's activations in the backward pass
    save_every: int = 1000  # steps between checkpoints


# Values of the authors' configurations of August (paper) and October 2025 (release). The timestep for 512 pixels is
# used at 1024 too, as they did. Their effective batch is 8 with two GPUs, 16 with four.
_paper_s = Recipe(
    base="stabilityai/sd-turbo", revision="b261bac6fd2cf515557d5d0707481eafa0485ec2",
    family="ddpm", resolution=512, scale=4, timestep=195, prompt=PROMPT_V1, at_once=5,
)  # fmt: skip
_paper_f = Recipe(
    base="black-forest-labs/FLUX.1-dev", revision="3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",
    family="flow", resolution=512, scale=4, timestep=295, prompt=PROMPT_V1, at_once=5,
    vae_rank=64, denoiser_rank=64, checkpointing=True, save_every=100,
)  # fmt: skip
_at_1024 = dict(resolution=1024, scale=8, steps=25_000, critic_chunk=518)
_sd21_base = dict(
    base="stabilityai/stable-diffusion-2-1-base", revision="5ede9e4bf3e3fd1cb0ef2f7a3fff13ee514fdf06", timestep=273,
)  # fmt: skip
_release = dict(
    prompt="", pixel=0.5, pixel_loss="l1", perceptual_loss="dinov3-dists", chunk=None, discriminator="dinov3",
    critic_chunk=None, learning_rate=5e-5, steps=6_000,
)  # fmt: skip

# The mini recipe: weights and losses of `paper`; ranks, crops and steps for small priors on two CPU cores. The
# perceptual and the adversarial loss use features of the frozen autoencoder, since a clone has no pre-trained network.
# `grid` is this project's: without it a perceptual loss leaves a pattern with the period of the tokens.
_mini = dict(
    resolution=128, scale=4, vae_rank=8, denoiser_rank=16, perceptual_loss="autoencoder", discriminator="autoencoder",
    chunk=48, critic_chunk=48, grid=4000.0,
    learning_rate=5e-4, warmup=20, decay=0.3, steps=100, batch_size=4, accumulation=1, save_every=50,
)  # fmt: skip

# On from the adapters of mini: photographs from mildly to extremely degraded, each at its own mid-timestep; and, as a
# control, the same at the fixed one.
_dial = dict(dial=True, learning_rate=2e-4, decay=0.5, steps=400, save_every=20)

# The long training of adapters on a prior of `PRETRAINING`: L1 and LDR until edges are clean, then a light perceptual
# loss and a discriminator of pixels against a lattice; degradations from mild to extreme. 100,000 crops.
_long = dict(
    resolution=128, scale=4, dial=True, vae_rank=16, denoiser_rank=32,
    pixel=10.0, pixel_loss="l1", refinement=1.0, sharpen_from=0.5,
    perceptual=1.0, perceptual_loss="lpips-squeeze", chunk=None, offset=16,
    adversarial=0.05, discriminator="pixels", critic_chunk=None,
    learning_rate=5e-4, warmup=100, decay=0.5, steps=12_500, batch_size=8, accumulation=1, save_every=250,
)  # fmt: skip

# Mid-timesteps of mini: `omgsr midstep --size 128 --short-side 256` on the 255 photographs that its weights were
# trained on (95 % intervals 315 to 342 and 217 to 233); notebook 02 finds its own on other photographs.
_mini_s = dict(base="mini-ddpm", family="ddpm", timestep=325)
_mini_f = dict(base="mini-flow", family="flow", timestep=223)

RECIPES = {
    ("smoke", "s"): Recipe(base="tiny", family="ddpm", timestep=273, **{**_mini, "resolution": 80, "steps": 2}),
    ("smoke", "f"): Recipe(base="tiny", family="flow", timestep=244, **{**_mini, "resolution": 80, "steps": 2}),
    ("mini", "s"): Recipe(**_mini_s, **_mini),
    ("mini", "f"): Recipe(**_mini_f, **_mini),
    ("mini", "s-adaptive"): Recipe(**_mini_s, **_mini | _dial, start="mini-s", adaptive=True),
    ("mini", "f-adaptive"): Recipe(**_mini_f, **_mini | _dial, start="mini-f", adaptive=True),
    ("mini", "s-dial"): Recipe(**_mini_s, **_mini | _dial, start="mini-s"),
    ("mini", "f-dial"): Recipe(**_mini_f, **_mini | _dial, start="mini-f"),
    ("mini", "s-long"): Recipe(**_mini_s, **_long),
    ("mini", "f-long"): Recipe(**_mini_f, **_long),
    ("paper", "s-512"): _paper_s,
    ("paper", "s-1024"): replace(_paper_s, **_at_1024),
    ("paper", "f-512"): _paper_f,
    ("paper", "f-1024"): replace(_paper_f, **_at_1024, learning_rate=5e-5),
    ("release", "s-512"): replace(_paper_s, **_sd21_base, **_release),
    ("release", "f-1024"): replace(_paper_f, **{**_at_1024, **_release}, timestep=244),
}  # fmt: skip


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

PRESETS = ("smoke", "mini", "latents", "paper", "release")

PACKAGED_PRIORS = ("mini-ddpm", "mini-flow")  # folders of omgsr_lib/weights, beside mini-autoencoder

# Tiny autoencoders of preset `latents`: the real latent spaces of Stable Diffusion and FLUX.1, about 10 MB each.
TINY_AUTOENCODERS = {"s": "madebyollin/taesd", "f": "madebyollin/taef1"}
FAMILIES = {"s": "ddpm", "f": "flow"}

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
}

# Sides in pixels of the tiles of a prediction where those of training are not the best: the UNet of mini-s gains from
# a wider field and shows no borders, the transformer of mini-f loses (`omgsr benchmark RealSR --tile 512 --overlap 64`
# against its defaults, `benchmarks/photos.py`).
TILES = {"mini-s": 512, "mini-s-adaptive": 512}


def default_tile(name):
    """Side in pixels of the tiles in which the model `name` predicts best; None for one that is not in `MODELS`."""
    return TILES.get(name, recipe(*MODELS[name]).resolution) if name in MODELS else None


def recipe(preset, variant, **changes):
    """The `Recipe` of a preset and variant ("s", "f", or with a resolution: "s-512").

    `changes` that are not None replace fields. Raises `ValueError` that lists what there is.
    """
    if (preset, variant) not in RECIPES:
        known = ", ".join(f"{p} {v}" for p, v in RECIPES)
        raise ValueError(f"A recipe must be one of: {known}. Got {preset!r} {variant!r}.")
    return replace(RECIPES[preset, variant], **{name: value for name, value in changes.items() if value is not None})


def preset_recipe(preset, variant, **changes):
    """The recipe of a preset's variant "s" or "f" (the first resolution listed), with `changes`."""
    for name, part in RECIPES:
        if name == preset and part[0] == variant:
            return recipe(preset, part, **changes)
    raise ValueError(f"A preset with recipes must be one of {sorted({name for name, _ in RECIPES})}: got {preset!r}.")


def ships(recipe):
    """Whether the recipe's base comes with this package (presets `mini` and `smoke`)."""
    return recipe.base in (*PACKAGED_PRIORS, "tiny")
