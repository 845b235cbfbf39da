"""The pages of the study: what they are built from, and that the built ones hold together without network."""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import PROJECT_ROOT as ROOT

from omgsr_lib.integrations.pages.__main__ import build, main
from omgsr_lib.integrations.pages.sources import front_page, write_sources


RESULTS, README = ROOT / "results" / "mini", ROOT / "README.md"
LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}


class Links(HTMLParser):
    """Addresses of a page: what it loads, where it leads, and the places in it that can be led to."""

    def __init__(self, path):
        super().__init__()
        self.loaded, self.leads, self.places = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.places |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        if attributes.get(LOADED.get(tag)):
            self.loaded.append(attributes[LOADED[tag]])
        if tag == "a" and attributes.get("href"):
            self.leads.append(attributes["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for name in ("sphinx", "myst_nb", "sphinx_book_theme", "ziamath"):
        pytest.importorskip(name, reason="the pages need pip install -e '.[pages]'")
    return build(RESULTS, README, tmp_path_factory.mktemp("pages") / "site")


def test_the_sources_keep_the_paths_of_the_results(tmp_path):
    write_sources(RESULTS, README, tmp_path)
    for path in RESULTS.glob("notebooks/*.ipynb"):
        cells = json.loads((tmp_path / "notebooks" / path.name).read_text())["cells"]
        assert len(cells) == len(json.loads(path.read_text())["cells"]) - 1  # without the repeated parameters
        for figure in re.findall(r"!\[[^]]*\]\(\.\./([^)]+)\)", json.dumps(cells)):
            assert (tmp_path / figure).is_file(), figure
    report = (tmp_path / "report.md").read_text()
    for figure in re.findall(r'<a href="([^"]+)">figure</a>', report):
        assert (tmp_path / "_copied" / figure).is_file(), figure


@pytest.mark.parametrize("page", ["index.md", "report.md"])
def test_links_of_the_sources_lead_to_sources(tmp_path, page):
    """Sphinx ends at a link that leads nowhere, and it is not installed where most tests run."""
    write_sources(RESULTS, README, tmp_path)
    text = (tmp_path / page).read_text(encoding="utf-8")
    found = {target for target in re.findall(r"\]\(([^)#]+)", text) if not target.startswith(("http://", "https://"))}
    assert len(found) > 5 and not [target for target in found if not (tmp_path / target).is_file()]


def test_the_front_page_is_the_readmes():
    names = ["01_latent_gap", "06_evaluate", "06b_ablation"]
    page = front_page(README.read_text(encoding="utf-8"), names)
    assert page.startswith("# OMGSR, reproduced") and "```{math}" in page and "results/mini" not in page
    assert "blind AI judge](" not in page and "[arXiv 2508.08227](https://arxiv.org" in page
    assert page.count("[01](notebooks/01_latent_gap.ipynb)") == 1
    assert page.count("[06b](notebooks/06b_ablation.ipynb)") == 3
    assert "Try it" not in page and all(f"notebooks/{name}\n" in page for name in names)
    with pytest.raises(ValueError, match="section 'What we found': the file given has none"):
        front_page("# Another", names)


def test_missing_results_are_one_line_and_leave_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pages", "--results", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert main() == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and ("make reproduce" in err or "pip install -e '.[pages]'" in err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    assert list(site.parent.iterdir()) == [site]
    theme = site / "_static"  # holds templates too
    pages = {path.resolve(): Links(path) for path in site.rglob("*.html") if not path.is_relative_to(theme)}
    assert {"index.html", "report.html", "explorer.html"} <= {path.name for path in site.glob("*.html")}
    assert len(list(site.glob("notebooks/*.html"))) == len(list(RESULTS.glob("notebooks/*.ipynb")))
    for path, links in pages.items():
        for link in links.loaded:
            assert urlsplit(link).scheme in ("", "data"), (path.name, link)
        for link in (*links.loaded, *links.leads):
            parts = urlsplit(link)
            if parts.scheme:
                continue
            assert not parts.path.startswith("/"), (path.name, link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), (path.name, link)
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].places, (path.name, link)


@pytest.mark.slow
def test_formulas_are_drawn_and_no_style_sheet_loads_from_elsewhere(site):
    page = site / "notebooks" / "02_mid_timestep.html"
    assert page.read_text(encoding="utf-8").count('<svg class="formula"') > 10
    assert not any("mathjax" in address.lower() for address in Links(page).loaded)
    for path in site.rglob("*.css"):
        for address in re.findall(r"(?:url\(|@import )[\"']?([^\"')]+)", path.read_text(encoding="utf-8")):
            assert urlsplit(address).scheme in ("", "data"), (path.name, address)
            if not urlsplit(address).scheme:
                assert (path.parent / Path(urlsplit(address).path)).is_file(), (path.name, address)
