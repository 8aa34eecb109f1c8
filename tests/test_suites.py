"""Suites: what they ask for, which models they name, and the rows they give."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from flatlib import AT, CATALOGUE, runs
from flatlib.files import paths
from flatlib.records import MEASURES
from flatlib.records.flatness import worst
from flatlib.records.subject import Subject
from flatlib.runs import run, suites
from flatlib.training import profiles
from flatlib.training.profiles import epochs
from flatlib.training.train import Training

SMOKE, DIGITS = profiles.get("smoke"), profiles.get("digits")


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    """A run with every suite measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        done = runs.get("at", "smoke", 0, progress=False)
        done.measure(suites.NAMES)
        yield done


def rows(done, suite):
    return suites.rows(done.measured(), done.wanted(suite))


# ---- what is asked ---------------------------------------------------------------------------


def test_through_training_means_the_papers_epochs():
    assert list(suites.through(AT, profiles.get("cifar10"))) == list(range(5, 149, 10))
    assert list(suites.through(AT, DIGITS)) == [5, 15, 25, 35, 45, 55, 65, 75]
    assert list(suites.through(CATALOGUE["cyclic"], DIGITS)) == [5]  # 15 is the last of its 16
    assert list(suites.through(AT, SMOKE)) == [2]


def test_the_number_of_epochs_is_that_of_training():
    for name, method in CATALOGUE.items():
        assert Training(method, SMOKE, 0).epochs == epochs(method, SMOKE), name
    assert [epochs(CATALOGUE[f"entropy{n}"], profiles.get("cifar10")) for n in (1, 2, 3, 5)] == [
        150, 75, 50, 30]  # fmt: skip


def test_the_training_suites_end_with_the_last_model():
    asked = suites.triples("training", AT, DIGITS)
    assert len(asked) == len(set(asked)) == 4 * 9
    assert {which for _, which, _ in asked} == {
        *(f"epoch-{e:03d}" for e in range(5, 80, 10)), "last"}  # fmt: skip
    assert set(suites.triples("training_worst", AT, DIGITS)) == {
        ("worst", which, "test") for _, which, _ in asked}  # fmt: skip


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_is_a_suite_of_its_own(name):
    assert suites.triples(name, AT, SMOKE) == ((name, "last", "test"),)


def test_suites_combine_and_ask_each_thing_once():
    both = suites.triples(("default", "scaled", "default"), AT, SMOKE)
    assert len(both) == len(set(both)) == 10 + 12
    own = (("lines", "scaled-3", "train"), ("lines", "epoch-004", "test"))
    assert suites.triples(own, AT, SMOKE) == own
    assert suites.triples(own[:1] + ("radii",), AT, SMOKE)[1] == ("radii", "last", "test")


@pytest.mark.parametrize("suite, said", [
    ("all", "suite='all'.*'default'.*'training_worst'"),
    ((("flat", "last", "test"),), "measure='flat'"),
    ((("worst", "best", "test"),), "which='best'.*'early_stopped'.*'epoch-NNN'.*'scaled-S'"),
    ((("worst", "epoch-5", "test"),), "which='epoch-5'"),
    ((("worst", "scaled--1", "test"),), "which='scaled--1'"),
    ((("worst", "scaled-0", "test"),), "which='scaled-0'.*above 0"),
    ((("worst", "scaled-0.0", "test"),), "which='scaled-0.0'"),
    ((("worst", "last", "early"),), "split='early'"),
])  # fmt: skip
def test_what_is_no_suite_is_named(fresh_runs, suite, said):
    with pytest.raises(ValueError, match=said):
        runs.select("at", "smoke")[0].missing(suite)
    assert not fresh_runs.exists()


# ---- which models ----------------------------------------------------------------------------


def test_models_by_name(at):
    x, _ = SMOKE.load().test.first(8)
    with torch.no_grad():
        assert torch.equal(at.model("epoch-002")(x), at.model(2)(x))
        half, last = at.model("scaled-0.5"), at.model("last")
        torch.testing.assert_close(half(x), last(x), rtol=1e-3, atol=1e-3)
    assert torch.equal(half.conv.weight, last.conv.weight / 2)
    assert [at.epoch(w) for w in ("epoch-002", "scaled-2", "last")] == [2, 4, 4]


def test_a_snapshot_that_was_not_kept_is_named(at):
    with pytest.raises(ValueError, match=r"which=3: choose one of \[0, 2, 4\]"):
        at.model("epoch-003")


def test_an_early_stopped_model_that_is_the_last_is_not_measured_again(tmp_path, monkeypatch, at):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    last_is_best = replace(SMOKE, snapshot_every=100, epochs=1)  # one snapshot only
    (begun,) = runs.select("at", last_is_best)
    begun.train()
    seen, inner = [], run.Run._compute
    monkeypatch.setattr(
        run.Run, "_compute", lambda self, *a: (seen.append(a[:3]), inner(self, *a))[1]
    )
    table = begun.measure()
    assert {which for _, which, _ in seen} == {"last"} and not begun.missing()
    key = ["asked", "measure", "attack"]
    last = table[(table.which == "last") & (table.split == "test")].set_index(key).value
    copy = table[table.which == "early_stopped"].set_index(key).value
    assert len(copy) == 10
    pd.testing.assert_series_equal(copy, last[copy.index])


# ---- the rows --------------------------------------------------------------------------------


def test_every_suite_has_its_rows_once(at):
    assert not at.missing(suites.NAMES)
    key = ["asked", "which", "split", "measure", "attack", "xi", "at"]
    assert not at.measured().duplicated(key).any()
    for name in suites.NAMES:
        assert set(map(tuple, rows(at, name)[["asked", "which", "split"]].to_numpy())) == set(
            at.wanted(name)
        )


def test_the_rows_of_a_measure_are_of_the_quantities_its_record_names(at):
    for asked, part in at.measured().groupby("asked"):
        assert not MEASURES[asked].columns or set(part.measure) == set(MEASURES[asked].columns)


def test_radii_are_the_other_ones(at):
    table = rows(at, "radii").groupby("measure").xi.unique().apply(list).to_dict()
    assert table == {
        "avg_flatness_rloss": [0.25], "avg_flatness_loss": [0.25],
        "worst_flatness_rloss": [0.001], "worst_flatness_rloss_paper": [0.001],
        "worst_flatness_loss": [0.001],
    }  # fmt: skip


def test_both_protocols_of_the_worst_case_differ_by_their_references(at):
    """The same search under moved weights: the stronger reference makes the paper's value lower."""
    table = rows(at, "default").query("asked == 'worst'").set_index("measure")
    matched, paper = table.loc["worst_flatness_rloss"], table.loc["worst_flatness_rloss_paper"]
    assert paper.value < matched.value and paper["std"] == matched["std"]
    assert (matched.attack, paper.attack) == ("joint3", "joint3-paper")
    old = replace(SMOKE, protocol=replace(SMOKE.protocol, worst="paper"))
    subject = Subject(at.model(), at.data, old, "test")
    alone = {row["measure"]: row for row in worst(subject)}
    assert set(alone) == {"worst_flatness_rloss", "worst_flatness_loss"}
    assert alone["worst_flatness_rloss"]["attack"] == "joint3-paper"
    assert alone["worst_flatness_rloss"]["value"] == pytest.approx(paper.value, abs=1e-5)


def test_the_offsets_are_those_at_radius_zero(at):
    """The attack on unmoved weights has more starts and the best iterate: both are below 0."""
    table = rows(at, "offsets").set_index("measure")
    assert (table.xi == 0).all() and (table.value < 0).all()
    assert table.attack.to_dict() == {"offset_average": "pgd3x1", "offset_worst": "joint3-paper"}


def test_the_hessian_has_both_ends_and_their_ratio(at):
    value = rows(at, "hessian").set_index("measure").value
    assert value.lambda_max > 0 > value.lambda_min
    assert value.convexity == pytest.approx(-value.lambda_min / value.lambda_max)
    assert (rows(at, "hessian").n == SMOKE.protocol.hessian_images).all()


def test_lines_pass_through_the_same_point(at):
    table = rows(at, "lines")
    assert table.groupby("measure")["at"].apply(list).map(tuple).unique().tolist() == [
        (-1.0, -0.5, 0.0, 0.5, 1.0)]  # fmt: skip
    assert set(table.measure) == {"line_random", "line_filter", "line_adversarial", "line_hessian"}
    middle = table[table["at"] == 0].value
    assert middle.max() - middle.min() < 0.05  # PGD from different starts
    assert (table.n == SMOKE.protocol.line_images).all()


def test_scaling_leaves_all_but_the_hessian(at):
    table = at.measured().query("measure != 'line_hessian'")  # its direction is the Hessian's
    key = ["asked", "split", "measure", "attack", "xi", "at"]
    value = {w: table[table.which == w].set_index(key).value for w in ("last", "scaled-0.5")}
    pair = pd.DataFrame(value).dropna()
    same = pair[pair.index.get_level_values("asked") != "hessian"]
    assert len(same) == 2 * 6 + 2 + 3 + 3 * 5 - same["last"].isna().sum()
    torch.testing.assert_close(*map(torch.tensor, same.to_numpy().T), rtol=1e-2, atol=2e-3)


def test_wide_holds_the_default_measures_alone(at):
    all_rows, default = runs.wide(at.measured()), runs.wide(rows(at, "default"))
    extra = {"lambda_max", "lambda_min", "convexity"}
    assert set(all_rows) - set(default) == extra
    pd.testing.assert_frame_equal(all_rows[list(default)], default)
    assert {"avg_flatness_rloss_train", "avg_flatness_rloss_early_stop", "worst_flatness_loss",
            "avg_flatness_rloss_std", "worst_flatness_rloss_std"} <= set(default)  # fmt: skip
    table = rows(at, "default").query("which == 'last' and split == 'test'").set_index("measure")
    assert default.avg_flatness_rloss_std.item() == table["std"].avg_flatness_rloss
    assert runs.wide(rows(at, "lines")).empty
