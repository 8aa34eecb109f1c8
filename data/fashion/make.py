"""Make the cut of Fashion-MNIST that lies here from the four original files.

    python data/fashion/make.py FOLDER

FOLDER holds train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the same of t10k; without
one, that of Debian's package dataset-fashion-mnist is taken. README.md says what is cut and how.
"""

import gzip
import sys
from pathlib import Path

import numpy as np

ORIGINALS = Path("/usr/share/datasets/fashion-mnist")
CUT = Path(__file__).with_name("fashion-mnist-14x14.npz")
TRAIN, TEST = 5_000, 10_000  # the first images of either part; there are 60 000 and 10 000


def pooled(images: np.ndarray) -> np.ndarray:
    """Gray values (N, 28, 28) -> (N, 14, 14), uint8: the mean of 2 x 2 pixels, halves upward."""
    sums = images.reshape(-1, 14, 2, 14, 2).sum((2, 4), dtype=np.uint16)
    return ((sums + 2) // 4).astype(np.uint8)


def cut(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the cut: images (N, 14, 14) and labels (N,), uint8."""
    arrays = {}
    for part, file, count in (("train", "train", TRAIN), ("test", "t10k", TEST)):
        images = _bytes(folder / f"{file}-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
        arrays[f"{part}_images"] = pooled(images[:count])
        arrays[f"{part}_labels"] = _bytes(folder / f"{file}-labels-idx1-ubyte.gz", header=8)[:count]
    return arrays


def _bytes(path: Path, header: int) -> np.ndarray:
    """What follows the header of a file in MNIST's format."""
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


if __name__ == "__main__":
    np.savez_compressed(CUT, **cut(Path(sys.argv[1]) if len(sys.argv) > 1 else ORIGINALS))
