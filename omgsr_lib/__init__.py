"""OMGSR: one-step restoration of photographs at a mid-timestep (arXiv 2508.08227)."""

from ._torchvision import ensure_torchvision


ensure_torchvision()

from .gap import latent_gap as latent_gap  # noqa: E402
from .metrics.evaluate import evaluate_folder as evaluate_folder  # noqa: E402
from .midstep import snr_mid_timestep as snr_mid_timestep  # noqa: E402
from .model import OMGSR as OMGSR  # noqa: E402
from .model import OMGSROutput as OMGSROutput  # noqa: E402
from .restore import RestoreResult as RestoreResult  # noqa: E402
from .restore import restore as restore  # noqa: E402
from .schedules import NoiseSchedule as NoiseSchedule  # noqa: E402
from .speed import prepare as prepare  # noqa: E402
