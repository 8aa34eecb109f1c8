"""What measures are taken of: a model, the part of the data, and the protocol.

Every measure draws from a generator of its own, so that its value does not depend on which others
were asked for.
"""

import hashlib
from copy import copy
from dataclasses import replace
from functools import cached_property

import torch
from torch import nn

from flatlib.attacks.pgd import PGD
from flatlib.data import Dataset, Split
from flatlib.measures.evaluate import Report, evaluate
from flatlib.training.profiles import Profile


class Subject:
    """A model, the part of the data it is measured on, and the protocol."""

    def __init__(self, model: nn.Module, data: Dataset, profile: Profile, split: str):
        self.model, self.split = model, split
        self.profile, self.protocol = profile, profile.protocol
        part: Split = data.train if split == "train" else data.test
        self.x, self.y = part.first(profile.test)
        self.data = data

    def attack(self, steps: int) -> PGD:
        """PGD with one start in the ball of the profile's threat model."""
        return PGD(steps=steps).within(self.profile.threat)

    @property
    def pgd(self) -> PGD:
        """One start, as inside average-case flatness."""
        return self.attack(self.protocol.steps)

    def generator(self, measure: str) -> torch.Generator:
        seed = int.from_bytes(hashlib.sha256(f"{measure}/{self.split}".encode()).digest()[:8]) >> 1
        return torch.Generator(self.x.device).manual_seed(seed)

    @cached_property
    def report(self) -> Report:
        """PGD with restarts: RErr, RLoss and the reference of every robust flatness."""
        attack = replace(self.pgd, restarts=self.protocol.restarts)
        return evaluate(self.model, self.x, self.y, attack, self.generator("pgd"), doubts=False)

    @cached_property
    def whole(self) -> Split:
        """What Err and Loss are taken on: all test images, or as many of the training images."""
        test = self.data.all_test()
        return self.data.train.first(len(test)) if self.split == "train" else test

    @cached_property
    def clean(self) -> Report:
        """Err and Loss, on more images than can be attacked."""
        same = len(self.whole) == len(self.x)
        return self.report if same else evaluate(self.model, *self.whole)

    def first(self, images: int | None) -> "Subject":
        """The same subject on its first ``images`` alone, its report cut to them; None: on all."""
        if images is None or images >= len(self.x):
            return self
        part = copy(self)
        part.x, part.y = self.x[:images], self.y[:images]
        part.report = self.report.first(images)
        return part

    def row(self, measure: str, value: float, attack: str = "none", **more) -> dict:
        return {
            "split": self.split,
            "measure": measure,
            "attack": attack,
            "n": len(self.x),
            "value": value,
            **more,
        }
