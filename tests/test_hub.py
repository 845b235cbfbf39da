"""priors/hub.py and the checks of a base: every way a base can be wrong, in one line that says what to do."""

import json
import sys
from types import ModuleType

import pytest
import torch
from huggingface_hub import errors

from omgsr_lib.model import OMGSR
from omgsr_lib.presets import recipe
from omgsr_lib.priors import PRIORS
from omgsr_lib.priors.loading import WEIGHTS, load_autoencoder, load_prior, save_model, save_prior
from omgsr_lib.priors.tiny import tiny_autoencoder


SD21 = "stabilityai/stable-diffusion-2-1-base"
FLUX = "black-forest-labs/FLUX.1-dev"


def http_error(kind, status):
    from httpx2 import Request, Response

    return kind("as the hub says it", response=Response(status, request=Request("GET", "https://huggingface.co")))


@pytest.fixture
def hub(monkeypatch):
    """`hub(error)`: every download of diffusers raises `error`; or a function of the file's name and options."""

    def answer_with(answer):
        def download(source, filename, subfolder=None, **options):
            if isinstance(answer, Exception):
                raise answer
            return answer(f"{subfolder}/{filename}", **options)

        monkeypatch.setattr("diffusers.configuration_utils.hf_hub_download", download)

    return answer_with


@pytest.fixture
def folders(tmp_path):
    for prior in (kind.tiny() for kind in PRIORS.values()):
        save_prior(prior, tmp_path / prior.family)
        save_model(tiny_autoencoder(), tmp_path / prior.family / "vae")
    return {family: tmp_path / family for family in PRIORS}


def change(file, **settings):
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def test_a_gated_base_names_the_page_to_accept(hub):
    hub(http_error(errors.GatedRepoError, 403))
    with pytest.raises(PermissionError, match=f"'{FLUX}' is gated.* https://huggingface.co/{FLUX} .*`hf auth login`"):
        OMGSR.from_pretrained("omgsr-f-1024")


def test_a_withdrawn_base_names_the_option(hub):
    hub(http_error(errors.RepositoryNotFoundError, 404))
    with pytest.raises(FileNotFoundError, match=f"no repository '{SD21}' .*withdrawn.*mirror: base=,.*--base"):
        OMGSR.from_pretrained("omgsr-s-512")
    with pytest.raises(FileNotFoundError, match="no repository 'owner/name' .it does not exist.*--base"):
        load_prior("owner/name", "flow")
    hub(http_error(errors.DisabledRepoError, 403))
    with pytest.raises(FileNotFoundError, match="no repository 'owner/name'"):
        load_autoencoder("owner/name")


def test_a_missing_revision_is_named(hub):
    hub(http_error(errors.RevisionNotFoundError, 404))
    with pytest.raises(FileNotFoundError, match="'owner/name' has no revision 'abc'.*co/owner/name/commits"):
        load_prior("owner/name", "ddpm", revision="abc")


@pytest.mark.parametrize(
    "error",
    [
        errors.LocalEntryNotFoundError("not cached"),
        errors.OfflineModeIsEnabled("offline"),
        http_error(errors.HfHubHTTPError, 503),
    ],
    ids=["not cached", "offline", "hub down"],
)
def test_without_a_network_the_options_are_named(hub, error):
    hub(error)
    for load in (lambda: load_autoencoder("owner/name"), lambda: load_prior("owner/name", "flow")):
        with pytest.raises(ConnectionError, match="'owner/name' is not in the hub's cache.*HF_HUB_OFFLINE.*--base"):
            load()


def test_a_repository_in_another_layout_is_named(hub):
    hub(http_error(errors.RemoteEntryNotFoundError, 404))
    with pytest.raises(FileNotFoundError, match="diffusers layout.*'owner/name' is not: .*config.json"):
        load_prior("owner/name", "ddpm")


def test_a_base_of_the_other_family_names_both(folders, hub):
    with pytest.raises(ValueError, match=r"ddpm model needs a ddpm base .with unet/.*flow.* is a flow base"):
        OMGSR.from_pretrained("omgsr-s-512", base=folders["flow"])
    with pytest.raises(ValueError, match=r"flow model needs a flow base .with transformer/.*ddpm.* is a ddpm base"):
        OMGSR.from_pretrained("omgsr-f-512", base=folders["ddpm"])

    with pytest.raises(ValueError, match=r"ddpm model needs a ddpm base.*z_image.* is a z_image base"):
        OMGSR.from_pretrained("omgsr-s-512", base=folders["z_image"])
    with pytest.raises(ValueError, match="flux2 family needs a Flux2Transf.*: .* has a ZImageTransformer2DModel"):
        OMGSR.from_pretrained("omgsr-k-512", base=folders["z_image"])

    def on_the_hub(file, **options):
        if file.startswith("unet/"):
            raise http_error(errors.RemoteEntryNotFoundError, 404)
        return str(folders["flow"] / file)

    def in_the_cache(file, local_files_only=False, **options):
        if file.startswith("unet/") or not local_files_only:
            raise errors.LocalEntryNotFoundError("not cached")
        return str(folders["flow"] / file)

    for answer in (on_the_hub, in_the_cache):
        hub(answer)
        with pytest.raises(ValueError, match=f"ddpm model needs a ddpm base.*'{FLUX}' is a flow base"):
            load_prior(FLUX, "ddpm")


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("flow", {"_class_name": "SD3Transformer2DModel"}, "needs a FluxTransformer2DModel: .* has a SD3Transformer"),
        ("flow", {"in_channels": 384, "out_channels": 64}, "latents to latents.*in_channels 384, out_channels 64"),
        ("ddpm", {"in_channels": 9}, "latents to latents.*in_channels 9, out_channels 4"),
        ("ddpm", {"addition_embed_type": "text_time"}, "with a text alone.*addition_embed_type text_time"),
    ],
    ids=["SD3", "FLUX.1-Fill", "inpainting", "SDXL"],
)
def test_a_relative_of_the_family_is_refused(folders, family, settings, message):
    denoiser = {"ddpm": "unet", "flow": "transformer"}[family]
    change(folders[family] / denoiser / "config.json", **settings)
    with pytest.raises(ValueError, match=message):
        load_prior(folders[family], family)


@torch.no_grad()
def test_a_v_prediction_base_is_for_other_timesteps_and_adapters(folders):
    change(folders["ddpm"] / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    with pytest.raises(ValueError, match=f"predicts epsilon: '.*ddpm' predicts v_prediction. Use {SD21} or a copy"):
        OMGSR.from_pretrained("omgsr-s-512", base=folders["ddpm"])
    model = OMGSR.from_base(folders["ddpm"], "ddpm", 273)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    abar = 0.6357426  # of Stable Diffusion's schedule at 273
    expected = abar**0.5 * latents - (1 - abar) ** 0.5 * model.prior(latents, 273)
    torch.testing.assert_close(model.predict_clean(latents), expected, rtol=0, atol=1e-5)


def test_weights_must_be_safetensors(folders):
    for part in ("unet", "vae"):
        file = folders["ddpm"] / part / "diffusion_pytorch_model.safetensors"
        file.rename(file.with_suffix(".bin"))
    with pytest.raises(FileNotFoundError, match="safetensors weights, '.*ddpm' is not: .*model.safetensors"):
        load_prior(folders["ddpm"], "ddpm")
    with pytest.raises(FileNotFoundError, match="safetensors weights, '.*ddpm' is not: .*model.safetensors"):
        load_autoencoder(folders["ddpm"], subfolder="vae")


def test_a_base_is_a_folder_or_a_hub_id():
    for load in (lambda: load_autoencoder("nowhere"), lambda: load_prior("a/b/c", "ddpm")):
        with pytest.raises(FileNotFoundError, match="must be a folder or a hub id 'owner/name': '.*' is neither"):
            load()


def test_the_revision_of_a_recipe_goes_with_its_own_base(hub):
    asked = []

    def download(file, revision, **options):
        asked.append(revision)
        raise http_error(errors.GatedRepoError, 403)

    hub(download)
    own = recipe("release", "f-1024")
    for base, revision, expected in (
        (None, None, own.revision), (FLUX, None, own.revision), (FLUX, "abc", "abc"), ("owner/mirror", None, None),
    ):  # fmt: skip
        with pytest.raises(PermissionError):
            OMGSR.from_recipe(own, base=base, revision=revision)
        assert asked.pop() == expected


def test_a_diffusers_that_cannot_be_imported_is_not_taken_for_a_damaged_base(monkeypatch):
    class Broken(ModuleType):
        def __getattr__(self, name):
            raise RuntimeError(f"Failed to import diffusers, for {name}")

    monkeypatch.setitem(sys.modules, "diffusers", Broken("diffusers"))
    with pytest.raises(RuntimeError, match="^Failed to import diffusers"):
        load_autoencoder(WEIGHTS / "mini-autoencoder")
