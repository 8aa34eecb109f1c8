"""A training method is a record of parts; one step (``train.objective``) executes all of them.

``replace(AT, slot=part)`` is a new method. Settings are the paper's; a profile rescales them
(``profiles``).
"""

import difflib
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlib import checks
from flatlib.attacks.pgd import PGD, IgnoreIncorrect, PerTask, PreventLeaking
from flatlib.data.batches import Batches
from flatlib.keys import settings
from flatlib.losses import Adversarial, Mart, Rotation, Trades
from flatlib.networks.resnet import ACTIVATIONS
from flatlib.training.averages import EMA
from flatlib.training.optimisers import SGD, Adam, EntropySGD
from flatlib.training.perturbations import AWP, Unperturbed
from flatlib.training.projections import Clip
from flatlib.training.schedules import Constant, Cyclic, Steps


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


class _Catalogue(dict):
    """Methods by name; an unknown name answers with the nearest ones."""

    def __missing__(self, name):
        near = difflib.get_close_matches(str(name), self, n=3, cutoff=0.3) or sorted(self)
        raise KeyError(f"no method {name!r}: did you mean one of {near}? All: {sorted(self)}")


_AUTOAUGMENT = Batches(augment=("crop-mean", "flip", "autoaugment", "cutout"))
_CYCLE = 30 / 150  # a cycle is 30 of the baseline's 150 epochs


def _entropy(walk: int) -> Method:
    return replace(AT, optimiser=EntropySGD(walk=walk), schedule=Constant())


def _constant(lr: float) -> Method:
    return replace(AT, optimiser=SGD(lr=lr), schedule=Constant())


def _cyclic(cycles: int) -> Method:
    return replace(AT, schedule=Cyclic(cycles), epochs=cycles * _CYCLE)


def _trades(lam: float) -> Method:
    return replace(AT, attack=PGD(maximise="kl"), loss=Trades(lam))


def _rotations(lam: float) -> Method:
    return replace(AT, attack=PerTask(PGD()), loss=Rotation(lam), data=Batches(rotated=0.5))


# The 74 models of Tables 5 and 6 of Stutz et al. 2021, by name.
CATALOGUE = _Catalogue({
    "at": AT,
    "pgd5": replace(AT, attack=PGD(steps=5)),
    "pgd14": replace(AT, attack=PGD(steps=14)),
    **{f"pgd-tau{tau}": replace(AT, attack=PGD(tau=tau)) for tau in (0, 1, 2, 3)},
    "eps9": replace(AT, attack=PGD(eps=9 / 255, lr=0.007)),
    "ignore-incorrect": replace(AT, attack=IgnoreIncorrect()),
    "no-leaking": replace(AT, attack=PreventLeaking()),
    "unlabeled": replace(AT, data=Batches(unlabelled=0.5)),
    "autoaugment": replace(AT, data=_AUTOAUGMENT),
    **{f"batch{n}": replace(AT, data=Batches(size=n)) for n in (8, 16, 32, 64, 256, 512)},
    **{f"lr{lr}": replace(AT, optimiser=SGD(lr=lr)) for lr in (0.01, 0.1, 0.2)},
    **{f"const{lr}": _constant(lr) for lr in (0.05, 0.01, 0.005)},
    "late": replace(AT, schedule=Steps(at=(140 / 150, 145 / 150))),
    "cyclic": _cyclic(1), "cyclic2": _cyclic(2), "cyclic3": _cyclic(3), "cyclic4": _cyclic(4),
    **{f"wd{wd}": replace(AT, optimiser=SGD(decay=wd)) for wd in (0, 0.001, 0.005, 0.01, 0.05)},
    "adam": replace(AT, optimiser=Adam()),
    **{f"entropy{walk}": _entropy(walk) for walk in (1, 2, 3, 5)},
    **{f"smooth{tau}": replace(AT, labels=Smooth(tau)) for tau in (0.1, 0.2, 0.3)},
    **{f"noise{tau}": replace(AT, labels=Noise(tau)) for tau in (0.1, 0.2, 0.3, 0.4, 0.5)},
    **{f"ema{tau}": replace(AT, average=EMA(tau)) for tau in (0.98, 0.985, 0.99, 0.9975)},
    **{f"clip{w}": replace(AT, project=Clip(w)) for w in (0.005, 0.01, 0.025)},
    **{f"awp{xi}": replace(AT, perturbation=AWP(xi)) for xi in (0.001, 0.005, 0.01)},
    **{f"trades{lam}": _trades(float(lam)) for lam in (1, 3, 6, 9)},
    **{f"mart{lam}": replace(AT, loss=Mart(float(lam))) for lam in (1, 3, 6, 9)},
    **{f"ssl{lam}": _rotations(float(lam)) for lam in (0.5, 1, 2, 4, 8)},
    **{name: replace(AT, activation=name) for name in ("mish", "silu", "gelu")},
    "dropout": replace(AT, dropout=0.1),
})  # fmt: skip

# The methods of Table 1, each at its best setting there.
TABLE1 = (
    "at", "eps9", "unlabeled", "autoaugment", "late", "cyclic2", "wd0.05", "smooth0.3", "noise0.3",
    "ema0.9975", "clip0.005", "awp0.01", "entropy1", "trades6", "mart6", "ssl4", "mish", "silu",
    "gelu",
)  # fmt: skip

# Ten of them, different in kind: what "make book" trains. The longest first, so that several
# workers end together.
MAIN = (
    "unlabeled", "awp0.01", "at", "late", "gelu", "cyclic2", "autoaugment", "noise0.3", "trades6",
    "wd0.05",
)  # fmt: skip
