"""A training method is a record of parts; one step (``train.objective``) executes all of them.

``replace(AT, slot=part)`` is a new method. Settings are the paper's; a profile rescales them
(``profiles``).
"""

import difflib
import math
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .attacks import PGD, PerTask
from .data import Batches
from .losses import Adversarial, Mart, Rotation, Trades
from .models import ACTIVATIONS
from .steps import EMA, SGD, Ascend, Clip, Constant, Cyclic, EntropySGD, Stay, Steps


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

    def __call__(self, y: Tensor, classes: int, g: torch.Generator) -> Tensor:
        return (1 - self.tau) * F.one_hot(y, classes).float() + self.tau / classes


@dataclass(frozen=True)
class Noise:
    """Label noise: with probability tau a uniform class, perhaps the true one, anew at every
    update.
    """

    tau: float = 0.3

    def __call__(self, y: Tensor, classes: int, g: torch.Generator) -> Tensor:
        flips = torch.rand(y.shape, generator=g, device=y.device) < self.tau
        other = torch.randint(classes, y.shape, generator=g, device=y.device)
        return F.one_hot(torch.where(flips, other, y), classes).float()


@dataclass(frozen=True)
class Method:
    """How to train: the defaults are the paper's adversarial training (AT).

    ``attack`` (f, x, y, g) -> x_adv, or None for clean training; ``labels`` (y, K, g) -> target (N,
    K); ``loss`` (f, batch) -> (N,); ``nudge`` (objective, w) -> nu; ``optimiser`` and ``schedule``;
    ``project`` after every step; ``average`` evaluated in place of the weights; ``data`` cuts and
    augments batches; ``epochs`` as a fraction of the profile's; ``attack_mode`` is batch norm's
    mode while attacking.
    """

    attack: object = PGD()
    labels: object = Exact()
    loss: object = Adversarial()
    nudge: object = Stay()
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
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation={self.activation!r}: choose one of {sorted(ACTIVATIONS)}")
        if self.attack_mode not in ("eval", "train"):
            raise ValueError(f"attack_mode={self.attack_mode!r}: choose 'eval' or 'train'")
        if not (math.isfinite(self.epochs) and self.epochs > 0):
            raise ValueError(f"epochs={self.epochs!r}: a positive fraction of the profile's epochs")


AT = Method()


def describe(part) -> str:
    """A part as its name and the fields that differ from its defaults: "PGD(eps=0.0353)"."""
    if not hasattr(part, "__dataclass_fields__"):
        return repr(part)
    changed = [f for f in fields(part) if getattr(part, f.name) != f.default]
    inside = ", ".join(f"{f.name}={describe(getattr(part, f.name))}" for f in changed)
    return f"{type(part).__name__}({inside})"


def differences(method: Method) -> dict[str, str]:
    """The slots in which ``method`` differs from AT, described: names, keys and legends come from
    here.
    """
    slots = [f.name for f in fields(method) if getattr(method, f.name) != getattr(AT, f.name)]
    return {slot: describe(getattr(method, slot)) for slot in slots}


class _Catalogue(dict):
    """Methods by name; an unknown name answers with the nearest ones."""

    def __missing__(self, name):
        near = difflib.get_close_matches(str(name), self, n=3, cutoff=0.3) or sorted(self)
        raise KeyError(f"no method {name!r}: did you mean one of {near}? All: {sorted(self)}")


_AUTOAUGMENT = Batches(augment=("crop-mean", "flip", "autoaugment", "cutout"))
_RELATIVE_CYCLE = 30 / 150  # a cycle is 30 of the baseline's 150 epochs

CATALOGUE = _Catalogue({
    "at": AT,
    "eps9": replace(AT, attack=PGD(eps=9 / 255, lr=0.007)),
    "unlabeled": replace(AT, data=Batches(unlabelled=0.5)),
    "autoaugment": replace(AT, data=_AUTOAUGMENT),
    "late": replace(AT, schedule=Steps(at=(140 / 150, 145 / 150))),
    "cyclic2": replace(AT, schedule=Cyclic(cycles=2), epochs=2 * _RELATIVE_CYCLE),
    "wd0.05": replace(AT, optimiser=SGD(decay=0.05)),
    "smooth0.3": replace(AT, labels=Smooth(0.3)),
    "noise0.3": replace(AT, labels=Noise(0.3)),
    "ema0.9975": replace(AT, average=EMA(0.9975)),
    "clip0.005": replace(AT, project=Clip(0.005)),
    "awp0.01": replace(AT, nudge=Ascend(xi=0.01)),
    "entropy1": replace(AT, optimiser=EntropySGD(walk=1), schedule=Constant()),
    "trades6": replace(AT, attack=PGD(maximise="kl"), loss=Trades(6.0)),
    "mart6": replace(AT, loss=Mart(6.0)),
    "ssl4": replace(AT, attack=PerTask(PGD()), loss=Rotation(4.0), data=Batches(rotated=0.5)),
    "mish": replace(AT, activation="mish"),
    "silu": replace(AT, activation="silu"),
    "gelu": replace(AT, activation="gelu"),
})  # fmt: skip

# The methods of Table 1 of Stutz et al. 2021, each at its best setting there.
TABLE1 = (
    "at", "eps9", "unlabeled", "autoaugment", "late", "cyclic2", "wd0.05", "smooth0.3", "noise0.3",
    "ema0.9975", "clip0.005", "awp0.01", "entropy1", "trades6", "mart6", "ssl4", "mish", "silu",
    "gelu",
)  # fmt: skip
