"""Learning-rate schedules: progress t in [0, 1) -> settings of the optimiser, lr as a factor of the
base rate. Frozen records; the default is ``Steps``.
"""

from dataclasses import dataclass

from flatlib import checks


@dataclass(frozen=True)
class Steps:
    """Multiply the rate by ``factor`` at every fraction of training in ``at``."""

    at: tuple[float, ...] = (0.4, 0.6, 0.8)
    factor: float = 0.1

    def __post_init__(self):
        checks.settings(self, {"at": checks.some(checks.radius), "factor": checks.radius})

    def __call__(self, t: float) -> dict[str, float]:
        return {"lr": self.factor ** sum(t >= a for a in self.at)}


@dataclass(frozen=True)
class Constant:
    """The same rate throughout."""

    def __call__(self, t: float) -> dict[str, float]:
        return {"lr": 1.0}


@dataclass(frozen=True)
class Cyclic:
    """``cycles`` triangles 0 -> peak -> 0, peak in units of the base rate; momentum runs 0.9 -> 0.8
    -> 0.9.
    """

    cycles: int = 1
    peak: float = 4.0

    def __post_init__(self):
        checks.settings(self, {"cycles": checks.number, "peak": checks.radius})

    def __call__(self, t: float) -> dict[str, float]:
        height = 1 - abs(2 * (t * self.cycles % 1) - 1)
        return {"lr": self.peak * height, "momentum": 0.9 - 0.1 * height}
