"""The pipeline of diffusers: the pictures of `restore` without the package, and what its folder holds."""

import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from omgsr_lib import OMGSR, restore
from omgsr_lib.integrations.fixed_prompt import FixedPrompt
from omgsr_lib.integrations.pipeline import OMGSRPipeline
from omgsr_lib.priors import PRIORS


TIMESTEPS = {"ddpm": 273, "flow": 244}

# The two lines of the folder's card, where the package cannot be imported. torchvision is hidden too: diffusers needs
# none, and a build without its operators would stop transformers.
WITHOUT_PACKAGE = """
import sys
sys.modules["omgsr_lib"] = sys.modules["torchvision"] = None
from diffusers import DiffusionPipeline
from PIL import Image
for folder in sys.argv[1:]:
    pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
    for tile in (None, 64):
        pipe(Image.open("photo.png"), scale=4, tile=tile).images[0].save(f"{folder}-{tile}.png")
"""


def photo(width=29, height=22, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.BICUBIC)


def tiny(family, seed=0):
    """A random model whose adapters change its output."""
    model = OMGSR.from_base("tiny", family, TIMESTEPS[family], seed=seed).add_adapters(4, 4)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.trainable_parameters().values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def pipeline_of(model, **changes):
    """The pipeline of a model in memory, whose adapters are merged."""
    prior, vae = model.merge().prior, model.lq_vae
    vae.decoder = model.vae.decoder
    prompt = FixedPrompt({name: getattr(prior, name).shape for name in prior.prompt_tensors})
    prompt.load_state_dict({name: getattr(prior, name) for name in prior.prompt_tensors}, assign=True)
    parts = {"vae": vae, "scheduler": prior.scheduler, "prompt": prompt, prior.subfolder: prior.denoiser}
    pipe = OMGSRPipeline(**parts | changes, timestep=model.timestep)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module", params=TIMESTEPS)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return tiny(family)


@pytest.fixture(scope="module")
def pipe(family):
    return pipeline_of(tiny(family))


def assert_equal_to_a_level(image, expected):
    assert image.size == expected.size and image.mode == "RGB"
    difference = np.abs(np.asarray(image, int) - np.asarray(expected.convert("RGB"), int))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


@pytest.mark.parametrize("names", [tuple(TIMESTEPS), pytest.param(("mini-s", "mini-f"), marks=pytest.mark.slow)])
def test_saved_folders_restore_the_same_without_the_package(names, tmp_path):
    models = {name: tiny(name) if name in TIMESTEPS else OMGSR.from_pretrained(name) for name in names}
    photo().save(tmp_path / "photo.png")
    for name, model in models.items():
        before = {key: value.clone() for key, value in model.state_dict().items()}
        assert model.save_pipeline(tmp_path / name) == tmp_path / name
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    command = [sys.executable, "-I", "-c", WITHOUT_PACKAGE, *models]
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for (name, model), tile in product(models.items(), (None, 64)):
        expected = restore(model, photo(), scale=4, tile=tile, progress=False).images[0]
        assert_equal_to_a_level(Image.open(tmp_path / f"{name}-{tile}.png"), expected)


def test_the_folder_has_a_card_with_the_licence_of_the_base(model, tmp_path):
    from huggingface_hub import ModelCard

    model = tiny("ddpm")
    model.base, model.revision, model.tile = "black-forest-labs/FLUX.1-dev", "3de623f", 512
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("stays")
    folder = model.save_pipeline(tmp_path / "model")
    header, text = ModelCard.load(folder / "README.md").data.to_dict(), (folder / "README.md").read_text()
    assert header["license_name"] == "flux-1-dev-non-commercial-license" and header["license_link"] in text
    assert header["base_model"] == "black-forest-labs/FLUX.1-dev" and "3de623f" in text and "tile=512" in text
    parts = {"README.md", "model_index.json", "pipeline.py", "prompt", "scheduler", "unet", "vae"}
    assert {path.name for path in folder.iterdir()} == parts | {"notes.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_weights_keep_their_precision(tmp_path):
    from safetensors.torch import load_file

    folder = tiny("ddpm").to(torch.bfloat16).save_pipeline(tmp_path)
    files = [file for file in folder.rglob("*.safetensors") if file.parent.name != "prompt"]
    assert {value.dtype for file in files for value in load_file(file).values()} == {torch.bfloat16}


@pytest.mark.parametrize("kind", ["folded", "adaptive"])
def test_a_model_that_a_pipeline_cannot_hold_is_refused(kind, tmp_path):
    from omgsr_lib.adaptive.model import AdaptiveOMGSR

    model = tiny("ddpm")
    refused = model.fold() if kind == "folded" else AdaptiveOMGSR(model.vae, model.prior, 273)
    with pytest.raises(ValueError, match=kind):
        refused.save_pipeline(tmp_path / "model")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((29, 22), dict(timestep=400)),
        ((29, 22), dict(scale=1.7, tile=32)),
        ((60, 9), dict(tile=48)),
        ((3, 2), dict(scale=1)),
        ((1, 1), dict(scale=1)),
    ],
)
def test_arguments_and_sizes_as_of_restore(model, pipe, size, options):
    expected = restore(model, photo(*size), progress=False, **options).images[0]
    assert_equal_to_a_level(pipe(photo(*size), **options).images[0], expected)


def test_a_generator_draws_the_sample_of_the_seed(model, pipe):
    sample = pipe(photo(), generator=torch.Generator().manual_seed(7)).images[0]
    assert_equal_to_a_level(sample, restore(model, photo(), seed=7, progress=False).images[0])
    assert np.abs(np.asarray(sample, int) - np.asarray(pipe(photo()).images[0], int)).max() > 1


def test_schedulers_that_predict_v_or_do_not_shift_by_size(family):
    model = tiny(family)
    changes = dict(prediction_type="v_prediction") if family == "ddpm" else dict(use_dynamic_shifting=False, shift=3.0)
    scheduler = type(model.prior.scheduler).from_config(model.prior.scheduler.config, **changes)
    options = {name: getattr(model.prior, name) for name in model.prior.prompt_tensors}
    model.prior = PRIORS[family](model.prior.denoiser, scheduler, **options)
    expected = restore(model, photo(), progress=False).images[0]
    assert_equal_to_a_level(pipeline_of(model)(photo()).images[0], expected)


def test_offloaded_parts_come_when_they_are_called(family):
    """The hooks are those of a GPU; on a CPU they move nothing."""
    pipe = pipeline_of(tiny(family))
    expected = pipe(photo()).images[0]
    pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        assert pipe(photo()).images[0].tobytes() == expected.tobytes()
    offloaded = set(pipe.model_cpu_offload_seq.split("->"))
    assert offloaded >= {name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def test_half_precision_is_that_of_restore(family):
    model = tiny(family).merge().to(torch.bfloat16)
    expected = np.asarray(restore(model, photo(), progress=False).images[0], float)
    half = np.asarray(pipeline_of(tiny(family)).to(dtype=torch.bfloat16)(photo()).images[0], float)
    assert np.abs(half - expected).mean() < 0.05


def test_arrays_tensors_and_lists(pipe):
    one, two = (pipe(photo(seed=seed)).images[0] for seed in (0, 1))
    images = [photo(seed=seed) for seed in (0, 1)]
    array = pipe(images, output_type="np").images
    assert array.shape == (2, 88, 116, 3) and array.min() >= 0 and array.max() <= 1
    assert (np.abs(array * 255 - np.stack([one, two])) <= 0.5001).all()
    (tensor,) = pipe(images, output_type="pt", return_dict=False)
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), array)
    assert [image.size for image in pipe([photo(8, 9), photo(9, 8)]).images] == [(32, 36), (36, 32)]
    with pytest.raises(ValueError, match="one size"):
        pipe([photo(8, 9), photo(9, 8)], output_type="pt")


def test_progress_counts_tiles(pipe):
    bars = []

    class Bar:
        def __init__(self, total):
            self.total, self.done = total, 0
            bars.append(self)

        def update(self):
            self.done += 1

        def __enter__(self):
            return self

        def __exit__(self, *_):
            assert self.done == self.total

    pipe.progress_bar = lambda total: Bar(total)
    try:
        pipe([photo(), photo(16, 16)], tile=64)
    finally:
        del pipe.progress_bar
    assert [bar.total for bar in bars] == [6 + 1]


def test_photographs_are_turned_and_keep_their_profile(pipe, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    photo().save(tmp_path / "turned.png", exif=exif, icc_profile=profile)
    restored = pipe(Image.open(tmp_path / "turned.png")).images[0]
    assert restored.size == (88, 116) and restored.info["icc_profile"] == profile
    assert pipe(photo().convert("L")).images[0].mode == pipe(photo().convert("RGBA")).images[0].mode == "RGB"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (dict(image="photo.png"), "str"),
        (dict(image=[]), "image"),
        (dict(image=photo().convert("I")), "'I'"),
        (dict(scale=0.5), "0.5"),
        (dict(timestep=1000), "1000"),
        (dict(timestep=2.5), "2.5"),
        (dict(timestep=True), "got True"),
        (dict(scale="4"), "scale must be a number of at least 1: got '4'"),
        (dict(image=torch.zeros(3, 8, 8)), r"got \['Tensor'\]"),
        (dict(tile=50), "50"),
        (dict(tile=0), "0"),
        (dict(output_type="latent"), "latent"),
    ],
)
def test_wrong_arguments_are_named(pipe, options, named):
    with pytest.raises(ValueError, match=named):
        pipe(**dict(image=photo()) | options)


def test_integers_of_numpy_are_timesteps_and_tiles(pipe):
    one, two = (pipe(photo(), timestep=kind(100), tile=kind(64)).images[0] for kind in (int, np.int64))
    assert one.tobytes() == two.tobytes()


def test_full_size_models_fit(family):
    """Shapes alone, on the meta device: encoder, denoiser with its fixed prompt, decoder."""
    model = OMGSR.full_size(family, TIMESTEPS[family])
    pipe = pipeline_of(model)
    latents = pipe.encode(torch.empty(1, 3, 64, 96, device="meta", dtype=torch.bfloat16))
    output = pipe.denoise(latents, TIMESTEPS[family])
    clean = pipe.predict_clean(latents.float(), output, TIMESTEPS[family])
    assert latents.shape == output.shape == clean.shape == (1, {"ddpm": 4, "flow": 16}[family], 8, 12)
    assert pipe.factor * pipe.multiple == model.multiple


def test_coefficients_are_those_of_the_schedule(model, pipe):
    for timestep in (0, TIMESTEPS["ddpm"], 999):
        schedule, (alpha, sigma) = model.prior.schedule, pipe.coefficients(timestep)
        assert abs(alpha - schedule.alphas[timestep]) < 1e-12 and abs(sigma - schedule.sigmas[timestep]) < 1e-12


def test_tiles_are_those_of_restore(pipe):
    from omgsr_lib.tiling.grid import plan_tiles

    step = pipe.factor * pipe.multiple
    for (width, height), tile in product([(300, 200), (96, 1000), (64, 64)], [2 * step, 64, 128]):
        tiles = pipe.tiles((width, height), tile)
        size = [-(-side // step) * pipe.multiple for side in (height, width)]
        plan = plan_tiles(*size, tile // pipe.factor, multiple=pipe.multiple, rim=pipe.rim)
        if len(tiles) > 1:
            assert [(rows, columns) for rows, columns, _ in tiles] == plan.slices()
            rows, columns = plan.weights()
            expected = [y[:, None] * x for y in rows for x in columns]
            assert all(torch.equal(w, e) for (_, _, w), e in zip(tiles, expected, strict=True))
