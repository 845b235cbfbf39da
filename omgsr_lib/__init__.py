"""OMGSR: one-step restoration of photographs at a mid-timestep (arXiv 2508.08227).

The public names are imported at their first use: they need torch, which takes seconds.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from ._torchvision import declare_missing_operators


if TYPE_CHECKING:
    from .gap import latent_gap as latent_gap
    from .metrics.evaluate import evaluate_folder as evaluate_folder
    from .midstep import snr_mid_timestep as snr_mid_timestep
    from .model import OMGSR as OMGSR
    from .model import OMGSROutput as OMGSROutput
    from .restore.pipeline import RestoreResult as RestoreResult
    from .restore.pipeline import restore as restore
    from .restore.prepare import prepare as prepare
    from .schedules import NoiseSchedule as NoiseSchedule

_MODULES = {
    "NoiseSchedule": "schedules",
    "OMGSR": "model",
    "OMGSROutput": "model",
    "RestoreResult": "restore.pipeline",
    "evaluate_folder": "metrics.evaluate",
    "latent_gap": "gap",
    "prepare": "restore.prepare",
    "restore": "restore.pipeline",
    "snr_mid_timestep": "midstep",
}
__all__ = list(_MODULES)


class _Package(ModuleType):
    """The package, where `restore` is always the function: importing the folder of that name does not hide it."""

    def __setattr__(self, name, value):
        if name not in _MODULES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__():
    return sorted({*globals(), *_MODULES})


import_module(__name__).__class__ = _Package
declare_missing_operators()
