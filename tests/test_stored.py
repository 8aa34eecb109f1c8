"""What is stored is what was measured: damage, kills and mixtures are named, nothing is lost."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from flatlib import AT, CATALOGUE, fit, runs
from flatlib.data.batches import Batches
from flatlib.files import atomic, checkpoints, paths, tidy
from flatlib.files.atomic import Damaged
from flatlib.runs import batch, campaign, results
from flatlib.training import averages, optimisers, profiles, schedules, states, train
from flatlib.training.profiles import Profile, Protocol

FAST = (("robustness", "last", "test"),)
SMOKE = profiles.get("smoke")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Folders of runs and of results: "at" and "mish", trained, measured and committed."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("two")
        patch.setattr(paths, "RUNS", folder / "runs")
        patch.setattr(paths, "RESULTS", folder / "results")
        chosen = runs.select(["at", "mish"], "smoke")
        campaign.carry_out(chosen, (*FAST, ("robustness", "early_stopped", "test")))
        results.commit(chosen, FAST)
        yield folder


@pytest.fixture
def stored(two, tmp_path, monkeypatch):
    """Both, in folders of this test's own; gives the folder of results."""
    for name in ("runs", "results"):
        shutil.copytree(two / name, tmp_path / name)
        monkeypatch.setattr(paths, name.upper(), tmp_path / name)
    return tmp_path / "results" / "smoke"


def at():
    return runs.select("at", "smoke")[0]


def bytes_in(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file() and f.name != ".lock"}


def edit(path, change):
    """Change the lines of a file."""
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)) + "\n")


# ---- 1: damaged and foreign rows -------------------------------------------------------------


def longer(number):
    return lambda lines: [*lines[:number], lines[number] + ",1", *lines[number + 1 :]]


def twice(lines):
    return [*lines, lines[-1]]


def conflict(lines):
    return ["<<<<<<< HEAD", *lines]


def words(column):
    def change(lines):
        place, row = lines[0].split(",").index(column), lines[2].split(",")
        row[place] = "many"
        return [*lines[:2], ",".join(row), *lines[3:]]

    return change


def without(column):
    def change(lines):
        place = lines[0].split(",").index(column)
        return [",".join(x for i, x in enumerate(r.split(",")) if i != place) for r in lines]

    return change


def foreign(lines):
    return [lines[0] + ",colour", *(line + ",red" for line in lines[1:])]


@pytest.mark.parametrize("name, change, said", [
    ("measures.csv", longer(1), "line 2: 25 fields, 24 in the header"),
    ("measures.csv", longer(5), "line 6: 25 fields"),
    ("measures.csv", twice, "line 14: a row that is there twice"),
    ("measures.csv", conflict, "line 1: a conflict marker"),
    ("measures.csv", words("value"), "line 3: value is no number"),
    ("measures.csv", words("epoch"), "line 3: epoch is no number"),
    ("measures.csv", without("key"), "line 1: no column .'key'."),
    ("measures.csv", foreign, "line 1: foreign columns .'colour'."),
    ("measures.csv", lambda lines: [*lines, ""], "line 14: 0 fields"),
    ("history.csv", longer(1), "line 2: "), ("history.csv", foreign, "line 1: foreign columns"),
    ("history.csv", twice, "line 12: a row that is there twice"),
    ("history.csv", words("test_rloss"), "line 3: test_rloss is no number"),
])  # fmt: skip
def test_a_damaged_committed_table_is_named_and_no_row_of_it_is_lost(stored, name, change, said):
    edit(stored / name, change)
    before = bytes_in(stored)
    for use in (lambda: results.commit(runs.select("at", "smoke"), FAST),
                lambda: runs.collect("at", "smoke", source="committed", suite=FAST)):  # fmt: skip
        with pytest.raises(Damaged, match=f"{name} is damaged .{said}"):
            use()
    assert bytes_in(stored) == before


def test_what_flatlib_writes_it_reads(stored):
    run = at()
    for folder, kinds in ((run.folder, (tidy.MEASURES, tidy.HISTORY)),
                          (stored, (tidy.RESULTS, tidy.CURVES))):  # fmt: skip
        for name, kind in zip(results.FILES, kinds):
            assert len(tidy.read(folder / name, kind))


def test_a_training_curve_is_whole(stored):
    edit(at().folder / "history.csv", lambda lines: lines[:-1])
    with pytest.raises(Damaged, match=r"history.csv is damaged .its epochs are \[0, 1, 2, 3\]"):
        at().history()


def test_rows_of_another_run_or_model_are_no_rows_of_this_one(stored):
    run = at()
    path = run.folder / "measures.csv"
    before = path.read_text()
    for old in (run.key, run.last_weights):
        path.write_text(before.replace(old, "0123456789"))
        with pytest.raises(Damaged, match="measures.csv is damaged .line 2: measured on another"):
            run.measured()


# ---- 2: snapshots and done -------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [0, 4])
def test_a_missing_snapshot_is_named_and_no_other_takes_its_place(stored, epoch):
    run = at()
    run.snapshots()[epoch].unlink()
    for which in ("last", "early_stopped", "scaled-2", 2):
        with pytest.raises(Damaged, match=rf"the snapshots of epochs \[{epoch}\] are missing"):
            run.model(which)


@pytest.mark.parametrize("content", ["", "{}", "[1]", "{", '{"commit": "a", "weights": {"4": ""}}'])
def test_a_damaged_done_is_named(stored, content):
    run = at()
    (run.folder / "done").write_text(content)
    for use in (run.train, run.model, run.measured):
        with pytest.raises(Damaged, match="done is damaged or empty"):
            use()


def test_a_half_trained_model_is_never_the_last(fresh_runs, monkeypatch):
    run = at()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        inner, epochs = train.Training.run_epoch, []

        def run_epoch(self):
            epochs.append(1)
            if len(epochs) > 3:
                raise KeyboardInterrupt
            inner(self)

        patch.setattr(train.Training, "run_epoch", run_epoch)
        run.train()
    for which in ("last", "early_stopped", "scaled-2"):
        with pytest.raises(FileNotFoundError, match="not trained to the end"):
            run.model(which)
    assert run.model(2) is not None
    (run.folder / "done").touch()
    with pytest.raises(Damaged, match="done is damaged or empty"):
        run.model()


def test_another_model_in_the_place_of_a_snapshot_is_named(stored):
    run = at()
    kept = run.snapshots()
    shutil.copy(kept[2], kept[4])
    with pytest.raises(Damaged, match="epoch-004.safetensors is not the model that was trained"):
        run.model()


def test_early_stopping_of_other_models_is_named(stored):
    run = at()
    (path,) = run.folder.glob("early_stopping*.csv")
    before = path.read_text()
    for old, new, said in (("\n2,", "\n3,", r"epochs \[0, 3, 4\]"),
                           (run.hashes["2"], "0123456789", "taken of other models")):  # fmt: skip
        path.write_text(before.replace(old, new))
        with pytest.raises(Damaged, match=f"{path.name} is damaged .{said}"):
            run.epoch("early_stopped")


def test_a_run_from_before_weights_were_kept_is_read(stored):
    run = at()
    path = run.folder / "done"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in record.items() if k != "weights"}))
    assert run.last_weights == "" and len(run.measured()) == 12 and run.model() is not None


# ---- 3: one bad file stops one run -----------------------------------------------------------


@pytest.mark.parametrize("name", ["measures.csv", "history.csv", "done"])
def test_a_bad_file_stops_one_run_and_is_named(stored, capsys, name):
    (at().folder / name).write_text("a,b\n1,2\n")
    arguments = ["--methods", "at", "mish", "silu", "--profile", "smoke", "--workers", "1"]
    with pytest.raises(SystemExit):
        batch.main([*arguments, "--suite", "hessian", "--commit"])
    said = capsys.readouterr()
    assert "1 of 3 runs failed" in said.err and f"{name} is damaged" in said.err
    assert "2 measurements of 2 runs" in said.out and "left out: at of seed 0" in said.out
    assert set(results.read(stored)[0].method) == {"at", "mish", "silu"}
    runs.train_missing(["at", "mish"], "smoke", suite="hessian")
    assert f"{name} is damaged" in capsys.readouterr().err
    table, history = runs.collect(["at", "mish"], "smoke", source="live", suite="hessian")
    assert set(table.method) == set(history.method) == {"mish"}
    assert table.attrs["lacking"] == "not measured yet: seed 0 of at"
    with pytest.raises(campaign.Failed, match=f"{name} is damaged"):
        runs.train_missing("at", "smoke", suite="hessian")


def test_a_damaged_committed_table_is_refused_before_any_work(stored, monkeypatch, capsys):
    edit(stored / "history.csv", conflict)
    monkeypatch.setattr(campaign, "carry_out", lambda *a: pytest.fail("worked first"))
    for way in ("--commit", "--commit-only"):
        with pytest.raises(SystemExit) as end:
            batch.main(["--methods", "at", "--profile", "smoke", "--workers", "1", way])
        said = capsys.readouterr().err
        assert end.value.code == 1 and "history.csv is damaged (line 1: a conflict" in said


# ---- 4: checksums and whole states -----------------------------------------------------------


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A state of Adam with an average, after two of five epochs."""
    folder = tmp_path_factory.mktemp("begun")
    method = replace(AT, average=averages.EMA(), optimiser=optimisers.Adam(lr=0.01))
    training = train.Training(method, SMOKE, 0)
    training.run_epoch(), training.run_epoch()
    states.save(training, folder / "state.safetensors")
    return method, folder / "state.safetensors"


def test_any_flipped_bit_is_found(begun, tmp_path):
    _, path = begun
    content, g = path.read_bytes(), torch.Generator().manual_seed(0)
    start = 8 + int.from_bytes(content[:8], "little")
    places = torch.cat([torch.randint(len(content), (60,), generator=g),
                        torch.randint(start, (60,), generator=g)])  # fmt: skip
    for place in places.tolist():
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        (tmp_path / "state.safetensors").write_bytes(flipped)
        try:
            got = checkpoints.load(tmp_path / "state.safetensors")
        except Damaged:
            continue
        assert checkpoints.fingerprint(got[0]) == checkpoints.fingerprint(
            checkpoints.load(path)[0]
        ) and got[1] == checkpoints.load(path)[1]  # the bit meant nothing


def test_files_from_before_checksums_are_read(begun, tmp_path):
    tensors, about = checkpoints.load(begun[1])
    old = checkpoints.to_bytes(tensors, metadata={"about": json.dumps(about)})
    (tmp_path / "state.safetensors").write_bytes(old)
    model, history = fit(begun[0], SMOKE, 0, tmp_path)
    assert len(history) == 5


def lacks(start):
    def change(tensors, about):
        name = next(k for k in tensors if k.startswith(start))
        return {k: v for k, v in tensors.items() if k != name}, about

    return change


def says(**changes):
    return lambda tensors, about: (tensors, about | changes)


def spoilt(tensors, about):
    name = next(k for k in tensors if k.startswith("net/"))
    return tensors | {name: torch.full_like(tensors[name], math.nan)}, about


@pytest.mark.parametrize("change, said", [
    (lacks("random/attack"), "random: 'attack' is missing"),
    (lacks("net/conv"), "net: 'conv.bias' is missing"),
    (lacks("average/conv"), "average: 'conv.bias' is missing"),
    (lacks("optimiser/"), "optimiser: entries of some parameters"),
    (lambda t, a: ({k: v for k, v in t.items() if "optimiser" not in k}, a), "remembers nothing"),
    (says(epoch=99), "epoch 99 of 5"), (says(epoch=0), "epoch 0 of 5"),
    (says(epoch=3), r"a history of the epochs \[0, 1\] after 3"), (says(history=None), "no whole"),
    (says(averaged="x"), "averaged='x'"),
    (lambda t, a: ({**t, "net/more": torch.ones(2)}, a), "net: 'more' is missing, foreign"),
    (lambda t, a: ({**t, "else/more": torch.ones(2)}, a), "belongs to none of"),
    (spoilt, "is not finite"),
])  # fmt: skip
def test_a_state_that_is_not_whole_is_refused(begun, tmp_path, change, said):
    path = tmp_path / "state.safetensors"
    checkpoints.save(path, *change(*checkpoints.load(begun[1])))
    before = path.read_bytes()
    with pytest.raises(Damaged, match=said):
        fit(begun[0], SMOKE, 0, tmp_path)
    assert path.read_bytes() == before


# ---- 5: models that are not finite -----------------------------------------------------------


def test_training_that_diverges_stops_and_nothing_is_done(fresh_runs, monkeypatch):
    method = replace(AT, optimiser=optimisers.SGD(lr=1e30))
    (run,) = runs.select(method, "smoke")
    with pytest.raises(train.Diverged, match="diverged in epoch 0 of 5.*SGD.lr=1e.30"):
        run.train()
    assert not run.done and not run.snapshots() and not list(run.folder.glob("state*"))


def test_a_model_that_is_not_finite_is_refused(stored):
    run = at()
    path = run.snapshots()[4]
    tensors, about = checkpoints.load(path)
    tensors["conv.weight"][0] = math.inf
    checkpoints.save(path, tensors, about)
    (run.folder / "done").write_text('{"commit": "", "torch": "", "device": ""}')
    for use in (run.model, lambda: run.measure("hessian")):
        with pytest.raises(Damaged, match="epoch-004.safetensors: conv.weight is not finite"):
            use()


# ---- 6: two tables, one commit ---------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from flatlib import runs
from flatlib.files import paths
from flatlib.runs import results

paths.RUNS, paths.RESULTS = Path(sys.argv[1]), Path(sys.argv[2])
left = int(sys.argv[3])
def killing(inner):
    def call(*arguments, **settings):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*arguments, **settings)
    return call
for name in ("fsync", "replace", "unlink"):
    setattr(os, name, killing(getattr(os, name)))
results.commit(runs.select("silu", "smoke"), "hessian")
"""


def test_a_kill_within_a_commit_leaves_both_tables_old_or_both_new(stored, two, tmp_path):
    (run,) = runs.select("silu", "smoke")
    run.train().measure("hessian")
    before, seen = bytes_in(stored), set()
    for moment in range(40):
        shutil.rmtree(stored)
        shutil.copytree(two / "results" / "smoke", stored)
        command = [sys.executable, "-c", KILLED, str(paths.RUNS), str(paths.RESULTS), str(moment)]
        code = subprocess.run(command, stderr=subprocess.PIPE).returncode
        assert code in (0, -signal.SIGKILL)
        tables = results.read(stored)
        there = [set(table.method) for table in tables]
        assert there[0] == there[1] and there[0] in ({"at", "mish"}, {"at", "mish", "silu"})
        seen.add(len(there[0]))
        late = time.time() - 2 * atomic.STALE
        for half in stored.glob(".*.part"):
            os.utime(half, (late, late))
        assert results.commit([run], "hessian").runs == 1
        assert set(bytes_in(stored)) == set(results.FILES)  # nothing is left behind
        whole = bytes_in(stored)
        if code == 0:
            break
    assert code == 0 and seen == {2, 3} and whole != before and moment > 6


def test_readers_see_what_was_decided(tmp_path):
    old, new = {"a": "1", "b": "1"}, {"a": "2", "b": "2"}
    for name, text in old.items():
        atomic.write(tmp_path / name, text)
        atomic.write(tmp_path / f".{name}.new", new[name])
    assert atomic.read_together(tmp_path, ("a", "b", "c")) == old | {"c": None}
    atomic.write(tmp_path / atomic.JOURNAL, "a\nb")
    assert atomic.read_together(tmp_path, ("a", "b")) == new
    os.replace(tmp_path / ".a.new", tmp_path / "a")  # killed here
    assert atomic.read_together(tmp_path, ("a", "b")) == new
    atomic.finish(tmp_path)
    assert bytes_in(tmp_path) == {"a": b"2", "b": b"2"}
    atomic.write(tmp_path / atomic.JOURNAL, "../a")
    with pytest.raises(Damaged, match="was not written by flatlib"):
        atomic.finish(tmp_path)


# ---- 7: what a kill leaves behind ------------------------------------------------------------


def test_leftovers_of_a_kill_are_removed_by_the_next_call(stored, monkeypatch):
    run = at()
    state = run.folder / "state.safetensors"
    state.write_bytes(b"behind done")
    with run.lock():  # another process is at it
        run.train()
        assert state.exists()
    run.train()
    assert not state.exists()


def test_halves_of_files_are_removed_but_not_those_of_living_writers(fresh_runs):
    run = at()
    old, new = (run.folder / "more" / f".state.safetensors.{x}.part" for x in ("old", "new"))
    old.parent.mkdir(parents=True)
    for half in (old, new):
        half.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * atomic.STALE,) * 2)
    atomic.sweep(run.folder)
    assert not old.exists() and new.exists()
    os.utime(new, (time.time() - 2 * atomic.STALE,) * 2)
    run.train()
    assert not new.exists()


# ---- 8: settings -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind, settings", [
    (optimisers.SGD, {"lr": math.nan}), (optimisers.SGD, {"lr": "x"}),
    (optimisers.SGD, {"momentum": 1.0}), (optimisers.SGD, {"decay": -1.0}),
    (optimisers.Adam, {"lr": math.inf}), (optimisers.Adam, {"decay": None}),
    (optimisers.EntropySGD, {"keep": 5}), (optimisers.EntropySGD, {"inner": 0}),
    (optimisers.EntropySGD, {"noise": math.nan}), (schedules.Steps, {"factor": math.nan}),
    (schedules.Steps, {"at": 0.5}), (schedules.Steps, {"at": (0.5, "x")}),
    (schedules.Cyclic, {"cycles": 0}),
    (schedules.Cyclic, {"peak": -1}), (Batches, {"size": 0}), (Batches, {"size": 1.5}),
    (Batches, {"augment": "crop"}), (Batches, {"unlabelled": math.nan}),
    (Batches, {"rotated": 1.0}), (train.Method, {"attack": "pgd"}),
    (train.Method, {"loss": None}), (train.Method, {"labels": 3}),
    (train.Method, {"optimiser": optimisers.SGD}), (train.Method, {"schedule": "steps"}),
    (train.Method, {"average": 0.5}), (train.Method, {"data": 128}),
    (train.Method, {"epochs": "1"}), (train.Method, {"epochs": math.inf}),
    (Protocol, {"steps": 0}), (Protocol, {"xi": math.nan}), (Protocol, {"worst_xi": 0.003}),
    (Protocol, {"worst_xi": ()}), (Protocol, {"radii": [0.5]}), (Protocol, {"autoattack": None}),
    (Protocol, {"hessian_k": 1.5}),
    *[(lambda **changes: replace(SMOKE, **changes), {name: value}) for name, value in {
        "name": "", "dataset": 3, "train": 0, "test": -1, "early": 0, "blocks": (), "width": 0,
        "epochs": 0, "batch": 0, "eps": -0.1, "without": "crop", "outer_lr": 0, "log_every": 0,
        "log_images": 0, "snapshot_every": 0, "protocol": {},
    }.items()],
])  # fmt: skip
def test_settings_are_refused_before_training(kind, settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=name) as error:
        kind(**settings)
    assert repr(value) in str(error.value) or isinstance(value, tuple)


def test_the_catalogue_and_the_profiles_keep_their_settings():
    assert all(replace(method) == method for method in CATALOGUE.values())
    assert all(isinstance(p, Profile) and replace(p) == p for p in profiles.PROFILES.values())
