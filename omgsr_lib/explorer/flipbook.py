"""Pages that the browser turns by itself: a slider chooses among widgets sent before, the kernel is not asked.

The pages are those of an `ipywidgets.Tab` without its bar, for a Tab keeps them all drawn: turning shows one and hides
another. (A Stack draws a page anew each time, which flashes and leaves nodes behind.)
"""

import io

from PIL import Image


# Longer selectors than those of the widgets' own style, which these must win against.
STYLE = """<style>
.omgsr-flipbook.jupyter-widgets.widget-tab > .widget-tab-bar.lm-TabBar { display: none }
.omgsr-flipbook.jupyter-widgets.widget-tab > .widget-tab-contents { padding: 0; border: 0; overflow: visible }
</style>"""


class Flipbook:
    """A line of text, an image and a plot for each position of a slider that has an `index`.

    Widgets are made once and filled again, so what they hold is bounded by one page per position.

    Attributes: `lines` and `pages` (widgets, to be placed) and `drawn` (positions whose image is there).
    """

    def __init__(self, slider, *, width):
        """`width` of images and plots in pixels."""
        import ipywidgets as w

        places = range(len(slider.options))
        self.drawn = set()
        self._shape, plot = (w.Layout(width=f"{width}px", max_width="none") for _ in range(2))
        self._lines = [w.HTML() for _ in places]
        self._pictures = [w.Image(format="png", layout=self._shape) for _ in places]
        self._plots = [w.Image(format="svg+xml", layout=plot) for _ in places]
        sheets = [w.VBox(parts) for parts in zip(self._pictures, self._plots, strict=True)]
        self.lines, self.pages = (
            w.Tab(children, selected_index=slider.index).add_class("omgsr-flipbook")
            for children in (self._lines, sheets)
        )
        links = [w.jsdlink((slider, "index"), (tab, "selected_index")) for tab in (self.lines, self.pages)]
        self._widgets = [*links, self.lines, self.pages, *sheets, *self._lines, *self._pictures, *self._plots]

    def begin(self, blank, lines, plots):
        """Fill all positions: `lines` (HTML) and `plots` (SVG text) of each, `blank` (PNG bytes) for every image."""
        self.drawn = set()
        self._shape.height = f"{Image.open(io.BytesIO(blank)).height}px"
        for position, (line, svg) in enumerate(zip(lines, plots, strict=True)):
            self._lines[position].value = line
            self._pictures[position].value = blank
            self._plots[position].value = svg.encode()

    def draw(self, position, png):
        """Put an image, PNG bytes, in its place."""
        self._pictures[position].value = png
        self.drawn.add(position)

    def at(self, position):
        """`(line, image, plot)` of a position: HTML, PNG bytes and SVG bytes."""
        parts = (self._lines[position], self._pictures[position], self._plots[position])
        return tuple(part.value for part in parts)

    def close(self):
        """Free the widgets."""
        for widget in self._widgets:
            widget.close()
