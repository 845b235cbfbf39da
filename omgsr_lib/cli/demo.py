"""`omgsr demo`: the page that restores one photograph."""

from functools import partial
from threading import Event

from .options import add_command, check_device, number


def add_commands(commands):
    parser = add_command(commands, demo, "omgsr demo --model mini-f --port 8000")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", default="mini-s", metavar="NAME", help="chosen at first: a model as for omgsr restore, or a folder"
    )
    model.add_argument(
        "--device", choices=["cpu", "cuda"], help="where to compute (default: cuda if there is a GPU, else cpu)"
    )
    server = parser.add_argument_group("server")
    server.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="0.0.0.0 lets other computers in, without a password"
    )
    server.add_argument("--port", type=number(int, 1, 65535), default=7860, metavar="N", help="1 to 65535")


def demo(model, device, host, port):
    """Open a page in the browser that restores a photograph.

    It runs until Ctrl-C, offline, and deletes what was uploaded at the end.
    """
    print(f"loading {model}", flush=True)
    from ..integrations.demo import serve
    from .restore import prepared_model

    check_device(device)
    page, address, folder = serve(partial(prepared_model, device=device), model, ("mini-s", "mini-f"), host, port)
    with folder:
        print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
        try:
            Event().wait()
        except KeyboardInterrupt:
            page.close(verbose=False)
