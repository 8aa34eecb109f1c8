"""Campaigns that are disturbed: a killed worker, two at once, a full disk, an unwritable folder."""

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pandas as pd
import pytest
from dask.distributed import LocalCluster

from flatlib import runs
from flatlib.files import atomic, checkpoints, clock, paths, tidy
from flatlib.runs import batch, campaign, results, suites
from flatlib.training import profiles

FAST = (("robustness", "last", "test"),)
KINDS = {"measures.csv": tidy.MEASURES, "history.csv": tidy.HISTORY,
         "early_stopping": tidy.STOPPING}  # fmt: skip
LONG = replace(profiles.get("smoke"), name="smoke-long", epochs=40, log_every=40,
               snapshot_every=40)  # fmt: skip


def epochs_saved(run):
    """The rows of the history that the saved state of an unfinished run holds."""
    state = run.folder / "state.safetensors"
    try:
        return checkpoints.load(state)[1]["history"] if state.exists() else []
    except FileNotFoundError:
        return []


def test_a_killed_worker_costs_at_most_an_epoch(fresh_runs, tmp_path, monkeypatch):
    """A real Dask worker, killed with -9 while it trains the first of two runs."""
    chosen = runs.select(["at", "silu"], LONG)
    how = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0", "memory_limit": 0}
    with LocalCluster(**how) as cluster:
        given = {"suite": FAST, "scheduler": cluster.scheduler_address}
        work = threading.Thread(target=campaign.carry_out, args=(chosen,), kwargs=given)
        work.start()
        deadline = time.monotonic() + 600
        while len(epochs_saved(chosen[0])) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        kept = epochs_saved(chosen[0])
        os.kill(cluster.workers[0].pid, signal.SIGKILL)
        work.join(timeout=600)
    assert not work.is_alive() and all(run.done and not run.missing(FAST) for run in chosen)
    assert 3 <= len(kept) < LONG.epochs  # it was killed in the middle
    history = chosen[0].history()
    # wall times tell a row that was kept from one that was computed again
    assert history.seconds[: len(kept)].tolist() == pytest.approx([r["seconds"] for r in kept])
    monkeypatch.setattr(paths, "RUNS", tmp_path / "undisturbed")
    again = chosen[0].train().history()
    pd.testing.assert_frame_equal(*(h.drop(columns="seconds") for h in (history, again)))


def test_two_campaigns_share_a_folder(fresh_runs, tmp_path):
    arguments = [sys.executable, "-m", "flatlib.runs", "--profile", "smoke", "--methods", "at",
                 "mish", "--workers", "1"]  # fmt: skip
    both = [
        subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
                         env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, text=True)
        for _ in range(2)
    ]  # fmt: skip
    for process in both:
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said
    for run in runs.select(["at", "mish"], "smoke"):
        assert run.done and not run.missing()
        table = run.measured()
        assert len(table) == len(table.drop_duplicates(["asked", "which", "split", "measure"]))
        assert set(zip(table.asked, table.which, table.split)) == set(suites.DEFAULT)
        assert not [f for f in run.folder.iterdir() if f.name.startswith(".") and f.name != ".lock"]


def test_campaigns_on_one_folder_share_the_work(fresh_runs):
    """What another process is at comes last; here the first run is held by a lock."""
    first, *rest = chosen = runs.select(["at", "mish", "silu"], "smoke")
    order = []
    with first.lock():
        for run in campaign._free_first(chosen):
            order.append(run)
            assert run.busy() == (run == first)
    assert order == [*rest, first] and not first.busy()


def test_a_time_budget_stops_between_steps_and_a_later_call_goes_on(fresh_runs, monkeypatch):
    """A clock that moves a minute at every look, also at those for a lock: two epochs, then the
    others, then the measure.
    """
    now = [0.0]

    def tick():
        now[0] += 60
        return now[0]

    (run,) = chosen = runs.select("at", "smoke")
    monkeypatch.setattr(clock.time, "time", tick)
    campaign.carry_out(chosen, FAST, minutes=4)  # the budget is counted from the first look
    assert not run.done and len(epochs_saved(run)) == 2
    campaign.carry_out(chosen, FAST, minutes=6)
    assert run.done and run.missing(FAST)
    campaign.carry_out(chosen, FAST, minutes=3)
    assert not run.missing(FAST)
    monkeypatch.undo()


def test_a_budget_bounds_the_wait_for_another_process(fresh_runs, capsys):
    (run,) = chosen = runs.select("at", "smoke")
    with run.lock():
        campaign.carry_out(chosen, FAST, minutes=0.001)
        with pytest.raises(clock.TimeIsUp):
            run.measure(FAST, time.time())
    assert "1 of 1 runs are left" in capsys.readouterr().err and not run.done


def test_one_damaged_table_fails_one_run(fresh_runs, tmp_path, monkeypatch, capsys):
    """The others are trained, measured and committed; what is left out is named."""
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    chosen = runs.select(["at", "mish"], "smoke")
    bad = chosen[0].folder
    bad.mkdir(parents=True)
    (bad / "done").touch()
    (bad / "measures.csv").write_text("asked,which,split,proto")
    arguments = ["--methods", "at", "mish", "--profile", "smoke", "--workers", "1"]
    with pytest.raises(SystemExit) as end:
        batch.main([*arguments, "--suite", "hessian", "--commit"])
    said = capsys.readouterr()
    assert end.value.code == 1 and "1 of 2 runs failed" in said.err
    assert "at, seed 0: Damaged" in said.err and "mish" not in said.err
    assert "has 1 measurement of 1 run; damaged and left out: at of seed 0" in said.out
    assert (bad / "measures.csv").read_text() == "asked,which,split,proto"


def test_local_workers_keep_large_buffers_and_errors_are_heard(monkeypatch):
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1048576")  # the user's own comes first
    logger = logging.getLogger("distributed")
    before = logger.level
    with campaign._client(1, None) as client:
        there = [client.submit(os.getenv, name).result() for name in campaign.MALLOC]
        assert there == ["1048576", "134217728"]
        assert logger.level == before
    assert logger.level == before


def test_a_budget_is_told_and_is_no_failure(fresh_runs, capsys):
    arguments = ["--methods", "at", "mish", "--profile", "smoke", "--workers", "1"]
    batch.main([*arguments, "--minutes", "1e-9"])
    said = capsys.readouterr()
    assert "2 of 2 runs are left for a next call" in said.err and "0 of 2 runs" in said.out
    with pytest.raises(SystemExit):
        batch.main([*arguments, "--minutes", "-1"])
    assert "minutes=-1.0" in capsys.readouterr().err


def test_models_are_dropped_once_all_is_measured(fresh_runs, monkeypatch):
    run, other = runs.select(["at", "mish"], "smoke")
    other.train()
    arguments = ["--methods", "at", "--profile", "smoke", "--workers", "1", "--drop"]
    batch.main([*arguments, "--minutes", "1e-9"])
    assert run.folder.exists() and not run.snapshots()  # nothing trained, nothing to drop
    batch.main(arguments)
    assert run.done and not run.missing() and not run.snapshots() and other.snapshots()
    batch.main(arguments)  # nothing is computed again
    assert len(run.history()) == 5
    with pytest.raises(FileNotFoundError, match="removed after training"):
        run.model()


def test_a_campaign_needs_few_packages(fresh_runs, tmp_path):
    """Where nothing can be installed: no Dask, no plotly, no notebooks."""
    absent = ["dask", "distributed", "plotly", "IPython", "jupytext", "papermill", "nbformat"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"  # None: import fails
        "from flatlib.runs import batch\n"
        "batch.main(['--methods', 'at', '--profile', 'smoke', '--workers', '1'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          cwd=tmp_path, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})  # fmt: skip
    assert done.returncode == 0 and "1 of 1 runs" in done.stdout, done.stderr


def fill(monkeypatch, writes):
    """The disk is full after so many writes; returns how to empty it."""
    left = [writes]
    inner = os.fsync

    def full(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return inner(handle)

    monkeypatch.setattr(atomic.os, "fsync", full)
    return lambda: left.__setitem__(0, 10**6)


@pytest.mark.parametrize("writes", [0, 3, 10, 11, 16])
def test_a_full_disk_leaves_what_was_finished(fresh_runs, monkeypatch, writes):
    chosen = runs.select(["at", "mish"], "smoke")
    empty = fill(monkeypatch, writes)
    with pytest.raises(RuntimeError, match="of 2 runs failed.*(\n.*)*No space left on device"):
        campaign.carry_out(chosen, FAST)
    for folder in fresh_runs.glob("smoke/*"):
        assert not list(folder.glob(".*.*")), "half a file"
        for file in folder.glob("*.safetensors"):
            checkpoints.load(file)
        for file in folder.glob("*.csv"):
            tidy.parsed(file.read_text(), KINDS[file.name.split("-")[0]])
    done = [run for run in chosen if run.done]
    stamps = {f: f.stat().st_mtime_ns for run in done for f in run.snapshots().values()}
    empty()
    campaign.carry_out(chosen, FAST)
    assert all(run.done and not run.missing(FAST) for run in chosen)
    assert {f: f.stat().st_mtime_ns for f in stamps} == stamps


def test_a_full_disk_leaves_the_committed_results(fresh_runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    chosen = runs.select("at", "smoke")
    campaign.carry_out(chosen, FAST)
    results.commit(chosen, FAST)
    before = {f: f.read_bytes() for f in (tmp_path / "results" / "smoke").iterdir()}
    chosen[0].measure("hessian")
    fill(monkeypatch, 0)
    with pytest.raises(SystemExit) as end:
        batch.main(["--methods", "at", "--profile", "smoke", "--suite", "hessian", "--commit-only"])
    assert end.value.code == 1 and "No space left on device" in capsys.readouterr().err
    assert {f: f.read_bytes() for f in (tmp_path / "results" / "smoke").iterdir()} == before


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(paths, "RUNS", tmp_path / "file" / "runs")
    with pytest.raises(SystemExit) as end:
        batch.main(["--methods", "all", "--profile", "smoke", "--workers", "1"])
    said = capsys.readouterr().err
    assert end.value.code == 1 and len(said.splitlines()) == 1
    assert "runs cannot be kept in" in said and "FLATLIB_RUNS" in said
