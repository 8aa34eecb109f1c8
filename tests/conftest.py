"""What the tests share: runs in a folder of their own, tiny networks, a few real digits."""

from dataclasses import replace

import pytest
import torch

from flatlib import data
from flatlib.files import paths
from flatlib.networks.parts import initialise
from flatlib.networks.resnet import ResNet
from flatlib.training import profiles
from flatlib.training.methods import AT
from flatlib.training.train import fit

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def runs_elsewhere(tmp_path_factory):
    """No test reads or writes the runs of the project, nor does a process that a test starts."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("runs")
        patch.setattr(paths, "RUNS", folder)
        patch.setenv("FLATLIB_RUNS", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture
def fresh_runs(tmp_path, monkeypatch):
    """An empty folder of runs for this test alone."""
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.setenv("FLATLIB_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def g():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def digits():
    return data.load("digits", train=400, test=200, early=100)


@pytest.fixture
def xy(digits):
    """Twenty-four digits: (24, 1, 8, 8) and (24,)."""
    return digits.test.first(24)


def lived_in(model, seed=0):
    """Random values where an untrained network has zeros and ones: biases, norms, statistics."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p += 0.2 * torch.randn(p.shape, generator=g)
        for module in model.modules():
            if getattr(module, "running_mean", None) is not None:
                module.running_mean.normal_(0, 0.3, generator=g)
                module.running_var.uniform_(0.5, 2, generator=g)
    return model.eval()


@pytest.fixture
def make():
    """A small digits network with random weights, biases, norms and statistics, in eval mode."""

    def build(blocks=(1, 1), width=4, seed=0, **settings) -> ResNet:
        net = ResNet(blocks, width, mean=(0.3,), std=(0.4,), **settings)
        return lived_in(initialise(net, torch.Generator().manual_seed(seed)), seed)

    return build


@pytest.fixture(scope="session")
def age():
    return lived_in


@pytest.fixture
def tiny(make):
    return make()


@pytest.fixture(scope="session")
def smoke():
    return profiles.get("smoke")


@pytest.fixture(scope="session")
def robust(smoke):
    """A network that has learned something: a few seconds of AT on 400 digits."""
    size = {"train": 400, "test": 200, "early": 100, "epochs": 20, "width": 8, "eps": 0.1}
    model, _ = fit(AT, replace(smoke, name="robust", log_every=20, **size), 0)
    return model
