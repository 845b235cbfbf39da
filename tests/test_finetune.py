"""run.py: a training from photographs to adapters and model card."""

from dataclasses import replace

import pytest
import torch
from command_case import two_photos
from safetensors.torch import load_file, save_file
from torchvision.models import squeezenet1_1

from omgsr_lib.data.photos import find_photos
from omgsr_lib.model import OMGSR
from omgsr_lib.presets import recipe
from omgsr_lib.training import run
from omgsr_lib.training.checkpoint import load_state, save_state
from omgsr_lib.training.run import finetune


@pytest.fixture
def photos(tmp_path):
    return find_photos(two_photos(tmp_path / "photos"))


def finetuned(photos, out, chosen=None, **options):
    chosen = chosen or recipe("smoke", "f", batch_size=1, steps=1)
    options = dict(precision="no", progress=False) | options
    return finetune(chosen, photos, out, name="adapters", preset="smoke", command="omgsr train", **options)


def test_adapters_are_written_before_they_are_measured(photos, tmp_path, monkeypatch):
    def fail(model, pairs):
        raise RuntimeError("too little memory")

    monkeypatch.setattr(run, "restored_pairs", fail)
    with pytest.raises(RuntimeError, match="too little memory"):
        finetuned(photos, tmp_path / "run")
    assert OMGSR.from_base("tiny", "flow", 244).load_adapter(tmp_path / "run" / "adapters").ranks == (8, 16)


def test_a_base_in_bfloat16_is_trained_measured_and_shown(photos, tmp_path, monkeypatch):
    """As on a GPU, whose frozen weights are loaded in bfloat16."""
    from_recipe = OMGSR.from_recipe
    monkeypatch.setattr(OMGSR, "from_recipe", lambda *a, **k: from_recipe(*a, **k).to(torch.bfloat16))
    options = dict(precision="bf16", measure_timestep=True, evaluation=photos[1:])
    finetuned(photos[:1], tmp_path / "run", **options)
    assert (tmp_path / "run" / "previews" / "step-000001.png").is_file()
    assert "PSNR-Y" in (tmp_path / "run" / "adapters" / "README.md").read_text()


def test_a_run_goes_on_with_its_own_base_and_start_alone(photos, tmp_path):
    bases, starts = [tmp_path / "base-a", tmp_path / "base-b"], [tmp_path / "start-a", tmp_path / "start-b"]
    for seed, (base, start) in enumerate(zip(bases, starts, strict=True)):
        model = OMGSR.from_recipe(recipe("smoke", "f"), seed=seed).add_adapters(2, 2, seed=seed)
        model.save_pretrained(base)
        model.save_adapter(start)
    chosen, run = recipe("smoke", "f", batch_size=1, steps=1), tmp_path / "run"
    finetuned(photos, run, chosen, base=str(bases[0]), start=str(starts[0]))
    bases[0].rename(tmp_path / "moved")
    finetuned(photos, run, chosen, base=str(tmp_path / "moved"), start=str(starts[0]))
    for changes in dict(base=str(bases[1])), dict(start=str(starts[1])), dict(base=None), dict(start=None):
        (name,) = changes
        with pytest.raises(ValueError, match=f"run' has {name}_weights = '[0-9a-f]{{12}}', got "):
            finetuned(photos, run, chosen, **dict(base=str(tmp_path / "moved"), start=str(starts[0])) | changes)


def test_the_card_has_the_ranks_of_the_adapters(photos, tmp_path):
    start, chosen = tmp_path / "start", recipe("smoke", "f", batch_size=1, steps=1)
    OMGSR.from_recipe(chosen).add_adapters(0, 20).save_adapter(start)
    finetuned(photos, tmp_path / "run", chosen, start=str(start))
    assert "| ranks (encoder, denoiser) | 0, 20 |" in (tmp_path / "run" / "adapters" / "README.md").read_text()


def test_adapters_continue_at_their_own_timestep_and_a_warning_says_so(photos, tmp_path):
    start, chosen = tmp_path / "start", recipe("smoke", "f", batch_size=1, steps=1)
    OMGSR.from_recipe(chosen).add_adapters(2, 2).save_adapter(start)
    with pytest.warns(UserWarning, match="trained at timestep 244 and continue there, not at the recipe's 100"):
        finetuned(photos, tmp_path / "run", replace(chosen, timestep=100), start=str(start))
    assert OMGSR.from_base("tiny", "flow", 100).load_adapter(tmp_path / "run" / "adapters").timestep == 244


def test_a_run_goes_on_with_its_own_prompt_and_loss_networks_alone(photos, tmp_path):
    """Wherever these lie, and whatever else lies there."""
    chosen = recipe("smoke", "f", batch_size=1, steps=1, perceptual_loss="lpips-squeeze")
    base, run, prompts, weights = tmp_path / "base", tmp_path / "run", [], []
    OMGSR.from_recipe(chosen).add_adapters(2, 2).save_pretrained(base)
    for number in range(2):
        prompts.append(tmp_path / f"prompt-{number}")
        prompt = load_file(base / "prompt_embeds.safetensors")
        save_file({name: tensor + number for name, tensor in prompt.items()}, prompts[-1])
        weights.append(tmp_path / f"weights-{number}")
        (weights[-1] / "squeezenet").mkdir(parents=True)
        network = squeezenet1_1().half().state_dict()
        save_file(network, weights[-1] / "squeezenet" / "squeezenet1_1_fp16.safetensors")
    options = dict(base=str(base), weights=str(weights[0]))
    finetuned(photos, run, chosen, prompt_embeds=str(prompts[0]), **options)
    (weights[0] / "dists").mkdir()
    (weights[0] / "dists" / "weights.pt").touch()
    prompts[0].replace(base / "prompt_embeds.safetensors")
    finetuned(photos, run, chosen, **options)
    for name, other in ("prompt_embeds", prompts[1]), ("weights", weights[1]):
        with pytest.raises(ValueError, match=f"run' has (loss_)?{name} = '[0-9a-f]{{12}}', got '[0-9a-f]{{12}}'"):
            finetuned(photos, run, chosen, **options | {name: str(other)})


def test_a_run_that_names_no_weights_goes_on(photos, tmp_path):
    finetuned(photos, tmp_path / "run")
    state = load_state(tmp_path / "run" / "state.pt")
    assert state["settings"].pop("base_weights") == "tiny" and state["settings"].pop("start_weights") is None
    assert state["settings"].pop("prompt_embeds") is None and state["settings"].pop("loss_weights") is None
    assert state["settings"].pop("quantise") is None
    save_state(tmp_path / "run" / "state.pt", state)
    assert len(finetuned(photos, tmp_path / "run").log) == 1
