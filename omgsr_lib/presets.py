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
    prompt: str = ""
    vae_rank: int = 16  # of the LoRA on the encoder; alpha = rank
    denoiser_rank: int = 32
    refinement: float = 5.0  # weight of the LDR (= LRR) loss
    pixel: float = 2.0  # weight of the pixel loss
    pixel_loss: str = "mse"  # "mse" or "l1"
    perceptual: float = 5.0  # weight of the overlap-chunked perceptual loss
    perceptual_loss: str = "oc-lpips"
    adversarial: float = 0.5  # weight of both GAN losses
    grid: float = 0.0  # weight of the penalty on token-locked patterns; not in the paper
    chunk: int = 224  # side of an overlapping chunk in pixels
    learning_rate: float = 2e-5
    warmup: int = 0  # steps of linear warm-up
    decay: float = 0.0  # last share of the steps with linear decay to zero
    steps: int = 50_000
    batch_size: int = 1
    accumulation: int = 4
    weight_decay: float = 1e-4
    betas: tuple = (0.9, 0.999)
    clip: float = 1.0  # gradient norm, each optimiser


# Values of the authors' configurations of August (paper) and October 2025 (release). The timestep for 512 pixels is
# used at 1024 too, as they did.
_paper_s = Recipe(base="stabilityai/sd-turbo", family="ddpm", resolution=512, scale=4, timestep=195, prompt=PROMPT_V1)
_paper_f = Recipe(
    base="black-forest-labs/FLUX.1-dev", family="flow", resolution=512, scale=4, timestep=295, prompt=PROMPT_V1,
    vae_rank=64, denoiser_rank=64,
)  # fmt: skip
_release = dict(
    prompt="", pixel=0.5, pixel_loss="l1", perceptual_loss="dinov3-dists", learning_rate=5e-5, steps=6_000,
)  # fmt: skip

# The mini recipe: weights and losses of `paper`; ranks, crops and steps for small priors on two CPU cores. The
# perceptual and the adversarial loss use features of the frozen autoencoder, since a clone has no pre-trained network.
# `grid` is this project's: without it a perceptual loss leaves a pattern with the period of the tokens.
_mini = dict(
    resolution=128, scale=4, vae_rank=8, denoiser_rank=16, perceptual_loss="autoencoder", grid=4000.0, chunk=48,
    learning_rate=5e-4, warmup=20, decay=0.3, steps=300, batch_size=4, accumulation=1,
)  # fmt: skip

# Mid-timesteps of mini: `omgsr midstep --size 128 --short-side 256` on the 255 photographs that its weights were
# trained on (95 % intervals 315 to 342 and 217 to 233); notebook 02 finds its own on other photographs.
RECIPES = {
    ("smoke", "s"): Recipe(base="tiny", family="ddpm", timestep=273, **{**_mini, "resolution": 80, "steps": 2}),
    ("smoke", "f"): Recipe(base="tiny", family="flow", timestep=244, **{**_mini, "resolution": 80, "steps": 2}),
    ("mini", "s"): Recipe(base="mini-ddpm", family="ddpm", timestep=325, **_mini),
    ("mini", "f"): Recipe(base="mini-flow", family="flow", timestep=223, **_mini),
    ("paper", "s-512"): _paper_s,
    ("paper", "s-1024"): replace(_paper_s, resolution=1024, scale=8, steps=25_000),
    ("paper", "f-512"): _paper_f,
    ("paper", "f-1024"): replace(_paper_f, resolution=1024, scale=8, steps=25_000, learning_rate=5e-5),
    ("release", "s-512"): replace(_paper_s, base="stabilityai/stable-diffusion-2-1-base", timestep=273, **_release),
    ("release", "f-1024"): replace(_paper_f, resolution=1024, scale=8, timestep=244, **_release),
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
    "omgsr-s-512": ("release", "s-512"),
    "omgsr-s-1024": ("paper", "s-1024"),
    "omgsr-f-512": ("paper", "f-512"),
    "omgsr-f-1024": ("release", "f-1024"),
}


def recipe(preset, variant, **changes):
    """The `Recipe` of a preset and variant ("s", "f", or with a resolution: "s-512").

    `changes` that are not None replace fields. Raises `ValueError` that lists what there is.
    """
    if (preset, variant) not in RECIPES:
        known = ", ".join(f"{p} {v}" for p, v in RECIPES)
        raise ValueError(f"A recipe must be one of: {known}. Got {preset!r} {variant!r}.")
    return replace(RECIPES[preset, variant], **{name: value for name, value in changes.items() if value is not None})
