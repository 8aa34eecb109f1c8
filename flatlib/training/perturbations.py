"""Weight perturbations: ``perturbation(objective, w) -> nu`` before a training step, whose
gradient is then taken at w + nu. Frozen records; the neutral one is ``Unperturbed``.
"""

from dataclasses import dataclass

import torch

from flatlib import checks
from flatlib.weights import Weights, direction, gradient, norms


@dataclass(frozen=True)
class Unperturbed:
    """No perturbation: the gradient is taken at w."""

    def __call__(self, objective, w: Weights) -> Weights:
        return {}


@dataclass(frozen=True)
class AWP:
    """Adversarial weight perturbation (Wu et al. 2020): nu_l = xi ||w_l|| g_l / ||g_l||, one
    normalised ascent step.

    Only tensors of two or more dimensions move: no biases, no normalisation parameters. A layer
    whose gradient or norm is zero stays. The optimiser steps at w, as the paper says; the official
    code steps at w + nu and subtracts nu, which differs by the weight decay of nu alone.
    """

    xi: float = 0.01

    def __post_init__(self):
        checks.settle(self, "xi", checks.radius)

    def __call__(self, objective, w: Weights) -> Weights:
        if self.xi == 0:
            return {}
        matrices = {k: v for k, v in w.items() if v.ndim > 1}
        ascent = direction(gradient(objective, w, matrices), matrices)
        return {k: self.xi * v.detach() for k, v in ascent.items()}


@dataclass(frozen=True)
class SAM:
    """Sharpness-aware minimisation (Foret et al. 2021): nu = rho g / ||g||, one step over all
    layers together.
    """

    rho: float = 0.05

    def __post_init__(self):
        checks.settle(self, "rho", checks.radius)

    def __call__(self, objective, w: Weights) -> Weights:
        if self.rho == 0:
            return {}
        g = gradient(objective, w, w)
        total = torch.stack([n.flatten()[0] for n in norms(g).values()]).norm().clamp_min(1e-12)
        return {k: self.rho * v / total for k, v in g.items()}
