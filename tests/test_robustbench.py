"""Networks of RobustBench, by a stand-in for the package: they are downloaded, not shipped."""

import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from flatbook import published
from flatlib import data, runs
from flatlib.data import Dataset, Split
from flatlib.files import paths
from flatlib.runs import results, robustbench
from flatlib.training import profiles

SMALL = replace(
    profiles.get("cifar10"), train=32, test=16, early=8,
    protocol=profiles.get("smoke").protocol,
)  # fmt: skip
NAME = "Wong2020Fast"


@pytest.fixture
def images(monkeypatch):
    """Sixteen random images in place of CIFAR-10."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(56, 3, 32, 32, generator=g), torch.randint(10, (56,), generator=g)
    cut = lambda a, b: Split(x[a:b], y[a:b])  # noqa: E731
    parts = Dataset("cifar10", cut(0, 32), cut(32, 48), cut(48, 56), cut(56, 56))
    monkeypatch.setitem(data.LOADERS, "cifar10", lambda *sizes: parts)
    return parts


@pytest.fixture
def package(monkeypatch, make):
    """A module "robustbench" that gives a small network and notes what it was asked for."""
    asked = []

    def load_model(name, model_dir, dataset, threat_model):
        asked.append((name, model_dir, dataset, threat_model))
        model = make()
        model.conv = torch.nn.Conv2d(3, 4, 3, 1, 1)
        torch.nn.init.constant_(model.conv.weight, 0.1)  # a network that is the same when loaded
        torch.nn.init.zeros_(model.conv.bias)
        return model.requires_grad_(False).train()

    package, utils = ModuleType("robustbench"), ModuleType("robustbench.utils")
    utils.load_model = load_model
    monkeypatch.setitem(sys.modules, "robustbench", package)
    monkeypatch.setitem(sys.modules, "robustbench.utils", utils)
    return asked


def test_the_eight_names_are_the_printed_rows():
    assert list(robustbench.NAMES.values()) == list(published.robustbench().index)


def test_a_network_is_asked_for_by_name_and_can_be_perturbed(package):
    model = robustbench.load(NAME)
    assert package == [(NAME, str(paths.DATASETS / "robustbench"), "cifar10", "Linf")]
    assert not model.training and all(p.requires_grad for p in model.parameters())


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "robustbench.utils", None)
    with pytest.raises(ImportError, match="pip install robustbench"):
        robustbench.load(NAME)


def test_unknown_names_and_profiles_are_named(package):
    with pytest.raises(ValueError, match="name='Wong2021Fast'.*Wong2020Fast"):
        robustbench.load("Wong2021Fast")
    with pytest.raises(ValueError, match="profile='digits'.*CIFAR-10"):
        runs.select(NAME, "digits")


def test_it_is_measured_and_committed_like_a_run(package, images, fresh_runs, tmp_path,
                                                 monkeypatch):  # fmt: skip
    asked = {"source": "live", "suite": ("default", "hessian")}
    runs.train_missing([NAME], SMALL, **asked)
    table, history = runs.collect([NAME], SMALL, **asked)
    assert history.empty and set(table.method) == {NAME} and set(table.seed) == {0}
    assert set(table.which) == {"last"} and set(table.split) == {"test", "train"}
    wide = runs.wide(table)
    assert wide.index.tolist() == [(NAME, 0)]
    printed = set(published.robustbench()) - {"rerr_early_stop_aa"}
    assert printed <= set(wide), printed - set(wide)
    calls = len(package)
    runs.train_missing([NAME], SMALL, **asked)
    again, _ = runs.collect([NAME], SMALL, **asked)
    assert len(package) == calls and len(again) == len(table)
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    results.commit(runs.select(NAME, SMALL))
    results.commit(runs.select(NAME, SMALL))
    stored, _ = runs.collect(NAME, SMALL, source="committed")
    assert len(stored) == len(table) - 3  # without the Hessian


def test_it_stands_beside_methods_once_whatever_the_seeds(fresh_runs):
    chosen = runs.select(["at", "robustbench"], "cifar10", seeds=(0, 1))
    assert [run.name for run in chosen] == ["at", "at", *robustbench.NAMES]
    assert len({run.key for run in chosen}) == 10
    assert not fresh_runs.exists()
