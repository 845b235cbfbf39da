"""fold/packing.py: the linear layers of a folded network in oneDNN's layout."""

import copy

import pytest
import torch
from torch.nn import functional as F

from omgsr_lib.fold import packing
from omgsr_lib.fold.affine import Affine, FoldedLinear
from omgsr_lib.model import OMGSR
from omgsr_lib.restore.prepare import prepare
from omgsr_lib.utils.memory import meta_twin


pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")


@pytest.fixture(autouse=True)
def fast_processor(monkeypatch):
    """A processor that gains from it."""
    monkeypatch.setattr(packing, "packing_pays", lambda: True)


@torch.no_grad()
@pytest.mark.parametrize("norm_eps", [None, 1e-6])
def test_a_packed_layer_equals_its_formula(norm_eps):
    torch.manual_seed(0)
    layer = Affine(torch.randn(48, 32).double(), torch.randn(48).double(), torch.float32).linear(norm_eps)
    x = torch.randn(2, 7, 32)
    layer.pack()
    inputs = x.double() if norm_eps is None else F.layer_norm(x.double(), (32,), eps=norm_eps)
    expected = inputs @ layer.weight.double().T + layer.bias.double()
    torch.testing.assert_close(layer(x), expected.float(), rtol=0, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["ddpm", "flow", "z_image", "flux2"])
def test_prepared_models_are_packed_and_predict_the_same(family):
    model = OMGSR.from_base("tiny", family, 273)
    latents = torch.randn(1, model.vae.config.latent_channels, 16, 16)
    expected = model.fold().prior(latents, 273)
    prepared = prepare(model, fold=True)
    assert _packed(prepared)
    torch.testing.assert_close(prepared.prior(latents, 273), expected, rtol=1e-5, atol=1e-5)


def test_only_folded_networks_in_float32_are_packed():
    model = OMGSR.from_base("tiny", "flow", 273)
    assert not _packed(prepare(copy.deepcopy(model), fold=True, dtype=torch.bfloat16))
    assert not _packed(prepare(model))


@torch.no_grad()
def test_copies_twins_and_moved_models_are_unpacked():
    model = prepare(OMGSR.from_base("tiny", "flow", 273), fold=True)
    latents = torch.randn(1, model.vae.config.latent_channels, 16, 16)
    assert not _packed(copy.deepcopy(model))
    assert meta_twin(model).prior(latents.to("meta"), 273).is_meta
    assert _packed(model)
    assert model.double().prior(latents.double(), 273).dtype == torch.float64


def test_a_processor_that_gains_nothing_keeps_its_layers(monkeypatch):
    monkeypatch.setattr(packing, "packing_pays", lambda: False)
    assert not _packed(prepare(OMGSR.from_base("tiny", "flow", 273), fold=True))


def _packed(model):
    layers = [layer for layer in model.prior.modules() if isinstance(layer, FoldedLinear)]
    return bool(layers) and all(layer.packed is not None for layer in layers)
