"""Loading and saving an `OMGSR`: by name, from a recipe, a base or a folder; adapters in the official layout.

These functions are the methods of `OMGSR` that have their names.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from . import lora, presets
from .fold import FoldedPrior, load_folded, save_folded
from .priors import prior_class
from .priors.full_size import full_size_autoencoder, full_size_prior
from .priors.licences import licence
from .priors.loading import WEIGHTS, load_autoencoder, load_prior, load_scheduler, save_model, save_prior
from .priors.prompts import prompt_embeds_file
from .priors.tiny import tiny_autoencoder
from .schedules import NoiseSchedule
from .utils.copying import copied_with
from .utils.files import atomic_folder, reading, verify_hashes


FACTS = "omgsr.json"  # beside the weights: family, timestep, ranks of the adapters, their base on the hub, the prompt
LQ_ENCODER = "lq_encoder.safetensors"  # of a folded model
INTEGRATIONS = Path(__file__).parent / "integrations"


def from_pretrained(cls, name, *, base=None, adapter=None, prompt_embeds=None, dtype=torch.float32, revision=None):
    """Load a model by name, or from a folder that `save_pretrained` wrote.

    Args:
        name: "mini-s", "mini-f", "mini-s-adaptive" or "mini-f-adaptive" (they ship with the package),
            "omgsr-{s,f,z,k}-{512,1024}", or a folder.
        base: folder or hub id in diffusers layout, instead of the adapter's or the preset's.
        adapter: folder in the official layout, instead of the preset's. "omgsr-*" has none of its own: without one
            the un-tuned prior is returned. Base, timestep and prompt are those it was trained with, as far as its
            `omgsr.json` names them, instead of the preset's.
        prompt_embeds: safetensors file of the fixed prompt's embeddings; the base then needs no text encoders.
        dtype: precision of the base's weights; adapters are float32 until merged.
        revision: of a hub id; by default that of the preset if the base is its own.

    Returns an `AdaptiveOMGSR` where the adapter was trained with per-image timesteps.
    """
    options = dict(prompt_embeds=prompt_embeds, dtype=dtype, revision=revision)
    if (Path(name) / FACTS).is_file():
        return _from_folder(cls, Path(name), base, adapter, options)
    if name not in presets.MODELS:
        raise ValueError(
            f"A model must be one of {', '.join(presets.MODELS)} or a folder with omgsr.json: got {str(name)!r}."
        )
    recipe, estimator = presets.recipe(*presets.MODELS[name]), None
    if base is None and recipe.base in presets.PACKAGED_PRIORS:
        adapter, estimator = adapter or WEIGHTS / name, WEIGHTS / "mini-estimator" if recipe.adaptive else None
    if _is_adaptive(adapter):
        cls = _adaptive(cls)
    model = cls.from_recipe(replace(recipe, **_trained_with(adapter, recipe.family)), base=base, **options)
    model.tile = presets.default_tile(name)
    if estimator is not None:
        model.load_estimator(estimator)
    return model.load_adapter(adapter) if adapter else model


def _from_folder(cls, folder, base, adapter, options):
    facts = _read_facts(folder, "family", "timestep")
    if "folded" in facts:
        if base or adapter or options["prompt_embeds"]:
            raise ValueError(
                f"A folded model holds its base, adapter and prompt: '{folder}' is folded. Give none of them."
            )
        vae = load_autoencoder(folder, subfolder="vae", dtype=options["dtype"])
        model = cls(vae, load_folded(folder, options["dtype"]), facts["timestep"])
        with reading(folder / LQ_ENCODER, "Copy the folded model again."):
            model.lq_vae.encoder.load_state_dict(load_file(folder / LQ_ENCODER))
        return model
    if base is None and not (folder / "vae").is_dir():
        raise ValueError(
            f"A model's folder must hold its autoencoder in vae/: '{folder}' holds adapters alone. Give their base "
            "too (base=), or a model's name and this folder as adapter=."
        )
    cls = _adaptive(cls) if _is_adaptive(adapter or folder) else cls
    prompt = _trained_with(folder if base is None else adapter or folder, facts["family"]).get("prompt")
    model = cls.from_base(base or folder, facts["family"], facts["timestep"], prompt=prompt or "", **options)
    model.prompt = prompt if base is None and not options["prompt_embeds"] else model.prompt
    if (folder / "estimator").is_dir():
        model.load_estimator(folder / "estimator")
    return model.load_adapter(adapter or folder)


def from_recipe(cls, recipe, *, base=None, prompt_embeds=None, dtype=torch.float32, revision=None, seed=0):
    """The un-tuned model of a `presets.Recipe` at its mid-timestep, on its own base or on `base`.

    The recipe's revision goes with its own base only. Raises `ValueError` if the base predicts something else than its
    family's `prediction_type`, which the published timesteps and adapters are for; `from_base` takes any.
    """
    if base is None or base == recipe.base:
        base, revision = recipe.base, revision or recipe.revision
    if base != "tiny" and base not in presets.PACKAGED_PRIORS:
        expected = prior_class(recipe.family).prediction_type
        predicted = NoiseSchedule.from_scheduler(load_scheduler(base, recipe.family, revision)).prediction_type
        if predicted != expected:
            raise ValueError(
                f"The timestep and the adapters of this recipe are for a base that predicts {expected}: '{base}' "
                f"predicts {predicted}. Use {recipe.base} or a copy of it."
            )
    options = dict(prompt=recipe.prompt, prompt_embeds=prompt_embeds, dtype=dtype, revision=revision, seed=seed)
    cls = _adaptive(cls) if recipe.adaptive else cls
    return cls.from_base(base, recipe.family, recipe.timestep, **options)


def from_base(
    cls, base, family, timestep, *, prompt="", prompt_embeds=None, dtype=torch.float32, revision=None, seed=0
):
    """The un-tuned model on `base`: "tiny" (random, from `seed`), a prior of this package, a folder or a hub id.

    `family`: a key of `priors.PRIORS`. `prompt` is embedded by the base's text encoders where no embeddings are given.
    """
    options, embedded = dict(dtype=dtype, revision=revision), False
    if base == "tiny":
        kind = prior_class(family)
        vae, prior = tiny_autoencoder(seed=seed, kind=kind.autoencoder_class), kind.tiny(seed=seed)
    elif base in presets.PACKAGED_PRIORS:
        verify_hashes(WEIGHTS)
        vae = load_autoencoder(WEIGHTS / "mini-autoencoder", dtype=dtype)
        prior = load_prior(WEIGHTS / base, family, prompt_embeds=prompt_embeds, dtype=dtype)
    else:
        prior = load_prior(base, family, prompt=prompt, prompt_embeds=prompt_embeds, **options)
        vae = load_autoencoder(base, subfolder="vae", **options)
        embedded = prompt_embeds_file(base, prompt_embeds) is None
    model = cls(vae, prior, timestep)
    model.base, model.revision = Path(base).name if Path(base).is_dir() else base, revision
    model.prompt = prompt if embedded else None
    return model


def full_size(cls, family, timestep, *, device="meta", dtype=torch.bfloat16, seed=0):
    """The un-tuned model at the size of the published base of `family`, without weights (`priors.full_size`).

    On the meta device, to count; on a GPU with random weights from `seed`, to time.
    """
    options = dict(device=device, dtype=dtype, seed=seed)
    return cls(full_size_autoencoder(family, **options), full_size_prior(family, **options), timestep)


def save_pretrained(model, folder):
    """Write autoencoder, prior and adapters below `folder`; `OMGSR.from_pretrained` reads them back exactly.

    Of a folded model the prior and the LQ encoder are written as they are, adapters included.
    """
    with atomic_folder(folder) as part:
        save_model(model.vae, part / "vae")
        if isinstance(model.prior, FoldedPrior):
            save_folded(model.prior, part)
            state = {name: value.contiguous() for name, value in model.lq_vae.encoder.state_dict().items()}
            save_file(state, part / LQ_ENCODER)
        else:
            model.save_adapter(part)
            save_prior(model.prior, part)
    return Path(folder)


def save_pipeline(model, folder):
    """Write a pipeline of diffusers below `folder`, which runs without this package (`integrations/pipeline.py`).

    `DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)` loads it. Adapters are
    merged into what is written, weights keep their precision, and the model stays as it is: one part of it at a time
    is copied. The autoencoder has the encoder for LQ images and the frozen decoder; `README.md` says how to run it
    and under which licence. Raises `ValueError` for a model that is folded or adaptive or has a prior of its own.
    """
    kind = type(model.prior).__name__
    if isinstance(model, _adaptive()):
        raise ValueError(
            "A pipeline injects every image at one timestep, and an adaptive model finds that of each. Save "
            "mini-s or mini-f, or restore with omgsr_lib."
        )
    if kind not in ("DDPMPrior", "FlowPrior"):
        raise ValueError(
            f"A pipeline has the UNet of DDPMPrior or the transformer of FlowPrior: this model has a {kind}. "
            "Save the model before it is folded."
        )
    import diffusers

    prior, name = model.prior, model.prior.subfolder
    vae = copied_with(model.lq_vae, {})
    vae.decoder = model.vae.decoder
    prompt = {tensor: getattr(prior, tensor).contiguous() for tensor in prior.prompt_tensors}
    index = {
        "_class_name": ["pipeline", "OMGSRPipeline"],
        "_diffusers_version": diffusers.__version__,
        "prompt": ["fixed_prompt", "FixedPrompt"],
        "scheduler": ["diffusers", type(prior.scheduler).__name__],
        "timestep": model.timestep,
        name: ["diffusers", type(prior.denoiser).__name__],
        "vae": ["diffusers", type(vae).__name__],
    }
    with atomic_folder(folder) as part:
        _save_merged(vae, part / "vae")
        _save_merged(copied_with(prior.denoiser, {}), part / name)
        prior.scheduler.save_pretrained(part / "scheduler")
        (part / "prompt").mkdir()
        save_file(prompt, part / "prompt" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
        config = {"_class_name": "FixedPrompt", "shapes": {tensor: list(x.shape) for tensor, x in prompt.items()}}
        _write_json(part / "prompt" / "config.json", config)
        _write_json(part / "model_index.json", index)
        shutil.copyfile(INTEGRATIONS / "fixed_prompt.py", part / "prompt" / "fixed_prompt.py")
        shutil.copyfile(INTEGRATIONS / "pipeline.py", part / "pipeline.py")
        (part / "README.md").write_text(_pipeline_card(model), encoding="utf-8")
    return Path(folder)


def _save_merged(module, folder):
    save_model(lora.merge_lora(module), folder, next(module.parameters()).dtype)


def _write_json(file, content):
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _pipeline_card(model):
    from huggingface_hub import ModelCardData

    header = {"library_name": "diffusers", "pipeline_tag": "image-to-image", **licence(model.base)}
    if "/" in (model.base or ""):
        header |= {"base_model": model.base, "base_model_relation": "finetune"}
    tags = ["super-resolution", "image-restoration", "one-step"]
    link = f" ({header['license_link']})" if "license_link" in header else ""
    tile = f", tile={model.tile}" if model.tile else ""
    return f"""---
{ModelCardData(**header, tags=tags).to_yaml()}
---

# One-step restoration at mid-timestep {model.timestep}

OMGSR (arXiv 2508.08227), an independent reproduction: the {model.prior.label} prior
`{model.base}`{f" at {model.revision}" if model.revision else ""} with its adapters merged. Needs torch, diffusers,
transformers, Pillow and numpy; `folder` is this folder:

```python
from diffusers import DiffusionPipeline
from PIL import Image

pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
pipe(Image.open("photo.jpg"), scale=4{tile}).images[0].save("restored.png")
```

`trust_remote_code` runs `pipeline.py` and `prompt/fixed_prompt.py`: read them first. On a GPU give
`dtype=torch.bfloat16`, then `pipe.to("cuda")`, or `pipe.enable_model_cpu_offload()` if it holds not all parts at once.

Licence: {header.get("license_name", header["license"])}{link}. The weights contain those of the base, whose licence
holds for this folder.
"""


def save_adapter(model, folder, *, dtype=torch.float32):
    """Write both adapters in `dtype` and the official layout (see `lora`), and what they belong to in `omgsr.json`."""
    if model.ranks is None:
        raise ValueError("A model must have adapters to save them: this one has none (never added, or merged).")
    denoiser_folder, encoder_folder = model.prior.adapter_folders
    vae_rank, denoiser_rank = model.ranks
    facts = {"family": model.prior.family, "timestep": model.timestep, "ranks": list(model.ranks)}
    if isinstance(model, _adaptive()):
        facts["adaptive"] = True
    if "/" in (model.base or ""):  # a hub id
        facts |= {"base": model.base, "revision": model.revision}
    if model.prompt is not None:
        facts["prompt"] = model.prompt
    with atomic_folder(folder) as part:
        if denoiser_rank:
            lora.save_adapter(model.prior.denoiser, part / denoiser_folder, dtype=dtype)
        if vae_rank:
            lora.save_adapter(model.lq_vae.encoder, part / encoder_folder, dtype=dtype)
        (part / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
    return Path(folder)


def load_adapter(model, folder):
    """Load the adapters of a folder in the official layout and return the model.

    The `omgsr.json` of `save_adapter`, where there is one, gives the timestep they were trained for and says if
    one part was trained without; otherwise both must be there and the model's timestep stays. Raises `ValueError`
    for adapters of another family, or of per-image timesteps if the model is no `AdaptiveOMGSR`.
    """
    folder, ranks = Path(folder), (True, True)
    if (folder / FACTS).is_file():
        facts = _read_facts(folder, "family", "timestep", "ranks")
        if facts["family"] != model.prior.family:
            raise ValueError(
                f"An adapter must be of its prior's family, {model.prior.family}: '{folder}' is {facts['family']}."
            )
        if _is_adaptive(folder) and not isinstance(model, _adaptive()):
            raise ValueError(
                f"An adapter of per-image timesteps needs an AdaptiveOMGSR: '{folder}' has one, the model is "
                f"{type(model).__name__}. Name the adapter in OMGSR.from_pretrained."
            )
        ranks, model.timestep = facts["ranks"], facts["timestep"]
    denoiser_folder, encoder_folder = model.prior.adapter_folders
    parts = (model.lq_vae.encoder, encoder_folder), (model.prior.denoiser, denoiser_folder)
    model.ranks = tuple(
        lora.load_adapter(module, folder / name) if rank else 0
        for (module, name), rank in zip(parts, ranks, strict=True)
    )
    return model


def _read_facts(folder, *keys):
    """The content of `omgsr.json` in `folder`; `ValueError` if it is no JSON object with `keys`."""
    file = folder / FACTS
    with reading(file, "Copy it again."):
        facts = dict(json.loads(file.read_text(encoding="utf-8")))
        if missing := [key for key in keys if key not in facts]:
            raise ValueError(f"without {', '.join(missing)}")
        timestep, ranks = facts.get("timestep", 0), facts.get("ranks", [0, 0])
        if not (isinstance(timestep, int) and [type(rank) for rank in ranks] == [int, int]):
            raise ValueError(f"timestep {timestep!r}, ranks {ranks!r}")
    return facts


def _trained_with(adapter, family):
    """Base, revision and prompt as the `omgsr.json` of the folder `adapter` names them, if it is of this `family`."""
    if adapter is None or not (Path(adapter) / FACTS).is_file():
        return {}
    facts = _read_facts(Path(adapter), "family")
    named = [name for name in ("base", "revision", "prompt") if name in facts]
    return {name: facts[name] for name in named if facts["family"] == family}


def _is_adaptive(folder):
    """Whether the adapters in `folder` were trained with per-image timesteps."""
    if folder is None or not (Path(folder) / FACTS).is_file():
        return False
    return _read_facts(Path(folder), "family").get("adaptive", False)


def _adaptive(cls=object):
    """The adaptive form of the class of a model."""
    from .adaptive.model import AdaptiveOMGSR  # it is made from OMGSR, which has these functions

    return cls if issubclass(cls, AdaptiveOMGSR) else AdaptiveOMGSR
