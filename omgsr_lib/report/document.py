"""`report.md` and `report.html` of a preset: the claims with their verdicts, how they were tested, tables, figures."""

from html import escape
from pathlib import Path

import mistune
import pandas as pd

from ..metrics.specs import SPECS
from ..utils.files import atomic_write
from .claims import KEYS, MIXED, VERDICTS, measured, write_claims
from .render import FIGURES, TABLES, VARIANTS, write_rest


FIGURE_TITLES = {
    "contrasts": "Paired contrasts of the ablation",
    "costs": "Costs by stage",
    "frozen_contrasts": "Paired contrasts of the ablation, encoder frozen, loss on latents",
    "gap": "Distance between LQ latents and noisy latents",
    "growth": "Mid against initial as the budget grows",
    "large": "A large image in tiles",
    "losses": "Training losses",
    "per_image": "Mid-timestep of each image",
    "published": "Beside published numbers",
    "ranks": "Ranks and how sure they are",
    "snr_match": "SNR match",
    "sweep": "Timestep of injection",
    "tradeoff": "Distortion against perception",
}
FIGURE_STARTS = tuple(f"{start}_" for start in FIGURE_TITLES)
SUMMARY = Path(__file__).with_name("summary.md")
LEGEND = (
    "Each measure, a row of [claims.csv](claims.csv), is for the claim or against it where its interval excludes 0, "
    "else undecided; *seen from*: the true difference that would be decided four times in five. *Shown*: some "
    "measures are for it, none against; *contradicted*: the reverse; *mixed*: both. Checkerboard judges only claims "
    "about patterns. Trainings a side x crops: how many trainings each side has, and what each of them saw."
)
MARK = "†"  # of numbers that are not those of the shipped weights
STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.35em .5em;
border-bottom:1px solid #ddd}img{max-width:100%}td:first-child{width:28%}
button{font:inherit;margin:0 .3em .3em 0;padding:.15em .7em;border:1px solid #999;border-radius:1em;background:#fff;
color:inherit}button[aria-pressed=true]{background:#222;color:#fff}"""
SELECT = """for (const button of document.querySelectorAll("button")) button.onclick = () => {
  for (const other of document.querySelectorAll("button")) other.setAttribute("aria-pressed", other === button);
  for (const row of document.querySelectorAll("#claims + table tbody tr"))
    row.hidden = !row.cells[1].textContent.startsWith(button.dataset.verdict);
};"""


def write_report(folder, *, pdf=False):
    """Write `claims.csv`, `report.md` and `report.html` into the preset's `folder`, beside them tables and figures.

    `pdf`: every figure as a PDF too (`render.write_rest`). Returns the paths of the two reports.
    """
    folder = Path(folder)
    write_rest(folder, pdf=pdf)
    markdown, written = report_text(folder, write_claims(folder)), []
    for name, text in (("report.md", markdown), ("report.html", _html(folder.name, markdown))):
        with atomic_write(folder / name) as part:
            part.write_text(text, encoding="utf-8")
        written.append(folder / name)
    return written


def report_text(folder, claims):
    """The report in Markdown, from the data frame of `claims.csv`; links are relative to the preset's `folder`."""
    folder = Path(folder)
    verdicts = claims.drop_duplicates(KEYS)["verdict"].value_counts()
    counts = ", ".join(f"{verdicts.get(verdict, 0)} {verdict}" for verdict in VERDICTS)
    waiting = claims["note"].str.startswith("not run").sum()
    counts += f", {waiting} of them only not run" if waiting else ""
    lines = ["# What of the paper is shown here", "", f"Preset {folder.name}: of {verdicts.sum()} claims {counts}."]
    lines += ["", LEGEND]
    if claims["weights"].isin(["other", "not recorded"]).any():
        lines += ["", f"{MARK}: measured with other weights than those that ship, or by a run that did not record "
                  "which."]  # fmt: skip
    lines += ["", "| Claim | Verdict | Measured: first minus second, 95 % interval | Trainings a side x crops | See |"]
    lines += ["| :-- | :-- | :-- | :-- | :-- |"]
    lines += [_claim_row(*key, part) for key, part in claims.groupby(KEYS, sort=False)]
    lines += ["", SUMMARY.read_text(encoding="utf-8").rstrip(), "", *_not_run(folder, claims)]
    tables = sorted(path.relative_to(folder).as_posix() for path in (folder / TABLES).glob("*.html"))
    links = ", ".join(f"[{_name(path)}]({Path(path).with_suffix('.md')})" for path in tables)
    lines += ["", "## Tables", "", links, "", "## Figures"]
    for path in _figures(folder):
        lines += ["", f"**{_name(path)}**", "", f"![{_name(path)}]({path})"]
    return "\n".join(lines) + "\n"


def _claim_row(claim, variant, part):
    first = part.iloc[0]
    mark = f" {MARK}" if first.weights in ("other", "not recorded") else ""
    texts = "<br>".join(measured(row) for row in part.itertuples(index=False))
    budget = "" if pd.isna(first.seeds) else f"{first.seeds}"
    budget += "" if pd.isna(first.crops) else f" x {first.crops}"
    verdict = f"**{first.verdict}**" + (f": {in_sides(part)}" if first.verdict == MIXED else "")
    links = [f"[figure]({first.figure})"] if first.figure else []
    links += [f"[notebook](notebooks/{first.notebook}.ipynb)"]
    name = f"{claim} ({variant})" if variant else claim
    return f"| {name}{mark} | {verdict} | {texts} | {budget} | {' '.join(links)} |"


def verdict_lines(claims):
    """Markdown list of claims with their verdicts and which measures go which way."""
    lines = []
    for (claim, variant), part in claims.groupby(KEYS, sort=False):
        name = f"{claim} ({variant})" if variant else claim
        lines.append(f"- {name}: **{part['verdict'].iloc[0]}**; {in_sides(part)}.")
    return "\n".join(lines)


def in_sides(part):
    """Which measures of a claim go which way: "for: LPIPS-Squeeze; against: PSNR-Y, GMSD"."""
    names = {
        side: ", ".join(
            SPECS[name].label.removesuffix(" (dB)") if name in SPECS else name
            for name in part.loc[part["side"] == side, "measure"]
        )
        for side in ("for", "against", "undecided")
    }
    return "; ".join(f"{side}: {text}" for side, text in names.items() if text)


def _not_run(folder, claims):
    """What was not measured and what failed, each with its reason."""
    lines = ["## Not run, or failed", ""]
    absent = claims[claims["measure"] == ""]
    for (claim, note), rows in absent.groupby(["claim", "note"], sort=False):
        variants = ", ".join(filter(None, rows["variant"]))
        lines.append(f"- {claim}{f' ({variants})' if variants else ''}: {note}.")
    file = folder / "study" / "skipped.csv"
    if file.is_file():
        for reason, runs in pd.read_csv(file).groupby("reason", sort=False)["run"]:
            names = ", ".join(runs) if len(runs) <= 3 else "listed in [skipped.csv](study/skipped.csv)"
            lines.append(f"- Study, {len(runs)} run{'s' * (len(runs) > 1)}, {reason}: {names}.")
    return lines if len(lines) > 2 else []


def _figures(folder):
    """Paths below `folder` of the figures that `FIGURE_TITLES` names, each once, in the order of the notebooks."""
    paths = [path for pattern in ("*/*", f"{FIGURES}/*") for path in sorted(folder.glob(pattern))]
    images = [path for path in paths if path.suffix in (".png", ".jpg")]
    return [path.relative_to(folder).as_posix() for path in images if f"{path.stem}_".startswith(FIGURE_STARTS)]


def _html(preset, markdown):
    """The page of the report: its Markdown, whose links to tables go to those in HTML, and a choice of verdicts."""
    body = mistune.create_markdown(plugins=["table"])(markdown.replace(".md)", ".html)"))
    body = body.replace("&lt;br&gt;", "<br>")  # all else is escaped
    body = body.replace("<table>", f'<p id="claims">{_choices()}</p>\n<table>', 1)
    head = f'<meta charset="utf-8"><title>OMGSR, preset {escape(preset)}</title><style>{STYLE}</style>'
    body += f"<script>{SELECT}</script>\n"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}</body></html>\n'


def _choices():
    """Buttons of which each leaves the claims of one verdict in the table, the first all."""
    first = '<button data-verdict="" aria-pressed="true">all claims</button>'
    others = (f'<button data-verdict="{verdict}" aria-pressed="false">{verdict}</button>' for verdict in VERDICTS)
    return "\n".join([first, *others])


def _name(path):
    """What a figure or a table is called, then the variant or the test set that its file names."""
    stem = Path(path).stem
    start = next((start for start in FIGURE_TITLES if f"{stem}_".startswith(f"{start}_")), None)
    if start is None or Path(path).suffix not in (".png", ".jpg"):
        return stem.replace("_", " ")
    rest = stem[len(start) + 1 :]
    return FIGURE_TITLES[start] + (f", {VARIANTS.get(rest, rest)}" if rest else "")
