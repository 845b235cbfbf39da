"""Published weights of the frozen networks: from the folder `weights`, else from where their authors keep them.

    <weights>/vgg16/vgg16.safetensors | vgg16-397923af.pth   torchvision's state dict
    <weights>/dists/weights.pt                               `alpha`, `beta` of DISTS
    <weights>/squeezenet/squeezenet1_1_fp16.safetensors      torchvision's state dict
    <weights>/dinov2/, <weights>/dinov3/                     config.json and model.safetensors, transformers layout

Whatever cannot be had raises `FileNotFoundError` that names file, place and page; at once if HF_HUB_OFFLINE is set.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file

from ..utils.files import reading


DINOV2 = "facebook/dinov2-base"  # ViT-B/14
DINOV3 = "facebook/dinov3-convnext-large-pretrain-lvd1689m"  # gated
DINOV3_STAGES = dict(hidden_sizes=[192, 384, 768], depths=[3, 3, 27])  # the first three, all that the losses use
VGG16_FILES = ("vgg16.safetensors", "vgg16-397923af.pth")


def vgg16_features(weights=None):
    """torchvision's VGG16 (ImageNet) without its classifier: tensors by their names in `features`, as "0.weight"."""
    paths = [_place(weights, "vgg16", name) for name in VGG16_FILES]
    path = next(filter(Path.is_file, paths), None)
    if path is None:
        state = _torchvision_vgg16(weights)
    else:
        state = _load(path, "features.0.weight")
    return {name.removeprefix("features."): t.float() for name, t in state.items() if name.startswith("features.")}


def _torchvision_vgg16(weights):
    """From torch's cache of downloads, else downloaded into it."""
    from huggingface_hub import is_offline_mode
    from torchvision.models import VGG16_Weights

    url = VGG16_Weights.IMAGENET1K_V1.url
    try:
        if is_offline_mode() and not Path(torch.hub.get_dir(), "checkpoints", VGG16_FILES[1]).is_file():
            raise OSError("HF_HUB_OFFLINE is set")
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except OSError as err:
        raise FileNotFoundError(
            f"VGG16's weights are not here and cannot be downloaded now ({err}): put '{VGG16_FILES[1]}' from {url} "
            f"into '{_place(weights, 'vgg16')}', or connect once."
        ) from err


def squeezenet_features(weights):
    """torchvision's SqueezeNet 1.1 (ImageNet) without its classifier, stored in half precision; never downloaded."""
    path = _place(weights, "squeezenet", "squeezenet1_1_fp16.safetensors")
    if not path.is_file():
        raise FileNotFoundError(f"LPIPS-SqueezeNet needs its backbone: '{path}' is missing. Give the weights folder.")
    state = _load(path, "features.0.weight")
    return {name.removeprefix("features."): tensor.float() for name, tensor in state.items()}


def dists_weights(weights=None):
    """The learned `alpha` and `beta` `(1475,)` of DISTS."""
    path = _place(weights, "dists", "weights.pt")
    if not path.is_file():
        raise FileNotFoundError(
            "DISTS needs its learned weights: put 'weights.pt' of https://github.com/dingkeyan93/DISTS (folder "
            f"DISTS_pytorch) into '{path.parent}' and give that weights folder."
        )
    state = _load(path, "alpha", "beta")
    return state["alpha"].flatten(), state["beta"].flatten()


def dinov2_model(weights=None, *, pretrained=True):
    """A transformers `Dinov2Model`, ViT-B/14 for images of 518 px; random weights if not `pretrained`."""
    from transformers import Dinov2Config, Dinov2Model

    if not pretrained:
        return Dinov2Model(Dinov2Config(image_size=518))
    return _from_pretrained(Dinov2Model, weights, "dinov2", DINOV2)


def dinov3_stages(weights=None, *, pretrained=True):
    """The first three stages of a transformers `DINOv3ConvNextModel`, the large one or that of `<weights>/dinov3`.

    Random weights if not `pretrained`.
    """
    from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel

    if pretrained:
        model = _from_pretrained(DINOv3ConvNextModel, weights, "dinov3", DINOV3)
    else:
        model = DINOv3ConvNextModel(DINOv3ConvNextConfig(**DINOV3_STAGES))
    return model.model.stages[:3]


def _place(weights, *parts):
    """Path in the folder `weights`; without one, a path for messages only, which no file has."""
    return Path("<weights>" if weights is None else weights, *parts)


def _load(path, *names):
    """The state dict in the file `path`, which must hold `names`."""
    with reading(path, "Copy the weights again."):
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        if missing := [name for name in names if name not in state]:
            raise ValueError(f"without {', '.join(missing)}")
    return state


def _from_pretrained(cls, weights, name, hub_id):
    folder = _place(weights, name)
    source = folder if folder.is_dir() else hub_id
    try:
        with reading(source, "Copy the weights again."):
            model, info = cls.from_pretrained(
                source, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
    except OSError as err:
        raise FileNotFoundError(
            f"No weights of {hub_id}: '{source}' is not a complete folder, none are cached, and the hub cannot be "
            f"reached. Put config.json and model.safetensors of https://huggingface.co/{hub_id} into '{folder}', or "
            "connect once; for a gated model also accept its licence on that page and run `hf auth login`."
        ) from err
    if info["missing_keys"]:
        raise ValueError(
            f"'{source}' must hold the weights of a {cls.__name__}: {len(info['missing_keys'])} of them are missing, "
            f"'{sorted(info['missing_keys'])[0]}' first. Replace the folder."
        )
    return model
