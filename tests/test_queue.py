"""The queue: its order, rows that wait, and their way into the tables."""

import pandas as pd
import pytest

from flatlib import runs
from flatlib.catalogue import CATALOGUE
from flatlib.catalogue.stutz2021 import TABLE1
from flatlib.files import paths
from flatlib.runs import queue, results
from flatlib.runs.queue import Part


@pytest.fixture
def stored(tmp_path, fresh_runs, monkeypatch):
    """Results of this test alone."""
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    return tmp_path / "results" / "smoke"


def test_queues_name_methods_profiles_and_suites_that_are_there():
    for profile in queue.QUEUES:
        for run, suites in queue.ordered(profile):
            assert run.name in CATALOGUE and run.wanted(suites)
    with pytest.raises(ValueError, match="profile='digits'.*'smoke'"):
        queue.ordered("digits")


def test_table_1_comes_first_and_every_method_once():
    order = queue.ordered("cifar10-cpu")
    first = [run for run, _ in order[:19]]
    assert {run.name for run in first} == set(TABLE1) and first[0].name == "at"
    assert {run.seed for run in first} == {0}
    asked = [(run, suite) for run, suites in order for suite in suites]
    assert len(asked) == len(set(asked)) and all(suites for _, suites in order)
    assert {run.name for run, suites in order if "default" in suites} == set(CATALOGUE)


def test_no_suite_of_a_run_is_asked_for_twice(monkeypatch):
    parts = (Part(("at",), (0,), ("default",)), Part(("at", "mish"), (0,), ("lines", "default")),
             Part(("mish",), (0,), ("default",)))  # fmt: skip
    monkeypatch.setitem(queue.QUEUES, "smoke", parts)
    found = [(run.name, suites) for run, suites in queue.ordered("smoke")]
    assert found == [("at", ("default",)), ("at", ("lines",)), ("mish", ("lines", "default"))]


def test_later_parts_join_what_waits_or_is_stored(stored, monkeypatch):
    monkeypatch.setattr("os.nice", lambda n: None)
    later = Part(("at",), (0,), ("hessian",))
    monkeypatch.setitem(queue.QUEUES, "smoke", (Part(("at",), (0,), ("default",)), later))
    queue.main(["--profile", "smoke"])
    at, _ = queue.ordered("smoke")[0]
    waits, _ = results.read(queue.waiting(at, queue.pending("smoke")))
    assert results.complete(at, waits, ("default", "hessian"))
    queue.main(["--profile", "smoke", "--merge"])
    monkeypatch.setitem(queue.QUEUES, "smoke", (later, Part(("at",), (0,), ("lines",))))
    queue.main(["--profile", "smoke"]), queue.main(["--profile", "smoke", "--merge"])
    table, _ = results.read(stored)
    assert results.complete(at, table, ("default", "hessian", "lines"))


def test_rows_wait_until_they_are_merged(stored, monkeypatch, capsys):
    monkeypatch.setattr("os.nice", lambda n: None)
    queue.main(["--profile", "smoke"])
    assert sorted(p.name.split("-")[0] for p in (stored / "pending").iterdir()) == ["at", "wd0.05"]
    assert not (stored / "measures.csv").exists() and not queue.left("smoke", stored / "pending")
    queue.main(["--profile", "smoke", "--merge"])
    assert not any((stored / "pending").iterdir())
    table, curves = results.read(stored)
    for run, suites in queue.ordered("smoke"):
        assert results.complete(run, table, suites)
        mine = table[(table.key == run.key) & (table.which == "last")]
        assert set(mine.weights) == set(curves[curves.key == run.key].weights) == {run.last_weights}
    assert "1 run" in capsys.readouterr().out
    queue.main(["--profile", "smoke", "--list"])
    assert capsys.readouterr().out == ""


def test_rows_of_another_training_stay_where_they_are(stored, monkeypatch):
    """Unless they cover all that is stored: never a mix."""
    at = runs.get("at", "smoke", progress=False)
    at.measure(("default", "offsets", "hessian"))
    results.commit([at], ("default", "offsets", "hessian"))
    place = queue.waiting(at, queue.pending("smoke"))
    results.commit([at], ("default", "offsets"), place)
    for name in ("measures", "history"):  # as if measured on a network trained anew
        table = pd.read_csv(place / f"{name}.csv", dtype=str, keep_default_na=False)
        table.assign(weights="0123456789").to_csv(place / f"{name}.csv", index=False)
    before = (stored / "measures.csv").read_text()
    (done,) = queue.merge("smoke")
    assert "0123456789" in done.describe() and "hessian" in done.describe()
    assert place.exists() and (stored / "measures.csv").read_text() == before


def test_one_failed_run_does_not_stop_the_others(stored, monkeypatch, capsys):
    train = runs.Run.train

    def fails(run, *args, **how):
        if run.name == "at":
            raise RuntimeError("no luck")
        return train(run, *args, **how)

    monkeypatch.setattr(runs.Run, "train", fails)
    monkeypatch.setattr("os.nice", lambda n: None)
    with pytest.raises(SystemExit):
        queue.main(["--profile", "smoke"])
    assert "at, seed 0: RuntimeError: no luck" in capsys.readouterr().err
    assert [p.name.split("-")[0] for p in (stored / "pending").iterdir()] == ["wd0.05"]


def test_two_processes_never_work_on_the_same_run(stored):
    run, _ = queue.ordered("smoke")[0]
    with queue._claimed(run) as first, queue._claimed(run) as second:
        assert first and not second
    with queue._claimed(run) as again:
        assert again


def test_rows_of_another_protocol_wait_on(stored):
    at = runs.get("at", "smoke", progress=False)
    at.measure()
    place = queue.waiting(at, queue.pending("smoke"))
    results.commit([at], "default", place)
    table = pd.read_csv(place / "measures.csv", dtype=str, keep_default_na=False)
    table.assign(protocol="ffffff").to_csv(place / "measures.csv", index=False)
    (done,) = queue.merge("smoke")
    assert done.runs == 0 and place.exists() and not (stored / "measures.csv").exists()
