"""Projections: ``project(parameters)`` acts in place after an optimiser's step. The neutral
setting is ``Clip()``, without a bound.
"""

import math
from dataclasses import dataclass

import torch

from flatlib import checks


@dataclass(frozen=True)
class Clip:
    """Clamp every trainable parameter to [-w_max, w_max]: also biases and the stored gamma - 1."""

    w_max: float = math.inf

    def __post_init__(self):
        checks.settle(self, "w_max", checks.positive)

    @torch.no_grad()
    def __call__(self, parameters) -> None:
        if math.isfinite(self.w_max):
            for p in parameters:
                p.clamp_(-self.w_max, self.w_max)
