"""Data sets as tensors, and the splits.

A data set is loaded once, split by a fixed rule and kept in memory: images (N, C, H, W) float in
[0, 1], labels (N,) long. No worker processes.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flatlib import checks
from flatlib.data import cifar10, fashion, pickled
from flatlib.files.paths import DATASETS

# Carmon et al.'s 500 000 pseudo-labelled images, under their own name and the released code's.
PSEUDO_LABELLED = ("ti_500K_pseudo_labeled.pickle", "500k_pseudolabeled.pickle")


class Split(NamedTuple):
    """Images and their labels."""

    x: Tensor  # (N, C, H, W) float32 in [0, 1]; of a pool that may be large, uint8
    y: Tensor  # (N,) int64 classes

    def __len__(self) -> int:
        return len(self.x)

    def first(self, n: int) -> "Split":
        return Split(self.x[:n], self.y[:n])

    def to(self, device) -> "Split":
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Dataset:
    """Disjoint parts: what is trained on, what measures are taken on, what picks the early-stopped
    epoch.

    ``pool`` holds further images whose true labels no method sees, ``rest`` the test images beyond
    ``test`` (with those of ``early``), for what needs no attack; ``mean`` and ``std`` are per
    channel over the training part.
    """

    name: str
    train: Split
    test: Split
    early: Split
    pool: Split
    classes: int = 10
    rest: Split | None = None
    origin: str = ""  # what the images were read from, where that makes a difference

    @property
    def mean(self) -> tuple[float, ...]:
        return tuple(self.train.x.mean(dim=(0, 2, 3)).tolist())

    @property
    def std(self) -> tuple[float, ...]:
        return tuple(self.train.x.std(dim=(0, 2, 3)).clamp_min(1e-3).tolist())

    def to(self, device) -> "Dataset":
        parts = {name: p.to(device) for name, p in vars(self).items() if isinstance(p, Split)}
        return replace(self, **parts)

    def all_test(self) -> Split:
        """All test images there are, ``test`` first."""
        if not self.rest:
            return self.test
        more = Split(floats(self.rest.x), self.rest.y)
        return Split(*(torch.cat(both) for both in zip(self.test, more)))


def load(name: str, train: int, test: int, early: int) -> Dataset:
    """A data set with its documented split; the three sizes count images.

    "digits": scikit-learn's 1797 real 8x8 images in the fixed order of
    ``numpy.random.RandomState(0)``; train, test and early-stopping parts are cut from its front in
    this order, the rest is the pool. "cifar10": the training images in order; test = the first
    ``test`` test images, early = the last ``early`` of them (Stutz et al. 2021, App. F). Training
    images beyond ``train`` are the pool. "fashion", the cut of Fashion-MNIST in the repository
    (5000 training and 10 000 test images, pooled to 14 x 14 pixels), and "fashion-mnist", the whole
    set from torchvision's files, are split in the same way.
    """
    if name not in LOADERS:
        raise ValueError(f"dataset={name!r}: choose one of {sorted(LOADERS)}")
    for parameter, value in {"train": train, "test": test, "early": early}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{parameter}={value!r}: a number of images, at least 1")
    return LOADERS[name](train, test, early)


def _digits(train: int, test: int, early: int) -> Dataset:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(images))
    x = torch.tensor(images[order] / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    y = torch.tensor(labels[order])
    _fits("digits", len(x), train + test + early)
    cuts = torch.tensor([train, test, early, len(x) - train - test - early]).cumsum(0)
    parts = [Split(x[a:b], y[a:b]) for a, b in zip([0, *cuts[:-1]], cuts)]
    return Dataset("digits", *parts)


def _cifar10(train: int, test: int, early: int) -> Dataset:
    return _in_order("cifar10", *_cifar10_images(DATASETS), train, test, early)


def _fashion(train: int, test: int, early: int) -> Dataset:
    parts = (_split(*part) for part in fashion.pooled())
    return _in_order("fashion", *parts, "Fashion-MNIST, pooled to 14 x 14", train, test, early)


def _fashion_mnist(train: int, test: int, early: int) -> Dataset:
    parts = (_split(*part) for part in fashion.whole(DATASETS))
    return _in_order("fashion-mnist", *parts, "", train, test, early)


def _in_order(
    name: str, learn: Split, held_out: Split, origin: str, train: int, test: int, early: int
) -> Dataset:
    """The first images of either part, in order; early stopping takes the last ones held out."""
    _fits(f"{name} train", len(learn), train)
    _fits(f"{name} test", len(held_out), test + early)
    last = Split(held_out.x[-early:], held_out.y[-early:])
    parts = (Split(floats(x), y) for x, y in (learn.first(train), held_out.first(test), last))
    pool = Split(learn.x[train:], learn.y[train:])
    rest = Split(held_out.x[test:], held_out.y[test:])
    return Dataset(name, *parts, pool, rest=rest, origin=origin)


def _fits(what: str, available: int, wanted: int) -> None:
    if wanted > available:
        raise ValueError(f"{what}: {wanted} images asked for, {available} there are")


@cache
def _cifar10_images(folder: Path) -> tuple[Split, Split, str]:
    """CIFAR-10 from ``folder`` as uint8, and what it was read from (``cifar10.read``)."""
    learn, held_out, origin = cifar10.read(folder)
    return _split(*learn), _split(*held_out), origin


def _split(pixels: np.ndarray, labels) -> Split:
    """uint8 pixels (N, C, H, W) and class numbers -> a split."""
    return Split(torch.from_numpy(np.ascontiguousarray(pixels)), torch.as_tensor(labels).long())


def pool_file(dataset: str, train: int) -> Path | None:
    """The file of pseudo-labelled images that is the pool: for CIFAR-10 where no training images
    are left over, if the file is among the data sets.
    """
    if dataset != "cifar10" or train < cifar10.TRAIN:
        return None
    files = (DATASETS / name for name in PSEUDO_LABELLED)
    return next((file for file in files if file.is_file()), None)


@cache
def labelled_pool(file: Path) -> Split:
    """Images (N, C, H, W) as uint8, to be small, and the labels that come with them (N,).

    ``file`` is a pickle of a dict with "data" (N, H, W, C) uint8 and "extrapolated_targets" (N,).
    """
    found = pickled.read(file)
    names = ("data", "extrapolated_targets")
    if not isinstance(found, dict) or not all(name in found for name in names):
        raise ValueError(f"{file}: a dict with 'data' and 'extrapolated_targets' wanted")
    x, y = (np.asarray(found[name]) for name in names)
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[1:] != (32, 32, 3) or not len(x):
        raise ValueError(f"{file}: 'data' must be (N, 32, 32, 3) uint8, not {x.shape} {x.dtype}")
    if y.shape != x.shape[:1] or y.dtype.kind not in "iu" or y.min() < 0 or y.max() > 9:
        raise ValueError(f"{file}: 'extrapolated_targets' must be {len(x)} classes 0 to 9")
    pixels = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    return Split(pixels, torch.from_numpy(y.astype(np.int64)))


LOADERS = {
    "digits": _digits, "fashion": _fashion, "fashion-mnist": _fashion_mnist, "cifar10": _cifar10,
}  # fmt: skip


_CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
            "boot")  # fmt: skip
_THINGS = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_DIGITS = tuple("0123456789")
_NAMES = {"digits": _DIGITS, "fashion": _CLOTHES, "fashion-mnist": _CLOTHES, "cifar10": _THINGS}


def names(dataset: str) -> tuple[str, ...]:
    """The classes in one word each, in the order of the labels; those of digits are numbers."""
    checks.choice("dataset", dataset, _NAMES)
    return _NAMES[dataset]


def classes(dataset: str) -> int:
    """How many classes a data set has, without loading it."""
    return len(names(dataset))


def floats(x: Tensor) -> Tensor:
    """Images as floats in [0, 1]; those of a large pool are kept as uint8."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def main(arguments: list[str] | None = None) -> None:
    """``python -m flatlib.data cifar10``: download CIFAR-10 into the folder of data sets."""
    import argparse

    parser = argparse.ArgumentParser(description="Download a data set.")
    parser.add_argument("name", choices=["cifar10"])
    parser.parse_args(arguments)
    try:
        cifar10.download(DATASETS)
    except OSError as error:
        parser.exit(1, f"{error}\n")
