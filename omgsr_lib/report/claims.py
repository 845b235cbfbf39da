"""`claims.csv`: what the paper says, measure by measure, as found here; report, README, notebook 07 are made of it.

Computed from CSV files alone. Each measure has a side: "for" or "against" the claim if its paired 95 % interval
excludes 0, else "undecided". All measures of a claim together give its verdict (`verdict_of`).
"""

import json
import re
from pathlib import Path

import pandas as pd

from ..metrics.specs import SPECS
from ..metrics.statistics import mean_interval, paired_difference
from ..metrics.two_level import detectable_from_interval
from ..utils.files import atomic_write, part_hashes
from .contrasts import DATASETS
from .plots import DISTANCE_LABELS
from .render import FIGURES, VARIANTS, benchmark_results, read_results


SHOWN, CONTRADICTED, MIXED, UNDECIDED = "shown", "contradicted", "mixed", "undecided"
NOT_TESTABLE = "not testable here"
VERDICTS = (SHOWN, CONTRADICTED, MIXED, UNDECIDED, NOT_TESTABLE)
COLUMNS = ["claim", "variant", "paper", "measure", "effect", "lo", "hi", "detectable", "side", "seeds", "crops",
           "verdict", "note", "weights", "figure", "notebook", "run"]  # fmt: skip
KEYS = ["claim", "variant"]
WEIGHTS = Path(__file__).parents[1] / "weights"
BASES = ("mini-autoencoder", "mini-ddpm", "mini-flow")  # the shipped weights that a training starts from
DISTRIBUTIONS = ("sliced_wasserstein", "frechet", "power_spectrum")  # distances between sets of latents
MARGIN = 0.01  # share by which a least distance lies below both ends
OWN = ("checkerboard",)  # measures of this project, which only claims about such patterns are judged by
NOT_RUN = "not run: `make study FULL=1` trains it"
IMAGES_ALONE = "interval over images alone"
LOSS_STEPS = 20  # at both ends of a training, whose losses are compared


def claim_table(folder):
    """All claims of the results in `folder`, a row for each measure, columns `COLUMNS`.

    effect, lo, hi: first minus second side with its interval; detectable: the difference that would have been decided
    with a probability of 80 %; seeds: trainings of each side; crops: that each of them saw; weights: those that were
    measured, "shipped", "other" or "not recorded"; run: name, date and commit of the run that measured. A claim whose
    files are not there has one row without a measure, whose note says what is missing.
    """
    folder = Path(folder)
    sources = (
        _gap,
        _mid_timestep,
        _optimum,
        _ablation,
        _refinement,
        _families,
        _operations,
        _test_sets,
        _own_timestep,
        _beyond,
    )
    frame = pd.DataFrame([row for source in sources for row in source(folder)]).reindex(columns=COLUMNS)
    texts = ["variant", "measure", "side", "note", "weights", "figure", "run"]
    frame[texts] = frame[texts].astype(object).fillna("")
    sides = frame.groupby(KEYS, sort=False)["side"]
    return frame.assign(verdict=sides.transform(verdict_of))


def verdict_of(sides):
    """The verdict of a claim whose measures have these `sides`; a measure that does not count has the side ""."""
    sides = set(sides) - {""}
    if not sides:
        return NOT_TESTABLE
    if {"for", "against"} <= sides:
        return MIXED
    return SHOWN if "for" in sides else CONTRADICTED if "against" in sides else UNDECIDED


def write_claims(folder):
    """Write `claims.csv` into the preset's `folder`; returns the data frame as it is read back."""
    file = Path(folder) / "claims.csv"
    with atomic_write(file) as part:
        claim_table(folder).to_csv(part, index=False, float_format="%.6g")
    return read_claims(file)


def read_claims(file):
    """The data frame of a `claims.csv`."""
    texts = {name: str for name in COLUMNS if name not in ("effect", "lo", "hi", "detectable", "seeds", "crops")}
    frame = pd.read_csv(file, dtype=texts | {"seeds": "Int64", "crops": "Int64"})
    return frame.fillna({name: "" for name in texts})


def measured(row):
    """A row of the claims in words: measure, effect with its interval, side, note."""
    if not row.measure:
        return row.note
    spec = SPECS.get(row.measure)
    name, style = (row.measure, "+.3g") if spec is None else (spec.label, f"+.{max(spec.digits, 2)}f")
    interval = "" if pd.isna(row.lo) else f" [{row.lo:{style}}, {row.hi:{style}}]"
    effect = "" if pd.isna(row.effect) else f" {row.effect:{style}}"
    seen = f" (seen from {row.detectable:{style[1:]}})" if row.side == UNDECIDED and row.detectable > 0 else ""
    said = "; ".join(filter(None, [f"{row.side}{seen}" if row.side else "", row.note]))
    return f"{name}{effect}{interval}: {said}"


def weights_of(record, parts=None):
    """Whether a `run.json` is of the shipped weights: "shipped", "other" or "not recorded".

    `parts`: the folders of weights that it depends on, by default all.
    """
    recorded, shipped = record.get("weights"), part_hashes(WEIGHTS)
    parts = shipped if parts is None else parts
    if recorded is None and parts:
        return "not recorded"
    return "shipped" if all(recorded.get(part) == shipped[part] for part in parts) else "other"


def judged(rows, *, own=False):
    """Rows of claims from paired differences: data frame with metric, mean, lo, hi, and detectable if it is known.

    `own`: the measures of `OWN` count for the verdict too. They are listed either way.
    """
    for row in rows.to_dict("records"):
        lower = SPECS[row["metric"]].lower_better
        decided = row["lo"] > 0 or row["hi"] < 0
        side = ("for" if (row["hi"] < 0) == lower else "against") if decided else UNDECIDED
        counts = own or row["metric"] not in OWN
        seen = row["detectable"] if "detectable" in row else detectable_from_interval(row["lo"], row["hi"])
        yield dict(measure=row["metric"], effect=row["mean"], lo=row["lo"], hi=row["hi"], detectable=seen,
                   side=side if counts else "", note="" if counts else "not judged")  # fmt: skip


def _gap(folder):
    minima = _read(folder / "01_latent_gap" / "minima.csv")
    for variant, name in VARIANTS.items():
        about = dict(claim="LQ latents lie closer to noisy latents of a middle timestep than to those of either end",
                     variant=name, paper="section 1, figure 2", notebook="01_latent_gap")  # fmt: skip
        if minima is None or variant not in set(minima["variant"]):
            yield about | _missing("01_latent_gap")
            continue
        about |= dict(figure=f"01_latent_gap/gap_{variant}.png") | _origin(folder / "01_latent_gap", BASES[:1])
        part = minima[(minima["variant"] == variant) & minima["distance"].isin(DISTRIBUTIONS)]
        below = 1 - part["value"] / part[["clean_value", "noisy_value"]].min(axis=1)
        for distance, timestep, share in zip(part["distance"], part["timestep"], below, strict=True):
            note = f"least at t {timestep}, {share:.1%} below both ends (asked: {MARGIN:.0%}; no interval)"
            side = "for" if share > MARGIN else "against"
            yield about | dict(measure=DISTANCE_LABELS[distance], effect=0.0 - share, side=side, note=note)


def _mid_timestep(folder):
    mids, curves = (_read(folder / "02_mid_timestep" / name) for name in ("midstep.csv", "curve.csv"))
    for variant, name in VARIANTS.items():
        about = dict(claim="The mid-timestep is computed before training, from the autoencoder alone", variant=name,
                     paper="method, equation (9); SNR rule of the revision", notebook="02_mid_timestep")  # fmt: skip
        if mids is None or variant not in set(mids["variant"]):
            yield about | _missing("02_mid_timestep")
            continue
        row = mids[(mids["variant"] == variant) & (mids["rule"] == "snr")].iloc[0]
        curve = curves[curves["variant"] == variant]
        scan = int(curve.loc[curve["objective"].idxmin(), "timestep"])
        inside = curve["timestep"].min() < row.low and row.high < curve["timestep"].max()
        note = f"t* {row.timestep:.0f} [{row.low:.0f}, {row.high:.0f}], scan of all timesteps {scan}"
        side = "for" if inside and scan == row.timestep else "against"
        yield (
            about
            | _origin(folder / "02_mid_timestep", BASES[:1])
            | dict(
                measure="t* in closed form", side=side, note=note, figure=f"02_mid_timestep/snr_match_{variant}.png"
            )
        )


# Claims that the study's contrasts answer: contrast, claim, where it stands, whether the grid is what it is about.
CONTRAST_CLAIMS = (
    ("mid - initial (999)", "Injecting at the mid-timestep beats the initial one, t 999", "abstract", False),
    ("mid - initial, both without LDR",
     "Without the refinement loss on either side, the mid-timestep beats the initial one", "abstract", False),
    ("mid - 800", "The mid-timestep beats t 800", "ablation of the timestep", False),
    ("mid - 600", "The mid-timestep beats t 600", "ablation of the timestep", False),
    ("mid - 400", "The mid-timestep beats t 400", "ablation of the timestep", False),
    ("mid - 200", "The mid-timestep beats t 200", "ablation of the timestep", False),
    ("mid - 100", "The mid-timestep beats t 100", "ablation of the timestep", False),
    ("mid - 25", "The mid-timestep beats t 25, near the clean end", "ablation of the timestep", False),
    ("with - without LDR", "The latent refinement loss (LDR, LRR) helps", "abstract; method, LDR", False),
    ("with - without chunks", "Losses on overlapping chunks beat those on whole images, artefacts included",
     "abstract; method, overlap-chunked losses", True),
    ("with - without perceptual loss", "The perceptual loss helps", "method, losses", False),
    ("with - without adversarial loss", "The adversarial loss helps", "method, losses", False),
    ("trained - random prior", "A trained generative prior restores better than random weights", "abstract", False),
    *((f"own t* - t*, {name}", f"Training at a per-image timestep beats training at t*, {name}", "limitation", False)
      for name in DATASETS),
)  # fmt: skip
PROTOCOLS = {"full": "", "frozen-encoder": " (encoder frozen, loss on latents)"}
CONTRAST_FIGURES = {"full": "contrasts", "frozen-encoder": "frozen_contrasts"}


def _ablation(folder):
    """A claim for each contrast and protocol that was run; one that was not run at all is listed once."""
    contrasts = _read(folder / "06b_ablation" / "contrasts.csv")
    origin = _origin(folder / "study", BASES)
    for contrast, claim, paper, own in CONTRAST_CLAIMS:
        for protocol, suffix in PROTOCOLS.items():
            for variant, name in VARIANTS.items():
                about = dict(claim=claim + suffix, variant=name, paper=paper, notebook="06b_ablation")
                rows = None
                if contrasts is not None:
                    rows = contrasts[(contrasts["contrast"] == contrast) & (contrasts["variant"] == variant)]
                    rows = rows[rows["protocol"].isin(PROTOCOLS) & (rows["n"] > 0)]
                if rows is None or rows.empty:
                    if protocol == "full":
                        yield about | dict(note=NOT_RUN)
                    continue
                rows = rows[rows["protocol"] == protocol]
                if rows.empty:
                    continue
                about |= origin | dict(figure=f"{FIGURES}/{CONTRAST_FIGURES[protocol]}.png")
                about |= dict(seeds=rows["trainings"].iloc[0], crops=rows["crops"].iloc[0])
                if (rows["covers"] == "images").any():
                    about |= dict(note=IMAGES_ALONE)
                yield from (about | row | dict(note=row["note"] or about.get("note")) for row in judged(rows, own=own))


def _optimum(folder):
    """Whether the best timestep of the sweep is t*: its interval holds t* and leaves both ends out."""
    table = _read(folder / "06b_ablation" / "optimum.csv")
    origin = _origin(folder / "study", BASES)
    for protocol, suffix in PROTOCOLS.items():
        for variant, name in VARIANTS.items():
            about = dict(claim="The best timestep of injection is the computed t*" + suffix, variant=name,
                         paper="ablation of the timestep", notebook="06b_ablation")  # fmt: skip
            rows = pd.DataFrame() if table is None else table
            rows = rows if rows.empty else rows[(rows["variant"] == variant) & (rows["protocol"] == protocol)]
            if rows.empty and protocol == "full":
                yield about | dict(note=NOT_RUN)
            for row in rows.itertuples():
                if row.metric in OWN:
                    continue
                side = "against" if not row.lo <= row.mid <= row.hi else UNDECIDED
                side = "for" if side == UNDECIDED and row.least < row.lo and row.hi < row.most else side
                note = f"best t {row.optimum:.0f} [{row.lo:.0f}, {row.hi:.0f}], t* {row.mid}"
                moved = dict(effect=row.optimum - row.mid, lo=row.lo - row.mid, hi=row.hi - row.mid)
                about |= origin | dict(seeds=1, crops=row.crops, figure="06b_ablation/sweep.png")
                yield about | moved | dict(measure=f"best t - t* by {SPECS[row.metric].label}", side=side, note=note)


def _refinement(folder):
    """The loss at the end of the short training against its beginning, steps as the draws of the interval."""
    for variant, step in (("s", "03_train_omgsr_s"), ("f", "04_train_omgsr_f")):
        about = dict(claim="The refinement loss brings LQ latents towards the noisy latents of the mid-timestep",
                     variant=VARIANTS[variant], paper="method, LDR", notebook=step)  # fmt: skip
        log = _read(folder / step / "log.csv")
        if log is None or len(log) < 2 * LOSS_STEPS:
            yield about | _missing(step, f"a training of {2 * LOSS_STEPS} steps or more")
            continue
        loss = log["refinement"].to_numpy()
        mean, lo, hi = mean_interval(loss[-LOSS_STEPS:] - loss[:LOSS_STEPS])
        side = "for" if hi < 0 else "against" if lo > 0 else UNDECIDED
        about |= _origin(folder / step, BASES) | dict(figure=f"{step}/losses_{variant}.png", seeds=1, side=side)
        note = f"last {LOSS_STEPS} minus first {LOSS_STEPS} steps"
        yield about | dict(measure="refinement loss", effect=mean, lo=lo, hi=hi, note=note,
                           detectable=detectable_from_interval(lo, hi))  # fmt: skip


def _families(folder):
    scores = _read(folder / "06_evaluate" / "scores.csv")
    methods = [] if scores is None else list(scores["method"].unique())
    for variant, name in VARIANTS.items():
        about = dict(claim="One recipe serves diffusion and flow matching: tuning improves the prior", variant=name,
                     paper="abstract", notebook="06_evaluate")  # fmt: skip
        tuned = [method for method in (f"omgsr-{variant}", f"short-{variant}") if method in methods]
        if not tuned or f"prior-{variant}" not in methods:
            yield about | _missing("06_evaluate")
            continue
        about |= _model(folder / "06_evaluate", f"mini-{variant}") | dict(figure="06_evaluate/tradeoff.png")
        yield from (about | row for row in judged(paired_difference(scores, tuned[0], f"prior-{variant}")))


def _operations(folder):
    about = dict(claim="One step needs fewer operations than the published methods of several steps",
                 paper="abstract", notebook="06_evaluate")  # fmt: skip
    costs = _read(folder / "06_evaluate" / "costs.csv")
    published = _read(folder / "benchmarks" / "RealSR" / "published_cost.csv")
    counted = None if costs is None else costs[costs["seconds"].isna()].groupby("method", sort=False)["GMAC"].sum()
    if published is None or counted is None or counted.empty:
        yield about | _missing("06_evaluate", "published costs (`omgsr benchmark RealSR --published`)")
        return
    several = published[pd.to_numeric(published["steps"], errors="coerce") > 1].dropna(subset="MACs_G")
    macs = several["MACs_G"].astype(str).str.split("-").str[0].astype(float)  # of a range its lower end
    about |= _origin(folder / "06_evaluate", ())
    for method, ours in counted.items():
        note = f"{ours:.0f} GMAC at 512 pixels; published {macs.min():.0f} to {macs.max():.0f} (no interval: counts)"
        side = "for" if ours < macs.min() else "against"
        yield about | dict(variant=method, measure="GMAC", effect=ours - macs.min(), side=side, note=note)


def _test_sets(folder):
    found = benchmark_results(folder / "benchmarks")
    pairs = (
        ("mini-s", "bicubic", "Real images are restored better than by bicubic enlargement", "OMGSR-S"),
        ("mini-f", "bicubic", "Real images are restored better than by bicubic enlargement", "OMGSR-F"),
        ("mini-f", "mini-s", "OMGSR-F is ahead of OMGSR-S in the measures with reference", "OMGSR-F"),
    )
    for one, other, text, variant in pairs:
        about = dict(claim=f"{text} (RealSR, small priors)", variant=variant, paper="abstract; main table")
        about |= dict(notebook="07_tables_and_figures")
        if "RealSR" not in found:
            yield about | _missing("07_tables_and_figures", "`omgsr benchmark RealSR`")
            continue
        rows = paired_difference(found["RealSR"][0].drop(columns="dataset"), one, other)
        if other == "mini-s":
            rows = rows[[SPECS[metric].full_reference for metric in rows["metric"]]]
        about |= _model(folder / "benchmarks" / "RealSR", one) | dict(figure=f"{FIGURES}/ranks_RealSR.png")
        yield from (about | row for row in judged(rows))


def _own_timestep(folder):
    """The limit that the authors name: one timestep for all images."""
    gains = _read(folder / "08_adaptive_timestep" / "gains.csv")
    for name in ("mild", "medium", "extreme", "RealSR"):
        for variant, model in VARIANTS.items():
            where = "on RealSR" if name == "RealSR" else f"where degradation is {name}"
            about = dict(claim=f"A per-image timestep helps {where}", variant=model, paper="limitation",
                         notebook="08_adaptive_timestep")  # fmt: skip
            own = pd.DataFrame() if gains is None else gains[gains["contrast"] == "own timestep"]
            own = own if own.empty else own[(own["dataset"] == name) & (own["variant"] == variant)]
            if own.empty:
                yield about | _missing("08_adaptive_timestep", "`omgsr adaptive`")
                continue
            about |= _model(folder / "adaptive", f"mini-{variant}-adaptive")
            about |= dict(figure="08_adaptive_timestep/gains.png")  # of one training a side, whose spread is unknown
            yield from (about | row | dict(note=row["note"] or IMAGES_ALONE) for row in judged(own))


def _beyond(_):
    """Claims that need what a clone of this repository does not have."""
    needs = (
        ("Quality at 512 pixels is level with or ahead of other one-step methods", "main table",
         "SD-Turbo, FLUX.1-dev, adapters and a GPU; the small priors stand beside the published rows in the table of "
         "RealSR"),
        ("OMGSR-F restores at 1k, and at 2k with two-stage tiles", "abstract", "FLUX.1-dev, its adapter and a GPU"),
        ("A DISTS on DINOv3-ConvNeXt features replaces LPIPS", "revision", "the gated DINOv3 weights"),
    )  # fmt: skip
    for claim, paper, need in needs:
        yield dict(claim=claim, paper=paper, notebook="07_tables_and_figures", note=f"needs {need}")


def _origin(folder, parts=None):
    """`run` and `weights` of the run whose record lies in `folder`; `parts`: shipped weights that it depends on.

    Notebooks are run again when the weights change, so one that does not say which it measured is not in doubt.
    """
    record = folder / "run.json"
    if not record.is_file():
        return {}
    content = json.loads(record.read_text(encoding="utf-8"))
    words = (content.get("name"), (content.get("date") or "")[:10], (content.get("commit") or "")[:7])
    weights = weights_of(content, parts)
    doubt = weights != "not recorded" or not folder.name[0].isdigit()
    return dict(run=" ".join(filter(None, words)), weights=weights if doubt else "")


def _model(folder, name):
    """`_origin` of numbers of the shipped model `name`, with its one training and, from its card, the crops it saw."""
    origin = _origin(folder)
    crops = re.search(r"\| crops \| (\d+) \|", (WEIGHTS / name / "README.md").read_text(encoding="utf-8"))
    known = origin.get("weights") == "shipped" and crops is not None
    return origin | dict(seeds=1, crops=int(crops[1]) if known else None)


def _read(path):
    return read_results(path) if path.is_file() else None


def _missing(notebook, need=None):
    return dict(note=f"needs {need or f'notebook {notebook}'}")
