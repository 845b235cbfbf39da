"""The functions behind the metrics, and the weight files that some need: where to download each and where it goes.

Nothing here uses the network: a metric whose file is missing is refused with the file's name and address.
"""

from pathlib import Path

import numpy as np
import torch

from ..losses.perceptual import lpips_squeeze
from ..utils.files import reading
from . import measures
from .niqe import PRISTINE, niqe
from .specs import SPECS, metric_spec


IQA = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/"
TORCHVISION = "https://download.pytorch.org/models/"
CLIP = "https://openaipublic.azureedge.net/clip/models/"
MANIQA_VIT = "timm/vit_base_patch8_224.augreg2_in21k_ft_in1k"  # a hub id: it lies in the hub's own cache

# Files by metric. Those of this project lie in the folder `weights`, those of pyiqa in torch's hub folder
# (`torch.hub.get_dir()`, TORCH_HOME/hub), under the names that pyiqa 0.1.16 looks for.
OWN_FILES = {
    "lpips_squeeze": {
        "squeezenet/squeezenet1_1_fp16.safetensors": TORCHVISION
        + "squeezenet1_1-b8a52dc0.pth as safetensors, in half",
    },
    "niqe": {
        "niqe/niqe_pris_params.npz": "https://github.com/XPixelGroup/BasicSR/raw/master/basicsr/metrics/"
        "niqe_pris_params.npz",
    },
}
PYIQA_FILES = {
    "lpips": {
        "pyiqa/LPIPS_v0.1_alex-df73285e.pth": IQA + "LPIPS_v0.1_alex-df73285e.pth",
        "checkpoints/alexnet-owt-7be5be79.pth": TORCHVISION + "alexnet-owt-7be5be79.pth",
    },
    "dists": {
        "pyiqa/DISTS_weights-f5e65c96.pth": IQA + "DISTS_weights-f5e65c96.pth",
        "checkpoints/vgg16-397923af.pth": TORCHVISION + "vgg16-397923af.pth",
    },
    "musiq": {"pyiqa/musiq_koniq_ckpt-e95806b9.pth": IQA + "musiq_koniq_ckpt-e95806b9.pth"},
    "maniqa": {"pyiqa/MANIQA_PIPAL-ae6d356b.pth": IQA + "MANIQA_PIPAL-ae6d356b.pth"},
    "clipiqa": {
        "clip/RN50.pt": CLIP + "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt",
    },
    "fid": {"pyiqa/pt_inception-2015-12-05-6726825d.pth": IQA + "pt_inception-2015-12-05-6726825d.pth"},
}


def missing_weights(name, weights=None):
    """`(path, address)` of the files that the metric `name` needs and that are not there; empty if it can run.

    `weights` is the folder of this project's own files. A hub id in place of a path lies in the hub's cache.
    """
    metric_spec(name)
    own, hub = Path(weights or "WEIGHTS"), Path(torch.hub.get_dir())
    files = [(own / file, address) for file, address in OWN_FILES.get(name, {}).items()]
    files += [(hub / file, address) for file, address in PYIQA_FILES.get(name, {}).items()]
    missing = [(path, address) for path, address in files if not path.is_file()]
    if name == "maniqa":
        from huggingface_hub import try_to_load_from_cache

        if not isinstance(try_to_load_from_cache(MANIQA_VIT, "model.safetensors"), str):
            missing.append((MANIQA_VIT, f"`hf download {MANIQA_VIT} model.safetensors`"))
    return missing


def metric_requirements(weights=None):
    """Data frame of all metrics: metric, reference (full or none), backend, version, ready, and what is missing.

    Files of pyiqa are named below `TORCH_HOME`, torch's own folder for them.
    """
    import importlib.util

    import pandas as pd

    rows = []
    for name, spec in SPECS.items():
        missing = [
            f"{str(path).replace(torch.hub.get_dir(), 'TORCH_HOME/hub')} from {address}"
            for path, address in missing_weights(name, weights)
        ]
        if spec.backend.startswith("pyiqa") and importlib.util.find_spec("pyiqa") is None:
            missing.insert(0, "the package pyiqa (`pip install pyiqa`, PolyForm Noncommercial licence)")
        kind = "full" if spec.full_reference else "none"
        rows.append((name, kind, spec.backend, spec.version, not missing, "; ".join(missing)))
    return pd.DataFrame(rows, columns=["metric", "reference", "backend", "version", "ready", "missing"])


def metric_scorer(spec, device, weights=None):
    """The function of a `MetricSpec`: pixels `(1, 3, H, W)` in `[-1, 1]`, one or two of them, to a value.

    For `fid` it takes two folders. Raises `ImportError` for a metric of pyiqa without pyiqa, and `FileNotFoundError`
    that names the missing file, its place and its address.
    """
    pyiqa = _import_pyiqa(spec) if spec.backend.startswith("pyiqa:") else None
    if missing := missing_weights(spec.name, weights):
        files = ", ".join(f"'{path}' from {address}" for path, address in missing)
        raise FileNotFoundError(
            f"The metric {spec.name!r} needs weights that are not here: {files}. Put them there"
            f"{' and give their folder' if spec.name in OWN_FILES and weights is None else ''}, or drop the metric."
        )
    if pyiqa is not None:
        metric = pyiqa.create_metric(spec.backend.removeprefix("pyiqa:"), device=device)
        return metric if spec.name == "fid" else lambda *pixels: metric(*[(p + 1) / 2 for p in pixels])
    if spec.name == "lpips_squeeze":
        return lpips_squeeze(Path(weights)).to(device)
    if spec.name == "niqe":
        path = Path(weights) / "niqe" / "niqe_pris_params.npz"
        with reading(path, "Copy the weights again."), np.load(path) as file:
            parameters = {name: file[name] for name in PRISTINE}
        return lambda pixels: niqe(pixels, parameters)
    return getattr(measures, spec.name)


def _import_pyiqa(spec):
    """pyiqa: an optional package with a non-commercial licence."""
    try:
        import pyiqa
    except ImportError as err:
        raise ImportError(
            f"The metric {spec.name!r} is computed by pyiqa, which is not installed. "
            "`pip install pyiqa` adds it (PolyForm Noncommercial licence); or drop the metric."
        ) from err
    return pyiqa
