"""One's own results against the committed ones."""

import pandas as pd
import pytest

from omgsr_lib.study.check import check_results


@pytest.fixture
def folders(tmp_path):
    """Two equal folders of results, the first one's own."""
    for name in ("own", "committed"):
        folder = tmp_path / name / "06_evaluate"
        folder.mkdir(parents=True)
        pd.DataFrame({"image": ["a", "b"], "value": [26.5, float("nan")], "seconds": [1.0, 2.0]}).to_csv(
            folder / "scores.csv", index=False
        )
        pd.DataFrame({"method": ["s"], "mean": [0.5], "lo": [0.4], "hi": [0.7]}).to_csv(
            folder / "summary.csv", index=False
        )
    return tmp_path / "own", tmp_path / "committed"


def edit(folder, table, **columns):
    path = folder / "06_evaluate" / table
    pd.read_csv(path).assign(**columns).to_csv(path, index=False)


def test_equal_results_agree(folders):
    assert str(check_results(*folders)) == "3 of 3 numbers agree"
    for folder in folders:
        edit(folder, "scores.csv", value=[float("inf"), float("nan")])
    assert str(check_results(*folders)) == "3 of 3 numbers agree"
    edit(folders[0], "scores.csv", value=[1e9, float("nan")])
    assert "committed inf" in str(check_results(*folders))


def test_a_clock_may_differ_and_a_mean_may_move_within_its_interval(folders):
    edit(folders[0], "scores.csv", seconds=[9.0, 9.0])
    edit(folders[0], "summary.csv", mean=[0.69], lo=[0.6], hi=[0.8])
    assert check_results(*folders).passed


@pytest.mark.parametrize(("table", "columns", "shown"), [
    ("summary.csv", {"mean": [0.71]}, "mean is 0.71, committed 0.5 (0.4 to 0.7)"),
    ("scores.csv", {"value": [26.9, float("nan")]}, "value is 26.9, committed 26.5 (26.235 to 26.765)"),
    ("scores.csv", {"value": [26.5, 1.0]}, "value is 1, committed nan"),
    ("scores.csv", {"image": ["a", "c"]}, "other rows or columns"),
])  # fmt: skip
def test_what_differs_is_named(folders, table, columns, shown):
    edit(folders[0], table, **columns)
    check = check_results(*folders)
    (line,) = check.numbers + check.tables
    assert not check.passed
    assert line.startswith(f"06_evaluate/{table}") and shown in line


def test_a_missing_table_is_a_difference_unless_its_folder_is_left_out(folders):
    (folders[0] / "06_evaluate" / "summary.csv").unlink()
    assert check_results(*folders).tables == ["06_evaluate/summary.csv: missing"]
    with pytest.raises(FileNotFoundError, match="holds no CSV"):
        check_results(*folders, leave_out=["06_evaluate"])


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="'.*own' is not a folder"):
        check_results(tmp_path / "own", tmp_path)
