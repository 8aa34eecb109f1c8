"""CIFAR-10 as people have it: torchvision's files or a folder of images, and which of them it was.

Both give two parts, learning and held out, each pixels (N, 3, 32, 32) and labels (N,).
"""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

TRAIN = 50_000  # images of the training part
CLASSES, SIDE = 10, 32  # pixels
WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # Pillow's modes of 16-bit greyscale
# libjpeg's table for luminance at quality 50; other qualities scale its entries.
_LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113,
    92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip


class Part(NamedTuple):
    """Images and their labels as arrays."""

    x: np.ndarray  # (N, 3, 32, 32) uint8
    y: np.ndarray  # (N,) classes


def read(folder: Path) -> tuple[Part, Part, str]:
    """CIFAR-10 from ``folder``: torchvision's files, or an image folder, whichever is there; and
    what the images were read from, such as "CIFAR-10 (JPEG, quality 75)".

    ``FileNotFoundError`` where there is none, ``ValueError`` where it cannot be read, each with the
    folder and what to do.
    """
    if (folder / "cifar-10-batches-py").exists():
        return *_batches(folder), "CIFAR-10 (torchvision's files)"
    for root in (folder / "cifar10", folder):
        if (root / "train").is_dir() and (root / "test").is_dir():
            sides = [_image_folder(root / part, _classes(root)) for part in ("train", "test")]
            (learn, kinds), (held_out, others) = sides
            return learn, held_out, f"CIFAR-10 ({' and '.join(sorted(kinds | others))})"
    raise FileNotFoundError(
        f"no CIFAR-10 in {folder}. Put torchvision's folder cifar-10-batches-py there, or images\n"
        f"as cifar10/train/<class>/* and cifar10/test/<class>/*, or download it with\n"
        f"  python -m flatlib.data cifar10\n"
        f"The environment variable FLATLIB_DATASETS names another folder."
    )


def _batches(folder: Path) -> Iterator[Part]:
    """torchvision's two parts; it compares its files with their checksums before it opens them."""
    from flatlib.vision import datasets

    try:
        for train in (True, False):
            s = datasets.CIFAR10(folder, train=train)
            yield Part(s.data.transpose(0, 3, 1, 2), np.asarray(s.targets))
    except (RuntimeError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"CIFAR-10 in {folder / 'cifar-10-batches-py'} is incomplete or damaged "
            f"({' '.join(str(error).split())}): remove that folder, then download it again with "
            "python -m flatlib.data cifar10"
        ) from error


def download(folder: Path) -> None:
    """Fetch torchvision's files into ``folder``; ``OSError`` in one line where that fails."""
    from flatlib.vision import datasets

    try:
        folder.mkdir(parents=True, exist_ok=True)
        datasets.CIFAR10(folder, train=True, download=True)
    except (OSError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise OSError(f"CIFAR-10 could not be downloaded into {folder}: {why}") from error


def _visible(folder: Path) -> list[Path]:
    """What is in a folder, without what programs hide there (".ipynb_checkpoints")."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _classes(root: Path) -> list[str]:
    """The folders of images, whose place in the alphabet is the label: the same in both parts."""
    train, test = ([c.name for c in _visible(root / p) if c.is_dir()] for p in ("train", "test"))
    if train != test or len(train) != CLASSES:
        raise ValueError(
            f"{root}: train and test need the same {CLASSES} folders of classes, but have "
            f"{train} and {test}"
        )
    return train


def _image_folder(folder: Path, classes: list[str]) -> tuple[Part, set[str]]:
    """Images below ``folder``/<class>/, the classes taking turns, so that every prefix is balanced;
    and the kinds of files.

    An image folder has lost the original order: "the first 1000" are then 100 of each class.
    """
    found = {name: _visible(folder / name) for name in classes}
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise ValueError(f"{folder}: no images of the classes {', '.join(empty)}")
    numbered = [enumerate(files) for files in found.values()]
    files = sorted((i, label, file) for label, part in enumerate(numbered) for i, file in part)
    pixels, kinds = zip(*(_image(file) for _, _, file in files))
    return Part(np.stack(pixels), np.array([label for _, label, _ in files])), set(kinds)


def _image(file: Path) -> tuple[np.ndarray, str]:
    """Pixels (3, 32, 32) of one image, and its kind of file.

    Greyscale counts for all three channels, 16 bits are scaled to 8, a palette is looked up and
    transparency left out.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.size != (SIDE, SIDE):  # before its pixels are unpacked
                raise ValueError(f"{image.width} x {image.height} pixels, {SIDE} x {SIDE} wanted")
            kind = image.format + (f", quality {_quality(image)}" if image.format == "JPEG" else "")
            return _pixels(image), kind
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is no image that can be used: {error}") from error


def _pixels(image) -> np.ndarray:
    if image.mode in WIDE:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"values from {values.min()} to {values.max()}, 16 bits wanted")
        grey = np.rint(values / 257).astype(np.uint8)  # 65535 / 257 = 255
        return np.stack([grey] * 3)
    if image.mode == "F":
        raise ValueError("pixels that are real numbers: their range is not known")
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _quality(image) -> str:
    """The quality from 1 to 100 at which libjpeg makes such a table; "unknown" for other tables.

    Only its sum is looked at: the order in which Pillow gives the entries has changed.
    """
    total = sum(image.quantization[0])
    return str(next((q for q in range(100, 0, -1) if _table_sum(q) == total), "unknown"))


def _table_sum(quality: int) -> int:
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return sum(min(max((entry * scale + 50) // 100, 1), 255) for entry in _LUMINANCE)
