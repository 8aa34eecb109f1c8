"""Attacks on inputs: ``attack(f, x, y, g) -> x_adv`` for any function f from images to logits.
AutoAttack has a module of its own.

An attack sees nothing else of a model: its weights, its mode and its speed are the caller's affair.
"""

import math
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from flatlib import checks, inputs
from flatlib.attacks.attack import NORMS, PAPER, Attack, Threat, Wrapper
from flatlib.losses import cross_entropy, kl, own_task

STACKED = 2**16  # pixels, all channels: beyond, stacking restarts no longer paid on two CPU cores
PAPER_STEP = 0.007 / PAPER.eps  # Stutz et al. 2021 step 0.007 at eps = 8/255; other radii scale it


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient ascent on the loss within ||x_adv - x|| <= eps and [0, 1], best iterate
    per example.

    ``lr`` is the step size (``None``: 0.007 / (8/255) of eps), L-infinity steps follow the sign, L2
    steps the normalised gradient. ``start`` is "radial" (the paper's: a Gaussian direction scaled
    to a length uniform in [0, eps]), "uniform" (every pixel uniform in [-eps, eps]) or "zero".
    ``maximise`` is "ce" against the given labels or "kl" against the clean prediction (TRADES).
    ``restarts`` keeps the worst start per example. ``keep`` is "best" or "last" iterate. ``tau``
    stops PGD early (PGD-tau): of the misclassified iterates only the first tau + 1 that improve the
    loss count; an example that never flips stays clean (the released code), or with ``keep="last"``
    takes the last iterate (the paper's words).
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
        for name, choices in CHOICES.items():
            checks.choice(name, getattr(self, name), choices)
        checks.settle(self, "eps", checks.ball, self.norm)
        checks.settle(self, "steps", checks.number, 0)
        checks.settle(self, "restarts", checks.number)
        if self.lr is not None:
            checks.settle(self, "lr", checks.radius)
        if self.tau is not None:
            checks.settle(self, "tau", checks.number, 0)

    @property
    def by_gradient(self) -> bool:
        """Whether the attack asks for gradients at all."""
        return self.steps > 0 and self.eps > 0

    @property
    def steps_per_image(self) -> int:
        return (self.steps + 1) * self.restarts

    @property
    def step(self) -> float:
        return PAPER_STEP * self.eps if self.lr is None else self.lr

    @torch.inference_mode(False)
    def __call__(self, f, x: Tensor, y: Tensor, g: torch.Generator | None = None) -> Tensor:
        """(N, C, H, W) in [0, 1] and labels (N,) -> adversarial examples (N, C, H, W).

        Images and labels are tensors or arrays (``inputs.batch``); half precision is attacked in
        float32 and rounded at the end.
        """
        f, x, y, dtype = inputs.batch(f, x, y)
        return reduce(_better, self.starts(f, x, y, g))[0].to(dtype)

    def at_least(self, restarts: int) -> "PGD":
        return replace(self, restarts=max(restarts, self.restarts))

    def rescaled(self, threat: Threat) -> "PGD":
        """Radius and step scaled like the threat's radius; the norm is the threat's."""
        if self.norm != PAPER.norm:
            raise ValueError(
                f"attack.norm={self.norm!r}: methods are given for {PAPER.norm!r}, a profile takes "
                f"them to its own norm, here {threat.norm!r}"
            )
        scale = threat.eps / PAPER.eps
        return replace(self, eps=self.eps * scale, lr=self.step * scale, norm=threat.norm)

    def each(self, f, x: Tensor, y: Tensor, g: torch.Generator | None = None):
        if type(self) is not PGD:  # a subclass may do something else when called
            return super().each(f, x, y, g)
        return (x_adv for x_adv, _ in self.starts(f, x, y, g))

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
                gradient = _gradient(value, point)
                point = self.advance(now[0], x, gradient)
        if self.keep == "last" and self.tau is not None:  # examples that never flipped
            kept = _better((now[0], value.detach().where(kept[1] == -math.inf, -math.inf)), kept)
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
                loss = cross_entropy(z, y[active])
            holds = z.detach().argmax(1) == y[active]
            if not holds.any():
                break
            gradient = _gradient(loss, point)
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
        how = {"generator": g, "device": x.device, "dtype": torch.float32}
        if self.start == "uniform" and self.norm == "linf":
            return self.eps * (2 * torch.rand(x.shape, **how) - 1)
        noise = torch.randn(x.shape, **how)
        u = torch.rand(len(x), 1, 1, 1, **how)
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


CHOICES = {
    "norm": NORMS,
    "start": ("radial", "uniform", "zero"),
    "maximise": ("ce", "kl"),
    "keep": ("best", "last"),
}


def _length(delta: Tensor, norm: str) -> Tensor:
    order = math.inf if norm == "linf" else 2
    return (
        torch.linalg.vector_norm(delta.flatten(1), order, dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
    )


def _gradient(loss: Tensor, point: Tensor) -> Tensor:
    """The gradient of the losses (N,), one for each image of ``point``."""
    gradient = None
    if loss.requires_grad:
        (gradient,) = torch.autograd.grad(loss, point, torch.ones_like(loss), allow_unused=True)
    if gradient is None:
        raise ValueError(f"model: no gradient reaches the images. {inputs.BLACK_BOX}")
    return gradient


def _better(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Of two (points, losses) the one of higher loss, example by example; ``a`` on ties."""
    wins = b[1] > a[1]
    return torch.where(wins.view(-1, 1, 1, 1), b[0], a[0]), torch.where(wins, b[1], a[1])


@dataclass(frozen=True)
class PerTask(Wrapper):
    """Attack each example on its own task: classes, or rotations where y >= K (self-supervised
    training).

    ``f`` gives logits (N, K + 4). Each example stays unattacked with probability ``clean`` (the
    released code's "fraction" of 0.5).
    """

    attack: PGD
    clean: float = 0.5

    def __post_init__(self):
        checks.settle(self, "clean", checks.share)

    def __call__(self, f, x: Tensor, y: Tensor, g: torch.Generator | None = None) -> Tensor:
        chosen = torch.rand(len(x), generator=g, device=x.device) >= self.clean
        if not chosen.any():
            return x.clone()
        x_adv, own = x.clone(), y[chosen]

        def tasks(p: Tensor) -> Tensor:  # restarts come stacked
            return own_task(f(p), own.repeat(len(p) // len(own)))

        x_adv[chosen] = self.attack(tasks, x[chosen], own, g)
        return x_adv


@dataclass(frozen=True)
class IgnoreIncorrect(Wrapper):
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
class PreventLeaking(Wrapper):
    """Attack the predicted instead of the true class, so that no label leaks into the attack.

    ``predicted`` as in ``IgnoreIncorrect``.
    """

    attack: PGD = PGD()
    predicts = True

    def __call__(self, f, x, y, g=None, predicted: Tensor | None = None) -> Tensor:
        predicted = f(x).argmax(1) if predicted is None else predicted
        return self.attack(f, x, predicted, g)
