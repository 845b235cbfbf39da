"""Interactive views of images that were computed before: the slider reads a cache, it runs no model.

A static image is always shown first, as PNG, so that a notebook reads well where no kernel runs. The controls choose
among images or exchange their bytes; no `Output` widget is used, so nothing piles up, saved notebooks stay small.
`ipywidgets` is imported where it is needed.
"""

import html
import threading
from functools import partial

from PIL import Image, ImageDraw, ImageFont

from ..data.photos import to_rgb
from .curves import curves_svg
from .drawing import WIDTH, contact_sheet, explorer_picture, to_png, variants_of, views_of, wiper_picture
from .flipbook import STYLE, Flipbook


_OPEN = {}  # the view shown under each key: showing another one under the same key closes it

# Hands a dropped file to the FileUpload beside it, which by itself takes only files chosen in a dialogue. Its input is
# no part of the page: it is the one that a click of the button would open the dialogue of.
_DROP_ZONE = """<div ondragover="event.preventDefault(); event.stopPropagation()" ondrop="
event.preventDefault(); event.stopPropagation();
const inputs = HTMLInputElement.prototype, click = inputs.click, files = event.dataTransfer.files;
inputs.click = function () { this.files = files; this.dispatchEvent(new Event('change')); };
try { this.closest('.omgsr-explorer').querySelector('.widget-upload').click(); } finally { inputs.click = click; }"
style="border: 1.5px dashed #7F7F7F; border-radius: 4px; padding: 0 14px; line-height: 26px">or drop one here</div>"""


class PictureView:
    """A static image and, if interactive, a slider that exchanges a live one. `close()` frees the widgets.

    Attributes: `sheet` (PNG bytes of the static image), and `slider`, `image`, `status` (widgets, or None).
    """

    def __init__(self, sheet, slider=None, render=None):
        """`render` maps the slider's value to `(png, text)`: the live image and its status line."""
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
        self.status.value = _status(text)

    def close(self):
        """Remove the widgets from the notebook and from memory; a second call does nothing."""
        if self.box is not None:
            self.slider.unobserve_all()
            for widget in (self.slider, self.image, self.status, self.box):
                widget.close()
            self.box = None

    def __repr__(self):
        return f"<PictureView {'static' if self.slider is None else 'closed' if self.box is None else 'open'}>"


class ExplorerView:
    """The explorer: a static sheet and, if interactive, controls over a `FrameCache` that a thread fills.

    The thread computes and draws frames from the slider's position outwards and sends them to the browser, where the
    slider flips through them. Until a frame is there, an image that says so stands in its place.

    Attributes: `sheet` (PNG bytes), the widgets `photo`, `upload`, `strength`, `view`, `timestep`, `number`, `border`,
    `progress`, `status`, `error`, the `Flipbook` `book`, and `box` around them (None without a kernel or once closed).
    """

    def __init__(self, explorer, cache, sheet, interactive=True):
        self.sheet, self.box = sheet, None
        self._lock, self._wake = threading.RLock(), threading.Event()
        if not interactive:
            return
        self._explorer, self._cache = explorer, cache
        self._wanted = None  # (photograph, strength) that was chosen and is not open yet
        self._build(explorer, cache)
        self._begin()
        self._observe()
        threading.Thread(target=self._work, daemon=True).start()

    def close(self):
        """Stop the thread and remove the widgets; a second call does nothing."""
        with self._lock:
            if self.box is None:
                return
            box, self.box = self.box, None
            self._wake.set()
        self.book.close()
        for row in box.children:
            for widget in getattr(row, "children", ()):
                widget.close()
            row.close()
        box.close()

    def __repr__(self):
        return f"<ExplorerView {'closed or static' if self.box is None else 'open'}>"

    # ---- widgets ----

    def _build(self, explorer, cache):
        import ipywidgets as w

        start = cache.about["variants"][cache.variants[0]]["timestep"]
        label = {"description_width": "84px"}
        narrow = {"style": {"button_width": "auto"}, "layout": {"width": "auto"}}
        beside = {"width": "84px", "margin": "2px 8px 2px 2px", "display": "flex", "justify_content": "flex-end"}
        self.photo = w.Dropdown(options=explorer.photos, value=cache.about["photo"], description="Photograph",
                                style=label)  # fmt: skip
        self.upload = w.FileUpload(accept="image/*", description="Your own", layout={"width": "130px"})
        self.strength = w.ToggleButtons(options=explorer.strengths, value=cache.about["strength"], **narrow)
        self.view = w.ToggleButtons(options=[(name, view) for view, name in views_of(cache).items()], **narrow)
        self.timestep = w.SelectionSlider(options=[(str(t), t) for t in cache.timesteps], value=start, readout=False,
                                          description="Timestep", style=label, layout={"width": "660px"})  # fmt: skip
        self.number = w.BoundedIntText(value=start, min=0, max=cache.about["last"], layout={"width": "80px"},
                                       tooltip="Timestep: the nearest computed one is taken")  # fmt: skip
        self.border = w.IntSlider(value=50, min=0, max=100, description="Border (%)", style=label,
                                  layout={"width": "660px", "display": "none"})  # fmt: skip
        self.book = Flipbook(self.timestep, width=WIDTH)
        self.progress = w.IntProgress(max=len(cache.timesteps), layout={"width": "120px"})
        self.status, self.error = w.HTML(), w.HTML()
        strength, view = w.Label("Degradation", layout=beside), w.Label("View", layout=beside)
        self.box = w.VBox(
            [
                w.HBox([self.photo, self.upload, w.HTML(STYLE + _DROP_ZONE)]),
                w.HBox([strength, self.strength, view, self.view]),
                w.HBox([self.timestep, self.number]),
                self.border,
                w.HBox([self.progress, self.book.lines, self.status]),
                self.error,
                self.book.pages,
            ]
        ).add_class("omgsr-explorer")

    def _observe(self):
        self.photo.observe(self._choose, names="value")
        self.strength.observe(self._choose, names="value")
        self.upload.observe(self._take_upload, names="value")
        self.view.observe(self._change_view, names="value")
        self.timestep.observe(self._move, names="value")
        self.number.observe(self._go_to_number, names="value")
        self.border.observe(self._move_border, names="value")

    def _move(self, change):
        self._show()
        self.number.value = self.timestep.value

    def _go_to_number(self, change):
        self.timestep.value = nearest(self._explorer.timesteps, self.number.value)
        self.number.value = self.timestep.value

    def _move_border(self, change):
        with self._lock:
            self.book.drawn.clear()
            self._show()
        self._wake.set()

    def _change_view(self, change):
        with self._lock:
            self.border.layout.display = None if self.view.value == "wiper" else "none"
            self._begin()
        self._wake.set()

    def _choose(self, change):
        with self._lock:
            self._wanted = self.photo.value, self.strength.value
            self.status.value = _status(f"Opening {self.photo.value} ...")
            self.error.value = ""
        self._wake.set()

    def _take_upload(self, change):
        for file in self.upload.value:
            try:
                name = self._explorer.add_photo(file["name"], bytes(file["content"]))
            except (ValueError, OSError) as err:
                self._complain(err)
                continue
            with self._lock:
                self.photo.options = self._explorer.photos
                self.photo.value = name
        self.upload.value = ()

    def _begin(self):
        """Start the book anew for the cache and the view."""
        with self._lock:
            if self.box is None or self._cache is None:
                return
            cache, variants = self._cache, variants_of(self._cache, self.view.value)
            blank = _picture(*self._edition(), None)
            plots = [curves_svg(cache, variants, timestep) for timestep in cache.timesteps]
            self.book.begin(blank, [_line(cache, variants, timestep) for timestep in cache.timesteps], plots)
            self._show()
            self._report()

    def _edition(self):
        """What an image depends on besides its timestep."""
        return self._cache, self.view.value, self.border.value

    def _show(self):
        """Draw the image at the slider, if it can be and is not drawn yet."""
        with self._lock:
            if self.box is None or self._cache is None or self.timestep.index in self.book.drawn:
                return
            if self._cache.has(self.timestep.value):
                self.book.draw(self.timestep.index, _picture(*self._edition(), self.timestep.value))

    def _report(self):
        """Say how many timesteps are computed, until all are."""
        with self._lock:
            if self.box is None or self._cache is None:
                return
            done, planned = len(self._cache.timesteps) - len(self._cache.missing), len(self._cache.timesteps)
            self.progress.value = done
            self.progress.layout.display = "none" if done == planned else None
            self.status.value = "" if done == planned else _status(f"({done} of {planned} timesteps computed)")

    def _complain(self, err):
        self.error.value = f'<span role="alert" style="color: #B00020">{html.escape(str(err))}</span>'

    # ---- the thread that fills the cache ----

    def _work(self):
        while self.box is not None:
            self._wake.clear()
            while task := self._next_task():
                try:
                    task()
                except Exception as err:  # shown, since a thread has no cell to fail in; the next choice starts anew
                    with self._lock:
                        self._wanted = self._cache = None
                        self._complain(err)
            self._wake.wait()

    def _next_task(self):
        """Open what was chosen; else compute or draw the frame nearest to the slider that needs it."""
        with self._lock:
            if self.box is None:
                return None
            if self._wanted is not None:
                return partial(self._open, *self._wanted)
            if self._cache is None:
                return None
            cache = self._cache
            for timestep in sorted(cache.timesteps, key=lambda t: abs(t - self.timestep.value)):
                if not cache.has(timestep):
                    return partial(self._compute, cache, timestep)
                if cache.timesteps.index(timestep) not in self.book.drawn:
                    return partial(self._draw, self._edition(), timestep)
            return None

    def _open(self, photo, strength):
        cache = self._explorer.open(photo, strength)
        with self._lock:
            if self._wanted == (photo, strength):
                self._wanted, self._cache = None, cache
                self._begin()

    def _compute(self, cache, timestep):
        self._explorer.compute(cache, timestep)
        self._report()

    def _draw(self, edition, timestep):
        """Draw an image, and leave it out where the controls have moved on meanwhile."""
        png = _picture(*edition, timestep)
        with self._lock:
            if self.box is not None and edition == self._edition():
                self.book.draw(edition[0].timesteps.index(timestep), png)


def _picture(cache, view, border, timestep):
    """PNG bytes; at timestep None what stands in the place of an image until it is there."""
    return wiper_picture(cache, timestep, border) if view == "wiper" else explorer_picture(cache, view, timestep)


def _line(cache, variants, timestep):
    """HTML: what is seen at a timestep."""
    mids = [f" = t* of OMGSR-{v.upper()}" for v in variants if cache.about["variants"][v]["timestep"] == timestep]
    about = cache.about
    return _status(f"{about['photo']}, {about['strength']} degradation: t = {timestep}{''.join(mids)}")


def timestep_explorer(explorer, *, photo=None, strength="medium", static=(0, 100, 500, 700, 999), interactive=True):
    """Show a photograph over the timestep of injection: a contact sheet, then the explorer.

    Args:
        explorer: `explorer.compute.Explorer`, which opens, computes and takes photographs.
        photo, strength: what is shown first, the explorer's first photograph by default.
        static: the sheet shows the explorer's timesteps nearest to these, and the mid-timesteps.
        interactive: False shows the sheet alone.

    Returns an `ExplorerView`; another call with an explorer of the same folder closes it.
    """
    cache = explorer.open(photo or explorer.photos[0], strength)
    mids = {about["timestep"] for about in cache.about["variants"].values()}
    shown = sorted(mids | {nearest(explorer.timesteps, wanted) for wanted in static})
    explorer.fill(cache, shown)
    view = ExplorerView(explorer, cache, contact_sheet(cache, shown), interactive)
    alt = f"{cache.about['photo']}: noisy latents, prior and tuned model at the timesteps {', '.join(map(str, shown))}"
    return _show(("timestep_explorer", explorer.folder.resolve()), view, alt)


def before_after(image_a, image_b, labels=("before", "after"), *, name="before_after", interactive=True):
    """Compare two PIL images of one size: side by side, then a slider that moves the border between them.

    At position p % the left p % of the image are `image_a`, the rest is `image_b`. Returns a `PictureView`; another
    call with the same `name` closes it. Raises `ValueError` if the sizes differ.
    """
    if image_a.size != image_b.size:
        raise ValueError(f"A comparison needs two images of one size: got {image_a.size} and {image_b.size}.")
    before, after = to_rgb(image_a), to_rgb(image_b)
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
        return to_png(picture), f"left of {position} %: {labels[0]}; right: {labels[1]}"

    sheet = _side_by_side([before, after], labels)
    return _show(("before_after", name), PictureView(sheet, slider, render), f"{labels[0]} beside {labels[1]}")


def nearest(timesteps, wanted):
    """The timestep nearest to `wanted`, of two equally near the smaller."""
    return min(timesteps, key=lambda timestep: (abs(timestep - wanted), timestep))


def _side_by_side(pictures, labels, height=200, gap=6, bar=20):
    """PNG of RGB images in a row at one height, each under its label."""
    pictures = [picture.resize((round(picture.width * height / picture.height), height)) for picture in pictures]
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, height + bar), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    left = 0
    for picture, label in zip(pictures, labels, strict=True):
        sheet.paste(picture, (left, bar))
        draw.text((left + picture.width / 2, bar / 2), label, fill="#262626", font=font, anchor="mm")
        left += picture.width + gap
    return to_png(sheet, level=6)


def _status(text):
    return f'<span role="status">{html.escape(text)}</span>'


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
