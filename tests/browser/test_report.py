"""The committed report in Chromium: a verdict chosen leaves its claims."""

import pandas as pd
import pytest
from conftest import PROJECT_ROOT as ROOT

from omgsr_lib.report.claims import KEYS, VERDICTS, read_claims


pytestmark = pytest.mark.browser


@pytest.fixture
def claims():
    return read_claims(ROOT / "results" / "mini" / "claims.csv")


def test_a_verdict_leaves_its_claims_in_the_table(page, claims, artefacts):
    page.goto((ROOT / "results" / "mini" / "report.html").as_uri())
    page.screenshot(path=artefacts / "report_1280.png")
    rows = page.locator("table").first.locator("tbody tr")
    counts = claims.drop_duplicates(KEYS)["verdict"].value_counts()
    assert rows.count() == counts.sum()
    for verdict in VERDICTS:
        page.get_by_role("button", name=verdict, exact=True).click()
        shown = pd.Series([row.inner_text() for row in rows.all() if row.is_visible()])
        assert len(shown) == counts[verdict] and shown.str.contains(verdict).all()
    page.screenshot(path=artefacts / "report_verdict.png")
    page.get_by_role("button", name="all claims").click()
    assert all(row.is_visible() for row in rows.all())
