"""Reasons not to trust a number of robustness, with what to do: those that the code of AutoAttack
flags (Croce & Hein 2020; flags_doc.md of github.com/fra31/auto-attack).
"""

import sys
from dataclasses import replace

import torch
from torch import Tensor, nn

from flatlib.attacks.autoattack import AutoAttack, square
from flatlib.attacks.pgd import PGD
from flatlib.fast.forward import exact, freeze
from flatlib.losses import cross_entropy, misclassified
from flatlib.streams import undisturbed

PASSES, SOME = 16, 8  # of the same images, to see whether outputs are random
ROUNDING = 1e-5  # of the largest logit
BLIND = 0.05  # share of images with a zero gradient
QUERIES = 100  # of Square at most, and never more than the attack took steps
BEATEN = 0.02  # share of images: Square finds one that a sound attack misses now and then
_DIFFERENTIATES = {torch.autograd.grad.__code__, torch.autograd.backward.__code__}


@torch.no_grad()
def doubtful(model: nn.Module, x: Tensor, y: Tensor, attack, broken: Tensor, g) -> tuple[str, ...]:
    """What speaks against trusting ``attack``, which broke the images ``broken`` (N,) of one batch
    x, y; without an attack, what speaks against trusting the loss.

    Looked for are probabilities in place of logits, random outputs, an optimisation inside the
    model, zero gradients, and attacks without gradients that break what the attack did not. The
    model is in eval mode. The global random states are left as they were; ``g`` is drawn from.
    """
    with undisturbed(x.device), exact():
        found = [probabilities(model, x)]
        if attack is not None:
            random = random_outputs(model, x[:SOME])
            found += [random, inner_gradient(model, x[:SOME])]
            if attack.by_gradient is not False:
                found.append(zero_gradient(model, x, y))
            found += [] if random else beaten(model, x, y, attack, broken, g)
    return tuple(filter(None, found))


def probabilities(model: nn.Module, x: Tensor) -> str | None:
    """Outputs that are all in [0, 1] and sum to 1."""
    z = model(x)
    if bool((z >= -1e-5).all()) and bool(((z.sum(1) - 1).abs() < 1e-3).all()):
        return "the model returns probabilities: leave the softmax out, losses are of logits"
    return None


def random_outputs(model: nn.Module, x: Tensor) -> str | None:
    """Outputs for the same images that differ by more than rounding, in any of several passes."""
    first = model(x)
    for _ in range(PASSES - 1):
        if float((model(x) - first).abs().max()) > ROUNDING * float(first.abs().max()):
            return "the model's outputs are random: average gradients over them (EOT)"
    return None


def inner_gradient(model: nn.Module, x: Tensor) -> str | None:
    """A forward pass that differentiates, or switches gradients on where they are off."""
    seen, before = set(), sys.getprofile()

    def watch(frame, event, argument):
        seen.add(frame.f_code in _DIFFERENTIATES or torch.is_grad_enabled())

    sys.setprofile(watch)
    try:
        model(x)
    finally:
        sys.setprofile(before)
    if any(seen):
        return (
            "the forward pass takes gradients itself (optimisation inside the model): attack with "
            "its steps unrolled, or the model without them"
        )
    return None


def zero_gradient(model: nn.Module, x: Tensor, y: Tensor) -> str | None:
    """Images whose gradient of the loss is zero everywhere."""
    point = x.clone().requires_grad_()
    try:
        with torch.enable_grad():
            loss = cross_entropy(freeze(model)(point), y).sum()
            (gradient,) = torch.autograd.grad(loss, point)
    except RuntimeError:  # an attack of one's own may do without
        return "no gradient reaches the images: only attacks without gradients count"
    flat = (gradient.flatten(1).abs().amax(1) == 0).float().mean().item()
    if flat <= BLIND:
        return None
    return (
        f"{flat:.0%} of the examples have a zero gradient: gradient attacks are blind there, try a "
        "black-box attack or a loss on scaled logits"
    )


def beaten(model: nn.Module, x: Tensor, y: Tensor, attack, broken: Tensor, g) -> list[str]:
    """Weaker attacks that break images which ``attack`` did not: uniform noise, and Square, which
    needs no gradients, against what followed them.
    """
    if not attack.eps:
        return []
    f = freeze(model)
    noise = PGD(attack.eps, steps=0, start="uniform", norm=attack.norm, restarts=10)
    noisy = torch.stack([misclassified(model(p), y) for p, _ in noise.starts(f, x, y, g)]).any(0)
    if (noisy & ~broken).any():
        n = int((noisy & ~broken).sum())
        return [
            f"random noise breaks {n} examples that the attack does not: take more steps and starts"
        ]
    n = _by_square(model, f, x, y, attack, broken)
    if n <= max(1, BEATEN * len(x)):
        return []
    return [
        f"Square, which sees no gradients, breaks {n} examples that gradients do not: they mislead "
        "or are too few, take more starts, another loss or more of Square"
    ]


def _by_square(model, f, x: Tensor, y: Tensor, attack, broken: Tensor) -> int:
    """How many images Square breaks alone, with no more passes than the attack takes steps. Where
    it took part, the other attacks run again on what was broken.
    """
    if isinstance(attack, AutoAttack) and "square" in attack.attacks and attack.by_gradient:
        x, y = _where(broken & ~misclassified(model(x), y), x, y)
        others = replace(attack, attacks=tuple(a for a in attack.attacks if a != "square"))
        return int((~misclassified(model(others(f, x, y)), y)).sum()) if len(x) else 0
    x, y = _where(~broken, x, y)
    queries = _steps(attack) if len(x) else 0
    if not queries:
        return 0
    x_adv = square(f, x, y, attack.eps, attack.norm, queries)
    return int(misclassified(model(x_adv), y).sum())


def _where(chosen: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x[chosen], y[chosen]


def _steps(attack) -> int:
    """The queries that Square gets: the gradient steps of the attack, none where these could not
    cross half the ball, since such an attack does not claim to be strong.
    """
    if not isinstance(attack, PGD):
        return QUERIES if attack.by_gradient else 0
    crosses = attack.by_gradient and attack.steps * attack.step >= attack.eps
    return min(QUERIES, attack.steps * attack.restarts) if crosses else 0
