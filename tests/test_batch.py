"""Many runs: from the command line, with local processes, with one that fails."""

import os
import subprocess
import sys

import pandas as pd
import pytest

from flatlib import batch, campaign, costs, measures, paths, profiles, runs
from flatlib.run import Run

FAST = (("robustness", "last", "test"),)


def command(*arguments, folder):
    return subprocess.run(
        [sys.executable, "-m", "flatlib.batch", "--profile", "smoke", *arguments],
        capture_output=True, text=True, timeout=300, cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "FLATLIB_RUNS": str(folder / "runs")},
    )  # fmt: skip


def test_the_command_trains_measures_resumes_and_reports(tmp_path, fresh_runs, monkeypatch):
    chosen = ("--methods", "at", "mish", "--workers", "2")
    done = command(*chosen, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 runs are trained and measured" in done.stdout
    assert "2 runs to train and measure: about" in done.stderr  # the cost is told beforehand
    folders = sorted((tmp_path / "runs" / "smoke").iterdir())
    assert [f.name.split("-")[0] for f in folders] == ["at", "mish"]
    for folder in folders:
        assert (folder / "done").exists() and not (folder / "state.safetensors").exists()
        table = pd.read_csv(folder / "measures.csv")
        assert set(zip(table.asked, table.which, table.split)) == set(measures.DEFAULT)
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
])  # fmt: skip
def test_the_command_refuses_in_one_line(capsys, fresh_runs, arguments, said):
    with pytest.raises(SystemExit) as end:
        batch.main(list(arguments))
    text = capsys.readouterr().err
    assert end.value.code == 1 and said in text and "Traceback" not in text
    assert not fresh_runs.exists()


def break_one(monkeypatch, name):
    inner = Run.train

    def train(self, progress=False):
        if self.name == name:
            raise OSError("no space left")
        return inner(self, progress)

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
    monkeypatch.setattr(Run, "train", lambda self, *a: (computed.append(self.name), inner(self))[1])
    campaign.carry_out(chosen, FAST)  # goes on with the one that failed
    assert computed == ["mish"] and all(r.done for r in chosen)
    campaign.carry_out(chosen, FAST)
    assert computed == ["mish"]


def test_the_command_ends_with_the_summary(fresh_runs, monkeypatch, capsys):
    break_one(monkeypatch, "at")
    with pytest.raises(SystemExit) as end:
        batch.main(["--methods", "at", "--profile", "smoke", "--workers", "1"])
    assert end.value.code == 1 and "at, seed 0: OSError" in capsys.readouterr().err


def test_results_are_committed_where_the_book_reads_them(fresh_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    chosen = runs.select("at", "smoke")
    campaign.carry_out(chosen)
    batch.commit_results(chosen)
    monkeypatch.setattr(paths, "RUNS", tmp_path / "nothing")
    table, history = runs.collect("at", "smoke", source="committed")
    assert "seconds" not in history and len(history) == 5
    assert runs.wide(table).shape[0] == 1


def test_the_estimate_counts_what_is_to_be_done():
    at, more = runs.select(["at", "pgd14"], "smoke")
    assert costs.training(more.method, more.profile) > 1.4 * costs.training(at.method, at.profile)
    one = costs.estimate([at], FAST, 1)
    assert one.runs == 1 and 0 < one.seconds < 600
    assert "1 run" in one.describe() and "2 worker" in costs.Estimate(100, 3, 2).describe()
    digits = profiles.get("digits")
    for name in measures.MEASURES:
        small, large = (costs.measuring(p, name, "last") for p in (at.profile, digits))
        assert 0 < small < large
