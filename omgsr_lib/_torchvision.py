"""Make `import torchvision` work where its compiled operators cannot load (a CPU build of torch)."""

import sys
from importlib.machinery import PathFinder


_LIBRARY = None


def declare_missing_operators():
    """From now on, if only its compiled operators are missing, an import of torchvision declares their schemas.

    Nothing is imported here: whoever imports torchvision, directly or by diffusers, transformers or lpips, gets it so.
    """
    sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds torchvision where Python does, and has `_Loader` load it."""

    def find_spec(self, fullname, path=None, target=None):
        spec = PathFinder.find_spec(fullname, path, target) if fullname == "torchvision" else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader:
    """Loads torchvision; if only its compiled operators are missing, declares the schemas it asks for and retries.

    The plain import is tried first: declaring the schemas where the compiled operators do load would abort the
    process.
    """

    def __init__(self, plain):
        self.plain = plain

    def create_module(self, spec):
        return self.plain.create_module(spec)

    def exec_module(self, module):
        global _LIBRARY
        module.__loader__ = module.__spec__.loader = self.plain
        try:
            return self.plain.exec_module(module)
        except RuntimeError as err:
            if "torchvision::nms does not exist" not in str(err):
                raise
        import torch

        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]
        _LIBRARY = torch.library.Library("torchvision", "DEF")
        for op in ("nms", "qnms"):
            _LIBRARY.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        self.plain.exec_module(module)
