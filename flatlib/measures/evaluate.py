"""Err, RErr, Loss and RLoss of a model, from one number per example."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from flatlib import checks, inputs
from flatlib.attacks.attack import declared
from flatlib.attacks.pgd import PGD
from flatlib.fast.forward import PRECISIONS, exact, freeze, unaccelerated
from flatlib.losses import cross_entropy, misclassified
from flatlib.measures.doubts import doubtful
from flatlib.modes import mode


@dataclass(frozen=True)
class Report:
    """Clean and robust loss (nats) and error (fractions), per example and on average.

    RLoss takes per example the highest loss over restarts, RErr counts an example that is
    misclassified clean or by any restart.
    """

    loss: Tensor  # (N,) clean cross-entropy
    wrong: Tensor  # (N,) bool, misclassified clean
    robust_loss: Tensor  # (N,) worst cross-entropy
    robust_wrong: Tensor  # (N,) bool, misclassified clean or attacked
    doubts: tuple[str, ...] = field(default=())
    attacked: bool = True  # without an attack the robust values are the clean ones
    notes: tuple[str, ...] = ()  # how it was measured, where not simply in float32 and fast

    @property
    def Err(self) -> float:
        return self.wrong.float().mean().item()

    @property
    def RErr(self) -> float:
        return self.robust_wrong.float().mean().item()

    @property
    def Loss(self) -> float:
        return self.loss.mean().item()

    @property
    def RLoss(self) -> float:
        return self.robust_loss.mean().item()

    def first(self, n: int) -> "Report":
        """The report on the first ``n`` examples only."""
        columns = ("loss", "wrong", "robust_loss", "robust_wrong")
        return replace(self, **{name: getattr(self, name)[:n] for name in columns})

    def split(self) -> dict[str, float]:
        """RLoss over the examples that are correct and incorrect without attack (NaN for an empty
        part).
        """
        parts = {"correct": ~self.wrong, "incorrect": self.wrong}
        return {name: self.robust_loss[which].mean().item() for name, which in parts.items()}

    def __str__(self) -> str:
        names = ("Err", "RErr", "Loss", "RLoss") if self.attacked else ("Err", "Loss")
        text = "  ".join(
            f"{name} {getattr(self, name):{'.1%' if 'Err' in name else '.3f'}}" for name in names
        )
        said = [*(f"doubt: {d}" for d in self.doubts), *(f"note: {n}" for n in self.notes)]
        return "\n".join([f"{text}  (n = {len(self.loss)})", *said])


@torch.inference_mode(False)
def evaluate(
    model: nn.Module, x, y=None, attack=None, generator: torch.Generator | None = None,
    batch: int = 128, doubts: bool = True, precision: str = "float32",
) -> Report:  # fmt: skip
    """Measure ``model`` in eval mode on images x (N, C, H, W) in [0, 1] and labels y (N,).

    A loader of (x, y) batches may stand in place of both: ``evaluate(model, loader,
    attack=attack)``; ``inputs.examples`` says what else is taken. ``attack`` is any ``(f, x, y, g)
    -> x_adv`` or None (then RLoss = Loss). Its result is checked against eps and [0, 1] and scored
    anew. ``doubts`` adds what speaks against trusting it (see ``doubts.doubtful``). ``precision``
    ("float32", "bf16") is that of the attack's gradient steps; what is reported is computed in
    float32 by the model itself, on a GPU without TF32, which the attack's steps use where the user
    allows it; where it is not so (a float64 model), a note says it. Logits that are not finite
    count as wrong.
    """
    batch, doubts = checks.number("batch", batch), checks.flag("doubts", doubts)
    checks.choice("precision", precision, PRECISIONS)
    attack = declared(attack)
    model, x, y, notes = inputs.examples(model, x, y, attack=attack)
    g = checks.generator(generator, x)
    with mode(model, training=False):
        parts = [
            _report(model, xb, yb, attack, g, precision)
            for xb, yb in zip(x.split(batch), y.split(batch))
        ]
        columns = [torch.cat(column) for column in zip(*parts)]
        notes += _infinite(columns[2]) + (() if attack is None else unaccelerated(model))
        report = Report(*columns, attacked=attack is not None, notes=notes)
        if doubts:
            found = doubtful(model, x[:batch], y[:batch], attack, report.robust_wrong[:batch], g)
            report = replace(report, doubts=found)
    return report


def _infinite(robust_loss: Tensor) -> tuple[str, ...]:
    """What is said of images whose logits left the finite."""
    n = int((~robust_loss.isfinite()).sum())
    return (f"the loss of {n} images is not finite: they count as wrong",) if n else ()


@torch.no_grad()
def _report(model, x, y, attack, g, precision="float32") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four per-example columns of a report for one batch."""
    z = _logits(model, x)
    loss, wrong = cross_entropy(z, y), misclassified(z, y)
    robust_loss, robust_wrong = loss if attack is None else torch.full_like(loss, -torch.inf), wrong
    for x_adv in _attacked(attack, freeze(model, precision=precision), x, y, g):
        checks.attacked(x, x_adv, attack)
        z_adv = _logits(model, x_adv)
        robust_loss = torch.maximum(robust_loss, cross_entropy(z_adv, y))
        robust_wrong = robust_wrong | misclassified(z_adv, y)
    return loss, wrong, robust_loss, robust_wrong


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    """What is scored: logits in float32."""
    with exact():
        return model(x)


def _attacked(attack, f, x, y, g):
    """What an attack found, start by start, since RErr counts any of them."""
    if attack is None:
        return
    with torch.enable_grad():
        found = list(attack.each(f, x, y, g))
    yield from found


@torch.inference_mode(False)
@torch.no_grad()
def robust_errors(
    model: nn.Module, x, y=None, attack: PGD = PGD(),
    generator: torch.Generator | None = None, batch: int = 256,
) -> Tensor:  # fmt: skip
    """(N,) bool: misclassified clean or at any iterate of any start. The mean is RErr.

    Cheaper than ``evaluate``, and at least as high: broken examples are not attacked further. What
    counts is the prediction of the model itself, in float32 and eval mode, on a GPU without TF32.
    """
    batch = checks.number("batch", batch)
    if not isinstance(attack, PGD):
        raise ValueError(f"attack={attack!r}: PGD(...) wanted, whose iterates are looked at")
    model, x, y, _ = inputs.examples(model, x, y, attack=attack)
    g = checks.generator(generator, x)
    with mode(model, training=False):
        batches = zip(x.split(batch), y.split(batch))
        wrong = torch.cat([misclassified(_logits(model, xb), yb) for xb, yb in batches])
        f = freeze(model)
        for _ in range(attack.restarts):
            for todo in (~wrong).nonzero().flatten().split(batch):
                if not len(todo):  # the only piece there is
                    break
                with torch.enable_grad():
                    x_adv = attack.breaking(f, x[todo], y[todo], g)
                checks.attacked(x[todo], x_adv, attack)
                wrong[todo] = misclassified(_logits(model, x_adv), y[todo])
    return wrong
