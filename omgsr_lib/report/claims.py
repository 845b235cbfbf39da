"""The report of a preset: each claim of the paper in one line, what was measured here, and the verdict of the numbers.

Written from CSV files alone. A verdict is computed: a comparison is "shown" if at least one measure is decided for it,
its paired 95 % interval excluding 0, and none against it; else it is "not shown". What this preset cannot measure is
"not testable here".
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path

import mistune
import pandas as pd

from ..metrics.specs import SPECS
from ..metrics.statistics import mean_interval, paired_difference
from ..utils.files import atomic_write
from .plots import DISTANCE_LABELS, METHOD_LABELS
from .render import FIGURES, TABLES, VARIANTS, benchmark_results, read_results, write_rest


SHOWN, NOT_SHOWN, NOT_TESTABLE = "shown", "not shown", "not testable here"
FIGURE_TITLES = {
    "contrasts": "Paired contrasts of the ablation",
    "costs": "Costs by stage",
    "gap": "Distance between LQ latents and noisy latents",
    "large": "A large image in tiles",
    "losses": "Training losses",
    "per_image": "Mid-timestep of each image",
    "published": "Beside published numbers",
    "ranks": "Ranks and how sure they are",
    "snr_match": "SNR match",
    "sweep": "Timestep of injection",
    "tradeoff": "Distortion against perception",
}
FIGURE_STARTS = [f"{start}_" for start in FIGURE_TITLES]
DISTRIBUTIONS = ("sliced_wasserstein", "frechet", "power_spectrum")  # distances between sets of latents
MARGIN = 0.01  # share by which a least distance lies below both ends
OWN = ("checkerboard",)  # measures of this project, which only claims about such patterns are judged by


@dataclass(frozen=True)
class Finding:
    """One claim: `figure` is a path below the preset's folder ("" for none), `notebook` the name of the notebook."""

    claim: str
    measured: str
    verdict: str
    figure: str
    notebook: str


def findings(folder):
    """All `Finding`s of the results in `folder`; files that are not there make their claims not testable."""
    folder = Path(folder)
    return [
        *_gap(folder),
        *_mid_timestep(folder),
        *_ablation(folder),
        _refinement(folder),
        *_families(folder),
        *_operations(folder),
        *_test_sets(folder),
        *_own_timestep(folder),
        *_beyond(),
    ]


def write_report(folder, *, pdf=False):
    """Write `report.md` and `report.html` into the preset's `folder`, and the tables and figures beside them.

    `pdf`: every figure as a PDF too (`render.write_rest`). Returns the paths of the two reports.
    """
    folder = Path(folder)
    write_rest(folder, pdf=pdf)
    rows, absent = findings(folder), _absent(folder)
    figures = _figures(folder)
    tables = sorted(path.relative_to(folder).as_posix() for path in (folder / TABLES).glob("*.html"))
    markdown, written = _markdown(folder.name, rows, absent, figures, tables), []
    for name, text in (("report.md", markdown), ("report.html", _html(folder.name, markdown))):
        with atomic_write(folder / name) as part:
            part.write_text(text, encoding="utf-8")
        written.append(folder / name)
    return written


def _figures(folder):
    """Paths below `folder` of the figures that `FIGURE_TITLES` names, each once, in the order of the notebooks."""
    paths = [path for pattern in ("*/*", f"{FIGURES}/*") for path in sorted(folder.glob(pattern))]
    images = [path for path in paths if path.suffix in (".png", ".jpg")]
    return [path.relative_to(folder).as_posix() for path in images if f"{path.stem}_".startswith(tuple(FIGURE_STARTS))]


def judge(rows, *, own=False):
    """`(text, verdict)` of paired differences: data frame with metric, mean, lo, hi and lower_better or a spec.

    `own`: judge by the measures of `OWN` too. They are named either way.
    """
    texts, won, lost = [], 0, 0
    for row in rows.itertuples(index=False):
        spec = SPECS[row.metric]
        side = (
            "undecided"
            if not (row.lo > 0 or row.hi < 0)
            else "better"
            if (row.hi < 0) == spec.lower_better
            else "worse"
        )
        counts = own or row.metric not in OWN
        won += counts and side == "better"
        lost += counts and side == "worse"
        digits = spec.digits if spec.digits > 2 else 2
        interval = f"{row.mean:+.{digits}f} [{row.lo:+.{digits}f}, {row.hi:+.{digits}f}]"
        texts.append(f"{spec.label} {interval} {side}")
    return "; ".join(texts), SHOWN if won and not lost else NOT_SHOWN


def _gap(folder):
    minima = _read(folder / "01_latent_gap" / "minima.csv")
    for variant, name in VARIANTS.items():
        claim = f"LQ latents lie closer to noisy latents of a middle timestep than to those of either end ({name})"
        if minima is None or variant not in set(minima["variant"]):
            yield _missing(claim, "01_latent_gap")
            continue
        part = minima[(minima["variant"] == variant) & minima["distance"].isin(DISTRIBUTIONS)]
        below = 1 - part["value"] / part[["clean_value", "noisy_value"]].min(axis=1)
        texts = [
            f"{DISTANCE_LABELS[distance]} least at t {t}, {share:.1%} below both ends"
            for distance, t, share in zip(part["distance"], part["timestep"], below, strict=True)
        ]
        verdict = SHOWN if (below > MARGIN).all() else NOT_SHOWN
        measured = "; ".join(texts) + f" (asked: {MARGIN:.0%}, no interval)"
        yield Finding(claim, measured, verdict, f"01_latent_gap/gap_{variant}.png", "01_latent_gap")


def _mid_timestep(folder):
    mids, curves = (_read(folder / "02_mid_timestep" / name) for name in ("midstep.csv", "curve.csv"))
    for variant, name in VARIANTS.items():
        claim = f"The mid-timestep is computed before training, from the autoencoder alone ({name})"
        if mids is None or variant not in set(mids["variant"]):
            yield _missing(claim, "02_mid_timestep")
            continue
        row = mids[(mids["variant"] == variant) & (mids["rule"] == "snr")].iloc[0]
        curve = curves[curves["variant"] == variant]
        scan = int(curve.loc[curve["objective"].idxmin(), "timestep"])
        inside = curve["timestep"].min() < row.low and row.high < curve["timestep"].max()
        measured = (
            f"t* {row.timestep:.0f} [{row.low:.0f}, {row.high:.0f}] in closed form; scan of all timesteps {scan}"
        )
        verdict = SHOWN if inside and scan == row.timestep else NOT_SHOWN
        yield Finding(claim, measured, verdict, f"02_mid_timestep/snr_match_{variant}.png", "02_mid_timestep")


# Claims that the study's contrasts of the full method answer: contrast, claim, whether the grid is what it is about.
CONTRAST_CLAIMS = (
    ("mid - initial (999)", "Injecting at the mid-timestep beats the initial one, t 999", False),
    ("mid - initial, both without LDR", "... also where neither has the refinement loss", False),
    ("mid - 600", "The mid-timestep beats t 600", False),
    ("mid - 200", "The mid-timestep beats t 200", False),
    ("mid - late (25)", "The mid-timestep beats a late one, t 25", False),
    ("with - without LDR", "The latent refinement loss (LDR, LRR) helps", False),
    ("with - without chunks", "Losses on overlapping chunks beat those on whole images, artefacts included", True),
    ("with - without perceptual loss", "The perceptual loss helps", False),
    ("with - without adversarial loss", "The adversarial loss helps", False),
    ("trained - random prior", "The generative prior is what restores (control: random weights)", False),
)


def _ablation(folder):
    contrasts = _read(folder / "06b_ablation" / "contrasts.csv")
    for contrast, claim, own in CONTRAST_CLAIMS:
        for variant, name in VARIANTS.items():
            text = f"{claim} ({name})"
            rows = None
            if contrasts is not None:
                rows = contrasts[(contrasts["contrast"] == contrast) & (contrasts["variant"] == variant)]
                rows = rows[(rows["protocol"] == "full") & (rows["n"] > 0)]
            if rows is None or rows.empty:
                measured = "not run: `make study` trains it"
                yield Finding(text, measured, NOT_TESTABLE, "", "06b_ablation")
                continue
            measured, verdict = judge(rows, own=own)
            trainings, count = int(rows["trainings"].iloc[0]), int(rows["n"].iloc[0])
            measured += f" ({trainings} training{'s' if trainings > 1 else ''} a side, {count} images)"
            yield Finding(text, measured, verdict, f"{FIGURES}/contrasts.png", "06b_ablation")


def _refinement(folder, steps=20):
    """The loss at the end of the short training against its beginning, steps as the draws of the interval."""
    claim = "The refinement loss brings LQ latents towards the noisy latents of the mid-timestep"
    texts, verdicts = [], []
    for variant, number in (("s", "03"), ("f", "04")):
        log = _read(folder / f"{number}_train_omgsr_{variant}" / "log.csv")
        if log is None or len(log) < 2 * steps:
            return _missing(claim, f"{number}_train_omgsr_{variant}", "a training of 40 steps or more")
        loss = log["refinement"].to_numpy()
        mean, lo, hi = mean_interval(loss[-steps:] - loss[:steps])
        texts.append(f"{VARIANTS[variant]} {mean:+.3f} [{lo:+.3f}, {hi:+.3f}]")
        verdicts.append(hi < 0)
    measured = f"refinement loss, last {steps} minus first {steps} steps: " + "; ".join(texts)
    figure = "03_train_omgsr_s/losses_s.png"
    return Finding(claim, measured, SHOWN if all(verdicts) else NOT_SHOWN, figure, "03_train_omgsr_s")


def _families(folder):
    scores = _read(folder / "06_evaluate" / "scores.csv")
    methods = [] if scores is None else list(scores["method"].unique())
    for variant, name in VARIANTS.items():
        claim = f"One recipe serves diffusion and flow matching: tuning improves the prior ({name})"
        tuned = [method for method in (f"omgsr-{variant}", f"short-{variant}") if method in methods]
        if not tuned or f"prior-{variant}" not in methods:
            yield _missing(claim, "06_evaluate")
            continue
        measured, verdict = judge(paired_difference(scores, tuned[0], f"prior-{variant}"))
        yield Finding(
            claim,
            f"{METHOD_LABELS[tuned[0]]} minus prior: {measured}",
            verdict,
            "06_evaluate/tradeoff.png",
            "06_evaluate",
        )


def _operations(folder):
    claim = "One step needs fewer operations than the published methods of several steps"
    costs = _read(folder / "06_evaluate" / "costs.csv")
    published = _read(folder / "benchmarks" / "RealSR" / "published_cost.csv")
    counted = None if costs is None else costs[costs["seconds"].isna()].groupby("method", sort=False)["GMAC"].sum()
    if published is None or counted is None or counted.empty:
        yield _missing(claim, "06_evaluate", "published costs (`omgsr benchmark RealSR --published`)")
        return
    several = published[pd.to_numeric(published["steps"], errors="coerce") > 1].dropna(subset="MACs_G")
    macs = several["MACs_G"].astype(str).str.split("-").str[0].astype(float)  # of a range its lower end
    for method, ours in counted.items():
        measured = (
            f"{ours:.0f} GMAC at 512 pixels; published {macs.min():.0f} to {macs.max():.0f} (no interval: counts)"
        )
        verdict = SHOWN if ours < macs.min() else NOT_SHOWN
        yield Finding(f"{claim} ({method})", measured, verdict, f"{FIGURES}/costs.png", "06_evaluate")


def _test_sets(folder):
    found = benchmark_results(folder / "benchmarks")
    pairs = (
        ("mini-s", "bicubic", "OMGSR-S restores real images better than bicubic enlargement"),
        ("mini-f", "bicubic", "OMGSR-F restores real images better than bicubic enlargement"),
        ("mini-f", "mini-s", "OMGSR-F is ahead of OMGSR-S in the measures with reference"),
    )
    for one, other, text in pairs:
        claim = f"{text} (RealSR, small priors)"
        if "RealSR" not in found:
            yield _missing(claim, "07_tables_and_figures", "`omgsr benchmark RealSR`")
            continue
        rows = paired_difference(found["RealSR"][0].drop(columns="dataset"), one, other)
        if other == "mini-s":
            rows = rows[[SPECS[metric].full_reference for metric in rows["metric"]]]
        measured, verdict = judge(rows)
        yield Finding(claim, measured, verdict, f"{FIGURES}/published_RealSR.png", "07_tables_and_figures")


def _own_timestep(folder):
    """The limit that the authors name: one timestep for all images."""
    gains = _read(folder / "08_adaptive_timestep" / "gains.csv")
    for name in ("mild", "extreme"):
        for variant, model in VARIANTS.items():
            claim = f"A per-image timestep helps where degradation is {name} ({model})"
            if gains is None or "own timestep" not in set(gains["contrast"]):
                yield _missing(claim, "08_adaptive_timestep", "`omgsr adaptive`")
                continue
            own = gains[gains["contrast"] == "own timestep"]
            measured, verdict = judge(own[(own["dataset"] == name) & (own["variant"] == variant)])
            yield Finding(claim, measured, verdict, "08_adaptive_timestep/gains.png", "08_adaptive_timestep")


def _beyond():
    """Claims that need what a clone of this repository does not have."""
    needs = {
        "Quality at 512 pixels is level with or ahead of other one-step methods": "SD-Turbo, FLUX.1-dev, adapters "
        "and a GPU; the small priors stand beside the published rows in the table of RealSR",
        "OMGSR-F restores at 1k, and at 2k with two-stage tiles": "FLUX.1-dev, its adapter and a GPU",
        "A DISTS on DINOv3-ConvNeXt features replaces LPIPS (second version)": "the gated DINOv3 weights",
    }
    for claim, need in needs.items():
        yield Finding(claim, f"needs {need}", NOT_TESTABLE, "", "07_tables_and_figures")


def _absent(folder):
    """Contrasts of the full method without trainings."""
    contrasts = _read(folder / "06b_ablation" / "contrasts.csv")
    if contrasts is None:
        return ["all: `make study` has not been run for this preset"]
    rows = contrasts[contrasts["n"] == 0][["contrast", "variant"]].drop_duplicates()
    return [f"{row.contrast} ({VARIANTS[row.variant]})" for row in rows.itertuples(index=False)]


def _read(path):
    return read_results(path) if path.is_file() else None


def _missing(claim, notebook, need=None):
    return Finding(claim, f"needs {need or f'notebook {notebook}'}", NOT_TESTABLE, "", notebook)


def _intro(preset, rows, absent):
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in (SHOWN, NOT_SHOWN, NOT_TESTABLE)}
    lines = [
        f"Preset {preset}: of {len(rows)} claims "
        + ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
        + ".",
        f'"{SHOWN}": at least one measure is decided for the claim (its paired 95 % interval excludes 0) and none '
        f'against; "{NOT_SHOWN}": else. All is computed from CSV. Claims in our words, from the abstracts and the '
        "method of arXiv 2508.08227; its own tables were not available to us.",
    ]
    if absent:
        lines.append(
            "Not trained yet (`make study` runs what is missing, minutes for each): " + "; ".join(absent) + "."
        )
    return lines


def _markdown(preset, rows, absent, figures, tables):
    lines = ["# What of the paper is shown here", "", *(f"{line}\n" for line in _intro(preset, rows, absent))]
    lines += ["| Claim | Measured here, 95 % interval | Verdict | See |", "| :-- | :-- | :-- | :-- |"]
    for row in rows:
        links = [f"[figure]({row.figure})"] if row.figure else []
        links += [f"[notebook](notebooks/{row.notebook}.ipynb)"]
        measured = row.measured.replace("; ", "<br>")
        lines.append(f"| {row.claim} | {measured} | **{row.verdict}** | {' '.join(links)} |")
    links = ", ".join(f"[{_name(path)}]({Path(path).with_suffix('.md')})" for path in tables)
    lines += ["", "## Tables", "", links, "", "## Figures"]
    for path in figures:
        lines += ["", f"**{_name(path)}**", "", f"![{_name(path)}]({path})"]
    return "\n".join(lines) + "\n"


STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.35em .5em;
border-bottom:1px solid #ddd}img{max-width:100%}td:first-child{width:32%}td:nth-child(3){white-space:nowrap}"""


def _html(preset, markdown):
    """The page of the report: its Markdown, whose links to tables go to those in HTML."""
    body = mistune.create_markdown(plugins=["table"])(markdown.replace(".md)", ".html)"))
    body = body.replace("&lt;br&gt;", "<br>")  # all else is escaped
    head = f'<meta charset="utf-8"><title>OMGSR, preset {escape(preset)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}</body></html>\n'


def _name(path):
    """What a figure or a table is called, then the variant or the test set that its file names."""
    stem = Path(path).stem
    start = next((start for start in FIGURE_TITLES if f"{stem}_".startswith(f"{start}_")), None)
    if start is None or Path(path).suffix not in (".png", ".jpg"):
        return stem.replace("_", " ")
    rest = stem[len(start) + 1 :]
    return FIGURE_TITLES[start] + (f", {VARIANTS.get(rest, rest)}" if rest else "")
