"""Small stand-ins for what the nodes take from ComfyUI, with the names, arguments and types of its interface (0.3.64).

An argument that ComfyUI does not know is a `TypeError` here too.
"""

import importlib.util
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch


FOLDER = Path(__file__).resolve().parents[1] / "omgsr_lib" / "integrations" / "comfyui"


class ComfyExtension(ABC):
    @abstractmethod
    async def get_node_list(self): ...


class ComfyNode:
    @classmethod
    def define_schema(cls):
        raise NotImplementedError

    @classmethod
    def execute(cls, **kwargs):
        raise NotImplementedError


@dataclass
class Schema:
    node_id: str
    display_name: str = None
    category: str = "sd"
    inputs: list = field(default_factory=list)
    outputs: list = field(default_factory=list)
    description: str = ""


class NodeOutput:
    def __init__(self, *args):
        self.result = args


@dataclass
class Input:
    id: str
    display_name: str = None
    optional: bool = False
    tooltip: str = None


@dataclass
class Output:
    id: str = None
    display_name: str = None
    tooltip: str = None


def comfy_type(io_type, **fields):
    """A type with `Input` and `Output`; `fields`: what its input takes beyond those of every input, with a default."""
    names = {name: field(default=value) for name, value in fields.items()}
    namespace = {"__annotations__": dict.fromkeys(names, object), **names, "io_type": io_type}
    kind = dataclass(type("Input", (Input,), namespace))
    return SimpleNamespace(io_type=io_type, Input=kind, Output=type("Output", (Output,), {"io_type": io_type}))


NUMBER = dict.fromkeys(("default", "min", "max", "step"))


def io_module():
    return SimpleNamespace(
        ComfyNode=ComfyNode,
        Schema=Schema,
        NodeOutput=NodeOutput,
        Custom=comfy_type,
        Image=comfy_type("IMAGE"),
        Combo=comfy_type("COMBO", options=None, default=None),
        String=comfy_type("STRING", multiline=False, default=None),
        Float=comfy_type("FLOAT", **NUMBER, round=None),
        Int=comfy_type("INT", **NUMBER, control_after_generate=None),
    )


class InterruptProcessingException(Exception):
    pass


class ProgressBar:
    """Remembers itself in `made` and its values in `seen`."""

    made = []

    def __init__(self, total, node_id=None):
        self.total, self.current, self.seen = total, 0, []
        self.made.append(self)

    def update_absolute(self, value, total=None, preview=None):
        self.total = self.total if total is None else total
        self.current = min(value, self.total)
        self.seen.append(self.current)

    def update(self, value):
        self.update_absolute(self.current + value)


def model_management():
    """The module, on a CPU; with `looks_before_stop` the user stops the work after that many looks."""
    module = ModuleType("comfy.model_management")
    module.looks_before_stop = None

    def throw_exception_if_processing_interrupted():
        if module.looks_before_stop is not None:
            module.looks_before_stop -= 1
            if module.looks_before_stop < 0:
                raise InterruptProcessingException

    module.OOM_EXCEPTION = torch.OutOfMemoryError
    module.throw_exception_if_processing_interrupted = throw_exception_if_processing_interrupted
    module.get_torch_device = module.unet_offload_device = module.intermediate_device = lambda: torch.device("cpu")
    module.should_use_bf16 = lambda device=None, model_params=0: False
    module.module_size = lambda module: sum(p.nelement() * p.element_size() for p in module.state_dict().values())
    module.free_memory = lambda memory_required, device, keep_loaded=[]: []  # noqa: B006
    module.soft_empty_cache = lambda force=False: None
    return module


def folder_paths(models_dir):
    module, folders = ModuleType("folder_paths"), {}
    module.models_dir = str(models_dir)
    module.get_folder_paths = lambda folder_name: list(folders[folder_name])

    def add_model_folder_path(folder_name, full_folder_path, is_default=False):
        folders.setdefault(folder_name, []).append(full_folder_path)

    module.add_model_folder_path = add_model_folder_path
    return module


def load_nodes(monkeypatch, models_dir):
    """The folder of nodes, imported from its path as ComfyUI does; the stand-ins last as long as `monkeypatch`."""
    latest, utils = ModuleType("comfy_api.latest"), ModuleType("comfy.utils")
    latest.ComfyExtension, latest.io, utils.ProgressBar = ComfyExtension, io_module(), ProgressBar
    modules = {name: ModuleType(name) for name in ("comfy", "comfy_api")}
    modules |= {"comfy_api.latest": latest, "comfy.utils": utils, "comfy.model_management": model_management()}
    modules["comfy"].utils, modules["comfy"].model_management = utils, modules["comfy.model_management"]
    modules["folder_paths"] = folder_paths(models_dir)
    spec = importlib.util.spec_from_file_location("omgsr_nodes", FOLDER / "__init__.py")
    package = importlib.util.module_from_spec(spec)
    for name, module in (modules | {"omgsr_nodes": package}).items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "omgsr_nodes.nodes", raising=False)
    spec.loader.exec_module(package)
    ProgressBar.made.clear()
    return package
