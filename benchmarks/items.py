"""The items: the same work, done by every contestant; and what shows that it was the same."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F

from flatlib import AT, PGD, average_flatness, eigenvalues, worst_flatness
from flatlib.data import Split
from flatlib.fast.forward import freeze
from flatlib.measures import hessian
from flatlib.streams import Streams
from flatlib.training.train import objective

from . import peers, plain
from .floor import Passes, Work
from .subjects import Size, Subject

BASE, OURS, OURS_BF16 = "straightforward", "flatlib", "flatlib bf16"
RECORDED = {"CUDA graphs": "float32", "CUDA graphs bf16": "bf16"}  # flatlib's, on a GPU


@dataclass(frozen=True)
class Item:
    """Contestants by column; ``value`` turns a result into the number that must agree within
    ``tolerance`` of the first contestant's, ``steps`` into how many gradients or products it took.
    """

    key: str
    title: str
    quantity: str  # what ``value`` is
    contestants: dict[str, Callable]
    value: Callable
    least: Passes | None  # None: no floor is given
    steps: Callable = lambda result, work: work.gradients
    tolerance: float = 0.01
    counted: str = "gradient steps"


def seeded(s: Subject) -> torch.Generator:
    return torch.Generator(s.x.device).manual_seed(0)


def precisions(s: Subject, ours: Callable) -> dict[str, Callable]:
    """``ours(precision)`` as contestants; bf16 only where the device computes in it: elsewhere it
    is emulated, some twenty times slower.
    """
    exact = {OURS: partial(ours, "float32")}
    there = s.x.is_cuda or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return exact | {OURS_BF16: partial(ours, "bf16")} if there else exact


def recordings(s: Subject, ours: Callable) -> dict[str, Callable]:
    """``ours(precision, True)``, which replays CUDA graphs, as contestants on a GPU; they are
    recorded here, before the work is counted.
    """
    there = RECORDED if s.x.is_cuda else {}
    for precision in there.values():
        ours(precision, True)
    return {name: partial(ours, precision, True) for name, precision in there.items()}


def mean_loss(s: Subject, x_adv) -> float:
    with torch.no_grad():
        return F.cross_entropy(s.model(x_adv), s.y).item()


def pgd(s: Subject, size: Size) -> Item:
    """PGD from one random start, the best point per image."""
    attack = PGD(eps=s.eps, steps=size.steps)

    def ours(precision: str, recorded: bool = False):
        f = freeze(s.model, precision=precision, recorded=recorded)
        return attack(f, s.x, s.y, seeded(s))

    others = {
        "foolbox": partial(peers.foolbox_pgd, s, size.steps),
        "torchattacks": partial(peers.torchattacks_pgd, s, size.steps),
        "pyautoattack": partial(peers.apgd, s.model, s, size.steps),
    }
    contestants = {
        BASE: lambda: plain.pgd(s.model, s.x, s.y, s.eps, s.step, size.steps, seeded(s)),
        **precisions(s, ours),
        **recordings(s, ours),
    }
    return Item(
        "pgd",
        f"PGD-{size.steps}",
        "RLoss",
        contestants | peers.installed(others),
        partial(mean_loss, s),
        Passes((size.steps, size.steps, 0), (1, 0, 0)),
    )


def apgd(s: Subject, size: Size) -> Item:
    """The steps of AutoAttack's APGD-CE, as released, on the model and on the frozen one."""

    def ours(precision: str):
        return peers.apgd(freeze(s.model, precision=precision), s, size.steps)

    return Item(
        "apgd",
        f"APGD-CE, {size.steps} steps (pyautoattack)",
        "RLoss",
        {BASE: partial(peers.apgd, s.model, s, size.steps), **precisions(s, ours)},
        partial(mean_loss, s),
        Passes((size.steps, size.steps, 0)),
    )


def average(s: Subject, size: Size) -> Item:
    """RLoss at perturbed weights; the reference, which is PGD again, is left out."""
    draws, zero = s.of(size.draws), s.x.new_zeros(len(s.x))
    attack = PGD(eps=s.eps, steps=size.steps)

    def base():
        how = (s.eps, s.step, size.steps, 0.5, draws, seeded(s))
        return plain.average_flatness(s.model, s.x, s.y, zero, *how)

    def ours(precision: str):
        return average_flatness(
            s.model, s.x, s.y, attack, 0.5, draws, seeded(s), reference=zero, batch=len(s.x),
            precision=precision,
        ).value  # fmt: skip

    work = (draws * size.steps, draws * size.steps, 0)
    title = f"average-case flatness, {draws} draw{'s' * (draws > 1)} × PGD-{size.steps}"
    contestants = {BASE: base, **precisions(s, ours)}
    quantity = "RLoss at w + ν"
    return Item("average", title, quantity, contestants, float, Passes(work, (draws, 0, 0)))


def worst(s: Subject, size: Size) -> Item:
    """One start of the joint ascent over weights and images; the reference is left out."""
    zero = s.x.new_zeros(len(s.x))

    def base():
        how = (s.eps, s.step, size.steps, 0.003, 1, seeded(s))
        return plain.worst_flatness(s.model, s.x, s.y, zero, *how)

    def ours(precision: str):
        return worst_flatness(
            s.model, s.x, s.y, s.eps, 0.003, size.steps, 1, seeded(s), protocol="paper",
            reference=zero, batch=len(s.x), precision=precision,
        ).value  # fmt: skip

    return Item(
        "worst",
        f"worst-case flatness, {size.steps} joint steps",
        "RLoss at w + ν",
        {BASE: base, **precisions(s, ours)},
        float,
        Passes((size.steps,) * 3, (1, 0, 0)),
    )


class Trainee:
    """A copy of the network with an optimiser of its own; every call is one training step."""

    def __init__(self, s: Subject, size: Size, precision: str | None):
        self.s, self.net, self.steps = s, s.copy(), size.training_steps
        self.optimiser = AT.optimiser.build(list(self.net.parameters()), seeded(s))
        attack = PGD(eps=s.eps, steps=size.training_steps)
        if precision == "bf16":
            pgd, attack = attack, lambda f, *how: pgd(freeze(self.net, precision="bf16"), *how)
        self.method = precision and replace(AT, attack=attack)
        self.g, self.random = seeded(s), Streams(0, s.x.device)
        self.random["attack"] = self.g

    def base(self) -> float:
        s = self.s
        return plain.training_step(
            self.net, self.optimiser, s.x, s.y, s.eps, s.step, self.steps, self.g
        )

    def ours(self) -> float:
        self.net.train()
        self.optimiser.zero_grad()
        split = Split(self.s.x, self.s.y)
        loss = objective(self.method, self.net, split, 0.0, self.random, {})
        loss.backward()
        self.optimiser.step()
        return loss.item()


def training(s: Subject, size: Size) -> Item:
    """PGD in eval mode, then one update; every contestant goes on training a copy of its own."""
    n = size.training_steps
    trainees = {p: Trainee(s, size, p) for p in ("float32", "bf16")}
    return Item(
        "training",
        f"PGD-{n} training step",
        "loss of the first step",
        {
            BASE: Trainee(s, size, None).base,
            **precisions(s, lambda precision: trainees[precision].ours()),
        },
        float,
        Passes((n, n, 0), (2, 1, 1)),
    )


def curvature(s: Subject, size: Size) -> Item:
    """The top eigenvalue, of the two that Lanczos finds at both ends; for ResNet-18 a few steps of
    power iteration.
    """
    whole = s.name == "small"

    def base():
        times, n = plain.hessian_product(s.model, s.x, s.y)
        if whole:
            return plain.extreme_eigenvalues(times, n).max()
        return plain.power_iteration(times, n, size.products)

    def ours():
        if whole:
            return eigenvalues(s.model, s.x, s.y, k=2, batch=len(s.x)).max()
        times, n = hessian.product(s.model, s.x, s.y, batch=len(s.x))
        return plain.power_iteration(times, n, size.products)

    products = size.products
    if whole:  # the peer that does no Lanczos takes as many products as Lanczos does
        with Work() as work:
            base()
        products = work.gradients - work.losses
    contestants = {BASE: base, OURS: ours}
    others = {
        "PyHessian": partial(peers.pyhessian, s, products),
        "curvlinops": partial(peers.curvlinops, s, None if whole else size.products),
    }
    each = 1 + 2 * products  # the gradient once, then every product costs it twice
    return Item(
        "curvature",
        "top Hessian eigenvalue" if whole else f"{products} steps of power iteration, Hessian",
        "eigenvalue",
        contestants | peers.installed(others),
        lambda result: result[0] if isinstance(result, tuple) else result,
        Passes(exact=(each,) * 3),
        _products,
        counted="Hessian products",
    )


def _products(result, work: Work) -> int:
    """Every product goes back through the loss once, whether the gradient is kept or not."""
    return result[1] if isinstance(result, tuple) else work.gradients - work.losses


def stacked(s: Subject, size: Size) -> Item:
    """The gradient steps of several networks: one network after the other, or all in one graph."""
    nets = [s.copy() for _ in range(s.of(size.stacked))]
    states = torch.func.stack_module_state(nets)
    x, y = s.x.expand(len(nets), *s.x.shape), s.y

    def one_by_one():
        frozen = [freeze(net) for net in nets]
        for _ in range(size.steps):
            for f in frozen:
                points = s.x.clone().requires_grad_()
                (found,) = torch.autograd.grad(F.cross_entropy(f(points), y), points)
        return found

    def together():
        def losses(points):
            z = torch.vmap(partial(torch.func.functional_call, nets[0]))(states, (points,))
            return sum(F.cross_entropy(part, y) for part in z)

        for _ in range(size.steps):
            points = x.clone().requires_grad_()
            (found,) = torch.autograd.grad(losses(points), points)
        return found[-1]

    title = f"{size.steps} gradient steps of {len(nets)} networks"
    ways = {"one after the other": one_by_one, "torch.func.vmap": together}
    steps = (len(nets) * size.steps, len(nets) * size.steps, 0)
    return Item("stacked", title, "largest gradient", ways, lambda g: g.abs().max(), Passes(steps))


ITEMS = {
    "pgd": pgd, "apgd": apgd, "average": average, "worst": worst, "training": training,
    "curvature": curvature, "stacked": stacked,
}  # fmt: skip
ON_GPU = ("pgd", "apgd", "average", "worst", "training")
