"""Runs: the one door to a trained model, and what it refuses."""

import json
import os
import pickle
import shutil
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import pytest
import torch

from flatbook import published
from flatlib import AT, CATALOGUE, PGD, evaluate, runs
from flatlib.files import checkpoints, paths
from flatlib.files.atomic import Damaged
from flatlib.records import MEASURES
from flatlib.records.subject import Subject
from flatlib.runs import results, run
from flatlib.training import profiles, snapshots
from flatlib.training.methods import Noise
from flatlib.training.profiles import Protocol

FAST = (("robustness", "last", "test"), ("average", "last", "test"))
SMOKE = profiles.get("smoke")


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    """A finished and measured run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        done = runs.get("at", "smoke", 0, progress=False)
        done.measure()
        yield done


@pytest.fixture
def training_is_forbidden(monkeypatch):
    def refuse(*arguments, **settings):
        raise AssertionError("trained again")

    monkeypatch.setattr(run, "fit", refuse)


def copied(done, folder, monkeypatch):
    """The run in a folder of this test's own."""
    target = folder / done.folder.relative_to(paths.RUNS)
    shutil.copytree(done.folder, target)
    monkeypatch.setattr(paths, "RUNS", folder)
    return target


def unchanged(folder):
    return {f.name: (f.read_bytes(), f.stat().st_mtime_ns) for f in folder.glob("*")}


# ---- get -------------------------------------------------------------------------------------


def test_a_run_leaves_what_it_promises(at):
    names = {f.name for f in at.folder.iterdir()}
    assert names >= {"method.json", "history.csv", "measures.csv", "done", "epoch-004.safetensors"}
    assert "state.safetensors" not in names and at.done
    assert at.folder.name == f"at-{at.key}-s0" and at.folder.parent.name == "smoke"
    assert json.loads((at.folder / "method.json").read_text())["method"] == {}
    record = json.loads((at.folder / "done").read_text())
    assert set(record) == {"commit", "torch", "device", "weights"}
    assert record["weights"] == {str(e): snapshots.weights(at.model(e)) for e in (0, 2, 4)}
    assert len(at.history()) == SMOKE.epochs


def test_the_second_call_loads(at, training_is_forbidden):
    before = unchanged(at.folder)
    again = runs.get("at", "smoke", 0)
    x, _ = SMOKE.load().test.first(8)
    assert torch.equal(again.model()(x), at.model()(x)) and unchanged(at.folder) == before


def test_an_unfinished_run_goes_on(at, tmp_path, monkeypatch):
    want = {e: at.model(e).state_dict() for e in (0, 2, 4)}
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    inner, files = checkpoints.save, []

    def stop(path, *rest):
        files.append(path.name)
        if len(files) == 4:
            raise InterruptedError
        inner(path, *rest)

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(checkpoints, "save", stop)
        runs.get("at", "smoke", 0, progress=False)
    (begun,) = runs.select("at", "smoke")
    assert not begun.done and (begun.folder / "state.safetensors").exists()
    assert list(begun.snapshots()) == [0]
    runs.get("at", "smoke", 0, progress=False)
    for epoch, state in want.items():
        got = begun.model(epoch).state_dict()
        assert all(torch.equal(v, state[k]) for k, v in got.items())


def test_the_model_is_the_last_the_early_stopped_or_any_snapshot(at):
    assert list(at.snapshots()) == [0, 2, 4]
    x, _ = SMOKE.load().test.first(8)
    assert torch.equal(at.model()(x), at.model(4)(x)) and not at.model().training
    assert not torch.equal(at.model(0)(x), at.model(4)(x))
    attack = PGD(eps=SMOKE.eps, restarts=SMOKE.protocol.early_restarts)
    errors = {e: evaluate(at.model(e), *SMOKE.load().early, attack, batch=256, doubts=False).RErr
              for e in at.snapshots()}  # fmt: skip
    best = min(errors, key=lambda e: (errors[e], e))  # the earliest wins ties
    assert at.epoch("early_stopped") == best
    assert torch.equal(at.model("early_stopped")(x), at.model(best)(x))


def test_a_measure_of_a_model_that_was_removed_says_so(at, tmp_path, monkeypatch):
    folder = copied(at, tmp_path, monkeypatch)
    for file in folder.glob("early_stopping*.csv"):
        file.unlink()
    (folder / "measures.csv").unlink()
    with at.lock():  # another process is at it: its models are left to it
        at.drop()
    assert at.snapshots()
    at.drop()
    assert not at.snapshots()
    for which in ("early_stopped", "last"):
        with pytest.raises(FileNotFoundError, match="removed after training"):
            at.measure((("robustness", which, "test"),))


def test_early_stopping_takes_the_first_of_equals(at, tmp_path, monkeypatch):
    folder = copied(at, tmp_path, monkeypatch)
    (table,) = folder.glob("early_stopping*.csv")
    for errors, epoch in (([0.5, 0.4, 0.4], 2), ([0.3, 0.3, 0.3], 0), ([0.9, 0.8, 0.1], 4)):
        rows = pd.DataFrame({"epoch": [0, 2, 4], "rerr": errors, "rloss": [1.0, 2.0, 3.0]})
        rows.to_csv(table, index=False)
        assert at.epoch("early_stopped") == epoch


@pytest.mark.parametrize("which", ["best", 1, 99])
def test_a_model_that_is_not_there_is_named(at, which):
    with pytest.raises(ValueError, match=f"which={which!r}"):
        at.model(which)


def test_a_run_that_was_never_trained_says_so(fresh_runs):
    (absent,) = runs.select("at", "smoke", seeds=(7,))
    with pytest.raises(FileNotFoundError, match=r"runs\.get"):
        absent.model()
    assert not fresh_runs.exists()  # selecting and asking leaves no folder behind


# ---- keys ------------------------------------------------------------------------------------


def test_the_key_follows_what_decides_the_training():
    def key(method="at", profile=SMOKE, seed=0):
        return runs.select(method, profile, (seed,))[0].key

    base = key()
    assert key() == base and len(base) == 10
    more_measures = replace(SMOKE, protocol=Protocol(steps=99))
    assert key(profile=more_measures) == base
    others = [replace(SMOKE, epochs=6), replace(SMOKE, eps=0.3), replace(SMOKE, width=8)]
    keys = {base, key("mish"), key(seed=1), *(key(profile=other) for other in others)}
    assert len(keys) == 6


def test_every_method_has_its_own_folder():
    folders = [r.folder for r in runs.select(list(CATALOGUE), "smoke", seeds=(0, 1))]
    assert len(set(folders)) == 2 * len(CATALOGUE)


def test_the_size_of_the_test_part_moves_the_pool_and_so_is_part_of_the_key(at):
    (other,) = runs.select("at", replace(SMOKE, test=SMOKE.test + 1))
    assert other.key != at.key


def test_the_protocol_is_part_of_every_row_not_of_the_key(at):
    (other,) = runs.select("at", replace(SMOKE, protocol=Protocol(steps=99)))
    assert other.key == at.key and other.protocol("average") != at.protocol("average")


def test_a_measure_is_taken_anew_only_where_its_own_part_of_the_protocol_changes(at):
    lines = replace(SMOKE, protocol=replace(SMOKE.protocol, line_points=7))
    (other,) = runs.select("at", lines)
    changed = [name for name in MEASURES if other.protocol(name) != at.protocol(name)]
    assert changed == ["lines"] and not other.missing()


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_reads_only_what_it_says_it_uses(at, name):
    class Watched:
        def __getattr__(self, field):
            read.add(field)
            return getattr(SMOKE.protocol, field)

    read: set[str] = set()
    subject = Subject(at.model(), at.data, SMOKE, "test")
    subject.protocol = Watched()
    MEASURES[name].rows(subject)
    assert read == set(MEASURES[name].uses)


def test_a_method_of_ones_own_is_named_by_its_differences(at):
    (own,) = runs.select(replace(AT, labels=Noise(0.4)), "smoke")
    assert own.name == "labels=Noise_tau=0.4_" and own.key != at.key
    (plain,) = runs.select(AT, "smoke")
    assert (plain.name, plain.key) == ("at", at.key)


# ---- measuring -------------------------------------------------------------------------------


def test_rows_are_tidy_with_provenance(at):
    table = at.measure()
    assert set(table) >= {
        "method", "profile", "seed", "key", "which", "epoch", "split", "measure", "attack", "xi",
        "scope", "n", "draws", "value", "std", "seconds", "commit", "torch", "device",
    }  # fmt: skip
    assert set(table.method) == {"at"} and set(table.key) == {at.key}
    assert set(table.which) == {"last", "early_stopped"} and set(table.split) == {"test", "train"}
    assert set(table.measure) >= {
        "err", "rerr", "loss", "rloss", "avg_flatness_rloss", "avg_flatness_loss",
        "worst_flatness_rloss",
    }  # fmt: skip
    ok = ~table.measure.str.contains("correct")  # a part of the examples may be empty
    assert table.value[ok].notna().all() and (table.n == SMOKE.test).all()
    assert not table.duplicated(["which", "split", "measure", "attack", "xi"]).any()


def test_values_are_those_of_the_functions(at):
    table = at.measure().set_index(["which", "split", "measure", "attack"]).value
    model, (x, y) = at.model(), SMOKE.load().test.first(SMOKE.test)
    report = evaluate(model, x, y)
    assert table["last", "test", "err", "none"] == pytest.approx(report.Err)
    assert table["last", "test", "loss", "none"] == pytest.approx(report.Loss)
    assert table["last", "test", "rloss", "pgd3x2"] > report.Loss
    x, y = SMOKE.load().train.first(SMOKE.test)
    assert table["last", "train", "err", "none"] == pytest.approx(evaluate(model, x, y).Err)


def test_only_missing_rows_are_computed(at, tmp_path, monkeypatch):
    folder = copied(at, tmp_path, monkeypatch)
    table = pd.read_csv(folder / "measures.csv", dtype=str)
    table[table.asked != "average"].to_csv(folder / "measures.csv", index=False)
    computed = []
    inner = run.Run._compute

    def counting(self, name, *rest):
        computed.append(name)
        return inner(self, name, *rest)

    monkeypatch.setattr(run.Run, "_compute", counting)
    got = at.measure()
    assert computed == ["average"] * 3 and len(got) == len(table)  # last, train, early-stopped
    at.measure(), at.measure(FAST)
    assert len(computed) == 3
    values = got.set_index(["which", "split", "measure", "attack"]).value
    was = table.set_index(["which", "split", "measure", "attack"]).value.astype(float)
    pd.testing.assert_series_equal(values.sort_index(), was.sort_index())  # measured as before


def test_a_new_version_of_a_measure_is_another_protocol(at, monkeypatch):
    before = {name: at.protocol(name) for name in MEASURES}
    later = MEASURES["worst"]._replace(version=2)
    monkeypatch.setitem(MEASURES, "worst", later)
    changed = {name for name, was in before.items() if at.protocol(name) != was}
    assert changed == {"worst"}


def test_another_protocol_measures_anew_and_keeps_the_old_rows(at, tmp_path, monkeypatch):
    copied(at, tmp_path, monkeypatch)
    (other,) = runs.select("at", replace(SMOKE, protocol=replace(SMOKE.protocol, draws=1)))
    before = len(at.measured())
    rows = other.measure((("average", "last", "test"),))
    assert (rows.draws == 1).all() and len(at.measured()) == before


@pytest.mark.parametrize("protocol", ["123456", "12e456", "000000"])
def test_keys_that_look_like_numbers_stay_text(at, tmp_path, monkeypatch, protocol):
    (copied(at, tmp_path, monkeypatch) / "measures.csv").unlink()
    monkeypatch.setattr(run.Run, "protocol", lambda self, measure: protocol)
    at.measure(FAST)
    assert len(at.measured()) and at.missing(FAST) == []


@pytest.mark.parametrize("wanted, said", [
    (("flatness", "last", "test"), "measure='flatness'"), (("average", "best", "test"), "which="),
    (("average", "last", "validation"), "split='validation'"),
])  # fmt: skip
def test_an_unknown_measure_is_named(at, wanted, said):
    with pytest.raises(ValueError, match=said):
        at.measure((wanted,))


def test_wide_has_the_published_columns(at):
    wide = runs.wide(runs.measure([at]))
    printed = published.stutz2021()
    assert list(wide.index) == [("at", 0)]
    shared = set(wide) & set(printed)
    assert shared >= {
        "err_test", "rerr_test_pgd", "rerr_test_aa", "rerr_train_pgd", "rerr_early_stop_pgd",
        "rloss_test_pgd", "rloss_train_pgd", "avg_flatness_rloss", "worst_flatness_rloss",
        "avg_flatness_loss", "loss_test",
    }  # fmt: skip
    assert 0 <= wide.rerr_test_pgd.item() <= 1 and wide.err_test.item() <= wide.rerr_test_pgd.item()
    table = at.measure()
    for column, row in {
        "rloss_test_pgd": ("last", "test", "rloss", "pgd3x2"),
        "rerr_early_stop_aa": ("early_stopped", "test", "rerr", "aa"),
        "err_train": ("last", "train", "err", "none"),
        "avg_flatness_loss": ("last", "test", "avg_flatness_loss", "none"),
    }.items():
        value = table.set_index(["which", "split", "measure", "attack"]).value[row]
        assert wide[column].item() == pytest.approx(value)


# ---- damage ----------------------------------------------------------------------------------


def damaged(path):
    content = path.read_bytes()
    for bad in (content[: len(content) // 2], b"", os.urandom(len(content))):
        path.write_bytes(bad)
        yield


def test_a_damaged_snapshot_is_named_and_left_alone(at, tmp_path, monkeypatch,
                                                    training_is_forbidden):  # fmt: skip
    folder = copied(at, tmp_path, monkeypatch)
    for _ in damaged(folder / "epoch-004.safetensors"):
        before = unchanged(folder)
        for use in (at.model, lambda: runs.get("at", "smoke").model()):
            with pytest.raises(Damaged, match="epoch-004.safetensors.*Nothing was overwritten"):
                use()
        assert unchanged(folder) == before


@pytest.mark.parametrize("name, use", [
    ("measures.csv", lambda r: r.measure(FAST)), ("history.csv", lambda r: r.history()),
    ("early_stopping-x1.csv", lambda r: r.epoch("early_stopped")),
])  # fmt: skip
def test_a_damaged_table_is_named_and_left_alone(at, tmp_path, monkeypatch, name, use):
    folder = copied(at, tmp_path, monkeypatch)
    for _ in damaged(folder / name):
        before = unchanged(folder)
        with pytest.raises(Damaged, match=f"{name}.*Nothing was overwritten"):
            use(at)
        assert unchanged(folder) == before


def test_a_snapshot_of_another_network_is_named(at, tmp_path, monkeypatch):
    folder = copied(at, tmp_path, monkeypatch)
    net = profiles.network(AT, replace(SMOKE, width=8), SMOKE.load())
    checkpoints.save(folder / "epoch-004.safetensors", net.state_dict())
    with pytest.raises(Damaged, match="epoch-004.safetensors does not fit the network of at"):
        at.model()


def test_a_folder_of_another_method_is_refused(at, tmp_path, monkeypatch):
    folder = copied(at, tmp_path, monkeypatch)
    (folder / "done").unlink()
    (folder / "method.json").write_text("{}")
    with pytest.raises(Damaged, match="method.json.*move it away"):
        runs.get("at", "smoke", progress=False)
    assert (folder / "method.json").read_text() == "{}"


# ---- selection and sources -------------------------------------------------------------------


@pytest.mark.parametrize("settings, error, said", [
    ({"methods": "att"}, KeyError, "no method 'att'.*'at'"),
    ({"methods": ["at", "awp"]}, KeyError, "no method 'awp'"),
    ({"profile": "digit"}, ValueError, "profile='digit'.*'digits'"),
    ({"seeds": (-1,)}, ValueError, r"seeds=\(-1,\)"),
    ({"seeds": (0, 1.5)}, ValueError, r"seeds=\(0, 1.5\)"),
])  # fmt: skip
def test_unknown_names_are_refused(fresh_runs, settings, error, said):
    with pytest.raises(error, match=said):
        runs.select(**{"methods": "at", "profile": "smoke", **settings})
    assert not fresh_runs.exists()


def test_one_seed_may_be_given_by_itself(committed):
    assert runs.select("at", "smoke", 3) == runs.select("at", "smoke", (3,))
    table, _ = runs.collect("at", "smoke", 0)
    assert set(table.seed) == {0}
    with pytest.raises(ValueError, match=r"seeds=\[3\]: none is among"):
        runs.collect("at", "smoke", 3)


def test_of_no_runs_there_is_an_empty_table():
    table = runs.measure([])
    assert table.empty and {"method", "measure", "value"} <= set(table)
    assert runs.wide(table).empty


def test_the_device_is_chosen_where_the_work_is_done(monkeypatch):
    """A run selected on a machine without GPU and sent to one that has one uses it."""
    monkeypatch.setattr(run, "default_device", lambda: "cpu")
    chosen = [runs.select("at", "smoke", 0, device)[0] for device in ("auto", None, "cpu")]
    assert [r.on for r in chosen] == ["cpu"] * 3
    monkeypatch.setattr(run, "default_device", lambda: "cuda")
    there = [pickle.loads(pickle.dumps(r)) for r in chosen]
    assert [r.on for r in there] == ["cuda", "cuda", "cpu"]
    used = []
    monkeypatch.setattr(run, "load", lambda profile, device: used.append(device))
    assert there[0].data is there[2].data and used == ["cuda", "cpu"]


def test_table1_is_all_nineteen():
    assert len(runs.select("table1", "smoke")) == 19
    chosen = runs.select(["at", "mish"], "smoke", seeds=(0, 1))
    assert [(r.name, r.seed) for r in chosen] == [("at", 0), ("at", 1), ("mish", 0), ("mish", 1)]


@pytest.fixture
def committed(at, tmp_path, monkeypatch):
    """Committed results of the profile "smoke" that hold AT alone."""
    folder = tmp_path / "results" / "smoke"
    folder.mkdir(parents=True)
    for name, table in zip(("measures", "history"), (at.measure(), results.histories([at]))):
        table.to_csv(folder / f"{name}.csv", index=False)
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(paths, "RUNS", tmp_path / "no-runs")
    return folder


def test_committed_results_need_no_run(committed, at, training_is_forbidden):
    assert runs.source_of("smoke") == "committed" and runs.source_of("digits", "live") == "live"
    table, history = runs.collect("at", "smoke")
    assert set(table.method) == {"at"} and len(history) == SMOKE.epochs
    assert not paths.RUNS.exists()


def test_committed_results_that_lack_a_run_say_which(committed):
    table, history = runs.collect(["at", "mish"], "smoke", seeds=(0, 3), source="committed")
    assert set(table.method) == set(history.method) == {"at"}
    assert table.attrs["lacking"] == "not measured yet: seed 0 of mish; seed 3 of all methods"
    assert "lacking" not in runs.collect("at", "smoke", source="committed")[0].attrs
    with pytest.raises(ValueError, match=r"methods='mish'.*seeds=\[0\].*source='live'"):
        runs.collect("mish", "smoke", source="committed")
    with pytest.raises(ValueError, match="suite 'lines'"):
        runs.collect("at", "smoke", source="committed", suite="lines")


def test_results_of_another_protocol_do_not_count(committed, monkeypatch):
    table = pd.read_csv(committed / "measures.csv", dtype={"protocol": str})
    table.assign(protocol="abcdef").to_csv(committed / "measures.csv", index=False)
    with pytest.raises(ValueError, match="methods='at'.*as they are defined now"):
        runs.collect("at", "smoke")


def test_a_source_that_is_not_there(committed):
    with pytest.raises(ValueError, match=r"source='committed'.*'digits'.*'smoke'.*source='live'"):
        runs.source_of("digits", "committed")
    with pytest.raises(ValueError, match="source='paper'.*'committed'"):
        runs.collect("at", "smoke", source="paper")


def test_training_is_asked_for_by_name(fresh_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "none")
    pair = ["at", "clip0.005"]
    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "train", lambda *a, **k: pytest.fail("collect trained"))
        patch.setattr(runs.Run, "measure", lambda *a, **k: pytest.fail("collect measured"))
        with pytest.raises(ValueError, match=r"runs.train_missing\(\.\.\.\) trains them"):
            runs.collect(pair, "smoke")
        assert all(table.empty for table in runs.collect(pair, "smoke", needed=False))
    runs.train_missing("at", "smoke")
    table, history = runs.collect(pair, "smoke")
    assert set(table.method) == {"at"} and len(history) == SMOKE.epochs
    assert table.attrs["lacking"] == "not measured yet: seed 0 of clip0.005"
    runs.train_missing(pair, "smoke", source="auto")
    table, history = runs.collect(pair, "smoke")
    assert set(table.method) == set(pair) and len(history) == 2 * SMOKE.epochs
    assert len(runs.wide(table)) == 2
    assert all(a != b for a, b in pairwise(runs.wide(table).rloss_test_pgd))


def test_nothing_is_trained_where_the_tables_are_meant(committed, training_is_forbidden):
    runs.train_missing(["at", "mish"], "smoke", source="auto")
    assert not paths.RUNS.exists()
