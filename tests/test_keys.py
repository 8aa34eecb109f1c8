"""Keys: what enters them, that a new setting moves none, and that no stored value was touched."""

import hashlib
from dataclasses import MISSING, dataclass, field, fields, make_dataclass, replace
from pathlib import Path

import pandas as pd
import pytest

from flatlib import AT, CATALOGUE, losses, runs
from flatlib.attacks import autoattack, pgd
from flatlib.data import batches
from flatlib.files import paths
from flatlib.keys import describe, digest, settings
from flatlib.records import MEASURES
from flatlib.runs import rekey, run
from flatlib.training import (
    averages,
    methods,
    optimisers,
    perturbations,
    profiles,
    projections,
    schedules,
)  # fmt: skip

SMOKE = profiles.get("smoke")
VALUES = Path(__file__).with_name("stored_values.csv")


def grown(record, **more):
    """An equal record of a class that has further settings, each with its default."""
    new = [(name, type(value), field(default=value)) for name, value in more.items()]
    kind = make_dataclass(type(record).__name__, new, bases=(type(record),), frozen=True)
    return kind(**{f.name: getattr(record, f.name) for f in fields(record)})


# ---- what enters -----------------------------------------------------------------------------


def test_only_what_differs_from_its_default_is_a_setting():
    @dataclass(frozen=True)
    class Part:
        rate: float
        size: int = 3
        at: tuple = (0.5,)
        inner: object = pgd.PGD()
        more: tuple = field(default_factory=tuple)

    assert settings(Part(0.1)) == {"rate": "0.1"}
    assert describe(Part(2, at=(1, 0.25), inner=pgd.PGD(steps=9), more=(AT.loss,))) == (
        "Part(rate=2, at=(1, 0.25), inner=PGD(steps=9), more=(Adversarial(),))"
    )


def test_what_is_equal_is_described_alike():
    assert describe(losses.Trades(3)) == describe(losses.Trades(3.0)) == "Trades(lam=3)"
    assert describe((1,)) == "(1,)" and describe(True) == "True" and describe(None) == "None"
    assert describe(float("inf")) == "inf" and describe("a'b") == repr("a'b")
    assert digest({"a": 1, "b": 2}, 6) == digest({"b": 2, "a": 1}, 6)


def test_a_new_setting_with_its_default_moves_no_key():
    own = replace(CATALOGUE["trades6"], perturbation=perturbations.AWP(0.02))
    (was,) = runs.select(own, SMOKE)
    method = replace(own, attack=grown(own.attack, momentum=0.0),
                     perturbation=grown(own.perturbation, warmup=0.1))  # fmt: skip
    now = run.Run(was.name, grown(method, teachers=()), grown(SMOKE, network="resnet"), 0)
    assert now.key == was.key
    other = run.Run(was.name, replace(now.method, teachers=("a",)), now.profile, 0)
    assert other.key != was.key


@pytest.mark.parametrize("name", MEASURES)
def test_a_new_setting_with_its_default_moves_no_protocol(name):
    (was,) = runs.select("at", SMOKE)
    attack = grown(SMOKE.protocol.autoattack, rho=0.75)
    protocol = grown(replace(SMOKE.protocol, autoattack=attack), momentum=0.0)
    now = run.Run("at", AT, replace(SMOKE, protocol=protocol), 0)
    assert now.protocol(name) == was.protocol(name)


def test_the_name_of_a_profile_is_in_no_key():
    (was,), (now,) = (runs.select("at", p) for p in (SMOKE, replace(SMOKE, name="other")))
    assert now.key == was.key and now.folder != was.folder


# ---- defaults are never changed --------------------------------------------------------------

KINDS = {
    kind.__name__: kind
    for kind in (
        methods.Method, methods.Exact, methods.Smooth, methods.Noise, pgd.PGD,
        pgd.IgnoreIncorrect, pgd.PreventLeaking, pgd.PerTask, autoattack.AutoAttack,
        losses.Adversarial, losses.Trades, losses.Mart, losses.Rotation, batches.Batches,
        perturbations.Unperturbed, perturbations.AWP, perturbations.SAM, optimisers.SGD,
        optimisers.Adam, optimisers.EntropySGD, schedules.Steps, schedules.Constant,
        schedules.Cyclic, projections.Clip, averages.EMA, averages.SWA,
        profiles.Profile, profiles.Protocol,
    )
}
DEFAULTS = {
    "Method": (
        "attack=PGD(), labels=Exact(), loss=Adversarial(), perturbation=Unperturbed(), "
        "optimiser=SGD(), schedule=Steps(), project=Clip(), average=None, data=Batches(), "
        "epochs=1, activation='relu', dropout=0, attack_mode='eval'"
    ),
    "Exact": "",
    "Smooth": "tau=0.3",
    "Noise": "tau=0.3",
    "PGD": (
        "eps=0.03137254901960784, steps=7, lr=None, restarts=1, norm='linf', start='radial', "
        "maximise='ce', keep='best', tau=None"
    ),
    "IgnoreIncorrect": "attack=PGD()",
    "PreventLeaking": "attack=PGD()",
    "PerTask": "clean=0.5",
    "AutoAttack": (
        "eps=0.03137254901960784, norm='linf', attacks=('apgd-ce', 'apgd-t', 'fab-t', 'square'), "
        "iterations=100, targets=9, seed=0, batch=250"
    ),
    "Adversarial": "",
    "Trades": "lam=6",
    "Mart": "lam=6",
    "Rotation": "lam=4",
    "Batches": "size=128, augment=('crop', 'flip'), unlabelled=0, rotated=0",
    "Unperturbed": "",
    "AWP": "xi=0.01",
    "SAM": "rho=0.05",
    "SGD": "lr=0.05, momentum=0.9, decay=0.0005",
    "Adam": "lr=0.1, decay=0.0005",
    "EntropySGD": (
        "walk=1, lr=0.05, momentum=0, decay=0.0005, inner=0.1, keep=0.75, gamma=0.0001, "
        "noise=0.0001"
    ),
    "Steps": "at=(0.4, 0.6, 0.8), factor=0.1",
    "Constant": "",
    "Cyclic": "cycles=1, peak=4",
    "Clip": "w_max=inf",
    "EMA": "tau=0.9975, calibrate=False",
    "SWA": "after=0.4",
    "Profile": (
        "without=(), outer_lr=0.05, log_every=1, log_images=1280, snapshot_every=5, "
        "protocol=Protocol(), norm='linf', network='resnet'"
    ),
    "Protocol": (
        "steps=20, restarts=10, xi=0.5, draws=10, worst='matched', worst_xi=(0.003,), "
        "worst_restarts=10, "
        "worst_lr=0.001, early_restarts=5, autoattack=AutoAttack(), "
        "autoattack_images=None, flatness_images=None, radii=(0.25, 0.5, 0.75, 1), "
        "worst_radii=(0.00075, 0.001, 0.003, 0.005), radii_draws=10, radii_restarts=10, "
        "hessian_images=500, hessian_k=4, line_points=51, line_draws=10, line_images=128, "
        "line_steps=10"
    ),
}  # fmt: skip


def defaults(kind) -> str:
    """Every setting of a class that has a default, as text."""
    named = {f.name: f.default for f in fields(kind) if f.default is not MISSING}
    return ", ".join(f"{name}={describe(value)}" for name, value in named.items())


def test_the_defaults_are_todays():
    """A changed one would give stored keys another meaning; new settings are added here."""
    assert {name: defaults(kind) for name, kind in KINDS.items()} == DEFAULTS


# ---- stored values ---------------------------------------------------------------------------

IDENTITY = ["method", "seed", "asked", "which", "epoch", "split", "measure", "xi", "at"]
MEASURED = [*IDENTITY, "n", "value", "std", "seconds"]


def fingerprint(rows: pd.DataFrame) -> str:
    """Ten hex digits of rows of text, whatever their order."""
    text = sorted(rows.agg(",".join, axis=1))
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:10]


def test_stored_values_are_those_that_were_measured():
    """Of runs stored before their weights were: by the text of every number, to the last digit."""
    folder = paths.RESULTS / "digits"
    table, history = (
        pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False)
        for name in ("measures", "history")
    )
    curves = [c for c in history if c not in ("profile", "key", "weights")]
    pinned = pd.read_csv(VALUES, dtype=str).set_index(["method", "seed"])
    found = {}
    for who, rows in table.groupby(["method", "seed"]):
        if not rows.weights.any():
            curve = history[(history.method == who[0]) & (history.seed == who[1])]
            found[who] = (fingerprint(rows[MEASURED]), fingerprint(curve[curves]))
    assert found == {who: tuple(pinned.loc[who]) for who in found}


# ---- new names -------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [
    "flatlib/records/__init__.py", "flatlib/runs/measurements.py", "flatlib/measures.py",
])  # fmt: skip
def test_either_checkout_says_its_keys_wherever_its_measures_stand(place, tmp_path):
    """A checkout older than this one: another layout of modules, other keys."""
    run = "type('Run', (), {'name': 'at', 'seed': 0, 'key': 'aaaa', 'protocol': lambda s, m: m * 2})"
    files = {"flatlib/__init__.py": "", "flatlib/runs/__init__.py": f"select = lambda *a: [{run}()]"}
    for name, text in (files | {place: "MEASURES = {'average': None}"}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    table = pd.DataFrame({"method": ["at"], "seed": ["0"]})
    assert rekey.definitions(tmp_path, "smoke", table) == (
        {"at 0": "aaaa"}, {"average": "averageaverage"})  # fmt: skip
    (at,) = runs.select("at", SMOKE)
    now = {name: at.protocol(name) for name in MEASURES}
    assert rekey.definitions(paths.ROOT, "smoke", table) == ({"at 0": at.key}, now)


def test_rekeying_changes_keys_and_protocols_alone(tmp_path, monkeypatch):
    before = {"at 0": "aaaa", "mish 0": "bbbb"}, {"average": "11", "worst": "22"}
    after = {"at 0": "cccc", "mish 0": "dddd"}, {"average": "33", "worst": "44"}
    monkeypatch.setattr(
        rekey, "definitions", lambda root, *rest: before if root == tmp_path else after
    )
    rows = ["method,seed,asked,value,key,protocol", "at,0,average,0.5000,aaaa,11",
            "mish,0,worst,1e-03,bbbb,22"]  # fmt: skip
    (tmp_path / "measures.csv").write_text("\n".join(rows) + "\n")
    curve = "method,seed,epoch,key\nat,0,0,aaaa\nmish,0,0,bbbb\n"
    (tmp_path / "history.csv").write_text(curve)
    rekey.rekey(tmp_path, tmp_path)
    text = {name: (tmp_path / f"{name}.csv").read_text() for name in ("measures", "history")}
    assert text["history"] == "method,seed,epoch,key,weights\nat,0,0,cccc,\nmish,0,0,dddd,\n"
    table = pd.read_csv(tmp_path / "measures.csv", dtype=str)
    assert table.value.tolist() == ["0.5000", "1e-03"] and table.protocol.tolist() == ["33", "44"]
    with pytest.raises(ValueError, match="line 2, at 0: cccc is not what the old code says, aaaa"):
        rekey.rekey(tmp_path, tmp_path)
    assert text["history"] == (tmp_path / "history.csv").read_text()
