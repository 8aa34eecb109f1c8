"""Err, RErr, Loss and RLoss of a model, from one number per example."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from . import checks
from .attacks import PGD, one_start
from .kernels import exact, freeze, why_plain
from .losses import cross_entropy
from .weights import mode


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
    note: str = ""  # why the attack ran on the model as it is, not on its fast form

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
        notes = [f"unaccelerated: {self.note}"] if self.note else []
        doubts = [f"doubt: {doubt}" for doubt in self.doubts]
        return "\n".join([f"{text}  (n = {len(self.loss)})", *notes, *doubts])


def evaluate(
    model: nn.Module, x: Tensor, y: Tensor, attack=None, generator: torch.Generator | None = None,
    batch: int = 128, doubts: bool = True, precision: str = "float32",
) -> Report:  # fmt: skip
    """Measure ``model`` in eval mode on images x (N, C, H, W) in [0, 1] and labels y (N,).

    ``attack`` is any ``(f, x, y, g) -> x_adv`` or None (then RLoss = Loss). Its result is checked
    against eps and [0, 1] and scored anew. ``doubts`` adds what speaks against trusting the attack
    (see ``doubtful``). ``precision`` ("float32", "bf16") is that of the attack's gradient steps;
    what is reported is computed in float32 by the model itself, on a GPU without TF32, which the
    attack's steps use where the user allows it.
    """
    checks.number("batch", batch)
    checks.examples(model, x, y)
    g = checks.generator(generator, x)
    with mode(model, training=False):
        parts = [
            _report(model, xb, yb, attack, g, precision)
            for xb, yb in zip(x.split(batch), y.split(batch))
        ]
        columns = (torch.cat(column) for column in zip(*parts))
        note = "" if attack is None else why_plain(model) or ""
        report = Report(*columns, attacked=attack is not None, note=note)
        if attack is not None and doubts:
            report = replace(
                report, doubts=doubtful(model, x[:batch], y[:batch], attack, report, g)
            )
    return report


@torch.no_grad()
def _report(model, x, y, attack, g, precision="float32") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four per-example columns of a report for one batch."""
    z = _logits(model, x)
    loss, wrong = cross_entropy(z, y), z.argmax(1) != y
    robust_loss, robust_wrong = loss if attack is None else torch.full_like(loss, -torch.inf), wrong
    for x_adv in _attacked(attack, freeze(model, precision=precision), x, y, g):
        checks.attacked(x, x_adv, attack)
        z_adv = _logits(model, x_adv)
        robust_loss = torch.maximum(robust_loss, cross_entropy(z_adv, y))
        robust_wrong = robust_wrong | (z_adv.argmax(1) != y)
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
        if type(attack) is PGD:
            found = [x_adv for x_adv, _ in attack.starts(f, x, y, g)]
        else:
            single, restarts = one_start(attack), getattr(attack, "restarts", 1)
            found = [single(f, x, y, g) for _ in range(restarts)]
    yield from found


@torch.no_grad()
def robust_errors(
    model: nn.Module, x: Tensor, y: Tensor, attack: PGD,
    generator: torch.Generator | None = None, batch: int = 256,
) -> Tensor:  # fmt: skip
    """(N,) bool: misclassified clean or at any iterate of any start. The mean is RErr.

    Cheaper than ``evaluate``, and at least as high: broken examples are not attacked further. What
    counts is the prediction of the model itself, in float32 and eval mode, on a GPU without TF32.
    """
    checks.number("batch", batch)
    checks.examples(model, x, y)
    g = checks.generator(generator, x)
    with mode(model, training=False):
        batches = zip(x.split(batch), y.split(batch))
        wrong = torch.cat([_logits(model, xb).argmax(1) != yb for xb, yb in batches])
        f = freeze(model)
        for _ in range(attack.restarts):
            for todo in (~wrong).nonzero().flatten().split(batch):
                if not len(todo):  # the only piece there is
                    break
                with torch.enable_grad():
                    x_adv = attack.breaking(f, x[todo], y[todo], g)
                checks.attacked(x[todo], x_adv, attack)
                wrong[todo] = _logits(model, x_adv).argmax(1) != y[todo]
    return wrong


def doubtful(model, x, y, attack, report: Report, g) -> tuple[str, ...]:
    """Reasons not to trust an attack, from one batch: random outputs, vanishing gradients, a weaker
    attack that breaks what it could not (after Croce & Hein 2020).
    """
    found = []
    with torch.no_grad():
        z = model(x)
        if not torch.equal(z, model(x)):
            found.append("the model's outputs are random: average gradients over them (EOT)")
    point = x.clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(cross_entropy(freeze(model)(point), y).sum(), point)
    flat = (gradient.flatten(1).abs().amax(1) == 0).float().mean().item()
    if flat > 0.05:
        found.append(
            f"{flat:.0%} of the examples have a zero gradient: gradient attacks are blind there"
        )
    eps, norm = getattr(attack, "eps", None), getattr(attack, "norm", "linf")
    if eps:
        noise = PGD(eps=eps, steps=0, start="uniform", norm=norm, restarts=10)
        broken = _report(model, x, y, noise, g)[3] & ~report.robust_wrong[: len(x)]
        if broken.any():
            found.append(
                f"random noise breaks {int(broken.sum())} examples that the attack does not"
            )
    return tuple(found)
