"""AutoAttack, through a package that has the official attacks."""

import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from flatlib import checks, inputs
from flatlib.attacks.attack import NORMS, Attack


@dataclass(frozen=True)
class AutoAttack(Attack):
    """AutoAttack (Croce & Hein 2020) through the package pyautoattack, whose attacks are the
    official ones.

    ``attacks`` run in turn on the examples still classified correctly; the default is the standard
    ensemble, with 100 ``iterations`` of every gradient attack and 9 ``targets`` of the targeted
    ones; fewer are cheaper and weaker. Examples that no attack breaks come back clean, so the loss
    on the result is no estimate of RLoss. Its random numbers come from ``seed``, not from a
    generator; torch's global one is given back as it was.
    """

    eps: float = 8 / 255
    norm: str = "linf"
    attacks: tuple[str, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
    iterations: int = 100
    targets: int = 9
    seed: int = 0
    batch: int = 250

    @property
    def by_gradient(self) -> bool:
        """Whether any of the attacks asks for gradients: Square does not."""
        return any(name != "square" for name in self.attacks)

    @property
    def steps_per_image(self) -> int:
        """Attack steps an image costs at most, Square's forward passes counted as half a step."""
        n, t = self.iterations, self.iterations * self.targets
        cost = {"apgd-t": t, "fab-t": 2 * t, "fab": 2 * n * 9, "square": 2500}
        return sum(cost.get(name, n) for name in self.attacks)

    def __post_init__(self):
        checks.choice("norm", self.norm, NORMS)
        checks.settle(self, "eps", checks.ball, self.norm), checks.settle(self, "seed", checks.seed)
        checks.settle(self, "iterations targets batch", checks.number)
        several = isinstance(self.attacks, (tuple, list)) and self.attacks
        if not several or any(name not in checks.CLASSES for name in self.attacks):
            raise ValueError(f"attacks={self.attacks!r}: choose from {tuple(checks.CLASSES)}")
        object.__setattr__(self, "attacks", tuple(self.attacks))

    @torch.inference_mode(False)
    def __call__(self, f, x: Tensor, y: Tensor, g: torch.Generator | None = None) -> Tensor:
        """(N, C, H, W), labels (N,) -> (N, C, H, W), for more classes than ``targets``.

        The attacks themselves work in float32; other images are rounded to it and back.
        """
        f, x, y, dtype = inputs.batch(f, x, y, only=torch.float32)
        return self._found(f, x, y).to(dtype)

    def _found(self, f, x: Tensor, y: Tensor) -> Tensor:
        from pyautoattack import AutoAttack as Official

        checks.classes(f, x, self.attacks, self.targets)
        trace = sys.gettrace()  # its check for dynamic models switches tracing off for good
        norm = {"linf": "Linf", "l2": "L2"}[self.norm]
        try:
            with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
                official = Official(
                    f, norm=norm, eps=self.eps, seed=self.seed, device=str(x.device)
                )
                official.attacks_to_run = list(self.attacks)  # of the standard version's settings
                for part in (official.apgd, official.apgd_targeted, official.fab):
                    part.n_iter = self.iterations
                for part in (official.apgd_targeted, official.fab):
                    part.n_target_classes = self.targets
                x_adv, _ = official.run_standard_evaluation(x, y, batch_size=self.batch)
        finally:
            sys.settrace(trace)
        return x_adv.detach()


def square(f, x: Tensor, y: Tensor, eps: float, norm: str, queries: int, seed: int = 0) -> Tensor:
    """Square alone with a few ``queries`` per image, without gradients: the images (N, C, H, W) it
    broke, the others clean. torch's global random numbers are given back as they were.
    """
    from pyautoattack.square import SquareAttack

    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        attack = SquareAttack(
            lambda p: f(p.to(x.dtype)).float(), norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps,
            n_queries=queries, seed=seed, device=x.device, resc_schedule=False,
        )  # fmt: skip
        return attack.perturb(x.float(), y).to(x.dtype)
