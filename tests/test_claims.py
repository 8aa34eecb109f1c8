"""Every kind of predicate holds, fails and stays open where it should."""

import math

import numpy as np
import pandas as pd
import pytest

from flatlib import claims, published

PRINTED = published.stutz2021()


def table(n=12, **columns):
    """n methods m0 ... with the given columns."""
    index = pd.Index([f"m{i}" for i in range(n)], name="method")
    return pd.DataFrame(columns, index=index, dtype=float)


up = np.arange(12.0)
wild = np.array([5, 0, 9, 3, 11, 1, 7, 2, 10, 4, 8, 6], float)

CASES = [  # predicate, a table on which it holds, one on which it fails
    (claims.Correlates("x", "y", 0.7), table(x=up, y=up + wild / 9), table(x=up, y=wild)),
    (claims.Correlates("x", "y", 0.7, "spearman"), table(x=up, y=up**5), table(x=up, y=-up)),
    (
        claims.Correlates("x", "y", 0.7, minus="z"),
        table(x=up, y=wild + up, z=wild),
        table(x=up, y=wild + up, z=up),
    ),
    (claims.CorrelatesLess("w", "s", "y"), table(w=wild, s=up, y=up), table(w=up, s=wild, y=up)),
    (
        claims.Ordered("x", "e", tuple(f"m{i}" for i in range(12))),
        table(x=up, e=up),
        table(x=-np.abs(up - 5), e=up),
    ),
    (claims.Below("x", ("m1", "m2"), "m0"), table(x=-up), table(x=[3, 1, 4] + [0] * 9)),
    (claims.Below("x", ("m1",), "m0", holds=False), table(x=up), table(x=-up)),
    (claims.Rises("e", "l", 1.2, ("m0",)), table(e=1, l=1.3), table(e=1, l=1.1)),
    (
        claims.Rises("e", "l", share=0.9),
        table(e=1, l=[0.9] + [1.0] * 11),
        table(e=1, l=[0.9] * 2 + [1.5] * 10),
    ),
    (claims.Flattens("x", "y", 6), table(x=up, y=np.minimum(up, 6)), table(x=up, y=up)),
]


@pytest.mark.parametrize("predicate, good, bad", CASES, ids=lambda case: type(case).__name__)
def test_each_kind_of_claim_can_hold_fail_and_stay_open(predicate, good, bad):
    claim = claims.Claim("c", "p", "here", "s", predicate.columns, predicate)
    first = predicate.columns[0]
    hole = good.copy()
    hole[first] = np.nan
    tables = {"good": good, "bad": bad, "NaN": hole, "no column": good.drop(columns=first)}
    tables["no rows"] = good.head(0)
    found = claims.verdicts(tables, [claim]).set_index("source")["verdict"].to_dict()
    open_ = dict.fromkeys(("NaN", "no column", "no rows"), "not yet measured")
    assert found == {"good": "holds", "bad": "fails"} | open_


def test_ledger_is_well_formed():
    ids = [claim.id for claim in claims.LEDGER]
    assert len(set(ids)) == len(ids) >= 14
    for claim in claims.LEDGER:
        assert claim.place and claim.statement.endswith(".") and claim.columns
        assert set(claim.columns) <= set(PRINTED.columns)


def test_verdicts_on_the_printed_tables():
    df = claims.verdicts({"printed": PRINTED}).set_index("id")
    assert (df["verdict"] == "holds").all(), df[df["verdict"] != "holds"]
    assert df.loc["stutz2021-pearson", "value"] == pytest.approx(0.858, abs=5e-4)
    assert df.loc["stutz2021-spearman", "value"] == pytest.approx(0.871, abs=5e-4)
    assert df.loc["stutz2021-at-rloss-overfits", "value"] == pytest.approx(3.91 / 1.53)
    assert "n = 73" in df.loc["stutz2021-pearson", "shown"]


SWAPS = {
    "average for worst": ("avg_flatness", "worst_flatness"),
    "clean for robust": ("flatness_loss", "flatness_rloss"),
    "early for last": ("_early_stop_pgd", "_test_pgd"),
}


def test_every_claim_of_the_ledger_can_fail():
    """Numbers turned upside down or given to other columns make every claim fail somewhere."""
    numbers = PRINTED.select_dtypes("number")
    sharp = numbers.filter(like="flatness")
    tables = {"all down": 30 - numbers, "flatness down": numbers.assign(**(30 - sharp))}
    tables["no kink"] = numbers.assign(rerr_test_aa=numbers["rloss_test_pgd"] / 10)
    for name, (one, other) in SWAPS.items():
        there = {c: c.replace(one, other) for c in numbers if one in c}
        tables[name] = numbers.rename(columns=there | {new: old for old, new in there.items()})
    found = claims.verdicts(tables).groupby("id")["verdict"].agg(set)
    assert [id for id, verdicts in found.items() if "fails" not in verdicts] == []


def test_missing_method_leaves_only_its_claims_open():
    df = claims.verdicts({"x": PRINTED.drop(index="noise0.3")}).set_index("id")["verdict"]
    assert df["stutz2021-label-noise-rerr"] == "not yet measured"
    assert df["stutz2021-pearson"] == "holds"


def test_seeds_are_averaged():
    rows = pd.concat([PRINTED.assign(seed=s) for s in (0, 1)]).reset_index()
    rows.loc[rows["seed"] == 1, "rloss_test_pgd"] += 1
    df = claims.verdicts({"two": rows}).set_index("id")
    assert df.loc["stutz2021-at-rloss-overfits", "value"] == pytest.approx(4.41 / 1.53)


def test_few_methods_are_not_enough():
    df = claims.verdicts({"few": PRINTED.head(5)})
    assert set(df["verdict"]) == {"not yet measured"}
    assert df["value"].isna().all() and (df["shown"] == "").all()


def test_constant_column_stays_open_or_fails_but_does_not_crash():
    df = PRINTED.assign(avg_flatness_rloss=1.0)
    found = claims.verdicts({"flat": df}).set_index("id")["verdict"]
    assert found["stutz2021-pearson"] == "not yet measured"
    assert found["stutz2021-variants-flatter"] == "fails"


def test_kink_is_the_loss_of_guessing():
    assert claims.KINK == pytest.approx(-math.log(1 / 10))


def test_table_without_methods_is_refused():
    with pytest.raises(ValueError, match="'method'"):
        claims.verdicts({"bad": pd.DataFrame({"x": [1.0]})})


def test_a_table_names_the_claims_it_shows():
    printed = published.stutz2021()
    shown = claims.table({"a": printed, "b": printed[["label"]]}, ["pearson", "stutz2021-kink"])
    assert list(shown.columns) == ["a", "b"] and len(shown) == 2
    assert shown["a"].str.startswith("holds: ").all() and (shown["b"] == "not yet measured").all()
    with pytest.raises(ValueError, match="pearsn"):
        claims.table({"a": printed}, ["pearsn"])
