"""`omgsr demo`: a page for one photograph, by Gradio, which works without network and sends nothing anywhere."""

import os
import socket
import time
from contextlib import closing, contextmanager
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from threading import Lock

from PIL import Image

from ..images.image_file import Picture
from ..restore.folder import MIN_SIDE
from ..restore.out_of_core import fits_memory
from ..restore.pipeline import Restorer, estimates
from ..utils.memory import out_of_memory


try:
    import gradio as gr
except ImportError as err:
    raise ImportError("The demo page needs Gradio: pip install -e '.[demo]'.") from err


SHOWN = 24_000_000  # pixels of an image in the page; what a browser of a telephone shows
TILES = [("automatic", "auto"), ("none, one pass", None)]
TILES += [(f"{side} pixels", side) for side in (128, 256, 512, 1024)]
TILES_INFO = "In pixels of the output; automatic takes what the model does best with, if the memory holds it."
STAGES = {"encode": "encoding", "estimate": "estimating", "predict": "predicting", "decode": "decoding"}
SYSTEM_FONTS = ["system-ui", "sans-serif"]
TITLE = "OMGSR: a photograph restored in one step"
INTRODUCTION = f"# {TITLE}\n\nThe photograph stays on the computer where `omgsr demo` runs."
CSS = """
.gradio-container { width: 100%; max-width: 1240px !important; margin: auto; }
#preview { height: clamp(260px, 50vw, 460px) !important; }
#facts dl { display: grid; grid-template-columns: max-content 1fr; gap: .3em 1em; margin: 0; }
#facts dt { opacity: .7; }
#facts dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
"""


class Models:
    """The models of the page by name, each loaded at its first use and kept."""

    def __init__(self, load):
        self.load, self.loaded, self.lock = load, {}, Lock()

    def __getitem__(self, name):
        with self.lock:
            if name not in self.loaded:
                self.loaded[name] = self.load(name)
            return self.loaded[name]


class _Watched(Restorer):
    """A `Restorer` that calls `tell(share, text)` as the tiles of a stage are done."""

    tell = None

    def run(self, padded, enlarged, sizes, settings, write):
        def store(stage):
            self.tell(0, STAGES[stage])
            return dict(
                progress=lambda done, total: self.tell(done / total, f"{STAGES[stage]}: tile {done} of {total}")
            )

        return super().run(padded, enlarged, sizes, settings, write, store)


def restore_file(model, source, folder, name, tell, **options):
    """Restore the image file `source` into a new PNG file in `folder`, as `omgsr restore` writes it.

    Args:
        name: of the model, part of the file's name.
        tell: `tell(share, text)` is called with what is being done: how much of it, from 0 to 1, and words.
        options: those of `Restorer`.

    Returns `((before, after), file, facts)`: paths of what the page shows, the bicubic enlargement and the restored
    image, the path of the file in full size, and what to say of it, `{term: text}`. Raises `ValueError` for a file
    that is no image, is too small or too large for the memory, and for wrong options.
    """
    began = time.monotonic()
    tell(0, "reading the photograph")
    restorer = _Watched(model, **options)
    restorer.tell = tell
    picture = open_photograph(source)
    width, height = restorer.size(picture.size)
    large = f"The photograph becomes {width}x{height} pixels, more than fit into the memory. "
    if not fits_memory(restorer, width, height):
        raise ValueError(large + "Choose a smaller scale, or restore it in files: omgsr restore.")
    enlarged = restorer.enlarge(picture)
    try:
        (restored,), _ = restorer([enlarged])
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise ValueError(large + "Choose a smaller scale or smaller tiles.") from error
    seconds = time.monotonic() - began
    tell(0, "writing the file")
    timestep = model.timestep if restorer.timestep is None else restorer.timestep
    auto = estimates(model, restorer.timestep)
    stem = f"{Path(source).stem}_{Path(name).name}_x{restorer.scale:g}_t{'auto' if auto else timestep}"
    folder = Path(mkdtemp(dir=folder))
    file = folder / f"{stem}.png"
    restored.save(file, "png")
    before = _save_shown(enlarged, folder / f"{stem}_bicubic.png")
    after = file if width * height <= SHOWN else _save_shown(restored, folder / f"{stem}_shown.png")
    facts = {
        "Size": "{}x{} to {}x{} pixels".format(*picture.size, width, height),
        "Model": name,
        "Timestep": "estimated" if auto else f"{timestep}{', as trained' if timestep == model.timestep else ''}",
        "Time": f"{seconds:.1f} s",
    }
    notes = (*restored.notes, *restored.losses("png").values())
    return (before, after), file, facts | ({"Notes": "; ".join(notes)} if notes else {})


def _save_shown(picture, path):
    """Save a `Picture` for the page, a large one smaller; returns `path`."""
    image = picture.to_8_bits().image()
    excess = image.width * image.height / SHOWN
    if excess > 1:
        image = image.resize([max(1, round(side / excess**0.5)) for side in image.size], Image.BICUBIC)
    image.save(path)
    return path


def open_photograph(source):
    """The `Picture` in a file; raises `ValueError`, without the file's folder, if it is none or too small."""
    try:
        picture = Picture.open(source)
    except (ValueError, OSError) as error:
        raise ValueError(str(error).replace(str(source), Path(source).name)) from error
    if min(picture.size) < MIN_SIDE:
        width, height = picture.size
        raise ValueError(f"A photograph must measure at least {MIN_SIDE} pixels on each side: it is {width}x{height}.")
    return picture


def demo_page(models, names, folder):
    """The page as Gradio's `Blocks`: `Models`, the names to choose from, the first one chosen, and a folder to use."""

    def choose(name):
        return gr.Checkbox(value=True, label=as_trained_at(models[name])), gr.Slider(value=models[name].timestep)

    def look(source):
        hidden = gr.ImageSlider(value=None, visible=False), gr.DownloadButton(visible=False), ""
        if source is None:
            return gr.Image(value=None, visible=True), *hidden
        with _plain_errors():
            image = open_photograph(source).to_8_bits().image()
            image.thumbnail((1600, 1600))
        return gr.Image(value=image, visible=True), *hidden

    def run(source, name, as_trained, timestep, scale, tile, progress=gr.Progress()):  # noqa: B008
        def tell(share, text):
            progress(share, desc=text)

        with _plain_errors():
            if source is None:
                raise ValueError("There is no photograph yet: drop one first.")
            tell(0, f"loading {name}")
            options = dict(scale=scale, timestep=None if as_trained else int(timestep), tile=tile)
            shown, file, facts = restore_file(models[name], source, folder, name, tell, **options)
        lines = "".join(f"<dt>{term}</dt><dd>{escape(text)}</dd>" for term, text in facts.items())
        return (
            gr.Image(visible=False),
            gr.ImageSlider(value=shown, visible=True),
            gr.DownloadButton(value=file, visible=True),
            f"<dl>{lines}</dl>",
        )

    first = models[names[0]]
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                source = gr.File(label="Photograph", type="filepath", height=140, elem_id="photograph")
                model = gr.Radio(names, value=names[0], label="Model", elem_id="model")
                with gr.Group():
                    as_trained = gr.Checkbox(value=True, label=as_trained_at(first), elem_id="as-trained")
                    timestep = gr.Slider(
                        0, 999, value=first.timestep, step=1, label="Timestep of injection", interactive=False,
                        info="0: clean, 999: noise.", elem_id="timestep",
                    )  # fmt: skip
                scale = gr.Slider(1, 8, value=4, step=0.5, label="Scale", info="Output side / input side.")
                tile = gr.Dropdown(TILES, value="auto", label="Tiles", info=TILES_INFO)
                start = gr.Button("Restore", variant="primary", elem_id="start")
            with gr.Column(scale=2, min_width=340):
                preview = gr.Image(
                    label="As it is", interactive=False, buttons=[], height=460, elem_id="preview",
                )  # fmt: skip
                compare = gr.ImageSlider(
                    label="Bicubic enlargement | restored", interactive=False, visible=False, buttons=["fullscreen"],
                    format="png", max_height=720, elem_id="compare",
                )  # fmt: skip
                facts = gr.HTML(elem_id="facts")
                download = gr.DownloadButton("Download the PNG", visible=False, elem_id="download")
        outputs = [preview, compare, download, facts]
        once = dict(concurrency_id="model", concurrency_limit=1, api_visibility="private")
        quick = dict(show_progress="hidden", api_visibility="private")
        model.change(choose, model, [as_trained, timestep], **once)
        as_trained.change(lambda on: gr.Slider(interactive=not on), as_trained, timestep, **quick)
        source.change(look, source, outputs, show_progress_on=preview, api_visibility="private")
        inputs = [source, model, as_trained, timestep, scale, tile]
        start.click(run, inputs, outputs, show_progress_on=[preview, compare], **once)
    return page


def as_trained_at(model):
    """The timestep that the model was trained at, in words."""
    return "as trained: " + ("estimated for each tile" if estimates(model, None) else f"t* = {model.timestep}")


@contextmanager
def _plain_errors():
    """What the library refuses is shown in the page in its own words, not as a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise gr.Error(escape(str(error)), duration=20, print_exception=False) from error


def serve(load, name, names, host, port):
    """Load the model `name`, start the page and return `(Blocks, address, TemporaryDirectory)`; it runs in a thread.

    Args:
        load: `load(name)` gives an `OMGSR` that is ready to restore.
        names: models to choose from besides.
        host, port: where to listen. "127.0.0.1" answers this computer only.

    Uploads and results lie in the temporary folder. Raises what `load` raises, and `OSError` if the port is taken.
    """
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            remedy = "choose others with --host and --port"
            raise OSError(f"{host} port {port} cannot be used ({error.strerror}): {remedy}.") from error
    models = Models(load)
    models[name]  # a wrong name or folder ends the command, not the first click
    folder = TemporaryDirectory(prefix="omgsr-demo-")
    os.environ["GRADIO_TEMP_DIR"] = folder.name
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    page = demo_page(models, list(dict.fromkeys([name, *names])), folder.name)
    _, address, _ = page.launch(
        server_name=host, server_port=port, share=False, prevent_thread_lock=True, quiet=True, css=CSS,
        theme=gr.themes.Default(primary_hue="blue", font=SYSTEM_FONTS, font_mono=["ui-monospace", "monospace"]),
        footer_links=[], run_history=False, enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False,
    )  # fmt: skip
    return page, address, folder
