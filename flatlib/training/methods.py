"""A training method is a record of parts; one step (``train.objective``) executes all of them.

``replace(AT, slot=part)`` is a new method. Settings are the paper's; a profile rescales them
(``profiles``).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlib import checks
from flatlib.attacks.pgd import PGD, PerTask
from flatlib.data.batches import Batches
from flatlib.keys import settings
from flatlib.losses import Adversarial, Rotation
from flatlib.networks.parts import ACTIVATIONS
from flatlib.training.optimisers import SGD
from flatlib.training.perturbations import Unperturbed
from flatlib.training.projections import Clip
from flatlib.training.schedules import Steps


class Batch(NamedTuple):
    """What a loss is given."""

    x: Tensor  # (N, C, H, W) in [0, 1], augmented
    x_adv: Tensor  # (N, C, H, W) in [0, 1]
    y: Tensor  # (N,) true classes
    target: Tensor  # (N, K) what the loss is told, rows sum to 1
    t: float  # progress of training in [0, 1)


@dataclass(frozen=True)
class Exact:
    """The true label."""

    def __call__(self, y: Tensor, classes: int, g: torch.Generator) -> Tensor:
        return F.one_hot(y, classes).float()


@dataclass(frozen=True)
class Smooth:
    """Label smoothing: 1 - tau + tau/K on the true class, tau/K elsewhere; the mean of
    ``Noise(tau)``.
    """

    tau: float = 0.3

    def __post_init__(self):
        checks.settle(self, "tau", checks.share)

    def __call__(self, y: Tensor, classes: int, g: torch.Generator) -> Tensor:
        return (1 - self.tau) * F.one_hot(y, classes).float() + self.tau / classes


@dataclass(frozen=True)
class Noise:
    """Label noise: with probability tau a uniform class, perhaps the true one, anew at every
    update.
    """

    tau: float = 0.3

    def __post_init__(self):
        checks.settle(self, "tau", checks.share)

    def __call__(self, y: Tensor, classes: int, g: torch.Generator) -> Tensor:
        flips = torch.rand(y.shape, generator=g, device=y.device) < self.tau
        other = torch.randint(classes, y.shape, generator=g, device=y.device)
        return F.one_hot(torch.where(flips, other, y), classes).float()


@dataclass(frozen=True)
class Method:
    """How to train: the defaults are the paper's adversarial training (AT).

    ``attack`` (f, x, y, g) -> x_adv, or None for clean training; ``labels`` (y, K, g) -> target (N,
    K); ``loss`` (f, batch) -> (N,); ``perturbation`` of the weights (objective, w) -> nu;
    ``optimiser`` and ``schedule``; ``project`` after every step; ``average`` evaluated in place of
    the weights; ``data`` cuts and augments batches; ``epochs`` as a fraction of the profile's;
    ``attack_mode`` is batch norm's mode while attacking.

    Defaults are part of every stored key and are never changed (see ``keys``).
    """

    attack: object = PGD()
    labels: object = Exact()
    loss: object = Adversarial()
    perturbation: object = Unperturbed()
    optimiser: object = SGD()
    schedule: object = Steps()
    project: object = Clip()
    average: object = None
    data: Batches = Batches()
    epochs: float = 1.0
    activation: str = "relu"
    dropout: float = 0.0
    attack_mode: str = "eval"

    def __post_init__(self):
        parts, perhaps = ("labels", "loss", "perturbation", "schedule"), ("attack", "project")
        rules = dict.fromkeys(parts, checks.callable_part)
        rules |= dict.fromkeys((*perhaps, "average"), checks.callable_or_none)
        rules |= {"optimiser": checks.having("build", "calls", "lr"), "epochs": checks.amount}
        rules |= {"data": checks.one_of(Batches), "dropout": checks.below_one}
        checks.settings(self, rules)
        checks.choice("activation", self.activation, ACTIVATIONS)
        checks.choice("attack_mode", self.attack_mode, ("eval", "train"))
        if self.average is not None:
            checks.having("every", "calibrate")("average", self.average)
            checks.choice("average.every", self.average.every, ("step", "epoch"))
        self._check_rotations()

    def _check_rotations(self):
        """Rotated images, the loss that tells them from upright ones and the attack on each task go
        together.
        """
        rotated, learnt = self.data.rotated > 0, isinstance(self.loss, Rotation)
        if rotated != learnt:
            raise ValueError(
                f"loss={self.loss!r} with data.rotated={self.data.rotated!r}: Rotation and a "
                f"positive share of rotated images want each other"
            )
        if isinstance(self.attack, PerTask) and not rotated:
            raise ValueError(f"attack={self.attack!r}: for rotated images only, see data.rotated")
        if learnt and self.labels != Exact():
            raise ValueError(f"labels={self.labels!r}: Rotation looks at true labels only")


AT = Method()


def differences(method: Method) -> dict[str, str]:
    """The slots in which ``method`` differs from AT, described: names, keys and legends come from
    here.
    """
    return settings(method)
