"""The explorer in a notebook, and a comparison of two images: what is shown needs no kernel to answer a drag.

A static image is always shown first, as PNG, so that a notebook reads well where no kernel runs. No `Output` widget is
used, so nothing piles up and saved notebooks stay small. `ipywidgets` is imported where it is needed.
"""

import base64
import html
import json
import threading
from functools import partial

from PIL import Image, ImageDraw, ImageFont

from ..data.photos import to_rgb
from .drawing import contact_sheet, to_jpeg, to_png
from .page import as_json, case_of, frames_of, lossless, page_text


PART = 3 * 2**20  # bytes of an upload that go in one message: JupyterLab closes the connection at 10 MiB
LIMIT = 200_000_000  # bytes of an upload
OWN = "as it is"  # how the user's own photograph is shown first
_OPEN = {}  # the view shown under each key: showing another one under the same key closes it

# A range over the whole image: dragging it moves the border, without a kernel and with the arrow keys too.
_COMPARISON = """<div style="position: relative; max-width: {width}px; --border: 50%">
<style>.omgsr-border::-webkit-slider-thumb {{ appearance: none; width: 1px }}
.omgsr-border::-moz-range-thumb {{ width: 1px; border: 0 }}</style>
<img alt="{labels[1]}" src="{after}" style="display: block; width: 100%">
<img alt="{labels[0]}" src="{before}" style="position: absolute; inset: 0; width: 100%;
clip-path: inset(0 calc(100% - var(--border)) 0 0)">
<div style="position: absolute; top: 0; bottom: 0; left: calc(var(--border) - 1px); width: 2px; background: #FFD400">
</div>
<input type="range" class="omgsr-border" step="0.5" aria-label="Border in percent of the width"
oninput="this.parentNode.style.setProperty('--border', this.value + '%')" style="position: absolute; inset: 0;
width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize; appearance: none"></div>
<p>Left: {labels[0]}; right: {labels[1]}. Drag the border.</p>"""


class ExplorerView:
    """The explorer: a static sheet and, if interactive, the page of `page.py` over a `FrameCache` that a thread fills.

    The page stands in a frame of its own and does all the drawing. Beside it lie hidden widgets: `_wish` and `_upload`
    are written by the page, `_case`, `_status` and one for each timestep by this class, as JSON that the page reads.
    The thread computes frames from the slider's position outwards.

    Attributes: `sheet` (JPEG bytes) and `box` (the widgets, None without a kernel or once closed).
    """

    def __init__(self, explorer, cache, sheet, interactive=True):
        self.sheet, self.box = sheet, None
        self._lock, self._wake = threading.RLock(), threading.Event()
        if not interactive:
            return
        self._explorer, self._cache = explorer, cache
        self._wanted = None  # arguments of `Explorer.open` that were chosen and are not open yet
        self._sent, self._content = set(), bytearray()
        self._state = {"error": "", "message": "", "added": None, "part": None}
        self._build(explorer, cache)
        self._near = next(iter(cache.about["variants"].values()))["timestep"]
        self._begin(cache, (cache.about["photo"], cache.about["strength"], None))
        self._wish.observe(self._choose, names="value")
        self._upload.observe(self._take_part, names="value")
        threading.Thread(target=self._work, daemon=True).start()

    def close(self):
        """Stop the thread and remove the widgets; a second call does nothing."""
        with self._lock:
            if self.box is None:
                return
            box, self.box = self.box, None
            self._wake.set()
        page, mail = box.children
        for widget in (*mail.children, page, mail, box):
            widget.close()

    def __repr__(self):
        return f"<ExplorerView {'closed or static' if self.box is None else 'open'}>"

    def _build(self, explorer, cache):
        import ipywidgets as w

        live = {"photos": explorer.photos, "strengths": explorer.strengths, "part": PART, "limit": LIMIT, "own": OWN}
        frame = '<iframe title="Explorer" style="width: 100%; height: 800px; border: 0" srcdoc="{}"></iframe>'
        page = w.HTML(frame.format(html.escape(page_text(cache, cases=[], live=live))), layout={"width": "100%"})
        self._case, self._status = w.HTML(), w.HTML()
        self._frames = {timestep: w.HTML() for timestep in explorer.timesteps}
        self._wish, self._upload = w.Textarea().add_class("omgsr-wish"), w.Textarea().add_class("omgsr-upload")
        hidden = [self._wish, self._upload, self._status, self._case, *self._frames.values()]
        mail = w.VBox(hidden, layout={"display": "none"}).add_class("omgsr-mail")
        self.box = w.VBox([page, mail]).add_class("omgsr-explorer")

    # ---- what the page says ----

    def _choose(self, change):
        wish = json.loads(change["new"])
        chosen = wish["photo"], wish["strength"], wish["centre"]
        with self._lock:
            self._near = wish["timestep"]
            if chosen != self._chosen:
                self._chosen = self._wanted = chosen
                self._say(message=f"Opening {chosen[0]} ...", error="")
        self._wake.set()

    def _take_part(self, change):
        """Put an uploaded file together; the last part adds the photograph, which the page then wishes for."""
        part = json.loads(change["new"])
        if part["number"] == 0:
            self._content = bytearray()
        self._content += base64.b64decode(part["content"])
        said = {"part": [part["upload"], part["number"]], "error": "", "added": None}
        if part["number"] + 1 == part["parts"]:
            try:
                said["added"] = self._explorer.add_photo(part["name"], bytes(self._content))
            except (ValueError, OSError) as err:
                said["error"] = str(err)
            self._content = bytearray()
        self._say(**said)

    # ---- what the page is told ----

    def _say(self, **changes):
        with self._lock:
            if self.box is None:
                return
            self._state |= changes
            planned = len(self._frames)
            done = planned if self._cache is None else planned - len(self._cache.missing)
            counts = {"photos": self._explorer.photos, "done": done, "planned": planned}
            self._status.value = _message("status", counts | self._state)

    def _begin(self, cache, chosen):
        """Tell the page of the case that was chosen; its frames follow."""
        overview = lossless(self._explorer.overview(chosen[0]))
        case = case_of(cache, lossless) | {"key": cache.folder.name, "overview": overview}
        with self._lock:
            self._cache, self._chosen, self._wanted, self._sent = cache, chosen, None, set()
            self._case.value = _message("case", case)
            self._say(message="")

    # ---- the thread that fills the cache ----

    def _work(self):
        while self.box is not None:
            self._wake.clear()
            while task := self._next_task():
                try:
                    task()
                except Exception as err:  # shown, since a thread has no cell to fail in; the next choice starts anew
                    with self._lock:
                        self._wanted = self._cache = self._chosen = None
                        self._say(error=str(err), message="")
            self._wake.wait()

    def _next_task(self):
        """Open what was chosen; else compute and send the frames nearest to the slider."""
        with self._lock:
            if self.box is None:
                return None
            if self._wanted is not None:
                return partial(self._open, self._wanted)
            left = [] if self._cache is None else set(self._frames) - self._sent
            return partial(self._send, self._cache, min(left, key=lambda t: abs(t - self._near))) if left else None

    def _open(self, wanted):
        cache = self._explorer.open(*wanted)
        with self._lock:
            if self._wanted == wanted and self.box is not None:
                self._begin(cache, wanted)

    def _send(self, cache, timestep):
        self._explorer.compute(cache, timestep)
        frames = frames_of(cache, timestep, lossless)
        with self._lock:
            if self.box is not None and cache is self._cache:  # else the choice has moved on meanwhile
                content = {"key": cache.folder.name, "timestep": timestep, "frames": frames}
                self._frames[timestep].value = _message("frames", content)
                self._sent.add(timestep)
                self._say()


def _message(kind, content):
    return f'<script type="application/json">{as_json({"kind": kind} | content)}</script>'


def timestep_explorer(explorer, *, photo=None, strength="medium", static=(0, 100, 500, 700, 999), interactive=True):
    """Show a photograph over the timestep of injection: a contact sheet, then the explorer.

    Args:
        explorer: `explorer.compute.Explorer`, which opens, computes and takes photographs.
        photo, strength: what is shown first, the explorer's first photograph by default.
        static: the sheet shows the explorer's timesteps nearest to these, and the mid-timesteps.
        interactive: False shows the sheet alone.

    Returns an `ExplorerView`; another call with an explorer of the same folder closes it.
    """
    from IPython import display

    cache = explorer.open(photo or explorer.photos[0], strength)
    mids = {about["timestep"] for about in cache.about["variants"].values()}
    shown = sorted(mids | {nearest(explorer.timesteps, wanted) for wanted in static})
    explorer.fill(cache, shown)
    key = explorer.folder.resolve()
    if key in _OPEN:
        _OPEN.pop(key).close()
    view = _OPEN[key] = ExplorerView(explorer, cache, to_jpeg(contact_sheet(cache, shown)), interactive)
    alt = f"{cache.about['photo']}: noisy latents, prior and tuned model at the timesteps {', '.join(map(str, shown))}"
    display.display(display.Image(data=view.sheet, format="jpeg", alt=alt))
    if view.box is not None:
        display.display(view.box)
    return view


def before_after(image_a, image_b, labels=("before", "after"), *, interactive=True):
    """Show two PIL images of one size beside each other and, if interactive, on top of each other with a border that
    the browser drags by itself: left of it `image_a`, right of it `image_b`.

    Returns the first as PNG bytes. Raises `ValueError` if the sizes differ.
    """
    from IPython import display

    if image_a.size != image_b.size:
        raise ValueError(f"A comparison needs two images of one size: got {image_a.size} and {image_b.size}.")
    before, after = to_rgb(image_a), to_rgb(image_b)
    sheet = _side_by_side([before, after], labels)
    display.display(display.Image(data=sheet, format="png", alt=f"{labels[0]} beside {labels[1]}"))
    if interactive:
        labels = [html.escape(label) for label in labels]
        addresses = dict(before=lossless(before), after=lossless(after))
        display.display(display.HTML(_COMPARISON.format(width=before.width, labels=labels, **addresses)))
    return sheet


def nearest(timesteps, wanted):
    """The timestep nearest to `wanted`, of two equally near the smaller."""
    return min(timesteps, key=lambda timestep: (abs(timestep - wanted), timestep))


def _side_by_side(images, labels, height=200, gap=6, bar=20):
    """PNG of RGB images in a row at one height, each under its label."""
    images = [image.resize((round(image.width * height / image.height), height)) for image in images]
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    sheet = Image.new("RGB", (width, height + bar), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    left = 0
    for image, label in zip(images, labels, strict=True):
        sheet.paste(image, (left, bar))
        draw.text((left + image.width / 2, bar / 2), label, fill="#262626", font=font, anchor="mm")
        left += image.width + gap
    return to_png(sheet)
