"""Average- and worst-case flatness of the robust (or clean) loss in weight space, Eqs. (3)-(5) of
Stutz et al. 2021. Lower is flatter."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatlib import checks, inputs
from flatlib.attacks.attack import declared
from flatlib.attacks.pgd import PGD
from flatlib.fast.forward import PRECISIONS, exact, fast, freeze, laid_out, unaccelerated
from flatlib.files.progress import bar
from flatlib.losses import cross_entropy
from flatlib.modes import mode
from flatlib.weights import Weights, add, as_function, climb, detached, layers, norms, sample

SCOPES = ("batch", "dataset")
PROTOCOLS = ("matched", "paper")  # of the worst case: what its reference is
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
    notes: tuple[str, ...] = ()  # how it was measured, where not simply in float32 and fast


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
    attack = None if checks.flag("clean", clean) else declared(attack)
    xi = checks.radius("xi", xi)
    model, x, y, notes = inputs.examples(model, x, y, attack=attack, weights=True)
    search = _Search(
        model=model, x=x, y=y, attack=attack, draws=checks.number("n", n), scope=scope, batch=batch,
        generator=generator, reference=reference, progress=progress, precision=precision,
        notes=notes,
    )  # fmt: skip

    def losses(group: list[slice], g: torch.Generator) -> tuple[Tensor, None]:
        moved = add(search.w, sample(search.w, xi, g))
        losses = [robust_loss(model, moved, x[b], y[b], attack, g, precision) for b in group]
        return torch.cat(losses), None

    return search.flatness(losses, worst=False)


@torch.inference_mode(False)
def worst_flatness(
    model: nn.Module, x, y=None, eps: float = 8 / 255, xi: float = 0.003,
    steps: int = 20, restarts: int = 10, generator: torch.Generator | None = None, *,
    norm: str = "linf", protocol: str = "matched", lr: float | None = None, lr_w: float = 0.001,
    clean: bool = False, scope: str = "batch", reference: Tensor | None = None, batch: int = 128,
    progress: bool = False, precision: str = "float32",
) -> Flatness:  # fmt: skip
    """max_nu max_delta L(f(x + delta; w + nu), y) - max_delta L(f(x + delta; w), y) over B_xi(w),
    Eq. (5).

    Joint ascent: every step moves nu by ``lr_w`` ||w_l|| g_l/||g_l|| per layer and delta by ``lr``
    sign(g) (g/||g|| in the ``norm`` "l2"), from the same backward pass, then projects both; the
    last iterate counts. ``restarts`` random starts, the worst is taken per batch ("batch", the
    paper) or per data set (``scope="dataset"``, the released code, nu going on over batches).

    ``protocol="matched"`` searches the reference alike, with nu held at 0: the same starts and
    steps, the last iterate, the worst start per batch (or data set). It is 0 at xi = 0.
    ``protocol="paper"`` takes PGD-``steps`` with 10 restarts, its best iterate for every example,
    or the ``reference`` (N,) that is given: a stronger search than the joint one, so that the value
    is below 0 at xi = 0. With ``clean=True``, where delta = 0, both are the same. ``precision`` as
    in ``average_flatness``, here of the joint steps.
    """
    xi, lr_w = checks.radius("xi", xi), checks.radius("lr_w", lr_w)
    steps, number = checks.number("steps", steps), checks.number("restarts", restarts)
    checks.choice("protocol", protocol, PROTOCOLS)
    attack = None if checks.flag("clean", clean) else PGD(eps=eps, steps=steps, lr=lr, norm=norm)
    if (matched := protocol == "matched" and not clean) and reference is not None:
        raise ValueError("reference: protocol='matched' searches its own; 'paper' would take it")
    model, x, y, notes = inputs.examples(model, x, y, attack=attack, weights=True, climbs=True)
    search = _Search(
        model=model, x=x, y=y, attack=attack, draws=number, scope=scope, batch=batch,
        generator=generator, reference=reference, progress=progress, precision=precision,
        notes=notes,
    )  # fmt: skip

    def losses(group: list[slice], g: torch.Generator) -> tuple[Tensor, Tensor | None]:
        ascent = _Ascent(search=search, xi=xi, lr_w=lr_w, steps=steps)  # in eval mode by now
        return ascent.sides(group, g, matched)

    return search.flatness(losses, worst=True, matched=matched)


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
    notes: tuple[str, ...]

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

    def flatness(self, losses: Callable, worst: bool, matched: bool = False) -> Flatness:
        """Run ``losses(group, g)`` for every group and draw: (n,) each on moved weights and, where
        the reference is ``matched``, on unmoved ones. Both sides are reduced alike.
        """
        shape = (self.draws, len(self.x))
        moved, still = (torch.empty(shape, device=self.x.device) for _ in range(2))
        with mode(self.model, training=False):
            reference = None if matched else self._reference()
            todo = [(group, k) for group in self.groups() for k in range(self.draws)]
            for group, k in bar(todo, "flatness", show=self.progress, leave=False):
                span = slice(group[0].start, group[-1].stop)
                moved[k, span], unmoved = losses(group, self.generator)
                if matched:
                    still[k, span] = unmoved
            notes = self.notes + unaccelerated(self.model)
        if matched:
            reference = self._reduced(still, worst)
        rise, std = self._reduced(moved, worst) - reference, moved.mean(1).std(unbiased=False)
        return Flatness(rise.mean().item(), std.item(), reference.mean().item(), rise, notes)

    def _reduced(self, table: Tensor, worst: bool) -> Tensor:
        """(draws, N) -> (N,): the mean over draws, or in every group the draw of highest mean."""
        if not worst:
            return table.mean(0)
        spans = (table[:, group[0].start : group[-1].stop] for group in self.groups())
        return torch.cat([losses[losses.mean(1).argmax()] for losses in spans])

    def _reference(self) -> Tensor:
        """The given one, or that of the attack with many restarts on unmoved weights."""
        if self.reference is not None:
            return self.reference
        attack = self.attack and self.attack.at_least(REFERENCE_RESTARTS)
        how = attack, self.generator, self.precision
        parts = zip(self.x.split(self.batch), self.y.split(self.batch))
        return torch.cat([robust_loss(self.model, self.w, xb, yb, *how) for xb, yb in parts])


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


@dataclass(kw_only=True)
class _Ascent:
    """Simultaneous ascent over (nu, delta) on the loss of f(w + nu, x + delta), from one start."""

    search: _Search
    xi: float
    lr_w: float
    steps: int

    def __post_init__(self):
        s = self.search
        self.f, self.w = fast(s.model, s.precision), laid_out(s.model, s.w)
        self.lengths = norms(self.w)  # ||w_l||

    def sides(self, group: list[slice], g, matched: bool) -> tuple[Tensor, Tensor | None]:
        """The losses (n,) that one start reaches on moved and, if ``matched``, unmoved weights."""
        nu, deltas = self.start(group, g)
        still = self.still(group, deltas) if matched else None
        return still if matched and self.xi == 0 else self.joint(group, nu, deltas), still

    def start(self, group: list[slice], g) -> tuple[Weights, dict[int, Tensor]]:
        """A random nu in B_xi(w), its length uniform, and a random delta for every batch."""
        s, w = self.search, self.w
        shrink = {k: torch.rand((), generator=g, device=s.x.device) for k in w}
        nu = {k: v * shrink[k] for k, v in sample(w, self.xi, g).items()}
        random = s.attack.random if s.attack else lambda x, g: torch.zeros_like(x)
        return laid_out(s.model, nu), {b.start: random(s.x[b], g) for b in group}

    def joint(self, group: list[slice], nu: Weights, deltas: dict[int, Tensor]) -> Tensor:
        """The final losses (n,) on the batches of a group; moves ``nu`` in place."""
        s, deltas = self.search, dict(deltas)
        for _ in range(self.steps):
            for b in group:
                deltas[b.start] = self._step(nu, deltas[b.start], s.x[b], s.y[b])
        return self._losses(add(self.w, nu), group, deltas)

    def still(self, group: list[slice], deltas: dict[int, Tensor]) -> Tensor:
        """The same with nu = 0 throughout."""
        s, deltas = self.search, dict(deltas)
        f = freeze(s.model, self.w, s.precision)
        for b in group:
            for _ in range(self.steps):
                with torch.enable_grad():
                    point = (s.x[b] + deltas[b.start]).requires_grad_()
                    loss = cross_entropy(f(point), s.y[b]).mean()
                    (gradient,) = torch.autograd.grad(loss, point)
                deltas[b.start] = self._advance(deltas[b.start], gradient, s.x[b])
        return self._losses(self.w, group, deltas)

    def _step(self, nu: Weights, delta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Move ``nu`` in place and return the next delta, with both gradients from one backward
        pass; a layer that takes no part stays.
        """
        attack = self.search.attack
        with torch.enable_grad():
            point = (x + delta).requires_grad_(attack is not None)
            moved = {k: v.requires_grad_() for k, v in add(self.w, nu).items()}
            wanted = [*moved.values(), point] if attack else [*moved.values()]
            loss = cross_entropy(self.f(moved, point), y).mean()
            grads = torch.autograd.grad(loss, wanted, materialize_grads=True)
        climb(nu, dict(zip(moved, grads)), self.lengths, self.lr_w, self.xi)
        return self._advance(delta, grads[-1], x) if attack else delta

    def _advance(self, delta: Tensor, gradient: Tensor, x: Tensor) -> Tensor:
        attack = self.search.attack
        return attack.project(delta + attack.step * attack.ascent(gradient), x)

    def _losses(self, w: Weights, group: list[slice], deltas: dict[int, Tensor]) -> Tensor:
        s, f = self.search, as_function(self.search.model)
        with torch.no_grad(), exact():
            return torch.cat([cross_entropy(f(w, s.x[b] + deltas[b.start]), s.y[b]) for b in group])
