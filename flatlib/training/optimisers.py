"""Optimisers: frozen records that build a torch optimiser, whose step(closure) may call the closure
often.
"""

import math
from dataclasses import dataclass

import torch

from flatlib import checks


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, Nesterov momentum, L2 weight decay on all parameters."""

    lr: float = 0.05
    momentum: float = 0.9
    decay: float = 5e-4

    def __post_init__(self):
        rules = {"lr": checks.radius, "momentum": checks.below_one, "decay": checks.radius}
        checks.settings(self, rules)

    def build(self, parameters, g: torch.Generator) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, self.lr, self.momentum, weight_decay=self.decay, nesterov=self.momentum > 0
        )

    calls = 1  # mini-batches per step


@dataclass(frozen=True)
class Adam:
    """Adam with coupled L2 decay and the library's betas; the paper's learning rate is 0.1."""

    lr: float = 0.1
    decay: float = 5e-4

    def __post_init__(self):
        checks.settings(self, {"lr": checks.radius, "decay": checks.radius})

    def build(self, parameters, g: torch.Generator) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, self.lr, weight_decay=self.decay)

    calls = 1


@dataclass(frozen=True)
class EntropySGD:
    """Entropy-SGD (Chaudhari et al. 2017): descend towards the average mu of a short Langevin walk
    from w.

    Per step, ``walk`` times: g = gradient at w' on the next mini-batch + decay w' - gamma (w - w')
    + noise/ sqrt(0.5 inner) N(0, I); w' -= inner g; mu <- keep mu + (1 - keep) w'. Then one SGD
    step of size ``lr`` along w - mu (+ decay w). ``walk=0`` is plain SGD. Each mini-batch serves
    one gradient; the released code spends one more per step, whose gradient it discards.
    """

    walk: int = 1
    lr: float = 0.05
    momentum: float = 0.0
    decay: float = 5e-4
    inner: float = 0.1
    keep: float = 0.75
    gamma: float = 1e-4
    noise: float = 1e-4

    def __post_init__(self):
        checks.settle(self, "walk", checks.number, 0)
        rules = dict.fromkeys(("lr", "decay", "gamma", "noise"), checks.radius)
        rules |= {"momentum": checks.below_one, "inner": checks.amount, "keep": checks.share}
        checks.settings(self, rules)

    def build(self, parameters, g: torch.Generator) -> torch.optim.Optimizer:
        return _EntropySGD(parameters, self, g)

    @property
    def calls(self) -> int:
        return max(1, self.walk)


class _EntropySGD(torch.optim.SGD):
    """SGD whose gradient is w - mu, found by a Langevin walk that calls the closure."""

    def __init__(self, parameters, part: EntropySGD, g: torch.Generator):
        super().__init__(
            parameters, part.lr, part.momentum, weight_decay=part.decay, nesterov=part.momentum > 0
        )
        self.part, self.g = part, g

    def step(self, closure):
        if self.part.walk == 0:
            return super().step(closure)
        parameters = [p for group in self.param_groups for p in group["params"]]
        start = [p.detach().clone() for p in parameters]
        mean = [p.clone() for p in start]
        for _ in range(self.part.walk):
            loss = closure()
            self._wander(parameters, start, mean)
        with torch.no_grad():
            for p, w, mu in zip(parameters, start, mean):
                p.copy_(w)
                p.grad = w - mu
        super().step()
        return loss

    @torch.no_grad()
    def _wander(self, parameters, start, mean) -> None:
        part = self.part
        thermal = part.noise / math.sqrt(0.5 * part.inner)
        for p, w, mu in zip(parameters, start, mean):
            noise = torch.randn(p.shape, generator=self.g, device=p.device)
            g = p.grad + part.decay * p - part.gamma * (w - p) + thermal * noise
            p.sub_(part.inner * g)
            mu.mul_(part.keep).add_((1 - part.keep) * p)
