"""A script of `benchmarks/` as a module."""

import importlib.util

import pytest
from conftest import PROJECT_ROOT


def load_benchmark(name):
    folder = PROJECT_ROOT / "benchmarks"
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        spec.loader.exec_module(module)
    return module
