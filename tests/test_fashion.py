"""Fashion-MNIST: the cut in the repository, how it was made, its splits, the whole set."""

import hashlib
import os
import runpy
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flatlib import AT, CATALOGUE, data, runs
from flatlib.data import fashion
from flatlib.files import paths
from flatlib.training import profiles
from flatlib.training.profiles import adapt
from flatlib.training.train import fit

FOLDER = paths.DATA / "fashion"
MAKE = runpy.run_path(FOLDER / "make.py")
ORIGINALS = Path(os.environ.get("FLATLIB_FASHION_MNIST", MAKE["ORIGINALS"]))
PROFILE = profiles.get("fashion")


# ---- the file --------------------------------------------------------------------------------


def test_the_file_is_the_one_that_was_stored_and_small():
    checksum, name = (FOLDER / "SHA256SUMS").read_text().split()
    assert name == fashion.CUT.name
    assert hashlib.sha256(fashion.CUT.read_bytes()).hexdigest() == checksum
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 2.5e6


def test_licence_and_source_lie_beside_it():
    assert "2017 Zalando SE" in (FOLDER / "LICENSE").read_text()
    assert "1708.07747" in (FOLDER / "README.md").read_text()


@pytest.mark.skipif(not ORIGINALS.is_dir(), reason="the original Fashion-MNIST is not here")
def test_the_cut_is_the_pooled_originals():
    made = MAKE["cut"](ORIGINALS)
    with np.load(fashion.CUT) as stored:
        assert set(stored) == set(made)
        assert all(np.array_equal(stored[name], made[name]) for name in made)


def test_pooling_is_the_mean_of_four_pixels_halves_upward():
    images = np.zeros((2, 28, 28), np.uint8)
    images[0, :2, :2] = [[255, 255], [255, 254]]  # 254.75
    images[1, 26:, 26:] = [[0, 1], [1, 0]]  # 0.5
    images[1, :2, 2:4] = [[0, 0], [0, 1]]  # 0.25
    pooled = MAKE["pooled"](images)
    assert pooled.shape == (2, 14, 14) and pooled.dtype == np.uint8
    assert pooled[0, 0, 0] == 255 and pooled[1, 13, 13] == 1 and pooled.astype(int).sum() == 256


def test_a_missing_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion, "CUT", tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError, match="none.npz is missing: restore data/fashion"):
        fashion.pooled.__wrapped__()


# ---- splits ----------------------------------------------------------------------------------


def test_the_split_is_the_first_images_in_order():
    d = data.load("fashion", train=300, test=200, early=100)
    (x, y), (held_out, labels) = fashion.pooled()
    assert torch.equal(d.train.x, torch.from_numpy(x[:300]) / 255)
    assert d.train.y.tolist() == y[:300].tolist() and d.pool.y.tolist() == y[300:].tolist()
    assert torch.equal(d.early.x, torch.from_numpy(held_out[-100:]) / 255)
    assert d.all_test().y.tolist() == labels.tolist() and len(d.rest) == 9800
    assert d.pool.x.dtype == torch.uint8 and len(d.pool) == 4700
    assert d.origin == "Fashion-MNIST, pooled to 14 x 14"


def test_the_images_have_the_agreed_form():
    d = PROFILE.load()
    sizes = [len(part) for part in (d.train, d.test, d.early)]
    assert sizes == [PROFILE.train, PROFILE.test, PROFILE.early] and d.classes == 10
    for part in (d.train, d.test, d.early):
        assert part.x.shape[1:] == (1, 14, 14) and part.x.dtype == torch.float32
        assert part.y.dtype == torch.int64 and part.x.min() == 0 and part.x.max() == 1
        counts = Counter(part.y.tolist())
        assert set(counts) == set(range(10)) and min(counts.values()) > len(part) / 15
    assert d.mean == pytest.approx((0.286,), abs=0.01) and d.std == pytest.approx((0.33,), abs=0.02)


@pytest.mark.parametrize("sizes, said", [
    ((5001, 10, 10), "fashion train: 5001 images asked for, 5000"),
    ((10, 9000, 1001), "fashion test: 10001 images asked for, 10000"),
])  # fmt: skip
def test_more_images_than_there_are_is_refused(sizes, said):
    with pytest.raises(ValueError, match=said):
        data.load("fashion", *sizes)


# ---- the whole set ---------------------------------------------------------------------------


def in_mnists_format(array):
    """The bytes of an array in the format of MNIST's files."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.tobytes()


def test_the_whole_set_is_read_from_torchvisions_files(tmp_path, monkeypatch):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    r, parts = np.random.RandomState(0), {}
    for part, n in (("train", 12), ("t10k", 8)):
        images, labels = r.randint(256, size=(n, 28, 28)), np.arange(n) % 10
        parts[part] = images, labels
        for array, file in ((images, "images-idx3"), (labels, "labels-idx1")):
            content = in_mnists_format(array.astype(np.uint8))
            (raw / f"{part}-{file}-ubyte").write_bytes(content)
    monkeypatch.setattr(data, "DATASETS", tmp_path)
    d = data.load("fashion-mnist", train=10, test=5, early=2)
    assert (d.train.x[:, 0] * 255).round().int().tolist() == parts["train"][0][:10].tolist()
    assert d.early.y.tolist() == parts["t10k"][1][-2:].tolist() and len(d.pool) == 2


def test_without_the_whole_set_one_line_says_where_it_belongs(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "DATASETS", tmp_path)
    with pytest.raises(FileNotFoundError, match="FashionMNIST/raw") as error:
        data.load("fashion-mnist", 1, 1, 1)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())  # nothing was downloaded


# ---- the profile -----------------------------------------------------------------------------


def test_augmentations_that_move_the_image_are_left_out():
    assert adapt(AT, PROFILE).data.augment == ()
    assert adapt(CATALOGUE["autoaugment"], PROFILE).data.augment == ("autoaugment",)


@pytest.mark.parametrize("name", ["at", "autoaugment", "unlabeled"])
def test_a_network_is_trained_and_measured(name, fresh_runs):
    p = profiles.get("smoke").protocol
    p = replace(p, flatness_images=16, autoattack_images=8)
    size = {"train": 40, "test": 24, "early": 16, "epochs": 2, "width": 4, "blocks": (1, 1)}
    tiny = replace(PROFILE, name="tiny", log_images=16, snapshot_every=1, protocol=p, **size)
    (run,) = runs.select(name, tiny)
    table = run.train().measure()
    assert set(table.images) == {"Fashion-MNIST, pooled to 14 x 14"}
    assert table.value[~table.measure.str.contains("correct")].notna().all()
    assert set(table[table.measure == "err"].n) == {40, 10_000}


def test_training_learns():
    tiny = replace(PROFILE, train=200, epochs=4, width=8, log_every=4, log_images=200)
    model, history = fit(AT, tiny)
    assert model(tiny.load().test.x[:5]).shape == (5, 10)
    assert history.train_rloss.iloc[-1] < history.train_rloss.iloc[0]
    assert history.test_err.iloc[-1] < 0.6
