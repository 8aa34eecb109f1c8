"""Named random streams: one generator per purpose, all from one seed."""

import hashlib

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
