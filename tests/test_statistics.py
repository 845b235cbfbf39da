import numpy as np
import pandas as pd
import pytest
from scipy import stats

from omgsr_lib.metrics.statistics import mean_interval, paired_difference, summarise


def frame(values, metric="psnr_y", lower_better=False):
    """Long frame of `{method: values}`, pictures numbered."""
    rows = [
        (method, str(image), metric, value, lower_better)
        for method, scores in values.items()
        for image, value in enumerate(scores)
    ]
    return pd.DataFrame(rows, columns=["method", "image", "metric", "value", "lower_better"])


def test_interval_agrees_with_scipy():
    values = np.random.default_rng(3).gamma(2.0, size=60)
    mean, lo, hi = mean_interval(values, draws=40_000)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=40_000, method="percentile", rng=np.random.default_rng(9)
    ).confidence_interval
    width = expected.high - expected.low
    assert mean == values.mean()
    assert abs(lo - expected.low) < 0.02 * width and abs(hi - expected.high) < 0.02 * width
    narrow = mean_interval(values, level=0.5)
    assert (narrow[2] - narrow[1]) / width == pytest.approx(stats.norm.ppf(0.75) / stats.norm.ppf(0.975), rel=0.03)


def test_coverage_on_gaussian_data():
    """The percentile interval of n = 50 covers like one with z = 1.96 sqrt(1 - 1/n) on a t statistic: 94.1 %."""
    generator = np.random.default_rng(0)
    covered = 0
    for repeat in range(1000):
        _, lo, hi = mean_interval(generator.normal(2.0, 3.0, size=50), draws=1000, seed=repeat)
        covered += lo <= 2.0 <= hi
    expected = 1 - 2 * stats.t.sf(stats.norm.ppf(0.975) * np.sqrt(49 / 50), df=49)
    assert abs(covered / 1000 - expected) < 3 * np.sqrt(expected * (1 - expected) / 1000)


def test_a_constant_shift_is_known_exactly():
    scores = np.random.default_rng(1).normal(25, 4, size=30)
    difference = paired_difference(frame({"a": scores + 0.25, "b": scores}), "a", "b").iloc[0]
    assert difference[["mean", "lo", "hi"]].to_numpy(float) == pytest.approx([0.25] * 3, abs=1e-12)
    assert difference["n"] == 30 and difference["better"] == "a"


def test_better_follows_the_direction_and_the_interval():
    noise = np.random.default_rng(2).normal(0, 0.01, size=40)
    scores = {"a": 0.2 + noise, "b": 0.3 + noise[::-1], "c": 0.2 + noise[::-1]}
    low = frame(scores, "lpips_squeeze", lower_better=True)
    assert paired_difference(low, "a", "b")["better"].item() == "a"
    assert paired_difference(low, "b", "a")["better"].item() == "a"
    assert paired_difference(low, "a", "c")["better"].item() == ""
    assert paired_difference(frame(scores), "a", "b")["better"].item() == "b"


def test_pairing_is_by_picture_not_by_order():
    scores = np.arange(10.0)
    both = frame({"a": scores + 1, "b": scores}).sample(frac=1, random_state=0)
    assert paired_difference(both, "a", "b")[["mean", "lo", "hi"]].to_numpy().ravel() == pytest.approx([1, 1, 1])


def test_summary_per_dataset_method_and_metric():
    parts = [frame({"a": [1.0, 2.0, 3.0], "b": [4.0, 4.0, 4.0]}).assign(dataset=name) for name in ("x", "y")]
    table = summarise(pd.concat(parts + [frame({"a": [0.5, 0.7]}, "gmsd", True).assign(dataset="x")]))
    assert list(table.columns) == ["dataset", "method", "metric", "mean", "lo", "hi", "n", "lower_better"]
    assert len(table) == 5
    row = table.set_index(["dataset", "method", "metric"]).loc[("y", "b", "psnr_y")]
    assert row[["mean", "lo", "hi"]].tolist() == [4.0, 4.0, 4.0] and row["n"] == 3
    assert table.set_index(["dataset", "method", "metric"]).loc[("x", "a", "gmsd"), "lower_better"]
    pd.testing.assert_frame_equal(
        table, summarise(pd.concat(parts + [frame({"a": [0.5, 0.7]}, "gmsd", True).assign(dataset="x")]))
    )


def test_one_picture_has_no_interval():
    mean, lo, hi = mean_interval([3.0])
    assert mean == 3 and np.isnan(lo) and np.isnan(hi)
    assert paired_difference(frame({"a": [2.0], "b": [1.0]}), "a", "b")["better"].item() == ""


def test_bad_frames_are_refused():
    with pytest.raises(ValueError, match="one of \\['a'\\], got 'z'"):
        paired_difference(frame({"a": [1.0]}), "a", "z")
    with pytest.raises(ValueError, match="lacks one of 'a' and 'b' for 2"):
        paired_difference(frame({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0]}), "a", "b")
    with pytest.raises(ValueError, match="several of 'psnr_y' for '0'"):
        summarise(pd.concat([frame({"a": [1.0]})] * 2))
    with pytest.raises(ValueError, match="needs the columns \\['lower_better'\\]"):
        summarise(frame({"a": [1.0]}).drop(columns="lower_better"))
    with pytest.raises(ValueError, match="finite values"):
        mean_interval([1.0, np.nan])
