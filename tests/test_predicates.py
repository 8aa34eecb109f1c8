"""Every kind of predicate holds, fails and stays open where it should."""

import numpy as np
import pandas as pd
import pytest

from flatbook.claims import comparisons, predicates, trajectories

up = np.arange(12.0)
wild = np.array([5, 0, 9, 3, 11, 1, 7, 2, 10, 4, 8, 6], float)
NAMES = tuple(f"m{i}" for i in range(12))


def table(n=12, **columns):
    """n methods m0 ... with the given columns."""
    index = pd.Index(NAMES[:n], name="method")
    return pd.DataFrame(columns, index=index, dtype=float)


def course(n=12, method="at", **columns):
    """The run of one method, a row per epoch."""
    index = pd.MultiIndex.from_product([[method], range(n)], names=["method", "epoch"])
    return pd.DataFrame(columns, index=index, dtype=float)


def two(first, second):
    """The runs of two methods m0 and at."""
    return pd.concat([course(method="m0", **first), course(**second)])


def versions(half, one, twice):
    index = pd.MultiIndex.from_product([["at"], ["scaled-0.5", "last", "scaled-2"]])
    return pd.DataFrame({"x": [half, one, twice]}, index=index, dtype=float)


down_up = np.abs(up - 4) + 1  # lowest at epoch 4
RATES = {"lr": [1.0] * 4 + [0.1] * 8, "progress": (up + 1) / 12}
ERR = {"test_err": 0.5}

ACROSS = [  # predicate, a table on which it holds, one on which it fails
    (predicates.Correlates("x", "y", 0.7), table(x=up, y=up + wild / 9), table(x=up, y=wild)),
    (predicates.Correlates("x", "y", 0.7, "spearman"), table(x=up, y=up**5), table(x=up, y=-up)),
    (predicates.Correlates("x", "y", 0.7, sign=-1), table(x=up, y=-up), table(x=up, y=up)),
    (predicates.Uncorrelated("x", "y"), table(x=up, y=wild), table(x=up, y=-up)),
    (predicates.CorrelatesLess("w", "s", "y"), table(w=wild, s=up, y=up),
     table(w=up, s=wild, y=up)),
    (predicates.Sweeps("x", "y", (NAMES[:3], NAMES[3:6])), table(x=up, y=up),
     table(x=up, y=[1, 2, 3, 3, 2, 1] + [0] * 6)),
    (predicates.Sweeps("x", "y", (NAMES[:3],), sign=-1), table(x=up, y=-up), table(x=up, y=up)),
    (predicates.Flattens("x", "y", 6), table(x=up, y=np.minimum(up, 6)), table(x=up, y=up)),
    (comparisons.Ordered("x", "e", NAMES), table(x=up, e=up), table(x=-np.abs(up - 5), e=up)),
    (comparisons.Ordered("x", "e", NAMES, True), table(x=-up, e=up), table(x=up, e=up)),
    (comparisons.Below("x", ("m1", "m2"), "m0"), table(x=20 - up), table(x=[3, 1, 4] + [0] * 9)),
    (comparisons.Below("x", ("m1",), "m0", holds=False), table(x=up + 1), table(x=20 - up)),
    (comparisons.Below("x", ("m1",), "m0", factor=0.5), table(x=[4, 1] + [9] * 10),
     table(x=20 - up)),
    (comparisons.Lowest("x", "m0"), table(x=up), table(x=20 - up)),
    (comparisons.Pairs("x", (("m0", "m1"), ("m2", "m3"))), table(x=up + 1),
     table(x=[1, 2, 4, 3] + [1] * 8)),
    (comparisons.Falls("x", NAMES[:4]), table(x=-up), table(x=wild)),
    (comparisons.Rises("e", "l", 1.2, ("m0",)), table(e=1, l=1.3), table(e=1, l=1.1)),
    (comparisons.Rises("e", "l", share=0.9), table(e=1, l=[0.9] + [1.0] * 11),
     table(e=1, l=[0.9] * 2 + [1.5] * 10)),
    (comparisons.Rises("e", "l", share=0.9, where=("v", "w", 1.05)),
     table(e=1, l=[0.5] * 2 + [2] * 10, v=1, w=[1.0] * 2 + [2] * 10),
     table(e=1, l=[2] * 2 + [0.5] * 10, v=1, w=[1.0] * 2 + [2] * 10)),
    (comparisons.Stays("e", "l", 1.05, ("m0", "m1")), table(e=1, l=1), table(e=1, l=1.1)),
    (comparisons.RisesMore(("e", "l"), ("v", "w"), "m0"), table(e=1, l=3, v=1, w=2),
     table(e=1, l=2, v=1, w=2)),
    (comparisons.Bounded("x", least=2, methods=("m3",)), table(x=up), table(x=-up)),
    (comparisons.Bounded("x", most=11, share=0.5), table(x=wild), table(x=wild + 9)),
    (comparisons.Needs(("x", "y"), "e"), table(x=wild, y=up, e=up), table(x=-up, y=-up, e=up)),
    (comparisons.Others("x", "f"), table(x=up, f=[1, 1] + [0] * 10),
     table(x=-up, f=[1, 1] + [0] * 10)),
    (comparisons.Both((comparisons.Below("x", ("m1",), "m0"),
                       comparisons.Below("y", ("m1",), "m0", holds=False))),
     table(x=20 - up, y=up + 1), table(x=20 - up, y=20 - up)),
]  # fmt: skip
ALONG = [
    (trajectories.LowestAfterDrop(), course(test_rloss=down_up, **RATES),
     course(test_rloss=-up, **RATES)),
    (trajectories.Continues(), course(test_rloss=down_up, train_rloss=9 - up / 2),
     course(test_rloss=down_up, train_rloss=up + 9)),
    (trajectories.RisesFurther(),
     course(test_rloss=down_up, test_rloss_correct=up, test_rloss_incorrect=2 * up),
     course(test_rloss=down_up, test_rloss_correct=2 * up, test_rloss_incorrect=up)),
    (trajectories.CarriesMost(),
     course(**ERR, test_rloss=down_up, test_rloss_correct=up, test_rloss_incorrect=2 * up),
     course(**ERR, test_rloss=down_up, test_rloss_correct=2 * up, test_rloss_incorrect=up)),
    (trajectories.Climbs("x", "t", 1.5), course(x=up, t=down_up), course(x=9, t=down_up)),
    (trajectories.Climbs("x", "t", methods=("m0",), than="at"),
     two({"x": up + 20, "t": down_up}, {"x": up + 1, "t": down_up}),
     two({"x": up + 1, "t": down_up}, {"x": up + 20, "t": down_up})),
    (trajectories.Together("x", "y"), course(x=up, y=up), course(x=up, y=wild)),
    (trajectories.TogetherLess("w", "s", "y"), course(w=wild, s=up, y=up), course(w=up, s=wild, y=up)),
    (trajectories.Radius("x@smallest", "x", most=0.5),
     course(**{"x@smallest": up / 4, "x": up, "rloss_test_pgd": down_up}),
     course(**{"x@smallest": up, "x": up, "rloss_test_pgd": down_up})),
    (trajectories.Scaled("x", 4, 0.25), versions(4, 1, 0.26), versions(1, 1, 1)),
    (trajectories.Scaled("x", within=0, slack=0.01), versions(0.5, 0.5, 0.51), versions(0.5, 0.5, 0.52)),
]  # fmt: skip


def names(case):
    return type(case).__name__ if not isinstance(case, pd.DataFrame) else ""


@pytest.mark.parametrize("predicate, good, bad", ACROSS + ALONG, ids=names)
def test_each_kind_can_hold_fail_and_stay_open(predicate, good, bad):
    assert predicate(good).holds is True and predicate(bad).holds is False
    for verdict in (predicate(good), predicate(bad)):
        assert verdict.shown and np.isfinite(verdict.value)
        assert np.isnan(verdict.low) or verdict.low <= verdict.value <= verdict.high
    for column in good:
        assert predicate(good.drop(columns=column)) is None, column
        assert predicate(good.assign(**{column: np.nan})) is None, column
    assert predicate(good.head(0)) is None


def test_no_kind_is_left_out():
    kinds = {type(case[0]) for case in ACROSS + ALONG}
    for module in (predicates, comparisons, trajectories):
        here = [thing for thing in vars(module).values() if isinstance(thing, type)
                and thing.__module__ == module.__name__ and "__call__" in vars(thing)]  # fmt: skip
        assert here and not set(here) - kinds


def test_constant_columns_and_few_methods_stay_open():
    assert predicates.Correlates("x", "y", 0.7)(table(x=1, y=up)) is None
    assert predicates.Correlates("x", "y", 0.7)(table(5, x=up[:5], y=up[:5])) is None
    assert predicates.Uncorrelated("x", "y", enough=4)(table(5, x=up[:5], y=up[:5])) is not None
    assert trajectories.Together("x", "y")(course(3, x=up[:3], y=up[:3])) is None


def test_intervals_cover_the_value_and_repeat():
    rng = np.random.default_rng(1)
    df = table(x=up + rng.normal(size=12), y=up + rng.normal(size=12), z=wild)
    correlates = predicates.Correlates("x", "y", 0.5)
    for predicate in (correlates, predicates.CorrelatesLess("z", "x", "y")):
        first, second = predicate(df), predicate(df)
        assert first == second and first.low < first.value < first.high


def test_a_run_that_does_not_overfit_carries_nothing():
    flat = course(test_rloss=10 - up, test_err=0.5, test_rloss_correct=9 - up,
                  test_rloss_incorrect=9 - up)  # fmt: skip
    assert trajectories.CarriesMost()(flat).shown == "test RLoss does not rise"
    assert not trajectories.RisesFurther()(flat).holds
    assert not trajectories.Continues()(flat.assign(train_rloss=9 - up / 2)).holds


def test_the_drop_is_that_of_the_learning_rate():
    late = course(test_rloss=np.abs(up - 8), lr=[1.0] * 4 + [0.1] * 8, progress=(up + 1) / 12)
    found = trajectories.LowestAfterDrop()(late)
    assert not found.holds and found.value == pytest.approx(9 / 12)
    assert trajectories.LowestAfterDrop()(late.assign(lr=1.0)) is None
