"""Fashion-MNIST (Xiao et al. 2017): the cut of it that lies in the repository, pooled to 14 x 14
pixels, and the whole set as torchvision reads it.

Both give two parts, learning and held out, each images (N, 1, H, W) and labels (N,).
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flatlib.files.paths import DATA, DATASETS

CUT = DATA / "fashion" / "fashion-mnist-14x14.npz"  # made by make.py beside it


class Part(NamedTuple):
    """Images and their labels as arrays."""

    x: np.ndarray  # (N, 1, H, W) uint8
    y: np.ndarray  # (N,) uint8 classes


@cache
def pooled() -> tuple[Part, Part]:
    """The first 5000 training and all 10 000 test images, each pixel the mean of 2 x 2."""
    if not CUT.is_file():
        raise FileNotFoundError(f"{CUT} is missing: restore data/fashion from the repository")
    with np.load(CUT, allow_pickle=False) as cut:
        return tuple(
            Part(cut[f"{name}_images"][:, None], cut[f"{name}_labels"])
            for name in ("train", "test")
        )


@cache
def whole(folder: Path = DATASETS) -> tuple[Part, Part]:
    """All 60 000 and 10 000 images at 28 x 28, from torchvision's files in ``folder``."""
    from flatlib.vision import datasets

    try:
        sets = [datasets.FashionMNIST(folder, train=part) for part in (True, False)]
    except RuntimeError as error:
        raise FileNotFoundError(
            f"no Fashion-MNIST in {folder}: put its four files *-ubyte, unpacked, into "
            f"FashionMNIST/raw there; FLATLIB_DATASETS names another folder"
        ) from error
    return tuple(Part(s.data.numpy()[:, None], s.targets.numpy()) for s in sets)
