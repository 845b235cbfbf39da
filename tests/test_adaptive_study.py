"""The study of notebook 08: its pairs, scores, tables against hand computation, figures, and the command."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm

from omgsr_lib.adaptive.timesteps import own_timesteps
from omgsr_lib.cli import main
from omgsr_lib.data.photos import packaged_photos, to_pixels
from omgsr_lib.data.single import KINDS, degrade_by
from omgsr_lib.metrics.evaluate import score_pairs
from omgsr_lib.model import OMGSR
from omgsr_lib.priors.latent_space import load_schedule
from omgsr_lib.report import plots_adaptive as adaptive_plots
from omgsr_lib.report import tables_adaptive as adaptive_tables
from omgsr_lib.report.plots import save_figure
from omgsr_lib.restore.pairs import restored_pairs
from omgsr_lib.study import adaptive as adaptive_study


SCHEDULES = {"s": load_schedule("ddpm"), "f": load_schedule("flow")}


@pytest.fixture
def small(monkeypatch):
    """One strength in two sets, one step of the dial; two photographs."""
    monkeypatch.setattr(adaptive_study, "BINS", {"mild": (0.1,), "extreme": (0.9,)})
    monkeypatch.setattr(adaptive_study, "SHIFTS", (1.0,))
    monkeypatch.setattr(adaptive_study, "KINDS", {"noise": (5, 25)})
    return packaged_photos("eval")[:2]


@pytest.fixture
def scores(tmp_path):
    """Three photographs in one set whose adaptive scores are those of the control plus 0.1, 0.2, 0.3 (and so on)."""
    rows = []
    for number in range(12):
        for variant in ("s", "f"):
            about = dict(variant=variant, set="mild", strength=0.1, image=f"p{number}", timestep=100.0)
            for model, choice, shift, value in (
                ("shipped", "fixed", 0.0, 20.0),
                ("control", "fixed", 0.0, 20.0 + number),
                ("adaptive", "fixed", 0.0, 20.0),
                ("adaptive", "oracle", 0.0, 21.0),
                ("adaptive", "random", 0.0, 18.0),
                ("adaptive", "estimated", 0.0, 20.0 + number + 0.1 * (number + 1)),
                ("adaptive", "estimated", 1.0, 19.0 + number + 0.1 * (number + 1)),
                ("adaptive", "estimated", -1.0, 21.0 + number + 0.1 * (number + 1)),
            ):
                moved = dict(timestep=100.0 + 50 * shift)
                rows.append(about | moved | dict(model=model, choice=choice, shift=shift, psnr_y=value, gmsd=-value))
    pd.DataFrame(rows).to_csv(tmp_path / "scores.csv", index=False)
    return adaptive_tables.read_scores(tmp_path / "scores.csv")


@pytest.fixture
def errors():
    """Normal errors with the deviation that the estimator states."""
    generator = np.random.default_rng(0)
    true, deviation = generator.normal(-1, 0.7, 4000), generator.uniform(0.1, 0.5, 4000)
    frame = pd.DataFrame({"kind": "mix", "true": true, "estimated": true + deviation * generator.normal(size=4000)})
    return frame.assign(image="p", level=0.1, deviation=deviation, constant=-1.0, line=true)


@pytest.mark.parametrize("kind", KINDS)
def test_single_degradations_grow_with_their_level(kind):
    from PIL import Image

    hq = to_pixels(Image.open(packaged_photos("eval")[0]).convert("RGB").resize((96, 80)))
    pictures = [degrade_by(hq, kind, level) for level in KINDS[kind]]
    errors = [float((picture - hq).square().mean()) for picture in pictures]
    assert errors == sorted(errors) and errors[0] > 0
    for picture in pictures:
        assert picture.shape == hq.shape and picture.abs().max() <= 1
        torch.testing.assert_close(((picture + 1) * 127.5).round(), (picture + 1) * 127.5, rtol=0, atol=1e-3)
    assert torch.equal(degrade_by(hq, kind, KINDS[kind][0]), pictures[0])


def test_an_unknown_degradation_is_refused():
    with pytest.raises(ValueError, match="must be one of scale, blur, noise, jpeg"):
        degrade_by(torch.zeros(3, 16, 16), "fog", 1)


def test_scores_of_the_fixed_timestep_are_those_of_the_evaluation(small):
    frame = adaptive_study.variant_scores("s", small)
    assert set(frame["model"]) == {"shipped", "adaptive", "lq"} and set(frame["shift"]) == {0.0, 1.0}
    pairs = adaptive_study.dial_pairs(small)["extreme", 0.9]
    model = OMGSR.from_pretrained("mini-s")
    expected = score_pairs(restored_pairs(model, pairs), pairs, method="", metrics=("psnr_y",))
    found = frame.query("model == 'shipped' and set == 'extreme'").set_index("image")["psnr_y"]
    assert found.to_numpy() == pytest.approx(expected["value"].to_numpy(), abs=0.02)
    own = own_timesteps(
        model.vae, *(torch.stack([getattr(p, s) for p in pairs]) for s in ("lq", "hq")), SCHEDULES["s"]
    )
    oracle = frame.query("choice == 'oracle' and set == 'extreme'")
    assert oracle["timestep"].tolist() == own.tolist()
    estimated, moved = (frame.query(f"choice == 'estimated' and shift == {shift}")["timestep"] for shift in (0, 1))
    assert (moved.to_numpy() > estimated.to_numpy()).all()
    strangers = frame.query("choice == 'random'")["timestep"]
    assert sorted(strangers) == sorted(estimated)


def test_the_command_writes_what_the_notebook_reads(small, tmp_path, monkeypatch):
    class Here:
        """Runs tasks at once, in this process, where the small study is set."""

        def __init__(self, *arguments, **options): ...
        def __enter__(self):
            return self

        def __exit__(self, *error): ...
        def submit(self, function, *arguments):
            done = type("Task", (), {})()
            done.result = lambda: function(*arguments)
            return done

    threads = torch.get_num_threads()
    monkeypatch.setattr(adaptive_study, "ProcessPoolExecutor", Here)
    for path in small:
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / path.name).write_bytes(path.read_bytes())
    assert main(["adaptive", "--photos", str(tmp_path / "photos"), "--results", str(tmp_path / "out")]) == 0
    torch.set_num_threads(threads)
    scores = adaptive_tables.read_scores(tmp_path / "out" / "scores.csv")
    assert set(scores["dataset"]) == {"mild", "extreme"} and set(scores["variant"]) == {"s", "f"}
    errors = adaptive_tables.read_table(tmp_path / "out" / "timesteps.csv", "deviation")
    assert set(errors["kind"]) == {"mix", "noise"} and "line" not in errors
    kinds = adaptive_tables.kind_table(pd.read_csv(tmp_path / "out" / "kinds.csv"), SCHEDULES)
    assert (kinds.query("level == 25")["median"].to_numpy() > kinds.query("level == 5")["median"].to_numpy()).all()


def test_gains_are_paired_differences_over_photographs(scores):
    gains = adaptive_tables.gain_table(scores).set_index(["contrast", "variant", "metric"])
    own = gains.loc[("own timestep", "s", "psnr_y")]
    assert own["mean"] == pytest.approx(0.65) and 0.4 < own["lo"] < 0.65 < own["hi"] < 0.9
    assert own["better"] == "first" and gains.loc[("own timestep", "s", "gmsd"), "better"] == "first"
    assert gains.loc[("estimated, not random", "f", "psnr_y"), "mean"] > 2
    without = scores[~scores["method"].str.startswith("control")]
    assert set(adaptive_tables.gain_table(without)["contrast"]) == set(adaptive_tables.CONTRASTS) - {
        "more training", "own timestep"
    }  # fmt: skip


def test_the_dial_is_measured_against_its_middle(scores):
    dial = adaptive_tables.dial_table(scores)
    row = dial.query("variant == 's' and metric == 'psnr_y'").set_index("shift")
    assert row["mean"].fillna(0).tolist() == pytest.approx([1, 0, -1]) and row["moved"].tolist() == [-50, 0, 50]
    tolerance = adaptive_tables.tolerance_table(dial, scores).set_index(["variant", "metric"])
    assert tolerance.loc[("s", "psnr_y"), ["from", "to"]].tolist() == [-50, 0]
    assert tolerance.loc[("s", "gmsd"), ["from", "to"]].tolist() == [-50, 0]


def test_at_equal_fidelity_only_the_other_metrics_differ(scores):
    """The dial falls by 1 a step from 0.65 above the control at 0, so it meets the control at 0.65."""
    matched = adaptive_tables.matched_table(scores).set_index(["variant", "metric"])
    row = matched.loc[("s", "psnr_y")]
    assert row["shift"] == pytest.approx(0.65) and row["mean"] == pytest.approx(0, abs=1e-9) and row["better"] == ""
    assert matched.loc[("s", "gmsd"), "mean"] == pytest.approx(0, abs=1e-9)
    far = scores.copy()
    far.loc[far["method"] == "control, fixed", "value"] += 100
    assert adaptive_tables.matched_table(far).empty
    scores.loc[(scores["metric"] == "gmsd") & (scores["method"] == "adaptive, estimated"), "value"] -= 0.5
    lower = adaptive_tables.matched_table(scores).set_index(["variant", "metric"]).loc[("s", "gmsd")]
    assert lower["mean"] == pytest.approx(-0.5) and lower["better"] == "first"


def test_errors_in_timesteps_and_coverage(errors):
    table = adaptive_tables.estimator_table(errors, SCHEDULES).set_index("variant")
    for variant, schedule in SCHEDULES.items():
        times = [schedule.nearest_timestep(np.exp(-errors[way].to_numpy())).numpy() for way in ("true", "constant")]
        assert table.loc[variant, "constant"] == pytest.approx(np.abs(times[0] - times[1]).mean())
        assert table.loc[variant, "line"] == 0 < table.loc[variant, "estimated"] < table.loc[variant, "constant"]
        assert table.loc[variant, "covered"] == pytest.approx(0.95, abs=0.015)
    coverage = adaptive_tables.coverage_table(errors)
    assert coverage["covered"].to_numpy() == pytest.approx(coverage["level"].to_numpy(), abs=0.03)
    assert norm.ppf(0.975) == pytest.approx(1.96, abs=1e-3)


def test_files_of_another_version_are_refused(tmp_path):
    pd.DataFrame({"variant": ["s"], "psnr_y": [1.0]}).to_csv(tmp_path / "old.csv", index=False)
    with pytest.raises(ValueError, match="another version wrote it. Run omgsr adaptive"):
        adaptive_tables.read_scores(tmp_path / "old.csv")
    with pytest.raises(ValueError, match="lacks the column deviation"):
        adaptive_tables.read_table(tmp_path / "old.csv", "deviation")
    assert adaptive_tables.read_scores(tmp_path / "none.csv") is None


def test_figures_show_every_line(scores, errors, tmp_path):
    dial, means = adaptive_tables.dial_table(scores), adaptive_tables.mean_table(scores)
    coverage = adaptive_tables.coverage_table(errors)
    kinds = pd.DataFrame([
        dict(space=space, image=image, kind="blur", level=level, power=1.0, difference=0.1 * level)
        for space in ("mini", "FLUX.2 tiny") for image in "ab" for level in (1, 2, 3)
    ])  # fmt: skip
    figures = {
        "dial": (adaptive_plots.plot_dial(dial, means, y="gmsd"), 1, 4),
        "shift": (adaptive_plots.plot_shift(dial, ["psnr_y", "gmsd"]), 2, 4),
        "calibration": (adaptive_plots.plot_calibration(errors, coverage), 2, 2),
        "kinds": (adaptive_plots.plot_kinds(adaptive_tables.kind_table(kinds, SCHEDULES)), 2, 2),
    }
    for name, (figure, axes, lines) in figures.items():
        assert len(figure.axes) == axes and len(figure.axes[0].lines) >= lines
        save_figure(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_the_calibration_has_equal_axes_and_medians_of_the_true_value(errors):
    coverage = adaptive_tables.coverage_table(errors)
    ax = adaptive_plots.plot_calibration(errors, coverage).axes[0]
    assert ax.get_xlim() == ax.get_ylim() and ax.get_aspect() == 1
    part = np.exp(errors.loc[errors.kind == errors.kind.iloc[0], ["estimated", "true"]]).sort_values("estimated")
    (medians,) = ax.containers
    first = part.iloc[: -(-len(part) // 8)]
    assert medians.lines[0].get_xydata()[0] == pytest.approx(first.median().to_numpy())


def test_the_ends_of_the_strength_are_named(scores):
    dial, means = adaptive_tables.dial_table(scores), adaptive_tables.mean_table(scores)
    ax = adaptive_plots.plot_dial(dial, means, y="gmsd").axes[0]
    assert {"OMGSR-S", "t*", "s = −1", "s = +1"} <= {text.get_text() for text in ax.texts}
