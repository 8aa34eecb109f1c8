"""The queue: its order, rows that wait, and their way into the tables."""

import pandas as pd
import pytest

from flatlib import runs
from flatlib.files import paths
from flatlib.runs import queue, results
from flatlib.runs.queue import Part
from flatlib.catalogue import CATALOGUE
from flatlib.catalogue.stutz2021 import TABLE1


@pytest.fixture
def stored(tmp_path, fresh_runs, monkeypatch):
    """Results of this test alone."""
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    return tmp_path / "results" / "smoke"


def test_queues_name_methods_profiles_and_suites_that_are_there():
    for profile in queue.QUEUES:
        for run, suites in queue.ordered(profile).items():
            assert run.name in CATALOGUE and run.wanted(suites)
    with pytest.raises(ValueError, match="profile='digits'.*'smoke'"):
        queue.ordered("digits")


def test_table_1_comes_first_and_every_method_once():
    order = list(queue.ordered("cifar10-cpu"))
    assert {run.name for run in order[:19]} == set(TABLE1) and order[0].name == "at"
    assert {run.seed for run in order[:19]} == {0} and len(order) == len(set(order))
    assert {run.name for run in order if run.seed == 0} == set(CATALOGUE)


def test_suites_of_one_run_are_united(monkeypatch):
    parts = (Part(("at",), (0,), ("default",)), Part(("at", "mish"), (0,), ("lines", "default")))
    monkeypatch.setitem(queue.QUEUES, "smoke", parts)
    found = {run.name: suites for run, suites in queue.ordered("smoke").items()}
    assert found == {"at": ("default", "lines"), "mish": ("lines", "default")}


def test_rows_wait_until_they_are_merged(stored, monkeypatch, capsys):
    monkeypatch.setattr("os.nice", lambda n: None)
    queue.main(["--profile", "smoke"])
    assert sorted(p.name.split("-")[0] for p in (stored / "pending").iterdir()) == ["at", "wd0.05"]
    assert not (stored / "measures.csv").exists() and not queue.left("smoke", stored / "pending")
    queue.main(["--profile", "smoke", "--merge"])
    assert not any((stored / "pending").iterdir())
    table, curves = results.read(stored)
    for run, suites in queue.ordered("smoke").items():
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
    run = next(iter(queue.ordered("smoke")))
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
