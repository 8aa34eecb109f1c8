"""Average- and worst-case flatness of the robust (or clean) loss in weight space, Eqs. (3)-(5) of
Stutz et al. 2021. Lower is flatter."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from . import checks, inputs
from .attacks import PGD
from .kernels import PRECISIONS, exact, fast, freeze, laid_out
from .losses import cross_entropy
from .progress import bar
from .weights import Weights, add, as_function, climb, detached, layers, mode, norms, sample

SCOPES = ("batch", "dataset")
REFERENCE_RESTARTS = 10


@dataclass(frozen=True)
class Flatness:
    """A rise of the loss in nats: ``value`` is the mean of ``per_example``, perturbed loss minus
    ``reference``.

    ``std`` is the population standard deviation of the data-set mean over the weight perturbations.
    """

    value: float
    std: float
    reference: float
    per_example: Tensor  # (N,)


@torch.inference_mode(False)
def average_flatness(
    model: nn.Module, x, y=None, attack: PGD | None = ..., xi: float = 0.5, n: int = 10,
    generator: torch.Generator | None = None, *, clean: bool = False, scope: str = "batch",
    reference: Tensor | None = None, batch: int = 128, progress: bool = False,
    precision: str = "float32",
) -> Flatness:  # fmt: skip
    """E_nu[max_delta L(f(x + delta; w + nu), y)] - max_delta L(f(x + delta; w), y), Eq. (3).

    ``nu`` is drawn ``n`` times from the sphere ||nu_l|| = xi ||w_l||; on every w + nu the
    ``attack`` runs anew. ``scope="batch"`` draws a fresh nu for every batch (the paper), "dataset"
    one for all examples (the released code). ``reference`` (N,) is the loss per example without nu;
    by default that of the attack with 10 restarts, or its own if it has more. Under nu the attack
    runs with its own restarts, as in the paper one by default: values can be slightly negative.
    ``clean=True`` or ``attack=None`` measures the clean loss. ``precision`` ("float32", "bf16") is
    that of the attack's gradient steps, never of a loss that is reported. Images (N, C, H, W) in
    [0, 1] and labels (N,), or a loader of such batches as ``x`` alone (see ``inputs.examples``).
    """
    attack = None if checks.flag("clean", clean) else checks.attack(attack)
    xi = checks.radius("xi", xi)
    model, x, y, _ = inputs.examples(model, x, y, attack=attack, weights=True)
    search = _Search(
        model=model, x=x, y=y, attack=attack, draws=checks.number("n", n), scope=scope, batch=batch,
        generator=generator, reference=reference, progress=progress, precision=precision,
    )  # fmt: skip

    def losses(group: list[slice], g: torch.Generator) -> Tensor:
        moved = add(search.w, sample(search.w, xi, g))
        losses = [robust_loss(model, moved, x[b], y[b], attack, g, precision) for b in group]
        return torch.cat(losses)

    return search.flatness(losses, worst=False)


@torch.inference_mode(False)
def worst_flatness(
    model: nn.Module, x, y=None, eps: float = 8 / 255, xi: float = 0.003,
    steps: int = 20, restarts: int = 10, generator: torch.Generator | None = None, *,
    lr: float | None = None, lr_w: float = 0.001, clean: bool = False, scope: str = "batch",
    reference: Tensor | None = None, batch: int = 128, progress: bool = False,
    precision: str = "float32",
) -> Flatness:  # fmt: skip
    """max_nu max_delta L(f(x + delta; w + nu), y) - max_delta L(f(x + delta; w), y) over B_xi(w),
    Eq. (5).

    Joint ascent: every step moves nu by ``lr_w`` ||w_l|| g_l/||g_l|| per layer and delta by ``lr``
    sign(g), from the same backward pass, then projects both; the last iterate counts. ``restarts``
    random starts, the worst is taken per batch (``scope="batch"``, the paper) or per data set
    ("dataset", the released code, where nu goes on from batch to batch). ``reference`` and
    ``clean`` as in ``average_flatness``, with PGD-``steps``; ``precision`` too, here of the joint
    steps.
    """
    xi, lr_w = checks.radius("xi", xi), checks.radius("lr_w", lr_w)
    steps, number = checks.number("steps", steps), checks.number("restarts", restarts)
    attack = None if checks.flag("clean", clean) else PGD(eps=eps, steps=steps, lr=lr)
    model, x, y, _ = inputs.examples(model, x, y, attack=attack, weights=True, climbs=True)
    search = _Search(
        model=model, x=x, y=y, attack=attack, draws=number, scope=scope, batch=batch,
        generator=generator, reference=reference, progress=progress, precision=precision,
    )  # fmt: skip

    def losses(group: list[slice], g: torch.Generator) -> Tensor:
        f, w = fast(model, precision), laid_out(model, search.w)  # in eval mode by now
        ascent = _Ascent(f=f, w=w, lengths=norms(w), attack=attack, xi=xi, lr_w=lr_w)
        return _joint(search, ascent, group, steps, g)

    return search.flatness(losses, worst=True)


@dataclass(kw_only=True)
class _Search:
    """What both measures share: the groups of batches that see one nu, repeated draws, the
    reference.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    attack: PGD | None
    draws: int
    scope: str
    batch: int
    generator: torch.Generator | None
    reference: Tensor | None
    progress: bool
    precision: str

    def __post_init__(self):
        checks.choice("scope", self.scope, SCOPES)
        checks.choice("precision", self.precision, PRECISIONS)
        self.batch = checks.number("batch", self.batch)
        self.generator = checks.generator(self.generator, self.x)
        self.w = checks.perturbable(detached(layers(self.model)))
        if self.reference is not None:
            self.reference = checks.losses("reference", self.reference, self.x)

    def groups(self) -> list[list[slice]]:
        starts = range(0, len(self.x), self.batch)
        batches = [slice(a, min(a + self.batch, len(self.x))) for a in starts]
        return [[b] for b in batches] if self.scope == "batch" else [batches]

    def flatness(self, losses: Callable, worst: bool) -> Flatness:
        """Run ``losses(group, g) -> (n,)`` for every group and draw; reduce to a Flatness."""
        with mode(self.model, training=False):
            reference = self._reference() if self.reference is None else self.reference
            table = torch.empty(self.draws, len(self.x), device=self.x.device)
            kept = torch.empty(len(self.x), device=self.x.device)
            todo = [(group, k) for group in self.groups() for k in range(self.draws)]
            for group, k in bar(todo, "flatness", show=self.progress, leave=False):
                span = slice(group[0].start, group[-1].stop)
                table[k, span] = losses(group, self.generator)
                if k == self.draws - 1:
                    kept[span] = _reduced(table[:, span], worst)
        rise, means = kept - reference, table.mean(1)
        return Flatness(
            rise.mean().item(), means.std(unbiased=False).item(), reference.mean().item(), rise
        )

    def _reference(self) -> Tensor:
        attack = self.attack
        if hasattr(attack, "restarts"):
            attack = replace(attack, restarts=max(REFERENCE_RESTARTS, attack.restarts))
        how = attack, self.generator, self.precision
        parts = zip(self.x.split(self.batch), self.y.split(self.batch))
        return torch.cat([robust_loss(self.model, self.w, xb, yb, *how) for xb, yb in parts])


def _reduced(losses: Tensor, worst: bool) -> Tensor:
    """(draws, n) -> (n,): the mean over draws, or the draw of highest mean over the examples."""
    return losses[losses.mean(1).argmax()] if worst else losses.mean(0)


def robust_loss(
    model: nn.Module, w: Weights, x: Tensor, y: Tensor, attack, g, precision: str = "float32"
) -> Tensor:
    """Cross-entropy (n,) at the weights ``w`` on x, attacked there if there is an attack.

    ``precision`` is that of the attack's gradient steps; the loss itself is float32, on a GPU
    without TF32, which steps use where the user allows it. What the attack returns is checked.
    """
    x_adv = x
    if attack is not None:
        x_adv = attack(freeze(model, w, precision), x, y, g)
        checks.attacked(x, x_adv, attack)
    with torch.no_grad(), exact():
        return cross_entropy(as_function(model)(w, x_adv), y)


@dataclass(frozen=True, kw_only=True)
class _Ascent:
    """One simultaneous ascent step over (nu, delta) on the loss of f(w + nu, x + delta)."""

    f: Callable
    w: Weights
    lengths: Weights  # ||w_l||
    attack: PGD | None  # None: nu alone
    xi: float
    lr_w: float

    def step(self, nu: Weights, delta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Move ``nu`` in place and return the next delta, with both gradients from one backward
        pass; a layer that takes no part stays.
        """
        attack = self.attack
        with torch.enable_grad():
            point = (x + delta).requires_grad_(attack is not None)
            moved = {k: v.requires_grad_() for k, v in add(self.w, nu).items()}
            wanted = [*moved.values(), point] if attack else [*moved.values()]
            loss = cross_entropy(self.f(moved, point), y).mean()
            grads = torch.autograd.grad(loss, wanted, materialize_grads=True)
        climb(nu, dict(zip(moved, grads)), self.lengths, self.lr_w, self.xi)
        if attack:
            delta = attack.project(delta + attack.step * attack.ascent(grads[-1]), x)
        return delta


def _joint(search: _Search, ascent: _Ascent, group: list[slice], steps: int, g) -> Tensor:
    """One start of the joint ascent on the batches of a group: the final losses (n,)."""
    x, y, w, attack = search.x, search.y, ascent.w, ascent.attack
    shrink = {k: torch.rand((), generator=g, device=x.device) for k in w}
    nu = {k: v * shrink[k] for k, v in sample(w, ascent.xi, g).items()}
    nu = laid_out(search.model, nu)
    deltas = {b.start: attack.random(x[b], g) if attack else torch.zeros_like(x[b]) for b in group}
    for _ in range(steps):
        for b in group:
            deltas[b.start] = ascent.step(nu, deltas[b.start], x[b], y[b])
    f, moved = as_function(search.model), add(w, nu)
    with torch.no_grad(), exact():
        return torch.cat([cross_entropy(f(moved, x[b] + deltas[b.start]), y[b]) for b in group])
