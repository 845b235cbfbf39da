"""The public interface: names and arguments that callers rely on, and nothing public that nobody calls."""

import ast
import inspect
import json
from pathlib import Path

import pytest

import omgsr_lib
from omgsr_lib.midstep import MidTimestep


ROOT = Path(__file__).resolve().parents[1]
CONTRACT = {
    "NoiseSchedule.from_scheduler": "(scheduler, image_seq_len=None)",
    "NoiseSchedule.snr": "(self)",
    "NoiseSchedule.add_noise": "(self, latents, noise, t)",
    "NoiseSchedule.predict_clean": "(self, latents, output, t)",
    "NoiseSchedule.nearest_timestep": "(self, snr)",
    "snr_mid_timestep": "(lq_latents, hq_latents, schedule)",
    "MidTimestep.curve": "(self)",
    "latent_gap": "(lq_latents, hq_latents, schedule, timesteps, *, distances, generator=None)",
    "OMGSR.from_pretrained": "(name, *, base=None, adapter=None, prompt_embeds=None)",
    "OMGSR.save_pretrained": "(self, folder)",
    "OMGSR.save_adapter": "(self, folder)",
    "OMGSR.forward": "(self, lq_pixels, timestep=None)",
    "OMGSR.predict_clean": "(self, lq_latents, timestep=None, *, tile=None, overlap=None, window='gaussian')",
    "OMGSR.fold": "(self)",
    "restore": "(model, images, *, scale=4, timestep=None, tile=None, overlap=None, window='gaussian', "
    "colour_fix='adain', seed=None, progress=True)",
    "prepare": "(model, *, device=None, dtype=None, fold=False)",
    "evaluate_folder": "(restored_dir, reference_dir, metrics=('psnr_y', 'ssim_y'), device='auto')",
}
FIELDS = {
    "MidTimestep": ("timestep", "per_image", "interval"),
    "NoiseSchedule": ("alphas", "sigmas"),
    "OMGSROutput": ("images", "clean_latents", "lq_latents"),
    "RestoreResult": ("images",),
}


def public(path):
    found = MidTimestep if path.startswith("MidTimestep") else getattr(omgsr_lib, path.split(".")[0])
    return getattr(found, path.split(".")[1]) if "." in path else found


def test_the_public_names():
    functions = {name for name in CONTRACT if "." not in name}
    classes = {name.split(".")[0] for name in [*CONTRACT, *FIELDS] if name not in functions} - {"MidTimestep"}
    assert set(omgsr_lib.__all__) == functions | classes


@pytest.mark.parametrize("name", CONTRACT)
def test_arguments_stay_and_further_ones_are_optional(name):
    promised = ast.parse(f"def f{CONTRACT[name]}: pass").body[0].args
    parameters = dict(inspect.signature(public(name)).parameters)
    if inspect.isfunction(public(name)) and "." in name:
        del parameters[next(iter(parameters))]  # the instance
    positional = [p.name for p in parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD]
    names = [arg.arg for arg in promised.args if arg.arg != "self"]
    assert positional[: len(names)] == names
    defaults = dict(zip([arg.arg for arg in promised.args][::-1], promised.defaults[::-1], strict=False))
    defaults |= dict(zip([arg.arg for arg in promised.kwonlyargs], promised.kw_defaults, strict=True))
    for argument, default in defaults.items():
        assert argument in parameters
        assert default is None or parameters[argument].default == ast.literal_eval(default)
    for parameter in parameters.values():
        further = parameter.name not in (*names, *defaults)
        assert not further or parameter.default is not parameter.empty or parameter.kind == parameter.VAR_KEYWORD


@pytest.mark.parametrize("name", FIELDS)
def test_fields_stay(name):
    fields = {*inspect.get_annotations(public(name)), *dir(public(name))}
    assert fields >= set(FIELDS[name])


def sources():
    """`(path, parsed)` of the modules, the benchmarks and the code of the notebooks."""
    for path in [*ROOT.glob("omgsr_lib/**/*.py"), *ROOT.glob("benchmarks/*.py")]:
        yield path, ast.parse(path.read_text())
    for path in ROOT.glob("notebooks/*.ipynb"):
        cells = [cell["source"] for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        lines = "\n".join("".join(cell) for cell in cells).split("\n")
        yield path, ast.parse("\n".join(line for line in lines if not line.startswith(("%", "!"))))


def test_every_public_function_has_a_caller_outside_the_tests():
    defined, used = {}, set()
    for path, tree in sources():
        used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        used |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}  # measures go by name
        if path.is_relative_to(ROOT / "omgsr_lib"):
            kinds = (ast.FunctionDef, ast.ClassDef)
            defined |= {node.name: path.name for node in tree.body if isinstance(node, kinds)}
    uncalled = {name for name in defined if not name.startswith("_")} - used - {*omgsr_lib.__all__}
    uncalled -= {"setup"}  # of an extension: Sphinx calls it
    assert not uncalled, {name: defined[name] for name in uncalled}
