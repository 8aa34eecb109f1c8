"""What happens to weights around a gradient: before it (perturbation), with it (optimiser,
schedule), after it (project) and beside it (average). Each part is a frozen record with a neutral
setting.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from . import checks
from .weights import Weights, add, direction, norms

# ---- before: perturbation(objective, w) -> nu; the gradient is then taken at w + nu


@dataclass(frozen=True)
class Unperturbed:
    """No perturbation: the gradient is taken at w."""

    def __call__(self, objective, w: Weights) -> Weights:
        return {}


@dataclass(frozen=True)
class AWP:
    """Adversarial weight perturbation (Wu et al. 2020): nu_l = xi ||w_l|| g_l / ||g_l||, one
    normalised ascent step.

    Only tensors of two or more dimensions move: no biases, no normalisation parameters. A layer
    whose gradient or norm is zero stays. The optimiser steps at w, as the paper says; the official
    code steps at w + nu and subtracts nu, which differs by the weight decay of nu alone.
    """

    xi: float = 0.01

    def __post_init__(self):
        checks.settle(self, "xi", checks.radius)

    def __call__(self, objective, w: Weights) -> Weights:
        if self.xi == 0:
            return {}
        matrices = {k: v for k, v in w.items() if v.ndim > 1}
        ascent = direction(gradient(objective, w, matrices), matrices)
        return {k: self.xi * v.detach() for k, v in ascent.items()}


@dataclass(frozen=True)
class SAM:
    """Sharpness-aware minimisation (Foret et al. 2021): nu = rho g / ||g||, one step over all
    layers together.
    """

    rho: float = 0.05

    def __post_init__(self):
        checks.settle(self, "rho", checks.radius)

    def __call__(self, objective, w: Weights) -> Weights:
        if self.rho == 0:
            return {}
        g = gradient(objective, w, w)
        total = torch.stack([n.flatten()[0] for n in norms(g).values()]).norm().clamp_min(1e-12)
        return {k: self.rho * v / total for k, v in g.items()}


def gradient(objective, w: Weights, wrt: Weights) -> Weights:
    """The gradient of the scalar objective(w) with respect to the layers named in ``wrt``, zero
    for those it does not depend on.
    """
    leaves = {k: v.detach().requires_grad_(k in wrt) for k, v in w.items()}
    with torch.enable_grad():
        wanted = [leaves[k] for k in wrt]
        grads = torch.autograd.grad(objective(leaves), wanted, materialize_grads=True)
    return dict(zip(wrt, grads))


# ---- with: optimisers build a torch optimiser; step(closure) may call the closure often


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


# ---- schedules: progress t in [0, 1) -> optimiser settings, lr as a factor of the base rate


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


# ---- after: project(parameters) in place


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


# ---- beside: a running average of the weights, evaluated in their place


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
