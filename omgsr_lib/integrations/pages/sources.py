"""What the pages are built from: the results as they lie, and a front page from the README."""

import json
import re
import shutil
from pathlib import Path


KEPT = ("*/*.png", "*/*.jpg", "*/figures/*.png", "*/tables/*.md", "notebooks/*.ipynb", "report.md", "claims.csv")
KEPT += ("study/skipped.csv",)  # which the report names
NOTEBOOKS, EXPLORER = "notebooks", "explore_timestep_injection"
HIDDEN = "injected-parameters"  # tag of the cell that papermill adds; it repeats the one above it
FINDINGS = "What we found"  # section of the README
COPIED = "_copied"  # folder whose files become part of the pages as they are
FIGURE_LINK = r'<a href="([^"]+)">figure</a>'
LINKED = "results/mini/"  # where the README's links go: the root of the pages


def write_sources(results, readme, source):
    """Lay out the folder `source` for Sphinx, with the paths of `results`, so that links between them hold.

    Raises `FileNotFoundError` if the folder of `results` has no executed notebooks or no report, `ValueError` if the
    `readme` has no section of findings.
    """
    results, source = Path(results), Path(source)
    notebooks = sorted(results.glob(f"{NOTEBOOKS}/*.ipynb"))
    needed = [results / "report.md", results / EXPLORER / "explorer.html", Path(readme)]
    missing = [path for path in needed if not path.is_file()] + ([] if notebooks else [results / NOTEBOOKS])
    if missing:
        raise FileNotFoundError(f"The pages need '{missing[0]}', which is missing. Run make reproduce first.")
    for pattern in KEPT:
        for path in results.glob(pattern):
            target = source / path.relative_to(results)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for path in source.glob(f"{NOTEBOOKS}/*.ipynb"):
        path.write_text(_without_hidden_cells(path.read_text(encoding="utf-8")), encoding="utf-8")
    report = _figures_open((results / "report.md").read_text(encoding="utf-8"))
    (source / "report.md").write_text(_framed(report), encoding="utf-8")
    for path in source.glob("*/tables/*.md"):
        title = path.stem.replace("_", " ")
        table = path.read_text(encoding="utf-8")
        path.write_text(f"---\norphan: true\n---\n# {title[0].upper()}{title[1:]}\n\n{table}", encoding="utf-8")
    (source / "explorer.md").write_text(_explorer_page(), encoding="utf-8")
    names = [path.stem for path in notebooks]
    text = Path(readme).read_text(encoding="utf-8")
    (source / "index.md").write_text(front_page(text, names), encoding="utf-8")
    for name in (f"{EXPLORER}/explorer.html", *re.findall(FIGURE_LINK, report)):
        target = source / COPIED / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(results / name, target)


def front_page(readme, notebooks):
    """The front page in MyST Markdown from the README's text: its head and its findings, then what there is to read.

    `notebooks`: their names, in order. A link to what is not among the pages, as to a folder's README, becomes text.
    """
    head, findings = re.split(r"^## .*$", readme, maxsplit=1, flags=re.M)[0], _section(readme, FINDINGS)
    text = f"{head.rstrip()}\n\n## {FINDINGS}\n\n{findings.strip()}\n"
    text = re.sub(rf"(?<!!)\[([^]]+)\]\((?!https?:|{LINKED})[^)]+\)", r"\1", text)
    text = text.replace(f"({LINKED}", "(").replace("```math", "```{math}")
    text = re.sub(r"<!--.*?-->\n", "", text, flags=re.S)
    text = re.sub(r"\| (\d\d\w?) \|$", lambda found: f"| {_link(found[1], notebooks)} |", text, flags=re.M)
    lines = "\n".join(f"- [](notebooks/{name}.ipynb)" for name in notebooks)
    listed = "\n".join(f"{NOTEBOOKS}/{name}" for name in notebooks)
    return (
        f"{text}\n## The notebooks\n\nAs they ran, with figures and numbers; each asks one question.\n\n{lines}\n\n"
        "## Report and explorer\n\n- [](report.md): every claim with each measure, its interval and figure.\n"
        "- [](explorer.md): a slider over the timestep of injection.\n\n"
        "```{toctree}\n:caption: Results\n:hidden:\n\nReport <report>\nExplorer <explorer>\n```\n\n"
        f"```{{toctree}}\n:caption: Notebooks\n:hidden:\n\n{listed}\n```\n"
    )


def _section(text, title):
    found = re.search(rf"^## {title}$\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S)
    if found is None:
        raise ValueError(f"The front page shows the README's section '{title}': the file given has none.")
    return found[1]


def _link(number, notebooks):
    """A link to the notebook of this number, if there is one only."""
    found = [name for name in notebooks if name.startswith(number)]
    return f"[{number}]({NOTEBOOKS}/{found[0]}.ipynb)" if len(found) == 1 else number


def _without_hidden_cells(text):
    notebook = json.loads(text)
    notebook["cells"] = [cell for cell in notebook["cells"] if HIDDEN not in cell["metadata"].get("tags", [])]
    return json.dumps(notebook)


def _figures_open(report):
    """Links to figures as HTML, which open them; in Markdown Sphinx makes them downloads."""
    return re.sub(r"(?<!!)\[figure\]\(([^)]+)\)", r'<a href="\1">figure</a>', report)


def _framed(report):
    """The table of the claims with a class that `pages.css` knows."""
    return re.sub(r"(^\| Claim .*?\n)(?=\n)", r":::{table}\n:class: claims\n\n\1:::\n", report, flags=re.M | re.S)


def _explorer_page():
    address = f"{EXPLORER}/explorer.html"
    return (
        "# Explorer\n\nMove the slider: one photograph, injected at every timestep into the prior and into the tuned "
        f'model. <a href="{address}">Alone in the window</a>; how it was made: '
        f"[notebook]({NOTEBOOKS}/{EXPLORER}.ipynb).\n\n"
        f'<iframe class="explorer" src="{address}" title="Explorer of the timestep of injection"></iframe>\n'
    )
