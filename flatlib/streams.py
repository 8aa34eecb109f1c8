"""Named random streams, one generator per purpose, all from one seed; global ones left alone."""

import hashlib
import random
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

STREAMS = ("weights", "order", "augment", "auxiliary", "attack", "labels", "walk", "dropout", "log")


class Streams(dict):
    """One generator per purpose, all from one seed: more label noise leaves batch order and attacks
    as they were.
    """

    def __init__(self, seed: int, device="cpu"):
        super().__init__()
        for name in STREAMS:
            digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
            self[name] = torch.Generator(device).manual_seed(int.from_bytes(digest[:8]) >> 1)

    def state(self) -> dict[str, Tensor]:
        return {name: g.get_state() for name, g in self.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            if len(value) != len(self[name].get_state()):
                raise ValueError(
                    f"the stream {name!r} was begun on another kind of device than "
                    f"{self[name].device}: go on where it was begun"
                )
            self[name].set_state(value.cpu())


@contextmanager
def undisturbed(device="cpu"):
    """Give the global random states of torch, NumPy and Python back as they were before the block:
    a model or a loader that is only looked at may draw from them.
    """
    device = torch.device(device)
    numpy, python = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        np.random.set_state(numpy), random.setstate(python)
