"""What a page shows: stored networks, and over them those trained here."""

import pandas as pd
import pytest

from flatbook import live, relations
from flatlib import data, runs
from flatlib.files import paths
from flatlib.runs import results

PAIR = ["at", "wd0.05"]


@pytest.fixture(scope="module")
def trained():
    """Two networks of the profile "smoke", measured."""
    return [runs.get(name, "smoke", progress=False) for name in PAIR]


@pytest.fixture
def stored(trained, tmp_path, monkeypatch):
    """Both of them in the tables, as of a machine that is not this one."""
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    runs.measure(trained)
    results.commit(trained, folder=tmp_path / "smoke")


def test_from_the_tables_it_is_what_collect_gives(stored):
    shown = live.shown("at", "smoke", (0,), "committed")
    measures, history = runs.collect("at", "smoke", (0,), "committed")
    pd.testing.assert_frame_equal(shown.measures, measures)
    pd.testing.assert_frame_equal(shown.history, history)
    assert shown.own is None and shown.mine is None and "Your own" not in shown.caption


def test_own_networks_stand_over_all_that_is_stored(stored):
    shown = live.shown("at", "smoke", (0,), "live")
    assert set(shown.measures.method) == set(shown.history.method) == set(PAIR)
    assert set(shown.own.method) == set(shown.own_history.method) == {"at"}
    assert "2 methods" in shown.caption and "Your own: " in shown.caption
    ours, x = relations.means(runs.wide(shown.measures)), "avg_flatness_rloss"
    drawn = live.over(ours, shown.mine)
    assert list(drawn.index) == ["wd0.05, stored", "at, stored", "at"]  # in printed order
    same = pytest.approx(drawn.loc["at, stored", x], rel=1e-5)  # tables round
    assert drawn.loc["at", x] == same
    assert live.lit(["trades6"], shown.mine) == ["trades6", "at"]
    assert list(live.added(ours, shown.mine).family)[-1] == "yours"
    beside = live.beside(ours, shown.mine, [x])
    assert list(beside.index) == ["at"] and beside.loc["at", (x, "yours")] == same
    one = live.shown("at", "smoke", (0,), "live", all_of="at")
    assert set(one.measures.method) == {"at"} == set(one.own.method)


def test_where_nothing_is_stored_own_networks_stand_alone(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    shown = live.shown(PAIR, "smoke", (0,), "auto")
    assert set(shown.measures.method) == set(PAIR) and shown.own is None
    ours = relations.means(runs.wide(shown.measures))
    assert live.over(ours, shown.mine) is ours is live.added(ours, shown.mine)
    assert live.lit(PAIR, None) == PAIR and live.beside(ours, None, ["rloss_test_pgd"]) is None


def test_stored_rows_of_other_definitions_count_as_none(stored, tmp_path):
    file = tmp_path / "smoke" / "measures.csv"
    pd.read_csv(file, dtype=str).assign(protocol="abcdef").to_csv(file, index=False)
    assert live.shown("at", "smoke", (0,), "live").own is None


def test_classes_have_names():
    assert data.names("fashion")[9] == "boot" and data.names("cifar10")[6] == "frog"
    assert data.names("digits") == tuple("0123456789")
    assert all(len(set(data.names(name))) == 10 for name in data.LOADERS)
