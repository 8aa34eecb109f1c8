"""The training methods of Stutz, Hein & Schiele 2021, in their own settings."""

from dataclasses import replace

from flatlib.attacks.pgd import PGD, IgnoreIncorrect, PerTask, PreventLeaking
from flatlib.data.batches import Batches
from flatlib.losses import Mart, Rotation, Trades
from flatlib.training.averages import EMA
from flatlib.training.methods import AT, Method, Noise, Smooth
from flatlib.training.optimisers import SGD, Adam, EntropySGD
from flatlib.training.perturbations import AWP
from flatlib.training.projections import Clip
from flatlib.training.schedules import Constant, Cyclic, Steps

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


# The 74 models of Tables 5 and 6, by name.
METHODS = {
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
}  # fmt: skip

# Those of Table 1, each at its best setting there.
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

BASELINE = "at"
GROUPS = {"all": tuple(METHODS), "table1": TABLE1, "main": MAIN}
