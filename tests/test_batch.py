"""Many runs: from the command line, with local processes, with one that fails."""

import os
import subprocess
import sys
import threading
from dataclasses import replace

import pandas as pd
import pytest
import torch
from filelock import FileLock

from flatlib import CATALOGUE, data, runs
from flatlib.files import paths
from flatlib.records import MEASURES
from flatlib.runs import batch, campaign, costs, results, suites
from flatlib.runs.run import Run
from flatlib.training import profiles, snapshots

FAST = (("robustness", "last", "test"),)


def command(*arguments, folder):
    return subprocess.run(
        [sys.executable, "-m", "flatlib.runs", "--profile", "smoke", *arguments],
        capture_output=True, text=True, timeout=300, cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "FLATLIB_RUNS": str(folder / "runs")},
    )  # fmt: skip


def test_the_command_trains_measures_resumes_and_reports(tmp_path, fresh_runs, monkeypatch):
    chosen = ("--methods", "at", "mish", "--workers", "2")
    done = command(*chosen, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 runs are trained and measured" in done.stdout
    assert "2 runs to train and measure: about" in done.stderr  # the cost is told beforehand
    folders = sorted((tmp_path / "runs" / "smoke").iterdir())
    assert [f.name.split("-")[0] for f in folders] == ["at", "mish"]
    for folder in folders:
        assert (folder / "done").exists() and not (folder / "state.safetensors").exists()
        table = pd.read_csv(folder / "measures.csv")
        assert set(zip(table.asked, table.which, table.split)) == set(suites.DEFAULT)
    before = {f: f.stat().st_mtime_ns for d in folders for f in d.glob("*[a-z]")}
    again = command(*chosen, folder=tmp_path)
    assert again.returncode == 0 and "to train and measure" not in again.stderr
    assert {f: f.stat().st_mtime_ns for f in before} == before
    here = runs.select(["at", "mish"], "smoke")  # two processes measure what this one does
    monkeypatch.setattr(paths, "RUNS", tmp_path / "here")
    campaign.carry_out(here, FAST)
    one = runs.measure(here, FAST)
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    two = runs.measure(here).query("asked == 'robustness' and which == 'last' and split == 'test'")
    assert one.value.tolist() == two.value.tolist() and len(one) == 12


@pytest.mark.parametrize("arguments, said", [
    (("--methods", "att"), "no method 'att': did you mean"),
    (("--methods", "at", "--seeds", "-1"), "seeds=[-1]"),
    (("--profile", "digit"), "profile='digit'"),
    (("--workers", "0"), "workers=0"),
    (("--device", "cuda", "--profile", "smoke"), "device='cuda': PyTorch finds no GPU"),
    (("--profile", "cifar10-smoke"), "no CIFAR-10 in"),
    (("--methods", "Wong2020Fast", "--seeds", "1", "--profile", "cifar10"), "no CIFAR-10 in"),
])  # fmt: skip
def test_the_command_refuses_in_one_line(capsys, fresh_runs, monkeypatch, tmp_path, arguments,
                                         said):  # fmt: skip
    monkeypatch.setattr(data, "DATASETS", tmp_path / "nowhere")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        batch.main(list(arguments))
    text = capsys.readouterr().err
    assert end.value.code == 1 and said in text and len(text.splitlines()) == 1
    assert not list(fresh_runs.rglob("*"))


@pytest.mark.parametrize("error", [KeyError("slip"), ValueError("slip"), RuntimeError("slip")])
def test_a_slip_in_the_program_is_no_refusal(fresh_runs, monkeypatch, error):
    def slip(*arguments):
        raise error

    monkeypatch.setattr(costs, "estimate", slip)
    with pytest.raises(type(error), match="slip"):
        batch.main(["--methods", "at", "--profile", "smoke", "--workers", "1"])


def break_one(monkeypatch, name):
    inner = Run.train

    def train(self, **how):
        if self.name == name:
            raise OSError("no space left")
        return inner(self, **how)

    monkeypatch.setattr(Run, "train", train)


def test_a_failed_run_does_not_stop_the_others_and_is_named(fresh_runs, monkeypatch):
    chosen = runs.select(["at", "mish", "silu"], "smoke")
    with monkeypatch.context() as patch:
        break_one(patch, "mish")
        with pytest.raises(RuntimeError) as error:
            campaign.carry_out(chosen, FAST)
    text = str(error.value)
    assert "1 of 3 runs failed" in text and "mish, seed 0: OSError: no space left" in text
    assert [r.done and not r.missing(FAST) for r in chosen] == [True, False, True]
    computed = []
    inner = Run.train
    monkeypatch.setattr(
        Run, "train", lambda self, **how: (computed.append(self.name), inner(self))[1]
    )
    campaign.carry_out(chosen, FAST)  # goes on with the one that failed
    assert computed == ["mish"] and all(r.done for r in chosen)
    campaign.carry_out(chosen, FAST)
    assert computed == ["mish"]


def test_the_command_ends_with_the_summary(fresh_runs, monkeypatch, capsys):
    break_one(monkeypatch, "at")
    with pytest.raises(SystemExit) as end:
        batch.main(["--methods", "at", "--profile", "smoke", "--workers", "1"])
    assert end.value.code == 1 and "at, seed 0: OSError" in capsys.readouterr().err


@pytest.fixture
def stored(fresh_runs, tmp_path, monkeypatch):
    """The folder of the committed results of "smoke", empty."""
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    return tmp_path / "results" / "smoke"


def committed(methods, suite=FAST):
    chosen = runs.select(methods, "smoke")
    campaign.carry_out(chosen, suite)
    return results.commit(chosen, suite)


def test_results_are_committed_where_the_book_reads_them(stored, tmp_path, monkeypatch):
    chosen = runs.select("at", "smoke")
    campaign.carry_out(chosen)
    results.commit(chosen)
    live = runs.wide(runs.measure(chosen))
    monkeypatch.setattr(paths, "RUNS", tmp_path / "nothing")
    table, history = runs.collect("at", "smoke", source="committed")
    assert "seconds" not in history and len(history) == 5
    assert list(pd.read_csv(stored / "measures.csv")) == list(results.COLUMNS)
    pd.testing.assert_frame_equal(runs.wide(table), live, rtol=1e-5)


def test_committing_merges(stored):
    first = committed(["mish", "at"])
    assert (first.runs, first.measurements, first.untrained, first.unmeasured) == (2, 2, 0, 0)
    before = (stored / "measures.csv").read_text()
    committed(["at"]), committed(["at", "mish"])
    assert (stored / "measures.csv").read_text() == before  # nothing new, nothing moved
    committed("at", (("average", "last", "test"),))
    table = pd.read_csv(stored / "measures.csv")
    rows = set(zip(table.method, table.asked))
    assert rows == {("at", "robustness"), ("mish", "robustness"), ("at", "average")}
    assert table.method.is_monotonic_increasing
    history = pd.read_csv(stored / "history.csv")
    assert history.groupby("method").size().to_dict() == {"at": 5, "mish": 5}
    assert max(len(str(v)) for v in history.train_rloss) <= 6


def test_rows_that_are_measured_again_replace_the_old_ones(stored, monkeypatch):
    committed(["at", "mish"])
    table = pd.read_csv(stored / "measures.csv", dtype={"protocol": str})
    table.assign(value=-1.0).to_csv(stored / "measures.csv", index=False)
    committed("at")
    value = pd.read_csv(stored / "measures.csv").set_index("method").value
    assert (value["mish"] == -1).all() and (value["at"].dropna() >= 0).all()
    assert len(value) == 12


def other_weights(stored, *files):
    """The stored tables as if they were of another training."""
    for file in files or ("measures", "history"):
        table = pd.read_csv(stored / f"{file}.csv", dtype=str)
        table.assign(weights="0123456789").to_csv(stored / f"{file}.csv", index=False)


def test_every_row_says_what_weights_it_is_of(stored):
    both = (*FAST, ("robustness", "early_stopped", "test"), ("hessian", "scaled-2", "test"))
    committed(["at", "mish"], both)
    (run,) = runs.select("at", "smoke")
    table = pd.read_csv(stored / "measures.csv", dtype=str).query("method == 'at'")
    for which, rows in table.groupby("which"):
        assert set(rows.weights) == {snapshots.weights(run.model(which))}
    history = pd.read_csv(stored / "history.csv", dtype=str).query("method == 'at'")
    assert set(history.weights) == {snapshots.weights(run.model())}
    assert table.weights.nunique() == 2 + (run.epoch("early_stopped") != 4)


@pytest.mark.parametrize("files", [("measures",), ("history",), ("measures", "history")])
def test_rows_of_other_weights_never_mix(stored, files):
    """Unless they replace all that is stored of the run, its rows and its curve."""
    two = (*FAST, ("average", "last", "test"))
    committed(["at", "mish"], two)
    other_weights(stored, *files)
    before = (stored / "measures.csv").read_text(), (stored / "history.csv").read_text()
    got = committed("at")
    assert before == ((stored / "measures.csv").read_text(), (stored / "history.csv").read_text())
    (run,) = runs.select("at", "smoke")
    said = got.describe()
    assert "left out, of other weights" in said and "at of seed 0 (stored 0123456789" in said
    assert f"measured {run.last_weights}, without average last test)" in said and got.runs == 0
    assert committed("at", two).runs == 1
    table, history = (pd.read_csv(stored / f"{n}.csv", dtype=str) for n in ("measures", "history"))
    assert set(table.query("method == 'at'").weights) == {run.last_weights}
    assert set(history.query("method == 'at'").weights) == {run.last_weights}
    if "measures" in files:
        assert set(table.query("method == 'mish'").weights) == {"0123456789"}


def test_stored_rows_without_weights_are_replaced_whole_or_not_at_all(stored):
    two = (*FAST, ("average", "last", "test"))
    committed("at", two)
    for name in ("measures", "history"):
        table = pd.read_csv(stored / f"{name}.csv", dtype=str)
        table.assign(weights="").to_csv(stored / f"{name}.csv", index=False)
    assert "stored unknown weights, measured" in committed("at").describe()
    assert committed("at", two).clashes == ()


def test_rows_on_two_kinds_of_weights_are_never_stored(stored):
    """Of a model that the run knows they are damage; of a scaled one they are a mix."""
    for which, said in (("last", "damaged and left out: at"), ("scaled-2", "stored nothing")):
        suite = (("robustness", which, "test"),)
        chosen = runs.select("at", "smoke")
        campaign.carry_out(chosen, suite)
        path = chosen[0].folder / "measures.csv"
        table = pd.read_csv(path, dtype=str)
        table.loc[0, "weights"] = "0123456789"
        table.to_csv(path, index=False)
        got = results.commit(chosen, suite)
        assert got.runs == 0 and said in got.describe()
        assert not (stored / "measures.csv").exists()
        path.unlink()


def test_campaigns_in_two_folders_of_runs_commit_one_after_the_other(stored, tmp_path, monkeypatch):
    """The lock lies beside the tables: what a folder of runs says about itself is not enough."""
    committed("at")
    monkeypatch.setattr(paths, "RUNS", tmp_path / "elsewhere")
    chosen = runs.select("mish", "smoke")
    campaign.carry_out(chosen, FAST)
    second = threading.Thread(target=results.commit, args=(chosen, FAST))
    with FileLock(stored / ".lock"):
        second.start()
        second.join(timeout=0.3)
        assert second.is_alive() and set(pd.read_csv(stored / "measures.csv").method) == {"at"}
    second.join(timeout=60)
    assert set(pd.read_csv(stored / "measures.csv").method) == {"at", "mish"}


def test_only_what_a_later_commit_knows_again_is_committed(stored):
    own = runs.select(replace(CATALOGUE["at"], attack_mode="train"), "smoke")
    other = [replace(own[0], name="at")]
    for chosen in (own, other):
        with pytest.raises(ValueError, match="no method of the catalogue"):
            results.commit(chosen, FAST)
    with pytest.raises(ValueError, match="nothing to commit"):
        results.commit([])
    assert not stored.exists()


def test_rows_of_other_definitions_are_dropped(stored):
    committed(["at", "mish", "silu"])
    table = pd.read_csv(stored / "measures.csv", dtype={"protocol": str, "key": str})
    table.loc[table.method == "silu", "key"] = "0123456789"
    table.loc[table.measure == "loss", "protocol"] = "012345"
    extra = table[table.method == "at"].assign(method="forgotten")
    pd.concat([table, extra]).to_csv(stored / "measures.csv", index=False)
    committed("at")
    left = pd.read_csv(stored / "measures.csv").groupby("method").size().to_dict()
    assert left == {"at": 6, "mish": 5}


def test_what_is_finished_is_committed_and_what_lacks_is_counted(stored, capsys):
    arguments = ["--profile", "smoke", "--methods", "at", "mish", "pgd14", "--seeds", "0", "1"]
    only = [*arguments, "--commit-only", "--suite", "radii", "hessian"]
    batch.main(only)
    said = capsys.readouterr()
    assert "missing: 6 runs not trained" in said.out and not stored.exists()
    for run in runs.select(["at", "mish"], "smoke"):
        run.train()
        run.measure("hessian")
    batch.main(only)
    said = capsys.readouterr().out
    assert "2 measurements of 2 runs" in said
    assert "4 runs not trained, 2 measurements of trained ones" in said
    assert "trained and measured" not in said  # it claims no work that it did not do
    table, _ = runs.collect(["at", "mish"], "smoke", source="committed", suite="hessian")
    assert len(table) == 6


def test_a_failed_run_does_not_keep_the_others_from_being_committed(stored, monkeypatch, capsys):
    break_one(monkeypatch, "at")
    arguments = ["--methods", "at", "mish", "--profile", "smoke", "--workers", "1", "--commit"]
    with pytest.raises(SystemExit) as end:
        batch.main([*arguments, "--suite", "hessian"])
    said = capsys.readouterr()
    assert end.value.code == 1 and "at, seed 0: OSError" in said.err
    assert "has 1 measurement of 1 run; missing: 1 run not trained" in said.out
    assert set(pd.read_csv(stored / "measures.csv").method) == {"mish"}


def test_a_stopped_campaign_leaves_whole_seeds(fresh_runs, monkeypatch):
    seen = []
    monkeypatch.setattr(campaign, "carry_out", lambda chosen, *a: seen.extend(chosen))
    batch.main(["--methods", "mish", "table1", "--seeds", "1", "0", "--profile", "smoke"])
    names = ["mish", *(m for m in runs.named("table1") if m != "mish")]
    assert [(r.seed, r.name) for r in seen] == [(s, name) for s in (1, 0) for name in names]


def test_all_means_the_whole_catalogue():
    assert list(runs.named("all")) == list(runs.named(["at", "all"])) == list(CATALOGUE)
    with pytest.raises(KeyError, match="no method 'table2'"):
        runs.named("table2")


def test_the_estimate_counts_what_is_to_be_done():
    at, more = runs.select(["at", "pgd14"], "smoke")
    assert costs.training(more.method, more.profile) > 1.4 * costs.training(at.method, at.profile)
    one = costs.estimate([at], FAST, 1)
    assert one.runs == 1 and 0 < one.seconds < 600
    assert "1 run" in one.describe() and "2 worker" in costs.Estimate(100, 3, 2).describe()
    digits = profiles.get("digits")
    for name in MEASURES:
        small, large = (costs.measuring(p, name) for p in (at.profile, digits))
        assert 0 < small < large
