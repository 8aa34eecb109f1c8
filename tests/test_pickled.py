"""Pseudo-labelled images out of a pickle that may not run code, and the runs that use them."""

import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from flatlib import CATALOGUE, data, runs
from flatlib.data import Dataset, Split, cifar10, pickled
from flatlib.streams import Streams
from flatlib.training import profiles
from flatlib.training.train import Training

RGB = replace(
    profiles.get("smoke"), name="smoke-rgb", dataset="cifar10", train=32, test=16, early=8,
    epochs=1, eps=8 / 255,
)  # fmt: skip
rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
LABELS = rng.integers(0, 10, 40)
CONTENT = {"data": PIXELS, "extrapolated_targets": LABELS, "prediction_model": "wrn-28-10"}


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The pool's file, not there yet, and CIFAR-10 as 32 random images, all trained on."""
    data.labelled_pool.cache_clear()
    monkeypatch.setattr(data, "DATASETS", tmp_path)
    monkeypatch.setattr(cifar10, "TRAIN", 32)
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(56, 3, 32, 32, generator=g), torch.randint(10, (56,), generator=g)
    cut = lambda a, b: Split(x[a:b], y[a:b])  # noqa: E731
    parts = Dataset("cifar10", cut(0, 32), cut(32, 48), cut(48, 56), cut(56, 56))
    monkeypatch.setitem(data.LOADERS, "cifar10", lambda *sizes: parts)
    return tmp_path / data.PSEUDO_LABELLED[0]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_come_back_from_every_protocol(tmp_path, protocol):
    path = tmp_path / "some.pickle"
    path.write_bytes(pickle.dumps(CONTENT | {"epoch": np.int64(3)}, protocol))
    found = pickled.read(path)
    assert np.array_equal(found["data"], PIXELS) and found["data"].dtype == np.uint8
    assert np.array_equal(found["extrapolated_targets"], LABELS) and found["epoch"] == 3


def test_arrays_come_back_from_an_older_numpy(tmp_path):
    path = tmp_path / "some.pickle"
    new = pickle.dumps(LABELS, 2)
    assert b"numpy._core.multiarray" in new
    path.write_bytes(new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert np.array_equal(pickled.read(path), LABELS)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("it-ran",)


@pytest.mark.parametrize("content, said", [
    (Harmful(), "posix.mkdir"), ({"data": [Harmful()]}, "posix.mkdir"),
    (torch.zeros(2), "torch"), (np.random.default_rng(0), "numpy.random"),
    (eval, "builtins.eval"), (np.load, "numpy.load"),
])  # fmt: skip
def test_code_is_refused_by_name_and_not_run(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "some.pickle"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=f"some.pickle.*{said}.*refused"):
        pickled.read(path)
    assert [p.name for p in tmp_path.iterdir()] == ["some.pickle"]


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(CONTENT)[:1000]])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "some.pickle"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="some.pickle is no pickle of plain arrays"):
        pickled.read(path)


@pytest.mark.parametrize("changed, said", [
    ({"data": PIXELS.astype(float)}, "uint8"), ({"data": PIXELS[:, :8]}, r"\(40, 8, 32, 3\)"),
    ({"extrapolated_targets": LABELS[:7]}, "40 classes"), ({"data": None}, "uint8"),
    ({"extrapolated_targets": LABELS + 5}, "0 to 9"),
])  # fmt: skip
def test_a_pool_of_another_form_is_named(file, changed, said):
    file.write_bytes(pickle.dumps(CONTENT | changed))
    with pytest.raises(ValueError, match=said):
        data.labelled_pool(file)


def test_the_file_is_the_pool_of_the_method_that_wants_one(file):
    file.write_bytes(pickle.dumps(CONTENT))
    training = Training(CATALOGUE["unlabeled"], RGB, 0)
    assert torch.equal(training.data.pool.y, torch.tensor(LABELS))
    assert training.data.pool.x.dtype == torch.uint8
    plain = replace(training.method.data, augment=())
    known = {x.numpy().tobytes() for x in torch.tensor(PIXELS).permute(0, 3, 1, 2).float() / 255}
    for x, y in plain.epoch(training.data, Streams(0)):
        assert x.dtype == torch.float32 and 0 <= x.min() and x.max() <= 1 and y.max() < 10
        assert sum(image.numpy().tobytes() in known for image in x) == len(x) // 2
    training.run_epoch()
    assert not len(Training(CATALOGUE["at"], RGB, 0).data.pool)


def test_the_key_says_which_pool(file):
    def keys():
        return [run.key for run in runs.select(["unlabeled", "at"], RGB)]

    without = keys()
    file.write_bytes(pickle.dumps(CONTENT))
    small = keys()
    file.write_bytes(pickle.dumps(CONTENT | {"data": PIXELS.repeat(2, 0)}))
    assert len({without[0], small[0], keys()[0]}) == 3 and without[1] == small[1] == keys()[1]
    assert runs.select("unlabeled", RGB)[0].identity["pool"].startswith(file.name)


def test_images_left_over_are_the_pool_before_any_file(file):
    file.write_bytes(pickle.dumps(CONTENT))
    assert data.pool_file("cifar10", 32) == file
    assert data.pool_file("cifar10", 31) is None and data.pool_file("digits", 32) is None


def test_without_a_pool_it_says_what_to_get(file):
    with pytest.raises(ValueError, match="ti_500K_pseudo_labeled.pickle"):
        Training(CATALOGUE["unlabeled"], RGB, 0)
