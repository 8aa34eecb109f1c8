"""The robust loss along normalised directions in weight space (Stutz et al. 2021, Sec. 3.2 and App.
D).
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from flatlib import checks, inputs
from flatlib.attacks.attack import declared
from flatlib.attacks.pgd import PGD
from flatlib.fast.forward import freeze
from flatlib.files.progress import bar
from flatlib.losses import cross_entropy
from flatlib.measures.flatness import robust_loss
from flatlib.measures.hessian import top_eigenvector
from flatlib.modes import mode
from flatlib.weights import (
    UNITS,
    Weights,
    add,
    as_function,
    detached,
    direction,
    gradient,
    layers,
    project,
    sample,
)  # fmt: skip

if TYPE_CHECKING:
    import pandas as pd

# kind of direction: its length relative to ||w_l||
KINDS = {"random": 0.5, "adversarial": 0.025, "hessian": 0.5}


@torch.inference_mode(False)
def slices(
    model: nn.Module, x, y=None, attack: PGD | None = ..., kind: str = "random", n: int = 10,
    points: int = 51, length: float | None = None, per: str = "layer",
    generator: torch.Generator | None = None, progress: bool = False,
) -> "pd.DataFrame":  # fmt: skip
    """RLoss at w + s nu for ``points`` values s in [-1, 1] and ``n`` directions nu, a row each.

    Columns: direction (0..n-1), s, rloss (nats, mean over x). Every nu is normalised per layer or
    per filter to ||w_l||, Eq. (2), then scaled by ``length`` (random and Hessian 0.5, adversarial
    0.025). Adversarial examples are computed anew at every point; without ``attack`` the clean loss
    is followed. "adversarial" directions are found by ascending the loss in weight space on
    examples that are adversarial at w; "hessian" is one direction, whatever ``n``: the eigenvector
    of the clean loss's largest eigenvalue, which leaves biases where they are. The paper shows the
    mean over random directions and the maximum over adversarial ones, on 128 test examples with
    PGD-10.
    """
    checks.choice("kind", kind, KINDS), checks.choice("per", per, UNITS)
    points, n = checks.number("points", points, 2), checks.number("n", n)
    length = checks.radius("length", KINDS[kind] if length is None else length)
    attack = declared(attack)
    model, x, y = _ready(model, x, y, attack, (kind,))
    g = checks.generator(generator, x)
    w = checks.perturbable(detached(layers(model)))
    rows = []
    with mode(model, training=False):
        n = 1 if kind == "hessian" else n
        for k in bar(range(n), "directions", show=progress, leave=False):
            nu = direction(_raw(kind, model, w, x, y, attack, g, per), w, per)
            for s in torch.linspace(-1, 1, points).tolist():
                loss = robust_loss(model, add(w, nu, s * length), x, y, attack, g)
                rows.append((k, s, loss.mean().item()))
    return _table(rows, ["direction", "s", "rloss"])


@torch.inference_mode(False)
def plane(
    model: nn.Module, x, y=None, attack: PGD | None = ..., kinds=("random", "random"),
    points: int = 11, length: float | None = None, per: str = "layer",
    generator: torch.Generator | None = None, progress: bool = False,
) -> "pd.DataFrame":  # fmt: skip
    """RLoss at w + s nu + t mu on a grid of ``points`` x ``points`` values (s, t) in [-1, 1]^2.

    Columns: s, t, rloss (nats, mean over x). The two directions are of the ``kinds`` named, each
    normalised and scaled as in ``slices``; ``length``, if given, is that of both.
    """
    if isinstance(kinds, str) or len(kinds) != 2:
        raise ValueError(f"kinds={kinds!r}: two of {sorted(KINDS)}")
    for kind in kinds:
        checks.choice("kind", kind, KINDS)
    checks.choice("per", per, UNITS)
    points = checks.number("points", points, 2)
    lengths = [checks.radius("length", KINDS[k] if length is None else length) for k in kinds]
    attack = declared(attack)
    model, x, y = _ready(model, x, y, attack, kinds)
    g = checks.generator(generator, x)
    w = checks.perturbable(detached(layers(model)))
    grid, rows = torch.linspace(-1, 1, points).tolist(), []
    with mode(model, training=False):
        nu, mu = (direction(_raw(k, model, w, x, y, attack, g, per), w, per) for k in kinds)
        for s in bar(grid, "rows of the plane", show=progress, leave=False):
            moved = add(w, nu, s * lengths[0])
            for t in grid:
                loss = robust_loss(model, add(moved, mu, t * lengths[1]), x, y, attack, g)
                rows.append((s, t, loss.mean().item()))
    return _table(rows, ["s", "t", "rloss"])


def _table(rows: list[tuple], columns: list[str]) -> "pd.DataFrame":
    import pandas as pd  # here alone: who measures one number does not wait for it

    return pd.DataFrame(rows, columns=columns)


def _ready(model, x, y, attack, kinds) -> tuple[nn.Module, Tensor, Tensor]:
    """What is measured, with the gradients that these kinds of direction want."""
    climbs = any(kind != "random" for kind in kinds)
    return inputs.examples(model, x, y, attack=attack, weights=True, climbs=climbs)[:3]


def _raw(kind: str, model, w: Weights, x: Tensor, y: Tensor, attack, g, per: str) -> Weights:
    """A direction of this kind before it is normalised."""
    if kind == "random":
        return sample(w, 1.0, g, per)
    return top_eigenvector(model, x, y) if kind == "hessian" else ascent(model, x, y, attack, g)


def ascent(
    model: nn.Module, x: Tensor, y: Tensor, attack, g, xi: float = 0.005, steps: int = 7,
    lr: float = 0.01,
) -> Weights:  # fmt: skip
    """An adversarial direction: normalised ascent on the loss of fixed adversarial examples within
    B_xi(w).
    """
    f, w = as_function(model), detached(layers(model))
    x_adv = x if attack is None else attack.once()(freeze(model), x, y, g)
    nu = {k: v * torch.rand((), generator=g, device=x.device) for k, v in sample(w, xi, g).items()}
    for _ in range(steps):
        grads = gradient(lambda v: cross_entropy(f(v, x_adv), y).mean(), add(w, nu), w)
        nu = project(add(nu, direction(grads, w), lr), w, xi)
    return nu
