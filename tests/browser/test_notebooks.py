"""The first run of every notebook in JupyterLab, as a user makes it: open, Run All, look."""

import pytest

from omgsr_lib.study.reproduce import STEPS


pytestmark = pytest.mark.browser
NO_FIGURE = ("06b_ablation",)  # with the preset smoke, which has no study
INTERACTIVE = ("05_restore", "explore_timestep_injection")


@pytest.mark.parametrize("name", STEPS)  # in their order, since later ones read what earlier ones wrote
def test_first_run(lab, page, artefacts, name):
    parameters = {"preset": "smoke"} | ({"interactive": True} if name in INTERACTIVE else {})
    page.set_viewport_size({"width": 1280, "height": 900})
    lab.run(page, name, **parameters)
    notebook = lab.saved(page, name)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs and not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if "Figure size" in output.get("data", {}).get("text/plain", "")]
    assert any({"image/png", "image/jpeg"} & set(output.get("data", {})) for output in outputs) or name in NO_FIGURE
    if name in INTERACTIVE:
        if name == "05_restore":
            page.locator("input.omgsr-border").scroll_into_view_if_needed()
            page.locator("input.omgsr-border").fill("20")
            border = page.locator("input.omgsr-border").evaluate(
                "e => e.parentNode.style.getPropertyValue('--border')"
            )
            assert border == "20%"
        else:
            page.locator(".omgsr-explorer").scroll_into_view_if_needed()
            page.frame_locator(".omgsr-explorer iframe").locator("canvas.image").first.wait_for()
        assert page.get_by_text("Click to show javascript error").count() == 0
    page.set_viewport_size({"width": 1280, "height": 2600})
    page.evaluate("() => document.querySelectorAll('.jp-WindowedPanel-outer').forEach(panel => panel.scrollTo(0, 0))")
    page.wait_for_timeout(500)
    page.screenshot(path=artefacts / f"notebook_{name}.png")
    lab.close(name)
