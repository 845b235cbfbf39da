"""The runs of `make study`: equal trainings that differ in one thing, and which of them four core-hours afford.

Three trainings a side for what the report calls a claim of the paper, one for the rest. The default preset holds what
decides the most: mid against initial timestep and the refinement loss, three trainings each, and a coarse sweep, by
the full method. `full` adds the finer sweep, the same with the encoder frozen (whose loss is the squared error of the
latents alone), the prior, the other losses, chunks at 256 pixels, and timesteps of each image's own.
"""

from dataclasses import dataclass, fields

from ..report.contrasts import INITIAL, LARGE, TIMESTEPS


SEEDS = (0, 1, 2)
COARSE = (25, 400)  # timesteps of the default sweep, beside t* and the initial one
SMALL = 64  # side in pixels of the usual crops
BATCH = {SMALL: 16, LARGE: 4}  # crops of a step by their side; large ones have sixteen times the pixels
CURVE = (0.125, 0.25, 0.5, 1.0)  # shares of a training after which the sweep is scored

# Changes of the recipe by what a run is without.
WITHOUT = {
    "": {},
    "chunks": {"chunk": None, "critic_chunk": None},
    "perceptual": {"perceptual": 0.0},
    "adversarial": {"adversarial": 0.0},
    "grid": {"grid": 0.0},
}
CHUNK = 112  # side in pixels of the chunks in a large crop: as much of it as 224 of the published 512

# What the study cannot run at all, and why.
IMPOSSIBLE = {"half-trained prior": "no checkpoint from the middle of the priors' training ships"}


@dataclass(frozen=True)
class StudyRun:
    """One training of the study."""

    variant: str  # "s" or "f"
    protocol: str = "full"  # "full", "frozen_encoder" or "untuned" (the prior as it is, no training)
    timestep: int = 0
    prior: str = "trained"  # "trained" or "random"
    refinement: bool = True
    without: str = ""  # a key of `WITHOUT`
    resolution: int = SMALL  # side of a crop in pixels, a key of `BATCH`
    images: str = "fixed"  # degraded as published; or mild to extreme, at t* ("dial") or at their own ("own t*")
    seed: int = 0

    @property
    def name(self):
        loss = ("" if self.refinement else "_no-ldr") + (f"_no-{self.without}" if self.without else "")
        size = f"_{self.resolution}px" if self.resolution != SMALL else ""
        images = f"_{self.images.replace(' t*', '-t')}" if self.images != "fixed" else ""
        return f"{self.variant}_{self.protocol}_{self.prior}_t{self.timestep}{loss}{size}{images}_seed{self.seed}"

    @property
    def marks(self):
        """Shares of the training after which it is scored."""
        sweep = self.refinement and not self.without and self.resolution == SMALL and self.images == "fixed"
        return CURVE if sweep and self.protocol != "untuned" else CURVE[-1:]


RUN_COLUMNS = [field.name for field in fields(StudyRun)]


def study_runs(mid_timesteps, *, full=False):
    """The runs of the default preset, or all; `mid_timesteps`: t* of each variant, `{"s": ..., "f": ...}`."""
    runs = []
    for variant, mid in mid_timesteps.items():
        ends = [(timestep, seed) for timestep in (mid, INITIAL) for seed in SEEDS]
        runs += [StudyRun(variant, "full", timestep, seed=seed) for timestep, seed in ends]
        runs += [StudyRun(variant, "full", mid, refinement=False, seed=seed) for seed in SEEDS]
        runs += [StudyRun(variant, "full", timestep) for timestep in COARSE]
        runs += [StudyRun(variant, "untuned", timestep) for timestep in (mid, *TIMESTEPS)]
        if not full:
            continue
        runs += [StudyRun(variant, "full", timestep) for timestep in TIMESTEPS]
        runs += [StudyRun(variant, "full", INITIAL, refinement=False, seed=seed) for seed in SEEDS]
        runs += [StudyRun(variant, "full", mid, prior="random", seed=seed) for seed in SEEDS]
        runs += [StudyRun(variant, "full", mid, without=loss) for loss in ("perceptual", "adversarial", "grid")]
        frozen = [(timestep, 0) for timestep in TIMESTEPS] + ends
        runs += [StudyRun(variant, "frozen_encoder", timestep, seed=seed) for timestep, seed in frozen]
        runs += [StudyRun(variant, "frozen_encoder", mid, prior="random")]
        for seed in SEEDS:
            runs += [
                StudyRun(variant, "frozen_encoder", mid, images=images, seed=seed) for images in ("dial", "own t*")
            ]
            runs += [StudyRun(variant, "full", mid, without=loss, resolution=LARGE, seed=seed)
                     for loss in ("", "chunks")]  # fmt: skip
    return list(dict.fromkeys(runs))


def core_hours(amounts, seconds):
    """Core-hours of `{run: (steps, evaluations)}`; `seconds`: those of one of each, `{kind(run): ...}`."""
    total = 0.0
    for run, (steps, evaluations) in amounts.items():
        of_step, of_evaluation = seconds[kind(run)]
        total += steps * of_step + evaluations * of_evaluation
    return total / 3600


def kind(run):
    """What decides how long a step takes."""
    return run.variant, run.protocol, run.resolution
