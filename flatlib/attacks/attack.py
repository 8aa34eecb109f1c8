"""What every attack is: a call ``attack(f, x, y, g) -> x_adv``, and what it declares of itself."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flatlib import checks

NORMS = ("linf", "l2")


@dataclass(frozen=True)
class Threat:
    """What an attack may do to an image: move it by ||x_adv - x|| <= ``eps`` in ``norm`` ("linf",
    "l2"), pixels within [0, 1]. Training, attacks and all measures of a profile take it from there.
    """

    eps: float = 8 / 255
    norm: str = "linf"

    def __post_init__(self):
        checks.choice("norm", self.norm, NORMS)
        checks.settle(self, "eps", checks.ball, self.norm)


PAPER = Threat()  # that of Stutz et al. 2021, in whose units methods are written down


class Attack:
    """A part that is called, and what it says of itself; what it leaves out is not made use of.

    Subclasses are frozen dataclasses with ``__call__``: images (N, C, H, W) in [0, 1] and labels
    (N,) to adversarial examples (N, C, H, W). A function (f, x, y, g) does as well (``declared``).
    """

    eps: float | None = None  # radius; None: not known, and not checked
    norm: str = "linf"
    restarts: int = 1
    by_gradient: bool | None = None  # whether it asks for gradients; None: not known
    predicts: bool = False  # whether training hands it the classes that the network predicts
    steps_per_image: int = 0  # forward and backward passes that an image costs

    def __call__(self, f, x: Tensor, y: Tensor, g: torch.Generator | None = None) -> Tensor:
        raise NotImplementedError(f"{self.name} has no __call__(f, x, y, g)")

    @property
    def name(self) -> str:
        return type(self).__name__

    def once(self) -> "Attack":
        """The same attack from one start."""
        return replace(self, restarts=1) if self.restarts > 1 else self

    def at_least(self, restarts: int) -> "Attack":
        """The same attack from so many starts or more, if it has a number of starts."""
        return self

    def each(self, f, x: Tensor, y: Tensor, g: torch.Generator | None = None):
        """What each start found, (N, C, H, W)."""
        single = self.once()
        for _ in range(self.restarts):
            yield single(f, x, y, g)

    def within(self, threat: Threat) -> "Attack":
        """The same attack in the ball of another threat."""
        return replace(self, eps=threat.eps, norm=threat.norm)

    def rescaled(self, threat: Threat) -> "Attack":
        """An attack given in the paper's units, L-infinity and 8/255, in those of ``threat``; one
        that is given in no units stays.
        """
        return self


@dataclass(frozen=True)
class Wrapper(Attack):
    """An attack that carries out another one, and is as that one is."""

    attack: Attack

    eps = property(lambda self: self.attack.eps)
    norm = property(lambda self: self.attack.norm)
    by_gradient = property(lambda self: self.attack.by_gradient)
    steps_per_image = property(lambda self: self.attack.steps_per_image)

    def within(self, threat: Threat) -> "Wrapper":
        return replace(self, attack=self.attack.within(threat))

    def rescaled(self, threat: Threat) -> "Wrapper":
        return replace(self, attack=self.attack.rescaled(threat))


@dataclass(frozen=True)
class Function(Attack):
    """Anything else that is called (f, x, y, g) -> x_adv; of what it may say only a radius and its
    norm are looked at.
    """

    call: object

    eps = property(lambda self: getattr(self.call, "eps", None))
    norm = property(lambda self: getattr(self.call, "norm", "linf"))
    name = property(lambda self: type(self.call).__name__)

    def __call__(self, f, x, y, g=None):
        return self.call(f, x, y, g)


def declared(attack, name: str = "attack") -> Attack | None:
    """``attack`` as an ``Attack``, a function wrapped; None for clean images."""
    if attack is None or isinstance(attack, Attack):
        return attack
    if isinstance(attack, type) or not callable(attack):
        given = "" if attack is ... else f"={attack!r}"
        raise ValueError(
            f"{name}{given}: PGD(...), AutoAttack(...), a function (f, x, y, g) -> x_adv, "
            f"or None for clean images wanted"
        )
    return Function(attack)
