"""Interactive views of pictures that were computed before: no model runs here.

A static picture is always shown first, as PNG, so that a notebook reads well where no kernel runs. The controls only
exchange the bytes of a `widgets.Image`; no `Output` widget is used, so nothing piles up, saved notebooks stay small.
`ipywidgets` is imported where it is needed.
"""

import csv
import html
import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont


_OPEN = {}  # the view shown under each key: showing another one under the same key closes it


class PictureView:
    """A static picture and, if interactive, a slider that exchanges a live one. `close()` frees the widgets.

    Attributes: `sheet` (PNG bytes of the static picture), and `slider`, `image`, `status` (widgets, or None).
    """

    def __init__(self, sheet, slider=None, render=None):
        """`render` maps the slider's value to `(png, text)`: the live picture and its status line."""
        self.sheet = sheet
        self.slider = self.image = self.status = self.box = None
        if slider is None:
            return
        import ipywidgets

        self._render = render
        self.slider = slider
        self.image = ipywidgets.Image(format="png")
        self.status = ipywidgets.HTML()
        self.box = ipywidgets.VBox([self.slider, self.image, self.status])
        self._update()
        self.slider.observe(self._update, names="value")

    def _update(self, change=None):
        png, text = self._render(self.slider.value)
        self.image.value = png
        self.image.tooltip = text
        self.status.value = f'<span role="status">{html.escape(text)}</span>'

    def close(self):
        """Remove the widgets from the notebook and from memory; a second call does nothing."""
        if self.box is not None:
            self.slider.unobserve_all()
            for widget in (self.slider, self.image, self.status, self.box):
                widget.close()
            self.box = None

    def __repr__(self):
        return f"<PictureView {'static' if self.slider is None else 'closed' if self.box is None else 'open'}>"


def timestep_explorer(cache, *, static=(0, 100, 273, 500, 900), interactive=True):
    """Show restored pictures over the timestep of injection: a contact sheet, then a slider over computed timesteps.

    `cache` is a folder with `index.csv`: a row per timestep, the columns timestep, file (a PNG in the folder) and any
    number of scores, which the status line prints. `static` chooses the sheet: the computed timesteps nearest to it.
    Every file is read and checked once, here. Returns a `PictureView`; another call with the same cache closes it.

    Raises `FileNotFoundError` for a missing cache or picture, `ValueError` for a damaged one.
    """
    frames = _read_cache(Path(cache))
    shown = sorted({min(frames, key=lambda timestep: abs(timestep - wanted)) for wanted in static})
    sheet = _sheet([frames[t][0] for t in shown], [f"t = {t}" for t in shown])
    slider = None
    if interactive:
        import ipywidgets

        slider = ipywidgets.SelectionSlider(
            options=[(str(timestep), timestep) for timestep in frames],
            value=list(frames)[len(frames) // 2],
            description="Timestep",
            continuous_update=False,
        )
    alt = f"Restored pictures at the timesteps {', '.join(map(str, shown))}"
    return _show(("timestep_explorer", Path(cache).resolve()), PictureView(sheet, slider, frames.get), alt)


def before_after(image_a, image_b, labels=("before", "after"), *, name="before_after", interactive=True):
    """Compare two PIL images of one size: side by side, then a slider that moves the border between them.

    At position p % the left p % of the picture are `image_a`, the rest is `image_b`. Returns a `PictureView`; another
    call with the same `name` closes it. Raises `ValueError` if the sizes differ.
    """
    if image_a.size != image_b.size:
        raise ValueError(f"A comparison needs two pictures of one size: got {image_a.size} and {image_b.size}.")
    before, after = image_a.convert("RGB"), image_b.convert("RGB")
    slider = None
    if interactive:
        import ipywidgets

        slider = ipywidgets.IntSlider(
            value=50, min=0, max=100, step=2, description="Border (%)", continuous_update=False
        )

    def render(position):
        border = round(before.width * position / 100)
        picture = after.copy()
        picture.paste(before.crop((0, 0, border, before.height)), (0, 0))
        return _png(picture), f"left of {position} %: {labels[0]}; right: {labels[1]}"

    sheet = _sheet([_png(before), _png(after)], labels)
    return _show(("before_after", name), PictureView(sheet, slider, render), f"{labels[0]} beside {labels[1]}")


def _read_cache(cache):
    """`{timestep: (png, text)}` in rising order; every picture is opened once to prove that it is one."""
    index = cache / "index.csv"
    if not index.is_file():
        raise FileNotFoundError(
            f"An explorer needs a computed cache: '{index}' is missing. Run the step that writes it."
        )
    frames = {}
    with open(index, newline="") as file:
        for row in csv.DictReader(file):
            try:
                timestep, path = int(row.pop("timestep")), cache / row.pop("file")
            except (KeyError, TypeError, ValueError) as err:
                raise ValueError(f"'{index}' needs the columns timestep (integer) and file in every row.") from err
            if not path.is_file():
                raise FileNotFoundError(
                    f"'{index}' names a picture that is missing: '{path}'. Compute the cache again."
                )
            png = path.read_bytes()
            try:
                Image.open(io.BytesIO(png), formats=["PNG"]).load()
            except (OSError, SyntaxError) as err:
                raise ValueError(
                    f"A cached picture must be a readable PNG: '{path}' is not. Compute it again."
                ) from err
            frames[timestep] = png, "; ".join([f"t = {timestep}"] + [f"{name} {value}" for name, value in row.items()])
    if not frames:
        raise ValueError(f"'{index}' names no picture. Compute the cache again.")
    return dict(sorted(frames.items()))


def _sheet(pngs, labels, height=200, gap=6, bar=20):
    """PNG of pictures in a row at one height, each under its label."""
    pictures = [Image.open(io.BytesIO(png)).convert("RGB") for png in pngs]
    pictures = [picture.resize((round(picture.width * height / picture.height), height)) for picture in pictures]
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, height + bar), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    left = 0
    for picture, label in zip(pictures, labels, strict=True):
        sheet.paste(picture, (left, bar))
        draw.text((left + picture.width / 2, bar / 2), label, fill="#262626", font=font, anchor="mm")
        left += picture.width + gap
    return _png(sheet, level=6)


def _png(picture, level=1):
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=level)
    return buffer.getvalue()


def _show(key, view, alt):
    """Display `view` in place of the one shown under `key` before."""
    from IPython import display

    if key in _OPEN:
        _OPEN.pop(key).close()
    _OPEN[key] = view
    display.display(display.Image(data=view.sheet, format="png", alt=alt))
    if view.box is not None:
        display.display(view.box)
    return view
