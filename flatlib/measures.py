"""The measures of a trained model as rows of a tidy table, by the profile's protocol.

Every measure draws from a generator of its own, so that its value does not depend on which others
were asked for.
"""

import hashlib
from dataclasses import replace
from functools import cached_property

import torch
from torch import nn

from .attacks import PGD
from .data import Dataset, Split
from .evaluate import Report, evaluate
from .flatness import average_flatness, worst_flatness
from .profiles import Profile


class Subject:
    """A model, the part of the data it is measured on, and the protocol."""

    def __init__(self, model: nn.Module, data: Dataset, profile: Profile, split: str):
        self.model, self.profile, self.protocol, self.split = (
            model,
            profile,
            profile.protocol,
            split,
        )
        part: Split = data.train if split == "train" else data.test
        self.x, self.y = part.first(profile.test)
        self.pgd = PGD(eps=profile.eps, steps=self.protocol.steps)

    def generator(self, measure: str) -> torch.Generator:
        seed = int.from_bytes(hashlib.sha256(f"{measure}/{self.split}".encode()).digest()[:8]) >> 1
        return torch.Generator(self.x.device).manual_seed(seed)

    @cached_property
    def report(self) -> Report:
        """PGD with restarts: RErr, RLoss and the reference of every robust flatness."""
        attack = replace(self.pgd, restarts=self.protocol.restarts)
        return evaluate(self.model, self.x, self.y, attack, self.generator("pgd"), doubts=False)

    def row(self, measure: str, value: float, attack: str = "none", **more) -> dict:
        return {
            "split": self.split,
            "measure": measure,
            "attack": attack,
            "n": len(self.x),
            "value": value,
            **more,
        }


def robustness(s: Subject) -> list[dict]:
    """Err and Loss; RErr and RLoss by PGD with restarts, RLoss also over clean-correct and
    -incorrect examples.
    """
    report, attack = s.report, f"pgd{s.protocol.steps}x{s.protocol.restarts}"
    rows = [s.row("err", report.Err), s.row("loss", report.Loss)]
    rows += [s.row("rerr", report.RErr, attack), s.row("rloss", report.RLoss, attack)]
    return rows + [s.row(f"rloss_{k}", v, attack) for k, v in report.split().items()]


def autoattack(s: Subject) -> list[dict]:
    """RErr and RLoss on the outputs of AutoAttack, as set in the protocol."""
    attack = replace(s.protocol.autoattack, eps=s.profile.eps)
    report = evaluate(s.model, s.x, s.y, attack, batch=len(s.x), doubts=False)
    return [s.row("rerr", report.RErr, "aa"), s.row("rloss", report.RLoss, "aa")]


def average(s: Subject) -> list[dict]:
    """Average-case flatness of the robust and of the clean loss."""
    p, rows = s.protocol, []
    for measure, attack in (("avg_flatness_rloss", s.pgd), ("avg_flatness_loss", None)):
        reference = s.report.robust_loss if attack else s.report.loss
        flat = average_flatness(
            s.model, s.x, s.y, attack, p.xi, p.draws, s.generator(measure), reference=reference
        )
        how = f"pgd{p.steps}x1" if attack else "none"
        rows.append(
            s.row(measure, flat.value, how, std=flat.std, xi=p.xi, scope="batch", draws=p.draws)
        )
    return rows


def worst(s: Subject) -> list[dict]:
    """Worst-case flatness of the robust loss, for every radius of the protocol."""
    p, rows = s.protocol, []
    for xi in p.worst_xi:
        flat = worst_flatness(
            s.model, s.x, s.y, s.profile.eps, xi, p.steps, p.worst_restarts,
            s.generator(f"worst/{xi}"), lr_w=p.worst_lr, reference=s.report.robust_loss,
        )  # fmt: skip
        row = s.row(
            "worst_flatness_rloss",
            flat.value,
            f"joint{p.steps}",
            std=flat.std,
            xi=xi,
            scope="batch",
        )
        rows.append(row | {"draws": p.worst_restarts})
    return rows


MEASURES = {"robustness": robustness, "autoattack": autoattack, "average": average, "worst": worst}

# What a run is measured with unless asked otherwise: (measure, which model, which images).
DEFAULT = (
    ("robustness", "last", "test"), ("autoattack", "last", "test"), ("average", "last", "test"),
    ("worst", "last", "test"), ("robustness", "last", "train"), ("autoattack", "last", "train"),
    ("robustness", "early_stopped", "test"), ("autoattack", "early_stopped", "test"),
)  # fmt: skip
