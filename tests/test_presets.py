"""presets.py: the published hyper-parameters, and how a recipe is asked for."""

from dataclasses import FrozenInstanceError

import pytest
from command_case import refused

from omgsr_lib.losses.chunks import chunk_offsets
from omgsr_lib.presets import MODELS, PACKAGED_PRIORS, PRESETS, PROMPT_V1, RECIPES, default_tile, preset_of, recipe
from omgsr_lib.priors import PRIORS


PUBLISHED = {
    #                      t*   size  scale ranks     lr    steps   pixel         prompt
    ("paper", "s-512"): (195, 512, 4, (16, 32), 2e-5, 50_000, (2.0, "mse"), PROMPT_V1),
    ("paper", "s-1024"): (195, 1024, 8, (16, 32), 2e-5, 25_000, (2.0, "mse"), PROMPT_V1),
    ("paper", "f-512"): (295, 512, 4, (64, 64), 2e-5, 50_000, (2.0, "mse"), PROMPT_V1),
    ("paper", "f-1024"): (295, 1024, 8, (64, 64), 5e-5, 25_000, (2.0, "mse"), PROMPT_V1),
    ("first-release", "s-512"): (195, 512, 4, (16, 32), 2e-5, 50_000, (2.0, "mse"), PROMPT_V1),
    ("first-release", "f-512"): (295, 512, 4, (64, 64), 2e-5, 50_000, (2.0, "mse"), PROMPT_V1),
    ("first-release", "f-1024"): (295, 1024, 8, (64, 64), 5e-5, 25_000, (2.0, "mse"), PROMPT_V1),
    ("release", "s-512"): (273, 512, 4, (16, 32), 5e-5, 6_000, (0.5, "l1"), ""),
    ("release", "f-1024"): (244, 1024, 8, (64, 64), 5e-5, 6_000, (0.5, "l1"), ""),
}


@pytest.mark.parametrize("key", PUBLISHED)
def test_published_values(key):
    r = recipe(*key)
    ranks, pixel = (r.vae_rank, r.denoiser_rank), (r.pixel, r.pixel_loss)
    assert (r.timestep, r.resolution, r.scale, ranks, r.learning_rate, r.steps, pixel, r.prompt) == PUBLISHED[key]
    assert (r.refinement, r.perceptual, r.adversarial) == (5.0, 5.0, 0.5)
    assert (r.betas, r.weight_decay, r.clip, r.batch_size, r.accumulation) == ((0.9, 0.999), 1e-4, 1.0, 1, 4)
    assert (r.warmup, r.decay) == (0, 0.0)


@pytest.mark.parametrize("variant", ["s-512", "f-512", "f-1024"])
def test_the_first_release_differs_from_the_paper_in_its_perceptual_loss_alone(variant):
    assert recipe("first-release", variant) == recipe("paper", variant, perceptual_loss="ea-dists")


@pytest.mark.parametrize("variant", ["s", "f"])
def test_mini_and_smoke_keep_the_weights_and_losses_of_the_paper(variant):
    paper = recipe("paper", f"{variant}-512")
    for preset in ("mini", "smoke"):
        small = recipe(preset, variant)
        for name in (
            "refinement",
            "pixel",
            "pixel_loss",
            "perceptual",
            "adversarial",
            "clip",
            "weight_decay",
            "betas",
        ):
            assert getattr(small, name) == getattr(paper, name)
        assert small.family == paper.family and small.perceptual_loss == "autoencoder"


def test_every_recipe_fits_its_crop_and_every_model_its_recipe():
    for (preset, _), r in RECIPES.items():
        assert preset in (*PRESETS, "open") and r.family in PRIORS
        for chunk in {r.chunk, r.critic_chunk} - {None}:
            assert chunk_offsets(r.resolution, chunk)[-1] + chunk == r.resolution
        assert r.resolution % (16 * r.scale) == 0 or preset in ("mini", "smoke") and r.resolution % 16 == 0
    assert all(chosen in RECIPES for chosen in MODELS.values())
    assert {recipe("mini", variant).base for variant in "sf"} == set(PACKAGED_PRIORS)


def test_changes_replace_fields_unless_none():
    changed = recipe("mini", "s", steps=7, batch_size=None)
    assert changed.steps == 7 and changed.batch_size == recipe("mini", "s").batch_size
    assert recipe("mini", "s").steps != 7
    with pytest.raises(FrozenInstanceError):
        changed.steps = 8
    with pytest.raises(TypeError, match="stepz"):
        recipe("mini", "s", stepz=7)


@pytest.mark.parametrize(("preset", "variant"), [("mini", "x"), ("latents", "s"), ("paper", "s"), ("", "")])
def test_unknown_recipes_list_what_there_is(preset, variant):
    with pytest.raises(ValueError, match="smoke s, smoke f, smoke z.* mini s.*open k-1024. Got"):
        recipe(preset, variant)


def test_the_preset_of_a_variant_is_the_only_one_and_never_that_of_the_tests(capsys):
    assert [preset_of(name) for name in ("z-512", "k-1024", "s", "f-even")] == ["open", "open", "mini", "mini"]
    for variant, choices in (
        (["k"], "open k-512, open k-1024"),
        (["z"], "open z-512, open z-1024"),
        (["s", "--resolution", "512"], "paper s-512, first-release s-512, release s-512"),
    ):
        line = refused(capsys, "train", "--variant", *variant, "--dry-run")
        assert f"got '{'-'.join(variant[::2])}', which may mean {choices}. Name --preset" in line
    with pytest.raises(ValueError, match="got 'x', which may mean mini s, mini f, .*, open k-1024. Name"):
        preset_of("x")


def test_tiles_are_those_of_training_but_of_the_small_unet():
    assert {name: default_tile(name) for name in MODELS} == {
        "mini-s": 512, "mini-f": 128, "mini-s-adaptive": 512, "mini-f-adaptive": 128,
        "omgsr-s-512": 512, "omgsr-s-1024": 1024, "omgsr-f-512": 512, "omgsr-f-1024": 1024,
        "omgsr-z-512": 512, "omgsr-z-1024": 1024, "omgsr-k-512": 512, "omgsr-k-1024": 1024,
    }  # fmt: skip
    assert default_tile("some/folder") is None
