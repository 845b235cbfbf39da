"""`omgsr demo` without its page: what it says where it cannot start."""

import socket
import sys

import numpy as np
import pytest
from PIL import Image

from omgsr_lib.cli import main
from omgsr_lib.model import OMGSR


@pytest.fixture
def without_gradio(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "omgsr_lib.integrations.demo", raising=False)


def test_without_the_extra_it_says_how_to_install_it(without_gradio, capsys):
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == "omgsr demo: The demo page needs Gradio: pip install -e '.[demo]'.\n"


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--model", "none"], ["must be one of mini-s", "'none'"]),
        (["--host", "203.0.113.1"], ["203.0.113.1 port 7860", "choose others with --host and --port"]),
    ],
)
def test_a_wrong_model_or_address_is_one_line(options, parts, capsys):
    pytest.importorskip("gradio", reason="the demo page needs pip install -e '.[demo]'")
    assert main(["demo", *options]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and all(part in err for part in parts), err


def test_a_port_that_is_taken_is_one_line(capsys):
    pytest.importorskip("gradio", reason="the demo page needs pip install -e '.[demo]'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["demo", "--port", str(taken.getsockname()[1])]) == 2
    assert "choose others with --host and --port" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_one_line(capsys, monkeypatch):
    pytest.importorskip("gradio", reason="the demo page needs pip install -e '.[demo]'")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["demo", "--device", "cuda"]) == 2
    assert "--device cpu" in capsys.readouterr().err


def test_a_16_bit_photograph_keeps_its_bits_and_a_large_one_is_shown_smaller(tmp_path, monkeypatch):
    demo = pytest.importorskip("omgsr_lib.integrations.demo", reason="pip install -e '.[demo]'", exc_type=ImportError)
    samples = np.random.default_rng(0).integers(0, 65536, (24, 32), dtype=np.uint16)
    Image.fromarray(samples).save(tmp_path / "deep.png")
    model, told = OMGSR.from_base("tiny", "ddpm", 273), []

    def restored():
        tell = lambda share, text: told.append((share, text))  # noqa: E731
        options = dict(scale=2, timestep=None, tile=32)
        return demo.restore_file(model, tmp_path / "deep.png", tmp_path, "models/tiny", tell, **options)

    (before, after), file, facts = restored()
    assert facts["Timestep"] == "273, as trained" and facts["Size"] == "32x24 to 64x48 pixels"
    assert after == file and file.name == "deep_tiny_x2_t273.png"
    with Image.open(before) as bicubic, Image.open(file) as whole:
        assert (bicubic.mode, whole.mode) == ("L", "I;16") and bicubic.size == whole.size == (64, 48)
    assert any(text.startswith("predicting: tile ") for _, text in told) and all(0 <= share <= 1 for share, _ in told)
    monkeypatch.setattr(demo, "SHOWN", 64 * 48 // 4)
    images, file, _ = restored()
    assert [Image.open(path).size for path in (*images, file)] == [(32, 24), (32, 24), (64, 48)]
