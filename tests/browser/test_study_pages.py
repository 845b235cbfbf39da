"""The pages of the study in Chromium, from the disk and without network: nothing is asked for, nothing sticks out."""

import pytest
from conftest import PROJECT_ROOT as ROOT

from omgsr_lib.integrations.pages.__main__ import build


pytestmark = pytest.mark.browser
PAGES = ("index", "notebooks/02_mid_timestep", "report", "explorer")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for name in ("sphinx", "myst_nb", "sphinx_book_theme", "ziamath"):
        pytest.importorskip(name, reason="the pages need pip install -e '.[pages]'")
    return build(ROOT / "results" / "mini", ROOT / "README.md", tmp_path_factory.mktemp("pages") / "site")


@pytest.fixture(scope="module")
def shown(site, page):
    """The front page; whatever it and the others ask for is noted, and their errors."""
    page.context.set_offline(True)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((site / "index.html").as_uri())
    yield page
    assert errors == []
    assert asked and [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.parametrize("width, height", [(1280, 900), (390, 844)])
@pytest.mark.parametrize("name", PAGES)
def test_every_page_fits_the_window_and_shows_its_images(shown, site, artefacts, name, width, height):
    shown.set_viewport_size({"width": width, "height": height})
    shown.goto((site / f"{name}.html").as_uri())
    assert shown.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    assert shown.evaluate("() => [...document.images].every(image => !image.complete || image.naturalWidth)")
    shown.screenshot(path=artefacts / f"pages_{name.split('/')[-1]}_{width}.png")


def test_the_explorer_answers_in_its_frame(shown, site):
    shown.set_viewport_size({"width": 1280, "height": 900})
    shown.goto((site / "explorer.html").as_uri())
    frame = shown.frame_locator("iframe.explorer")
    frame.locator("#position:not(:empty)").wait_for()  # its images are there
    frame.locator("#timestep").focus()
    shown.keyboard.press("End")
    assert frame.locator("#position").inner_text() == "t = 999"


def test_the_search_finds_from_the_disk(shown, site):
    shown.goto((site / "search.html").as_uri() + "?q=median")
    shown.locator("#search-results li a").first.wait_for()


def test_a_claim_leads_to_its_figure_and_its_notebook(shown, site):
    shown.goto((site / "report.html").as_uri())
    shown.locator("table.claims").get_by_text("figure", exact=True).first.click()
    shown.wait_for_url("**/01_latent_gap/gap_s.png")
    shown.go_back()
    shown.locator("table.claims").get_by_text("notebook", exact=True).first.click()
    shown.wait_for_url("**/notebooks/01_latent_gap.html*")
