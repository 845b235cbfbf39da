"""The README fits one screen, its Python and commands work, and its numbers are those of the CSV files."""

import re
import shlex

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT_ROOT as ROOT
from PIL import Image

from omgsr_lib.cli import build_parser
from omgsr_lib.presets import MODELS
from omgsr_lib.report.claims import CONTRADICTED, MIXED, SHOWN, UNDECIDED, claim_table, measured, read_claims


README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDERS = (
    "omgsr_lib/restore",
    "omgsr_lib/training",
    "omgsr_lib/weights",
    "omgsr_lib/integrations",
    "notebooks",
    "benchmarks",
)
FILES = [ROOT / "README.md", *(ROOT / folder / "README.md" for folder in FOLDERS)]
# What the claim of each row of the README's table is called in report.md, in their order.
CLAIMS = ("lie closer", "initial one, t 999$", "beats t 25, near the clean end$", "refinement loss .* helps$",
          "Real images are restored", "per-image timestep helps where degradation is mild")  # fmt: skip
WORDS_OF = {SHOWN: "yes", MIXED: "partly", CONTRADICTED: "no", UNDECIDED: "open"}
WORDS, LINES, WIDTH = 900, 105, 119


def test_the_readme_fits_one_screen():
    lines = README.splitlines()
    assert len(README.split()) <= WORDS and len(lines) <= LINES and max(map(len, lines)) <= WIDTH


def test_the_python_block_runs(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len([line for line in block.splitlines() if line]) <= 5
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((48, 32)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    with Image.open("restored.png") as restored:
        assert restored.size == (192, 128)


def rows():
    table = re.search(r"<!-- findings: .*?-->\n(.*?)<!-- end of findings -->", README, flags=re.S)[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


@pytest.fixture(scope="module")
def claims():
    return read_claims(ROOT / "results" / "mini" / "claims.csv")


def test_the_claims_are_those_of_the_results(claims, tmp_path):
    claim_table(ROOT / "results" / "mini").to_csv(tmp_path / "claims.csv", index=False, float_format="%.6g")
    fresh = read_claims(tmp_path / "claims.csv")
    shown = [column for column in claims if column not in ("weights", "crops")]  # those follow the shipped weights
    pd.testing.assert_frame_equal(fresh[shown], claims[shown])


@pytest.mark.parametrize(("row", "claim"), list(zip(rows(), CLAIMS, strict=True)), ids=CLAIMS)
def test_verdicts_and_numbers_are_those_of_the_claims(row, claim, claims):
    _, *verdicts, number, notebook = row
    numbers = re.search(r"([+-]?[\d.]+) / ([+-]?[\d.]+)", number)
    for variant, verdict, value in zip("SF", verdicts, numbers.groups(), strict=True):
        part = claims[claims["claim"].str.contains(claim) & (claims["variant"] == f"OMGSR-{variant}")]
        assert part["claim"].nunique() == 1 and verdict == WORDS_OF[part["verdict"].iloc[0]]
        text = "; ".join(measured(row) for row in part.itertuples(index=False))
        assert re.search(rf"(?<![\d.]){re.escape(value)}(?![\d.])", text), text
        assert part["notebook"].iloc[0].startswith(notebook)


def test_the_lead_over_the_initial_timestep_is_that_of_the_study():
    words = " ".join(README.split())
    early, crops, late, end = re.search(
        r"PSNR-Y of S: ([\d.]+) dB after ([\d,]+) crops, ([\d.]+) after ([\d,]+)\)", words
    ).groups()
    without, of_f = re.search(r"loss it is ([\d.]+) dB, and of F ([\d.]+) in LPIPS-Squeeze", words).groups()
    frozen = re.search(r"encoder frozen, ([\d.]+) and ([\d.]+) dB", words).groups()
    keys = ["contrast", "variant", "protocol", "metric", "crops"]
    growth, contrasts = (
        pd.read_csv(ROOT / f"results/mini/06b_ablation/{name}.csv").set_index(keys)["mean"].sort_index()
        for name in ("growth", "contrasts")
    )
    for lead, seen in ((early, crops), (late, end)):
        found = growth["mid - initial (999)", "s", "full", "psnr_y", int(seen.replace(",", ""))]
        assert float(lead) == pytest.approx(found, abs=0.051)
    bare = contrasts["mid - initial, both without LDR"]
    assert float(without) == pytest.approx(bare["s", "full", "psnr_y"].item(), abs=0.051)
    assert float(of_f) == pytest.approx(-bare["f", "full", "lpips_squeeze"].item(), abs=0.00051)
    plain = contrasts["mid - initial (999)"]
    for lead, variant in zip(frozen, "sf", strict=True):
        assert float(lead) == pytest.approx(plain[variant, "frozen-encoder", "psnr_y"].item(), abs=0.051)
    assert plain["s", "frozen-encoder", "lpips_squeeze"].item() > 0


def test_the_numbers_of_realsr_beside_the_weights_are_those_of_the_benchmark():
    words = " ".join((ROOT / "omgsr_lib" / "weights" / "README.md").read_text(encoding="utf-8").split())
    text = re.search(r"Real-ESRGAN x4plus\): (.*? dB)\. Side by side", words)[1]
    scores = pd.read_csv(ROOT / "results/mini/benchmarks/RealSR/scores.csv")
    means = scores.pivot_table(index="metric", columns="method", values="value")
    methods = ["bicubic", "mini-s", "mini-f", "realesrgan-x4plus"]
    for name, metric in {"LPIPS-SqueezeNet": "lpips_squeeze", "PSNR-Y": "psnr_y", "SSIM-Y": "ssim_y", "GMSD": "gmsd",
                         "NIQE": "niqe", "checkerboard at 8 pixels": "checkerboard"}.items():  # fmt: skip
        said = re.search(rf"{name} ((?:[\d.]+, ){{3}}[\d.]*\d)", text)[1].split(", ")
        for value, mean in zip(said, means.loc[metric, methods], strict=True):
            assert float(value) == pytest.approx(mean, abs=0.51 * 10 ** -len(value.split(".")[1])), (name, value)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_link_command_model_and_target_exists(file):
    text = file.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (file.parent / link).exists(), link
    for name in re.findall(r"`(results/[^`\s<]+)`", text):
        assert all((ROOT / path).exists() for path in spelled_out(name)), name
    for model in re.findall(r'from_pretrained\("([^"]+)"', text):
        assert model in MODELS
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.M)
    assert set(re.findall(r"make ([a-z]+(?:-[a-z]+)?)\b", re.sub("make(s)? (a|it|up|the) ", "", text))) <= set(targets)
    commands = build_parser()._subparsers._group_actions[0].choices
    assert set(re.findall(r"`omgsr ([a-z]+)", text)) <= set(commands)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_command_line_parses(file):
    text = file.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^    (?:\.venv/bin/)?omgsr (.*)$", text, flags=re.M):
        assert build_parser().parse_args(shlex.split(line, comments=True)).command


def spelled_out(name):
    """Paths of `{a,b}` in a name."""
    choice = re.search(r"\{([^}]*)\}", name)
    if not choice:
        return [name]
    parts = choice[1].split(",")
    return [path for part in parts for path in spelled_out(name[: choice.start()] + part + name[choice.end() :])]


def test_the_tree_names_what_there_is():
    tree = re.search(r"\n    omgsr_lib/\n(.*?)\n\n", README, flags=re.S)[1]
    named = set(re.findall(r"(?:^ {6}|  |(?<=/) )([a-z_]+(?:/|\.py))", tree, flags=re.M))
    package = ROOT / "omgsr_lib"
    there = {p.name + "/" for p in package.iterdir() if p.is_dir() and p.name != "__pycache__"}
    there |= {p.name for p in package.glob("*.py") if not p.name.startswith("_")}
    assert there - named == set()
    assert named - there <= {"pretrained.py"}
