"""A node that loads a model and one that restores images with it, in the V3 interface of ComfyUI.

ComfyUI's images are float tensors `(B, H, W, C)` in [0, 1]; they pass through `omgsr_lib.restore` with 8 bits. The
model lies on the offload device while it does not restore.
"""

import logging
import math
from contextlib import contextmanager
from pathlib import Path

import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy import model_management
from comfy_api.latest import io
from PIL import Image

from omgsr_lib import OMGSR, prepare, restore
from omgsr_lib.presets import MODELS, PACKAGED_PRIORS, recipe
from omgsr_lib.priors.latents import compression
from omgsr_lib.restore.checks import check_name
from omgsr_lib.restore.pipeline import BEST_TILE
from omgsr_lib.tiling.grid import plan_tiles
from omgsr_lib.utils.memory import out_of_memory


Model = io.Custom("OMGSR_MODEL")
FOLDER = "omgsr"  # below ComfyUI's folder of models, for folders that `OMGSR.save_pretrained` wrote
SMALLEST_TILE, LARGEST_TILE = 64, 4096  # pixels
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
AUTOENCODER = 4096  # bytes that it takes per pixel of the output in one piece; with less it works in parts

folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


class LoadOMGSR(io.ComfyNode):
    """Loads a model that ships with omgsr_lib, or of a folder below `models/omgsr`."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="OMGSRLoad",
            display_name="Load OMGSR Model",
            category="loaders",
            description="A model that restores photographs in one step.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=[*packaged(), *saved()],
                    tooltip="Ships with omgsr_lib, or a folder in models/omgsr that save_pretrained wrote.",
                ),
                io.Combo.Input(
                    "precision",
                    options=["auto", *PRECISIONS],
                    default="auto",
                    tooltip="auto: bfloat16 where ComfyUI finds that the GPU is made for it, else float32.",
                ),
            ],
            outputs=[Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model_name, precision):
        device = model_management.get_torch_device()
        check_name("model_name", model_name, [*packaged(), *saved()])  # over HTTP ComfyUI does not
        check_name("precision", precision, ["auto", *PRECISIONS])
        if precision == "auto":
            precision = "bfloat16" if model_management.should_use_bf16(device) else "float32"
        dtype = PRECISIONS[precision]
        model = OMGSR.from_pretrained(saved().get(model_name, model_name), dtype=dtype)
        model_management.free_memory(model_management.module_size(model), device)
        model = prepare(model, device=device, dtype=dtype)
        return io.NodeOutput(model.to(model_management.unet_offload_device()))


class RestoreOMGSR(io.ComfyNode):
    """Restores every image of a batch; out of memory, with tiles of half the side."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="OMGSRRestore",
            display_name="Restore Image (OMGSR)",
            category="image/upscaling",
            description="Removes blur, noise and compression, and enlarges.",
            inputs=[
                Model.Input("model"),
                io.Image.Input("image"),
                io.Float.Input("scale", default=4.0, min=1.0, max=16.0, step=0.1, tooltip="Factor of both sides."),
                io.String.Input(
                    "timestep",
                    default="auto",
                    tooltip="auto: the model's own, or of an adaptive model that of each image. A number from 0 "
                    "to 999 fixes it: higher ones let the model change more, far above its own it restores badly.",
                ),
                io.Int.Input(
                    "tile",
                    default=0,
                    min=0,
                    max=LARGEST_TILE,
                    step=SMALLEST_TILE,
                    tooltip="Side in pixels of the output; 0: in which the model restores best. Smaller ones need "
                    "less memory and take longer.",
                ),
                io.Combo.Input(
                    "colour_fix",
                    options=["adain", "wavelet", "none"],
                    default="adain",
                    tooltip="How the result takes the colours of the input: adain their mean and spread, wavelet the "
                    "colours of each place.",
                ),
                io.Int.Input(
                    "seed",
                    default=-1,
                    min=-1,
                    max=2**53 - 1,
                    control_after_generate=False,
                    tooltip="-1: the same result every time. From 0: a random variation, of models that have one (not "
                    "the mini models).",
                ),
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def validate_inputs(cls, timestep):
        """True, or what is wrong; ComfyUI gives None for a value that another node will compute.

        Of the timestep alone: ComfyUI repeats the message at every input that is named here.
        """
        try:
            parsed("auto" if timestep is None else timestep)
        except ValueError as err:
            return str(err)
        return True

    @classmethod
    def execute(cls, model, image, scale, timestep, tile, colour_fix, seed):
        options = dict(scale=scale, timestep=parsed(timestep), colour_fix=None if colour_fix == "none" else colour_fix)
        options |= dict(seed=None if seed < 0 else seed, progress=False)
        if tile and not (SMALLEST_TILE <= tile <= LARGEST_TILE and tile % model.multiple == 0):
            raise ValueError(
                f"tile must be 0 or from {SMALLEST_TILE} to {LARGEST_TILE} pixels, a multiple of {model.multiple}: "
                f"got {tile}."
            )
        device, tile = model_management.get_torch_device(), tile or model.tile or BEST_TILE
        height, width = (math.ceil(side * scale) for side in image.shape[1:3])
        model_management.free_memory(model_management.module_size(model) + AUTOENCODER * height * width, device)
        try:
            model.to(device)
            while True:
                try:
                    restored = restored_batch(model, image, tile, options)
                    break
                except (model_management.OOM_EXCEPTION, RuntimeError, MemoryError) as err:
                    smaller = tile // 2 // model.multiple * model.multiple
                    if not out_of_memory(err) or smaller < SMALLEST_TILE:
                        raise
                logging.warning("OMGSR: out of memory with tiles of %d pixels, trying %d.", tile, smaller)
                tile = smaller
                model_management.soft_empty_cache()
        finally:
            model.to(model_management.unet_offload_device())
        return io.NodeOutput(restored.to(model_management.intermediate_device()))


def packaged():
    """Names of the models whose base ships with omgsr_lib."""
    return [name for name in MODELS if recipe(*MODELS[name]).base in PACKAGED_PRIORS]


def saved():
    """`{name: folder}` of the models below the folders that ComfyUI knows for them."""
    folders = [path for root in folder_paths.get_folder_paths(FOLDER) for path in sorted(Path(root).glob("*"))]
    return {path.name: path for path in folders if (path / "omgsr.json").is_file()}


def parsed(timestep):
    """None of "auto", else the integer. Raises `ValueError` for another text."""
    text = str(timestep).strip()
    if text.lower() == "auto":
        return None
    if not text.isdecimal() or int(text) > 999:
        raise ValueError(f'timestep must be "auto" or an integer from 0 to 999: got {timestep!r}.')
    return int(text)


def restored_batch(model, image, tile, options):
    """Restored images `(B, H, W, C)` in [0, 1] of a batch, with ComfyUI's progress bar and its button to stop."""
    pictures = [to_pil(levels) for levels in (image.float().clamp(0, 1) * 255).round().byte().cpu().numpy()]
    width, height = (round(side * options["scale"]) for side in pictures[0].size)
    steps = len(pictures) * tiles(model, height, width, tile)
    bar, results = comfy.utils.ProgressBar(steps), []
    with told_of_tiles(model, bar):
        for picture in pictures:
            model_management.throw_exception_if_processing_interrupted()
            restored = restore(model, picture, tile=tile, **options).images[0]
            results.append(np.atleast_3d(np.asarray(restored, dtype=np.float32)) / 255)
    bar.update_absolute(steps)
    return torch.from_numpy(np.stack(results))


def to_pil(levels):
    """The PIL image of `(H, W, C)`: grey, RGB or with alpha."""
    return Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)


def tiles(model, height, width, tile):
    """How many tiles of `tile` pixels `restore` predicts of a restored image."""
    factor = compression(model.vae)
    height, width = ((side + -side % model.multiple) // factor for side in (height, width))
    options = dict(multiple=model.prior.latent_multiple, rim=model.prior.rim)
    plan = plan_tiles(height, width, tile // factor, **options)
    return 1 if height * width <= (tile // factor) ** 2 else len(plan.slices())


@contextmanager
def told_of_tiles(model, bar):
    """Inside, each call of the denoiser moves `bar`, and all layers of the autoencoder look whether the user stopped.

    ComfyUI tells this once, so the threads of other tiles are told here.
    """
    stopped = []

    def before(*_):
        if stopped:
            raise stopped[0]
        try:
            model_management.throw_exception_if_processing_interrupted()
        except BaseException as stop:
            stopped.append(stop)
            raise

    def after(*_):
        bar.update(1)

    denoiser = model.prior.denoiser
    layers = {layer for part in (model.lq_vae, model.vae) for layer in part.modules() if not any(layer.children())}
    handles = [layer.register_forward_pre_hook(before) for layer in (denoiser, *layers)]
    handles.append(denoiser.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
