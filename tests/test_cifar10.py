"""Real CIFAR-10 images through every method and every measure, as small as it gets.

``FLATLIB_CIFAR10`` names an archive of them, train/airplane/0000.jpg and so on; skipped without.
"""

import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flatlib import CATALOGUE, data, runs
from flatlib.attacks.autoattack import AutoAttack
from flatlib.data import cifar10
from flatlib.files import paths
from flatlib.records import MEASURES
from flatlib.runs import suites
from flatlib.training.profiles import Profile, Protocol
from flatlib.training.train import Training

ARCHIVE = os.environ.get("FLATLIB_CIFAR10")
pytestmark = pytest.mark.skipif(not ARCHIVE, reason="FLATLIB_CIFAR10 names no archive of images")

TINY = Profile(
    "cifar10-pass", "cifar10", train=96, test=24, early=16, blocks=(1, 1, 1, 1), width=4, epochs=1,
    batch=96, eps=8 / 255, log_images=16, snapshot_every=1,
    protocol=Protocol(
        steps=1, restarts=1, draws=1, worst_restarts=1, early_restarts=1,
        autoattack=AutoAttack(attacks=("apgd-ce", "apgd-t"), iterations=2, targets=1),
        radii=(0.25,), worst_radii=(0.001,), radii_draws=1, radii_restarts=1, hessian_images=4,
        hessian_k=2, line_points=2, line_draws=1, line_images=4, line_steps=1,
    ),
)  # fmt: skip
SOME = (("robustness", "last", "test"), ("average", "last", "test"), ("worst", "last", "test"))
EVERY = tuple((measure, "last", "test") for measure in MEASURES)
PER_CLASS = {"train": 20, "test": 4}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """240 images of the archive, as an image folder."""
    folder = tmp_path_factory.mktemp("datasets")
    with tarfile.open(ARCHIVE, "r:xz") as archive:
        for member in archive:
            if member.isfile():
                path = Path(member.name)  # train/airplane/0000.jpg
                if int(path.stem) < PER_CLASS[path.parts[0]]:
                    archive.extract(member, folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def there(images, tmp_path_factory):
    """CIFAR-10 is this folder; runs go elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "DATASETS", images)
        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        yield


def test_the_images_are_cifar10(there):
    loaded = TINY.load()
    assert loaded.train.x.shape == (96, 3, 32, 32) and len(loaded.pool) == 200 - 96
    assert loaded.test.y.bincount(minlength=10).tolist() == [3] * 4 + [2] * 6
    assert loaded.origin == "CIFAR-10 (JPEG, quality 75)"
    assert loaded.mean == pytest.approx((0.49, 0.48, 0.45), abs=0.05)


def finite(table):
    """Whether every value is a number; a part of so few examples may be empty."""
    value = table[~table.measure.str.contains("correct")].value
    return np.isfinite(value).all()


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_method_trains_and_is_measured(there, name):
    run = runs.get(name, TINY, progress=False)
    assert np.isfinite(run.history().train_rloss).all()
    table = run.measure(SOME)
    assert finite(table) and set(table.images) == {"CIFAR-10 (JPEG, quality 75)"}
    clean = table.measure.isin(["err", "loss"])
    assert set(table[clean].n) == {10 * PER_CLASS["test"]}
    assert set(table[~clean].n) == {TINY.test}


@pytest.mark.parametrize("name", ["at", "ssl4", "gelu", "dropout", "unlabeled"])
def test_a_network_passes_every_measure(there, name):
    table = runs.get(name, TINY, progress=False).measure(EVERY)
    assert set(table.asked) == set(MEASURES) and finite(table)


def test_every_suite_can_be_taken(there):
    longer = replace(TINY, name="cifar10-pass-3", epochs=3)
    table = runs.get("at", longer, progress=False).measure(suites.NAMES)
    assert set(table.which) == {"last", "early_stopped", "scaled-0.5", "scaled-2", "epoch-001"}


def test_augmentations_change_real_images(there):
    x = TINY.load().train.x[:16]
    for name in ("at", "autoaugment"):
        batches = CATALOGUE[name].data
        out = batches.augmented(x, torch.Generator().manual_seed(0))
        assert out.shape == x.shape and not torch.equal(out, x)
        assert 0 <= out.min() and out.max() <= 1


def test_a_file_of_pseudo_labels_is_the_pool_where_all_images_are_trained_on(
    there, images, monkeypatch
):
    x = TINY.load().pool.x.permute(0, 2, 3, 1).numpy()
    file = images / data.PSEUDO_LABELLED[1]
    file.write_bytes(pickle.dumps({"data": x, "extrapolated_targets": np.arange(len(x)) % 10}))
    monkeypatch.setattr(cifar10, "TRAIN", TINY.train)
    training = Training(CATALOGUE["unlabeled"], TINY, 0)
    assert len(training.data.pool) == len(x) and training.data.pool.x.dtype == torch.uint8
    training.run_epoch()
    assert np.isfinite(training.history[0]["train_rloss"])
