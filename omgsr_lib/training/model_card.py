"""Model cards of the shipped weights: what they are, how they were trained, what was measured, and images."""

import shlex
from pathlib import Path

import torch

from ..data.photos import to_image
from ..metrics.specs import SPECS
from ..priors import licences
from ..priors.latents import compression, decode_latents, encode_latents
from ..report.plots import plot_losses, save_figure
from ..report.plots_images import compare_crops, contact_sheet
from ..utils.files import sha256


OWN = {"library_name": "diffusers", **licences.OWN}


def command_line(arguments):
    """`omgsr` with its `arguments` as a card shows it: without an absolute path.

    Those below the working folder become relative to it, others are shown by their name.
    """
    return shlex.join(["omgsr", *map(_without_folders, arguments)])


def _without_folders(argument):
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    path = Path(value)
    if not path.is_absolute():
        return argument
    path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path.name
    return f"{option}{equals}{path}"


@torch.no_grad()
def autoencoder_card(folder, vae, pixels, quality, log, facts, *, command):
    """Write `README.md`, `losses.png` and `reconstructions.png` beside the autoencoder in `folder`."""
    shown = torch.stack([pixels[:8], decode_latents(vae, encode_latents(vae, pixels[:8]))], dim=1).flatten(0, 1)
    labels = ["photograph", "reconstruction"] * 8
    save_figure(contact_sheet([to_image(p) for p in shown], labels, columns=8), Path(folder) / "reconstructions.png")
    measured = {
        "PSNR, RGB": f"{_mean(quality['psnr']):.2f} dB",
        **({"LPIPS-SqueezeNet": f"{_mean(quality['lpips_squeeze']):.4f}"} if "lpips_squeeze" in quality else {}),
        "crops": f"{len(quality['psnr'])} of 128 px",
    }
    title = "Autoencoder of the mini preset"
    factor = compression(vae)
    about = f"""A diffusers `AutoencoderDC` (Chen et al., arXiv 2410.10733): factor {factor},
{vae.config.latent_channels} channels, {_millions(vae)} M parameters, deterministic. Training starts at the principal
components of {factor}x{factor} patches. LPIPS is a training loss where the table says so, so its value is
optimistic."""
    _write(folder, title, about, facts, measured, log, ["reconstructions.png"], command)


@torch.no_grad()
def prior_card(folder, vae, samples, latents, loss, errors, log, facts, *, command):
    """Write `README.md`, `losses.png` and `samples.png` beside the prior in `folder`.

    `latents` are of the photographs that `loss` (the training loss) and `errors` (of the one-step prediction, by
    timestep) were measured on, `samples` latents drawn in 20 steps.
    """
    images = [to_image(p) for p in decode_latents(vae, samples)]
    save_figure(contact_sheet(images, [""] * len(images), columns=6), Path(folder) / "samples.png")
    deviations = f"{float(samples.std()):.2f} (latents of photographs {float(latents.std()):.2f})"
    measured = {f"loss on {facts['measured on']}": f"{loss:.4f}"}
    measured |= {"standard deviation of 20-step samples": deviations}
    measured |= {f"error of the one-step prediction at t = {t}": f"{value:.3f}" for t, value in errors.items()}
    title = f"Prior of the mini preset: {Path(folder).name}"
    about = """An unconditional prior in the latent space of the mini autoencoder, with a constant prompt. An error of
1 is predicting the mean."""
    _write(folder, title, about, facts, measured, log, ["samples.png"], command)


@torch.no_grad()
def estimator_card(folder, estimator, lq_latents, log_difference, log, facts, *, command):
    """Write `README.md` and `losses.png` beside the estimator in `folder`, measured on held-out pairs."""
    mean, deviation = estimator(lq_latents)
    error = log_difference - mean
    measured = {
        "root mean square error of log D": f"{float(error.square().mean().sqrt()):.3f}",
        "standard deviation of log D": f"{float(log_difference.std()):.3f}",
        "true log D inside the 95 % interval": f"{float((error.abs() <= 1.96 * deviation).float().mean()):.1%}",
        "held-out pairs": f"{len(error)}, of photographs that were left out, with which the intervals were scaled",
    }
    about = f"""Estimates D = E[(z_L - z_H)^2], which decides an image's mid-timestep, from the LQ latents of the
mini autoencoder: a mean and a standard deviation of log D. {_millions(estimator)} M parameters."""
    _write(folder, "Estimator of the mini preset", about, facts, measured, log, [], command)


def adapter_card(folder, model, pairs, restored, scores, log, facts, *, command):
    """Write `README.md` and `losses.png` beside the adapters in `folder`, and `restored.png` if there are `pairs`.

    The header is that of the Hub, with the base model and its licence. Base, revision and mid-timestep come from
    `model`, the other rows about the training from the dictionary `facts` (preset, steps, data, ...). `restored` are
    the model's images of the `EvaluationPair`s, `scores` their long data frame with the methods lq and omgsr;
    without an evaluation give `pairs=[]`, `restored=[]`, `scores=None`. `command`: see `command_line`.
    """
    measured, figures = {}, []
    if pairs:
        columns = [[pair.lq for pair in pairs], restored, [pair.hq for pair in pairs]]
        rows = [[to_image(p) for p in row] for row in list(zip(*columns, strict=True))[:6]]
        save_figure(compare_crops(rows, ["LQ, enlarged", "restored", "photograph"]), Path(folder) / "restored.png")
        figures = ["restored.png"]
        means = scores.groupby(["metric", "method"], sort=False)["value"].mean()
        measured = {
            SPECS[metric].label: f"{means[metric, 'omgsr']:.4g} (LQ, enlarged: {means[metric, 'lq']:.4g})"
            for metric in scores["metric"].unique()
        } | {"images": len(pairs)}
    base = {"base": model.base, "revision": model.revision, "mid-timestep": model.timestep}
    facts = {name: value for name, value in base.items() if value is not None} | facts
    about = f"""LoRA adapters of the autoencoder's encoder and of the {model.prior.family} denoiser, in the layout of
the authors' release, for the base and the mid-timestep named below. A perceptual distance among the measures is
optimistic where it is a training loss too."""
    header = _adapter_header(model.base)
    _write(folder, f"Adapters {Path(folder).name}", about, facts, measured, log, figures, command, header)


def _adapter_header(base):
    on_hub = "/" in (base or "")
    return {
        **OWN,
        **licences.licence(base),
        **({"base_model": base, "base_model_relation": "adapter"} if on_hub else {}),
        "pipeline_tag": "image-to-image",
        "tags": ["super-resolution", "image-restoration", "one-step", "lora"],
    }


def _write(folder, title, about, facts, measured, log, figures, command, header=OWN):
    import pandas as pd
    from huggingface_hub import ModelCardData

    folder = Path(folder)
    frame = pd.DataFrame(log).drop(columns=["seconds", "seconds_per_step"], errors="ignore")
    save_figure(plot_losses(frame), folder / "losses.png")
    hashes = {f"`{file.relative_to(folder)}`": sha256(file) for file in sorted(folder.rglob("*.safetensors"))}
    tables = [_table("training", facts), _table("measured", measured), _table("sha256", hashes)]
    links = [f"![{name}]({name})" for name in (*figures, "losses.png")]
    head = f"---\n{ModelCardData(**header).to_yaml()}\n---\n\n# {title}"
    parts = [head, about, f"```\n{command}\n```", *filter(None, tables), *links]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")


def _table(title, rows):
    if not rows:
        return ""
    return "\n".join([f"| {title} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _mean(values):
    return sum(values) / len(values)


def _millions(model):
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}"
