"""Running averages of the weights, evaluated in their place: ``average(kept, w, count, t) -> (kept,
count)`` after a step or an epoch. Frozen records; the neutral setting is None.
"""

from dataclasses import dataclass

from torch import Tensor

from flatlib import checks
from flatlib.weights import Weights, add


@dataclass(frozen=True)
class EMA:
    """w_bar <- tau w_bar + (1 - tau) w after every step, from the initial weights on.

    Statistics of batch norm are the model's, as released; ``calibrate`` estimates them anew.
    """

    tau: float = 0.9975
    calibrate: bool = False
    every = "step"

    def __post_init__(self):
        checks.settle(self, "tau", checks.share)

    def __call__(
        self, average: Weights, w: dict[str, Tensor], count: int, t: float
    ) -> tuple[Weights, int]:
        return {k: self.tau * v + (1 - self.tau) * w[k] for k, v in average.items()}, count + 1


@dataclass(frozen=True)
class SWA:
    """The running mean of the weights at the end of every epoch from ``after`` (fraction of
    training) on.
    """

    after: float = 0.4
    every = "epoch"
    calibrate = True

    def __post_init__(self):
        checks.settle(self, "after", checks.share, False)

    def __call__(
        self, average: Weights, w: dict[str, Tensor], count: int, t: float
    ) -> tuple[Weights, int]:
        if t < self.after:
            return {k: w[k].clone() for k in average}, 0
        return add(average, {k: (w[k] - v) / (count + 1) for k, v in average.items()}), count + 1
