"""A Sphinx extension that draws formulas as SVG when the pages are built: no script, no font, no network."""

from html import escape

import ziamath
from docutils.nodes import SkipNode


ziamath.config.svg2 = False  # plain paths, without ids that a page would have twice
SIZE = 17  # of the formulas, in pixels: a little less than the text's, since its letters are small
DISPLAY_SIZE = 19
MARGIN = 1  # pixels that ziamath leaves around a formula


def setup(app):
    app.add_html_math_renderer("svg", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def visit_inline(translator, node):
    formula = node.astext()
    drawn = ziamath.Latex(formula, size=SIZE, inline=True, color="currentColor")
    translator.body.append(_labelled(drawn, formula, style=f"vertical-align:{drawn.getyofst() - MARGIN:.2f}px"))
    raise SkipNode


def visit_block(translator, node):
    formula = node.astext()
    drawn = ziamath.Latex(formula, size=DISPLAY_SIZE, color="currentColor")
    translator.body.append(f'<div class="formula">{_labelled(drawn, formula)}</div>\n')
    raise SkipNode


def _labelled(drawn, formula, style=""):
    """The `<svg>` element, which a screen reader reads as the LaTeX source."""
    attributes = f'class="formula" role="img" aria-label="{escape(formula)}" style="{style}"'
    return drawn.svg().replace("<svg ", f"<svg {attributes} ", 1)
