"""Losses, one number per example. Objectives ``(f, batch) -> (N,)`` are what a method descends.

Every objective counts its own train-mode forward passes: each one updates batch norm's statistics.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlib import checks

ROTATIONS = 4


def guessing(classes: int) -> float:
    """The cross-entropy of guessing among ``classes``, in nats: log K, 2.30 for ten."""
    return math.log(classes)

def cross_entropy(z: Tensor, target: Tensor) -> Tensor:
    """-sum_k target_k log softmax(z)_k, (N,). ``target`` holds classes (N,) or probabilities (N,
    K).
    """
    return F.cross_entropy(z, target, reduction="none")


def misclassified(z: Tensor, y: Tensor) -> Tensor:
    """(N,) bool: the largest logit is not that of the class y, or logits are not finite (``argmax``
    would take a NaN for the largest). A class may be ruled out by -inf.
    """
    return (z.argmax(1) != y) | ~z.logsumexp(1).isfinite()


def kl(z: Tensor, z_other: Tensor) -> Tensor:
    """KL(softmax(z) || softmax(z_other)) in nats, (N,), from logits (N, K)."""
    log_p, log_q = z.log_softmax(1), z_other.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


@dataclass(frozen=True)
class Adversarial:
    """CE(f(x_adv), target), Eq. (1): adversarial training. One forward pass."""

    def __call__(self, f, batch) -> Tensor:
        return cross_entropy(f(batch.x_adv), batch.target)


@dataclass(frozen=True)
class Trades:
    """CE(f(x), target) + lam KL(f(x) || f(x_adv)) (Zhang et al. 2019). Two forward passes, clean
    first.
    """

    lam: float = 6.0

    def __post_init__(self):
        checks.settle(self, "lam", checks.radius)

    def __call__(self, f, batch) -> Tensor:
        z, z_adv = f(batch.x), f(batch.x_adv)
        return cross_entropy(z, batch.target) + self.lam * kl(z, z_adv)


@dataclass(frozen=True)
class Mart:
    """BCE(f(x_adv), y) + lam KL(f(x) || f(x_adv)) (1 - p_y) (Wang et al. 2020). Two forward passes.

    BCE = CE(f(x_adv), target) - log(1.0001 - max_{k != y} p_adv_k + 1e-12); the weight 1 - p_y,
    with p from the clean pass, carries gradient (1.0000001 in place of 1, as in the official code).
    """

    lam: float = 6.0

    def __post_init__(self):
        checks.settle(self, "lam", checks.radius)

    def __call__(self, f, batch) -> Tensor:
        z, z_adv = f(batch.x), f(batch.x_adv)
        own = F.one_hot(batch.y, z.shape[1]).bool()
        rival = z_adv.softmax(1).masked_fill(own, 0).amax(1)
        margin = -torch.log(1.0001 - rival + 1e-12)
        p_y = z.softmax(1)[own]
        return (
            cross_entropy(z_adv, batch.target)
            + margin
            + self.lam * kl(z, z_adv) * (1.0000001 - p_y)
        )


@dataclass(frozen=True)
class Rotation:
    """CE(classes) over the upright examples + lam CE(rotation) over the rotated ones (Hendrycks et
    al. 2019).

    Expects logits (N, K + 4) and labels y in [0, K + 4): K + r for an image turned by r quarters.
    Each term is a mean over its own examples, written here as per-example weights. One forward
    pass.
    """

    lam: float = 4.0

    def __post_init__(self):
        checks.settle(self, "lam", checks.radius)

    def __call__(self, f, batch) -> Tensor:
        z = own_task(f(batch.x_adv), batch.y)
        rotated = batch.y >= z.shape[1] - ROTATIONS
        share = rotated.float().mean()
        weight = torch.where(
            rotated, self.lam / share.clamp_min(1e-12), 1 / (1 - share).clamp_min(1e-12)
        )
        return weight * F.cross_entropy(z, batch.y, reduction="none")


def own_task(z: Tensor, y: Tensor) -> Tensor:
    """Logits (N, K + 4) with the other task's set to -inf: classes where y < K, rotations
    elsewhere.
    """
    classes = z.shape[1] - ROTATIONS
    column_rotates = torch.arange(z.shape[1], device=z.device) >= classes
    return z.masked_fill(column_rotates[None] != (y >= classes)[:, None], float("-inf"))
