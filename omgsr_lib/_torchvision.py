"""Make `import torchvision` work where its compiled operators cannot load (a CPU build of torch)."""

import importlib
import sys


_LIBRARY = None


def ensure_torchvision():
    """Import torchvision; if only its compiled operators are missing, declare the schemas it asks for and retry.

    The plain import is tried first: declaring the schemas where the compiled operators do load would abort the
    process.
    """
    global _LIBRARY
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as err:
        if "torchvision::nms does not exist" not in str(err):
            raise
    import torch

    for name in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
        del sys.modules[name]
    _LIBRARY = torch.library.Library("torchvision", "DEF")
    for op in ("nms", "qnms"):
        _LIBRARY.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")
