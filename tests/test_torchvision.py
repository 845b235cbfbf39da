"""The import fallback, with compiled operators and without, each in a process of its own: schemas are process-wide."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


FALLBACK = Path(__file__).resolve().parents[1] / "omgsr_lib" / "_torchvision.py"

LOAD = f"""
import importlib.util, torch
spec = importlib.util.spec_from_file_location("fallback", {str(FALLBACK)!r})
fallback = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fallback)
"""
COUNT_IMPORTS = """
import builtins
builtins.imports = getattr(builtins, "imports", 0) + 1
"""
# What torchvision does where its compiled part did not load, and where it did.
WITHOUT_OPERATORS = """
import torch
@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold):
    return dets.new_empty(0)
"""
WITH_OPERATORS = """
import torch
compiled = torch.library.Library("torchvision", "DEF")
compiled.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
OTHERWISE_BROKEN = "raise RuntimeError('the image extension is damaged')"


def run(code, *, path=None):
    environment = {"PYTHONPATH": str(path), "PATH": ""} if path else None
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def stub(folder, content):
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(COUNT_IMPORTS + content)
    return folder


def test_missing_operators_are_declared_and_the_import_repeated(tmp_path):
    check = """
    import importlib.util
    fallback.declare_missing_operators()
    assert importlib.util.find_spec("torchvision") and not hasattr(torch.ops.torchvision, "nms")
    import builtins, torchvision
    assert builtins.imports == 2 and torchvision.__spec__.loader is torchvision.__loader__
    assert str(torch.ops.torchvision.nms.default._schema) == (
        "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    )
    assert torch.ops.torchvision.qnms.default
    fallback.declare_missing_operators()
    import torchvision
    assert builtins.imports == 2
    """
    result = run(LOAD + textwrap.dedent(check), path=stub(tmp_path, WITHOUT_OPERATORS))
    assert result.returncode == 0, result.stderr


def test_loaded_operators_are_left_alone(tmp_path):
    check = """
    fallback.declare_missing_operators()
    import builtins, torchvision
    assert builtins.imports == 1 and fallback._LIBRARY is None
    assert torch.ops.torchvision.nms.default and not hasattr(torch.ops.torchvision, "qnms")
    """
    result = run(LOAD + textwrap.dedent(check), path=stub(tmp_path, WITH_OPERATORS))
    assert result.returncode == 0, result.stderr


def test_other_failures_of_torchvision_are_not_hidden(tmp_path):
    code = LOAD + "fallback.declare_missing_operators()\nimport torchvision"
    result = run(code, path=stub(tmp_path, OTHERWISE_BROKEN))
    assert result.returncode == 1
    assert "RuntimeError: the image extension is damaged" in result.stderr


def test_the_installed_torchvision_without_its_operators():
    plain = run("import torchvision")
    if plain.returncode == 0:
        pytest.skip("the compiled operators of the installed torchvision load here")
    assert "operator torchvision::nms does not exist" in plain.stderr
    check = """
    from torchvision.models import squeezenet1_1
    from torchvision.transforms.functional import resize
    assert squeezenet1_1(weights=None)(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    assert torch.allclose(resize(torch.full((1, 3, 8, 8), 0.25), [4, 4]), torch.full((1, 3, 4, 4), 0.25))
    """
    result = run(LOAD + "fallback.declare_missing_operators()" + textwrap.dedent(check))
    assert result.returncode == 0, result.stderr
