"""The package's public names: imported at their first use, and never hidden by a module of the same name."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import omgsr_lib


ROOT = Path(__file__).resolve().parents[1]


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_no_library():
    heavy = "{'torch', 'torchvision', 'diffusers', 'transformers', 'peft', 'accelerate', 'pandas', 'matplotlib'}"
    assert run(f"import sys, omgsr_lib; dir(omgsr_lib); print({heavy} & set(sys.modules))") == "set()\n"


def test_importing_the_model_and_restore_imports_no_diffusers():
    heavy = "{'torchvision', 'diffusers', 'transformers', 'peft', 'accelerate', 'pandas', 'matplotlib'}"
    code = f"import sys; from omgsr_lib import OMGSR, restore; print(callable(restore), {heavy} & set(sys.modules))"
    assert run(code) == "True set()\n"


@pytest.mark.parametrize(
    "first",
    [
        "import omgsr_lib.restore.pipeline",
        "from omgsr_lib.restore.pipeline import restore",
        "import omgsr_lib.restore.folder",
        "from omgsr_lib import *",
        "import omgsr_lib.restore; omgsr_lib.restore",
    ],
)
def test_restore_is_the_function_whatever_is_imported_first(first):
    code = f"{first}\nimport omgsr_lib, sys; from omgsr_lib import restore\n"
    code += "assert restore is omgsr_lib.restore is sys.modules['omgsr_lib.restore.pipeline'].restore"
    run(code)


def test_public_names():
    assert set(omgsr_lib.__all__) <= set(dir(omgsr_lib))
    for name, module in omgsr_lib._MODULES.items():
        assert getattr(omgsr_lib, name) is getattr(import_module(f"omgsr_lib.{module}"), name)
    with pytest.raises(AttributeError, match="'omgsr_lib' has no attribute 'paint'"):
        omgsr_lib.paint  # noqa: B018
    with pytest.raises(ImportError):
        from omgsr_lib import paint  # noqa: F401


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(omgsr_lib.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == omgsr_lib._MODULES


def test_torchvision_loads_after_the_package():
    assert run("import omgsr_lib; from torchvision.models import squeezenet1_1; print(squeezenet1_1.__name__)")
