import numpy as np
import pandas as pd
import pytest
from scipy import stats

from omgsr_lib.metrics.comparisons import compare_methods, holm, permutation_test, rank_stability, repeat_spread


def frame(values, metric="psnr_y", lower_better=False):
    """Long frame of `{method: values}`, images numbered."""
    rows = [
        (method, image, metric, value, lower_better)
        for method, scores in values.items()
        for image, value in enumerate(scores)
    ]
    return pd.DataFrame(rows, columns=["method", "image", "metric", "value", "lower_better"])


def test_exact_p_values_have_their_closed_form():
    for count in (1, 5, 12):
        assert permutation_test(np.linspace(0.1, 1, count)) == 2 / 2**count  # all of one sign: only two are as far
    assert permutation_test([1.0, -1.0]) == 1
    assert permutation_test([3.0, 2.0, -1.0]) == 4 / 8  # |sum| >= 4 for +++, ++-, and their opposites
    assert permutation_test([0.3, 0.2, 0.1, -0.1]) == permutation_test([3, 2, 1, -1])  # ties despite rounding
    assert permutation_test(np.zeros(4)) == 1


@pytest.mark.parametrize("count", [9, 40])
def test_p_values_agree_with_scipy(count):
    differences = np.random.default_rng(3).normal(0.3, 1, size=count)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1)
    ).pvalue
    assert permutation_test(differences) == pytest.approx(expected, abs=1e-12 if count == 9 else 0.012)
    assert permutation_test(differences) == permutation_test(differences)


def test_random_signs_agree_with_all_signs():
    differences = np.random.default_rng(0).normal(0.4, 1, size=14)
    exact = permutation_test(differences)
    assert permutation_test(differences, draws=16_000) == pytest.approx(exact, abs=4 * np.sqrt(exact / 16_000))
    far = permutation_test(np.ones(200), draws=999)
    assert far == 1 / 1000  # never 0: the observed signs are one of the draws


def test_equal_methods_are_called_different_at_the_level():
    generator = np.random.default_rng(11)
    p_values = [permutation_test(generator.standard_t(3, size=10)) for _ in range(2000)]
    assert abs(np.mean(np.array(p_values) <= 0.05) - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 2000)


def test_clusters_change_sign_together():
    differences = np.repeat([0.5, 0.7, 0.2], 8)
    labels = np.repeat(["x", "y", "z"], 8)
    assert permutation_test(differences, clusters=labels) == 2 / 2**3
    assert permutation_test(differences, draws=10_000) < 0.001  # taken as 24 images


def test_holm_steps_down():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == pytest.approx([1, 1])
    p_values = np.random.default_rng(0).uniform(size=6)
    rejected = []  # Holm's own words: from the smallest on, reject while p <= level / (those left)
    for place, index in enumerate(np.argsort(p_values)):
        if p_values[index] > 0.3 / (6 - place):
            break
        rejected.append(index)
    assert set(np.flatnonzero(holm(p_values) <= 0.3)) == set(rejected)


def test_every_pair_or_all_against_one():
    generator = np.random.default_rng(2)
    base = generator.normal(25, 3, size=30)
    scores = frame({"a": base + 1, "b": base + generator.normal(0, 0.1, 30), "c": base})
    table = compare_methods(scores, draws=500)
    assert list(zip(table.method, table.against, strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert table.better.tolist()[:2] == ["a", "a"] and table.n.tolist() == [30] * 3
    assert table.loc[1, ["mean", "lo", "hi"]].to_list() == pytest.approx([1, 1, 1])
    assert table.loc[1, "p"] == 1 / 20_001  # none of the draws
    assert table.p_holm.tolist() == pytest.approx(holm(table.p).tolist())
    versus = compare_methods(scores, "c", draws=500)
    assert versus.method.tolist() == ["a", "b"] and set(versus.against) == {"c"}


def test_corrections_stay_within_a_metric_and_a_dataset():
    scores = frame({"a": [1.0, 2, 3], "b": [0.5, 1.8, 2.9], "c": [0.0, 1, 2.5]})
    lower = frame({"a": [0.1, 0.2, 0.3], "b": [0.2, 0.1, 0.4], "c": [0.3, 0.3, 0.5]}, "gmsd", True)
    both = pd.concat([scores, lower]).assign(dataset="x")
    part = scores[scores.method != "c"].assign(dataset="y")
    table = compare_methods(pd.concat([both, part]), draws=200)
    for (dataset, _), rows in table.groupby(["dataset", "metric"]):
        assert len(rows) == (3 if dataset == "x" else 1)
        assert rows.p_holm.tolist() == pytest.approx(holm(rows.p).tolist())


def test_ranks_have_their_closed_form():
    """Differences 1 and -1 on two images: the first leads in a quarter of the draws, ties in half of them."""
    table = rank_stability(frame({"a": [1.0, 0.0], "b": [0.0, 1.0]}), draws=40_000).set_index(["method", "rank"])
    assert table.probability[("a", 1)] == pytest.approx(0.75, abs=0.01)
    assert table.probability[("b", 2)] == pytest.approx(0.25, abs=0.01)
    assert table.groupby("method").probability.sum().tolist() == pytest.approx([1, 1])
    shift = np.random.default_rng(0).normal(size=20)
    sure = rank_stability(frame({"low": shift, "high": shift + 0.1, "mid": shift + 0.05}))
    winners = sure[sure.probability == 1].set_index("rank").method
    assert winners.to_dict() == {1: "high", 2: "mid", 3: "low"}
    reverse = rank_stability(frame({"low": shift, "high": shift + 0.1}, "gmsd", True))
    assert reverse[reverse.probability == 1].set_index("rank").method.to_dict() == {1: "low", 2: "high"}


def test_ranks_of_photographs_are_less_sure_than_those_of_crops():
    generator = np.random.default_rng(4)
    photo = np.repeat(np.arange(8), 10)
    gain = np.repeat(generator.normal(0.15, 0.4, 8), 10)
    scores = frame({"a": gain, "b": np.zeros(80)}).assign(photo=lambda f: f.image.map(lambda k: photo[k]))
    first = {
        cluster: rank_stability(scores, cluster=cluster).query("method == 'a' and rank == 1").probability.item()
        for cluster in (None, "photo")
    }
    assert first[None] > first["photo"] > 0.5


def test_spread_of_repeated_runs():
    """Run means 10, 11, 12 with images 5 dB apart; the deterministic run is 0.5 above their mean."""
    runs = [
        frame({"m": np.array([base, base + 5.0])}).assign(seed=seed) for seed, base in ((0, 7.5), (1, 8.5), (2, 9.5))
    ]
    fixed = frame({"m": [9.0, 14.0]}).assign(seed=np.nan)
    row = repeat_spread(pd.concat([*runs, fixed])).iloc[0]
    assert row[["runs", "mean", "sd", "range", "sd_image"]].tolist() == pytest.approx([3, 11, 1, 2, 1])
    assert row[["posterior_mean", "difference", "lo", "hi"]].tolist() == pytest.approx([11.5, 0.5, 0.5, 0.5])
    alone = repeat_spread(pd.concat(runs)).iloc[0]
    assert alone.sd == 1 and np.isnan(alone.posterior_mean)


def test_spread_is_that_of_the_draw():
    """Independent noise of 0.2 dB per image: run means vary by 0.2 / sqrt(50)."""
    generator = np.random.default_rng(6)
    difficulty = generator.normal(25, 4, size=50)
    runs = [frame({"m": difficulty + generator.normal(0, 0.2, 50)}).assign(seed=seed) for seed in range(200)]
    row = repeat_spread(pd.concat(runs)).iloc[0]
    assert row.sd == pytest.approx(0.2 / np.sqrt(50), rel=0.15) and row.sd_image == pytest.approx(0.2, rel=0.03)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="column seed, which this frame lacks"):
        repeat_spread(frame({"a": [1.0]}))
    with pytest.raises(ValueError, match="at least two seeds.*has 1 on 1 images"):
        repeat_spread(frame({"a": [1.0]}).assign(seed=0))
    with pytest.raises(ValueError, match="needs two methods"):
        compare_methods(frame({"a": [1.0, 2.0]}))
    uneven = pd.concat([frame({"a": [1.0, 2.0]}), frame({"b": [1.0]})])
    with pytest.raises(ValueError, match="Ranks need the same images"):
        rank_stability(uneven)
    with pytest.raises(ValueError, match="lacks one of 'a' and 'b' for 1"):
        compare_methods(uneven)
