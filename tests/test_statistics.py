import numpy as np
import pandas as pd
import pytest
from scipy import stats

from omgsr_lib.metrics.statistics import fewest_clusters, mean_interval, paired_difference, summarise


def frame(values, metric="psnr_y", lower_better=False):
    """Long frame of `{method: values}`, images numbered."""
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


def coverage(draw, repeats=400, **options):
    """Share of intervals of `draw(generator)` -> (values, clusters) that hold the true mean 0."""
    generator = np.random.default_rng(7)
    covered = 0
    for repeat in range(repeats):
        values, clusters = draw(generator)
        _, lo, hi = mean_interval(values, clusters=clusters, draws=600, seed=repeat, **options)
        covered += lo <= 0 <= hi
    return covered / repeats


@pytest.mark.parametrize("groups", [8, 25])
def test_clusters_cover_where_crops_taken_as_independent_do_not(groups):
    """Six crops per photograph, 70 % of the variance between photographs, as skewed as PSNR is.

    The standard error is understated by sqrt(1 + 5 * 0.7) = 2.12, so the naive interval covers near P(|z| < 0.92) =
    64 %; that over photographs covers 95 % up to the skewness.
    """
    labels = np.repeat(np.arange(groups), 6)

    def draw(generator):
        photographs = generator.gamma(4.0, 0.5, size=groups) - 2
        return (
            np.sqrt(0.7) * photographs[labels] + np.sqrt(0.3) * generator.normal(size=labels.size),
            labels,
        )

    assert 0.90 < coverage(draw) < 0.985
    assert coverage(lambda generator: (draw(generator)[0], None)) < 0.75


def test_paired_intervals_cover_differences_of_correlated_scores():
    """Two methods on 40 images that share the difficulty of each image; the true difference is 0."""

    def draw(generator):
        difficulty = generator.normal(25, 4, size=40)
        return (difficulty + generator.normal(0, 0.3, 40)) - (difficulty + generator.normal(0, 0.5, 40)), None

    assert abs(coverage(draw, repeats=1000) - 0.937) < 0.024  # 2 T_39(1.96 sqrt(39 / 40)) - 1, three standard errors


def test_the_cluster_interval_has_its_closed_form():
    """Equal clusters: the bootstrap of cluster means, with Hesterberg's percentiles; unequal ones: ratio of sums."""
    generator = np.random.default_rng(5)
    values, labels = generator.normal(size=60), np.repeat(list("abcdefghij"), 6)
    means = values.reshape(10, 6).mean(axis=1)
    mean, lo, hi = mean_interval(values, clusters=labels, draws=50_000)
    level = 1 - 2 * stats.norm.cdf(np.sqrt(10 / 9) * stats.t.ppf(0.025, 9))
    _, expected_lo, expected_hi = mean_interval(means, level=level, draws=50_000, seed=1)
    assert mean == pytest.approx(values.mean()) and level > 0.95
    assert (lo, hi) == pytest.approx((expected_lo, expected_hi), abs=0.03 * (hi - lo))
    shuffled = generator.permutation(60)
    assert mean_interval(values[shuffled], clusters=labels[shuffled], draws=500)[1:] == pytest.approx(
        mean_interval(values, clusters=labels, draws=500)[1:]
    )
    sizes = np.array([1, 2, 3, 4, 5, 6])
    constant = mean_interval(np.repeat(2.5, 21), clusters=np.repeat(np.arange(6), sizes))
    assert constant == pytest.approx((2.5, 2.5, 2.5))


def test_too_few_photographs_have_no_interval():
    assert [fewest_clusters(level) for level in (0.5, 0.9, 0.95, 0.99)] == [2, 5, 6, 8]
    values = np.arange(30.0)
    assert np.isnan(mean_interval(values, clusters=np.arange(30) % 5)[1:]).all()
    assert np.isfinite(mean_interval(values, clusters=np.arange(30) % 6)[1:]).all()
    scores = frame({"a": values + 1, "b": values}).assign(photo=lambda f: f.image.astype(int) % 5)
    row = paired_difference(scores, "a", "b", cluster="photo").iloc[0]
    assert (row["mean"], row.n, row.clusters, row.better) == (1.0, 30, 5, "")
    assert np.isnan(summarise(scores, cluster="photo").lo).all()
    with pytest.raises(ValueError, match="needs the columns \\['photograph'\\]"):
        summarise(scores, cluster="photograph")


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
