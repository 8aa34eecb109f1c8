"""Attacks on inputs: ``attack(f, x, y, g) -> x_adv`` for any function f from images to logits.

An attack sees nothing else of a model: its weights, its mode and its speed are the caller's affair.
"""

import math
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from .losses import cross_entropy, kl, own_task

STACKED = 2**16  # pixels, all channels: beyond, stacking restarts no longer paid on two CPU cores
PAPER_STEP = 0.007 / (8 / 255)  # Stutz et al. 2021 step 0.007 at eps = 8/255; other radii scale it


def radius(name: str, value: float) -> float:
    """``value`` if it is a finite number of at least 0; else a ValueError that names it."""
    if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name}={value!r}: a finite number, at least 0")
    return value


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on the loss within ||x_adv - x|| <= eps and [0, 1], best iterate
    per example.

    ``lr`` is the step size (``None``: 0.007 / (8/255) of eps), L-infinity steps follow the sign, L2
    steps the normalised gradient. ``start`` is "radial" (the paper's: a Gaussian direction scaled
    to a length uniform in [0, eps]), "uniform" (every pixel uniform in [-eps, eps]) or "zero".
    ``maximise`` is "ce" against the given labels or "kl" against the clean prediction (TRADES).
    ``restarts`` keeps the worst start per example. ``keep`` is "best" or "last" iterate. ``tau``
    stops PGD early (PGD-tau): of the misclassified iterates only the first tau + 1 that improve the
    loss count; an example that never flips stays clean.
    """

    eps: float = 8 / 255
    steps: int = 7
    lr: float | None = None
    restarts: int = 1
    norm: str = "linf"
    start: str = "radial"
    maximise: str = "ce"
    keep: str = "best"
    tau: int | None = None

    def __post_init__(self):
        radius("eps", self.eps)
        radius("lr", self.step)
        for name, value, least in (("steps", self.steps, 0), ("restarts", self.restarts, 1)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r}: a whole number, at least {least}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {choices}")

    @property
    def step(self) -> float:
        return PAPER_STEP * self.eps if self.lr is None else self.lr

    def __call__(self, f, x: Tensor, y: Tensor, g: torch.Generator | None = None) -> Tensor:
        """(N, C, H, W) in [0, 1] and labels (N,) -> adversarial examples (N, C, H, W)."""
        return reduce(_better, self.starts(f, x, y, g))[0]

    def starts(self, f, x: Tensor, y: Tensor, g: torch.Generator | None = None):
        """The kept iterates (N, C, H, W) and their losses (N,), restart by restart.

        Small batches are stacked, up to ``STACKED`` pixels at once: one pass for several restarts.
        """
        if self.eps == 0:
            yield x.clone(), x.new_zeros(len(x))
            return
        together = max(1, STACKED // max(1, x.numel()))
        for first in range(0, self.restarts, together):
            k = min(together, self.restarts - first)
            deltas = torch.cat([self.random(x, g) for _ in range(k)])
            points, losses = self.ascend(f, x.repeat(k, 1, 1, 1), y.repeat(k), deltas)
            yield from zip(points.chunk(k), losses.chunk(k))

    def ascend(self, f, x: Tensor, y: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """From x + delta: the kept iterate (N, C, H, W) and its loss (N,)."""
        loss = self.objective(f, x, y)
        point = x + self.project(delta, x)
        kept = (x, x.new_full((len(x),), -math.inf))
        left = x.new_full((len(x),), math.inf if self.tau is None else self.tau)
        for t in range(self.steps + 1):
            with torch.set_grad_enabled(t < self.steps):
                value, wrong = loss(point.requires_grad_(t < self.steps))
            now = (point.detach(), value.detach())
            if self.tau is not None:
                now = (now[0], torch.where(wrong & (left >= 0), now[1], -math.inf))
                left = left - (now[1] > kept[1]).float()
            kept = now if self.keep == "last" and self.tau is None else _better(kept, now)
            if t < self.steps:
                (gradient,) = torch.autograd.grad(value, point, torch.ones_like(value))
                point = self.advance(now[0], x, gradient)
        return kept

    def breaking(self, f, x: Tensor, y: Tensor, g: torch.Generator | None = None) -> Tensor:
        """For RErr alone, one start on the cross-entropy: the first misclassified iterate, else the
        last, (N, C, H, W). An example that is broken takes no further part."""
        found = x + self.project(self.random(x, g), x)
        active = torch.arange(len(x), device=x.device)
        for _ in range(self.steps):
            point = found[active].requires_grad_()
            with torch.enable_grad():
                z = f(point)
                loss = cross_entropy(z, y[active]).sum()
            holds = z.detach().argmax(1) == y[active]
            if not holds.any():
                break
            (gradient,) = torch.autograd.grad(loss, point)
            point, gradient, active = point.detach()[holds], gradient[holds], active[holds]
            found[active] = self.advance(point, x[active], gradient)
        return found

    def advance(self, point: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
        """One step up the gradient, back into the ball around x and the box."""
        if self.norm != "linf":
            return x + self.project(point - x + self.step * self.ascent(gradient), x)
        moved = torch.add(point, gradient.sign(), alpha=self.step)
        return moved.clamp_(x - self.eps, x + self.eps).clamp_(0, 1)

    def objective(self, f, x: Tensor, y: Tensor):
        """x' -> the loss (N,) to be maximised, and whether x' is misclassified (N,)."""
        clean = f(x).detach() if self.maximise == "kl" else None

        def loss(point: Tensor) -> tuple[Tensor, Tensor]:
            z = f(point)
            value = cross_entropy(z, y) if clean is None else kl(clean, z)
            return value, z.detach().argmax(1) != y

        return loss

    def random(self, x: Tensor, g: torch.Generator | None) -> Tensor:
        """The random start delta, inside the eps-ball, not yet in the box."""
        if self.start == "zero":
            return torch.zeros_like(x)
        if self.start == "uniform" and self.norm == "linf":
            return self.eps * (2 * torch.rand(x.shape, generator=g, device=x.device) - 1)
        noise = torch.randn(x.shape, generator=g, device=x.device)
        u = torch.rand(len(x), 1, 1, 1, generator=g, device=x.device)
        if self.start == "uniform":  # uniform in the L2 ball
            u = u ** (1 / x[0].numel())
        return self.eps * u * noise / _length(noise, self.norm)

    def ascent(self, gradient: Tensor) -> Tensor:
        """The steepest direction of unit length in the attack's norm."""
        return gradient.sign() if self.norm == "linf" else gradient / _length(gradient, "l2")

    def project(self, delta: Tensor, x: Tensor) -> Tensor:
        """Onto the eps-ball, then x + delta onto [0, 1]: both pull towards 0, so both hold
        afterwards.
        """
        if self.norm == "linf":
            delta = delta.clamp(-self.eps, self.eps)
        else:
            delta = delta * (self.eps / _length(delta, "l2")).clamp_max(1)
        return (x + delta).clamp(0, 1) - x


_CHOICES = {
    "norm": ("linf", "l2"),
    "start": ("radial", "uniform", "zero"),
    "maximise": ("ce", "kl"),
    "keep": ("best", "last"),
}


def _length(delta: Tensor, norm: str) -> Tensor:
    order = math.inf if norm == "linf" else 2
    return (
        torch.linalg.vector_norm(delta.flatten(1), order, dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
    )


def _better(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Of two (points, losses) the one of higher loss, example by example; ``a`` on ties."""
    wins = b[1] > a[1]
    return torch.where(wins.view(-1, 1, 1, 1), b[0], a[0]), torch.where(wins, b[1], a[1])


def one_start(attack):
    """``attack`` without restarts, whatever attack it is."""
    return replace(attack, restarts=1) if getattr(attack, "restarts", 1) > 1 else attack


@dataclass(frozen=True)
class PerTask:
    """Attack each example on its own task: classes, or rotations where y >= K (self-supervised
    training).

    ``f`` gives logits (N, K + 4). Each example stays unattacked with probability ``clean`` (the
    released code's "fraction" of 0.5).
    """

    attack: PGD
    clean: float = 0.5

    def __call__(self, f, x: Tensor, y: Tensor, g: torch.Generator | None = None) -> Tensor:
        chosen = torch.rand(len(x), generator=g, device=x.device) >= self.clean
        if not chosen.any():
            return x.clone()
        x_adv = x.clone()
        x_adv[chosen] = self.attack(lambda p: own_task(f(p), y[chosen]), x[chosen], y[chosen], g)
        return x_adv


@dataclass(frozen=True)
class IgnoreIncorrect:
    """Attack, then give misclassified clean examples back unattacked.

    ``predicted`` (N,) are the classes the network sees in the clean images; training passes those
    of a train-mode forward pass, as released, and without them the attacked function is asked.
    """

    attack: PGD = PGD()
    predicts = True

    def __call__(self, f, x, y, g=None, predicted: Tensor | None = None) -> Tensor:
        predicted = f(x).argmax(1) if predicted is None else predicted
        x_adv = self.attack(f, x, y, g)
        return torch.where((predicted == y).view(-1, 1, 1, 1), x_adv, x)


@dataclass(frozen=True)
class PreventLeaking:
    """Attack the predicted instead of the true class, so that no label leaks into the attack.

    ``predicted`` as in ``IgnoreIncorrect``.
    """

    attack: PGD = PGD()
    predicts = True

    def __call__(self, f, x, y, g=None, predicted: Tensor | None = None) -> Tensor:
        predicted = f(x).argmax(1) if predicted is None else predicted
        return self.attack(f, x, predicted, g)


@dataclass(frozen=True)
class AutoAttack:
    """AutoAttack (Croce & Hein 2020) through the package pyautoattack, whose attacks are the
    official ones.

    ``attacks`` run in turn on the examples still classified correctly; the default is the standard
    ensemble, with 100 ``iterations`` of every gradient attack and 9 ``targets`` of the targeted
    ones; fewer are cheaper and weaker. Examples that no attack breaks come back clean, so the loss
    on the result is no estimate of RLoss. Its random numbers come from ``seed``, not from a
    generator; torch's global one is given back as it was.
    """

    eps: float = 8 / 255
    norm: str = "linf"
    attacks: tuple[str, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
    iterations: int = 100
    targets: int = 9
    seed: int = 0
    batch: int = 250

    @property
    def steps_per_image(self) -> int:
        """Attack steps an image costs at most, Square's forward passes counted as half a step."""
        n, t = self.iterations, self.iterations * self.targets
        cost = {"apgd-t": t, "fab-t": 2 * t, "fab": 2 * n * 9, "square": 2500}
        return sum(cost.get(name, n) for name in self.attacks)

    def __post_init__(self):
        radius("eps", self.eps)
        if self.norm not in _CHOICES["norm"]:
            raise ValueError(f"norm={self.norm!r}: choose one of {_CHOICES['norm']}")
        known = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
        if not self.attacks or any(name not in known for name in self.attacks):
            raise ValueError(f"attacks={self.attacks!r}: choose from {known}")

    def __call__(self, f, x: Tensor, y: Tensor, g: torch.Generator | None = None) -> Tensor:
        """(N, C, H, W), labels (N,) -> (N, C, H, W). Targeted attacks need 10 classes or more."""
        import sys

        from pyautoattack import AutoAttack as Official

        trace = sys.gettrace()  # its check for dynamic models switches tracing off for good
        norm = {"linf": "Linf", "l2": "L2"}[self.norm]
        try:
            with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
                official = Official(
                    f, norm=norm, eps=self.eps, seed=self.seed, device=str(x.device)
                )
                official.attacks_to_run = list(self.attacks)  # of the standard version's settings
                for part in (official.apgd, official.apgd_targeted, official.fab):
                    part.n_iter = self.iterations
                for part in (official.apgd_targeted, official.fab):
                    part.n_target_classes = self.targets
                x_adv, _ = official.run_standard_evaluation(x, y, batch_size=self.batch)
        finally:
            sys.settrace(trace)
        return x_adv.detach()
