"""Arrays out of pickle files, which can run any code: only the few names are admitted that NumPy
needs to rebuild an array.
"""

import pickle
from pathlib import Path

import numpy as np
import numpy._core.multiarray as multiarray
import numpy._core.numeric as numeric


def _text_to_bytes(text: str, encoding: str) -> bytes:
    """How pickles up to protocol 2 store bytes; no other codec is looked up."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes stored as {encoding!r}: only 'latin1' is admitted")
    return text.encode("latin1")


_ADMITTED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _text_to_bytes,
} | {
    (f"numpy.{core}.{module}", name): function
    for core in ("core", "_core")  # NumPy 1 and NumPy 2
    for module, name, function in (
        ("multiarray", "_reconstruct", multiarray._reconstruct),
        ("multiarray", "scalar", multiarray.scalar),
        ("numeric", "_frombuffer", numeric._frombuffer),
    )
}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which is refused: loading could run any code"
            )
        return _ADMITTED[module, name]


def read(path: Path) -> object:
    """What a pickle of arrays, numbers, text, lists and dicts holds; any other content is refused
    by name, and no code of the file's is run.
    """
    try:
        with path.open("rb") as file:
            return _Arrays(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, KeyError,
            IndexError, OverflowError, MemoryError, RecursionError) as error:  # fmt: skip
        raise ValueError(f"{path} is no pickle of plain arrays: {error}") from error
