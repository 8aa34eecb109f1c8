"""The vocabulary of columns: what a row is called, in tables and in words, and that all agree."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from flatbook import relations, training_curves
from flatbook.claims import evidence
from flatlib import runs
from flatlib.files import paths
from flatlib.records import MEASURES, columns
from flatlib.runs import results

TABLE, _ = results.read(paths.RESULTS / "digits")
MODELS = TABLE[TABLE.which.isin(("last", "early_stopped"))]
AVERAGE, WORST = "avg_flatness_rloss", "worst_flatness_loss"


@pytest.mark.parametrize("asked, measure, which, split, attack, xi, column, words", [
    ("robustness", "rloss", "last", "test", "pgd20x5", np.nan, "rloss_test_pgd",
     "RLoss (test, PGD)"),
    ("robustness", "err", "scaled-2", "train", "none", np.nan, "err_train", "Err (train)"),
    ("robustness", "rloss_correct", "last", "test", "pgd3x2", np.nan, "rloss_correct_test_pgd",
     "RLoss of images classified correctly (test, PGD)"),
    ("robustness", "rloss", "early_stopped", "train", "pgd3x2", np.nan,
     "rloss_train_early_stop_pgd", "RLoss (train, early stopping, PGD)"),
    ("autoattack", "rerr", "early_stopped", "test", "aa", np.nan, "rerr_early_stop_aa",
     "RErr (test, early stopping, AutoAttack)"),
    ("average", AVERAGE, "epoch-005", "train", "pgd20x1", 0.5, f"{AVERAGE}_train",
     "average-case flatness in RLoss (train)"),
    ("worst", "worst_flatness_rloss_paper", "early_stopped", "test", "joint20-paper", 0.003,
     "worst_flatness_rloss_paper_early_stop",
     "worst-case flatness in RLoss by the paper's protocol (early stopping)"),
    ("radii", WORST, "last", "test", "weights20", 0.00075, f"{WORST}@0.00075",
     "worst-case flatness in Loss, ξ = 0.00075"),
    ("hessian", "lambda_max", "epoch-015", "test", "none", np.nan, "lambda_max",
     "λ_max of the clean loss"),
])  # fmt: skip
def test_a_row_has_a_column_and_the_column_words(
    asked, measure, which, split, attack, xi, column, words
):
    row = SimpleNamespace(asked=asked, measure=measure, which=which, split=split, attack=attack,
                          xi=xi)  # fmt: skip
    assert columns.of(row) == column and columns.words(column) == words


@pytest.mark.parametrize("asked, measure", [
    ("lines", "line_random"), ("choices", "choice_clean_few"), ("offsets", "offset_worst"),
    ("average", "rloss"), ("of one's own", "rloss"),
])  # fmt: skip
def test_a_row_that_no_record_names_has_no_column(asked, measure):
    assert columns.of(SimpleNamespace(asked=asked, measure=measure)) is None


def test_no_two_rows_of_a_model_share_a_column():
    rows = columns.named(MODELS)
    assert len(rows) > 5000 and not rows.duplicated(["method", "seed", "column"]).any()


def test_every_column_of_the_stored_tables_has_words_of_its_own():
    names = {*columns.named(MODELS).column, *columns.quantities(), *columns.DIFFERENCES}
    words = {columns.words(name) for name in names}
    assert len(words) == len(names) > 50 and not words & names


@pytest.mark.parametrize("name", [
    "label", "rloss_published", "lambda", "avg_flatness_rloss_std", "line_random_rise",
])  # fmt: skip
def test_what_is_no_column_stays_as_it_is(name):
    assert columns.words(name) == name


def test_words_say_the_radius_where_it_is_known():
    said = {name: columns.words(name, {AVERAGE: 0.25}) for name in (
        AVERAGE, f"{AVERAGE}_over_draws", f"{AVERAGE}@1", f"{AVERAGE}@smallest", WORST)}  # fmt: skip
    words = "average-case flatness in RLoss"
    assert list(said.values()) == [
        f"{words}, ξ = 0.25", f"{words} (std over draws), ξ = 0.25", f"{words}, ξ = 1",
        f"{words}, smallest ξ", "worst-case flatness in Loss"]  # fmt: skip


def test_a_wide_table_knows_its_radii():
    wide = runs.wide(TABLE)
    assert wide.attrs["xi"] == relations.means(wide).attrs["xi"] == {
        name: 0.5 if name.startswith("avg") else 0.003
        for name in wide if "flatness" in name and not name.endswith("_std")}  # fmt: skip
    two = MODELS.query("measure == @AVERAGE and which == 'last' and split == 'test'").head(2)
    assert runs.wide(two.assign(method=["a", "b"], xi=[0.5, 0.25])).attrs["xi"] == {}


def test_all_tables_say_the_same_of_a_network():
    """Wide tables, snapshots of curves and of claims, and the rows themselves: the last network."""
    at = TABLE[(TABLE.method == "at") & (TABLE.seed == 0)]
    wide = runs.wide(at).loc["at", 0].dropna()  # RLoss of no images at all is none
    curves = training_curves.snapshots(at).iloc[-1]
    claims = evidence.tables({"tidy": at})["snapshots"].query("epoch == epoch.max()")
    shared = [name for name in wide.index if name in curves and not name.endswith("_aa")]
    assert {"rloss_test_pgd", "rloss_train_pgd", "err_test", "lambda_max", AVERAGE,
            f"{AVERAGE}_train", WORST} <= {*shared} <= {*claims}  # fmt: skip
    pd.testing.assert_series_equal(wide[shared], curves[shared].astype(float), check_names=False)
    for name in shared:
        assert claims[name].dropna().tolist() == [wide[name]]
    row = at.query("which == 'last' and split == 'train' and measure == 'rloss' and attack != 'aa'")
    assert wide["rloss_train_pgd"] == row.value.item()


def test_differences_are_taken_where_both_columns_are():
    df = pd.DataFrame({"rloss_test_pgd": [3.0], "rloss_train_pgd": [1.0], "rerr_test_aa": [0.5]})
    found = columns.differences(df)
    assert found["rloss_gap"].item() == 2 and len(found.columns) == 4


def test_the_outermost_radii_are_told_by_size():
    names = [f"{AVERAGE}@{xi}" for xi in ("0.5", "1", "0.25")] + [f"{WORST}@1e-05", AVERAGE]
    found = columns.ends(pd.DataFrame([[5, 1, 25, 7, 9]], columns=names))
    assert found[f"{AVERAGE}@smallest"].item() == 25 and found[f"{AVERAGE}@largest"].item() == 1
    assert found[f"{WORST}@smallest"].item() == found[f"{WORST}@largest"].item() == 7


def test_captions_say_what_the_records_say():
    how = [name for name, column in columns.quantities().items() if column.how]
    assert how == ["rloss", AVERAGE, "worst_flatness_rloss"]
    assert set(columns.quantities()) == {name for m in MEASURES.values() for name in m.columns}
