"""Model cards of the shipped weights: what they are, what they were trained on, what was measured, and pictures."""

from pathlib import Path

import torch

from .data.photos import to_image
from .metrics.specs import SPECS
from .plots import compare_crops, contact_sheet, plot_losses, save_figure
from .priors.latents import decode_latents, encode_latents
from .provenance import sha256


@torch.no_grad()
def autoencoder_card(folder, vae, pixels, quality, log, facts):
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
    about = f"""A diffusers `AutoencoderDC` (Chen et al., arXiv 2410.10733): factor 8, {vae.config.latent_channels}
channels, {_millions(vae)} M parameters, deterministic. Training starts at the exact principal components of 8x8
patches. LPIPS is a training loss where the table says so, so its value is optimistic."""
    _write(folder, title, about, facts, measured, log, ["reconstructions.png"])


@torch.no_grad()
def prior_card(folder, vae, samples, latents, errors, log, facts):
    """Write `README.md`, `losses.png` and `samples.png` beside the prior in `folder`; `latents` are of photographs."""
    pictures = [to_image(p) for p in decode_latents(vae, samples)]
    save_figure(contact_sheet(pictures, [""] * len(pictures), columns=6), Path(folder) / "samples.png")
    deviations = f"{float(samples.std()):.2f} (latents of photographs {float(latents.std()):.2f})"
    measured = {"standard deviation of 20-step samples": deviations}
    measured |= {f"error of the one-step prediction at t = {t}": f"{value:.3f}" for t, value in errors.items()}
    about = """An unconditional prior in the latent space of the mini autoencoder, with a constant prompt. An error of
1 is predicting the mean."""
    _write(folder, f"Prior of the mini preset: {Path(folder).name}", about, facts, measured, log, ["samples.png"])


def adapter_card(folder, model, pairs, restored, scores, log, facts):
    """Write `README.md`, `losses.png` and `restored.png` beside the adapters in `folder`.

    `restored` are the model's pictures of the `EvaluationPair`s, `scores` their long data frame with the methods
    bicubic and omgsr.
    """
    columns = [[pair.lq for pair in pairs], restored, [pair.hq for pair in pairs]]
    rows = [[to_image(p) for p in row] for row in list(zip(*columns, strict=True))[:6]]
    save_figure(compare_crops(rows, ["LQ, enlarged", "restored", "photograph"]), Path(folder) / "restored.png")
    means = scores.groupby(["metric", "method"], sort=False)["value"].mean()
    measured = {
        SPECS[metric].label: f"{means[metric, 'omgsr']:.4g} (bicubic {means[metric, 'bicubic']:.4g})"
        for metric in scores["metric"].unique()
    } | {"pictures": len(pairs)}
    about = f"""LoRA adapters in the layout of the authors' release, for the {model.prior.family} prior of the mini
preset; mid-timestep {model.timestep}. LPIPS is a training loss where the table says so, so its value is optimistic."""
    _write(folder, f"Adapters {Path(folder).name}", about, facts, measured, log, ["restored.png"])


def _write(folder, title, about, facts, measured, log, pictures):
    import pandas as pd

    folder = Path(folder)
    frame = pd.DataFrame(log).drop(columns=["seconds", "seconds_per_step"], errors="ignore")
    save_figure(plot_losses(frame), folder / "losses.png")
    header = "---\nlibrary_name: diffusers\nlicense: apache-2.0\n---\n"
    hashes = {f"`{file.relative_to(folder)}`": sha256(file) for file in sorted(folder.rglob("*.safetensors"))}
    tables = [_table("training", facts), _table("measured", measured), _table("sha256", hashes)]
    figures = [f"![{name}]({name})" for name in (*pictures, "losses.png")]
    (folder / "README.md").write_text("\n\n".join([f"{header}\n# {title}", about, *tables, *figures]) + "\n")


def _table(title, rows):
    return "\n".join([f"| {title} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _mean(values):
    return sum(values) / len(values)


def _millions(model):
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}"
