"""What is refused before any work begins, with the parameter, its value and what would do."""

import math

import torch
from torch import Tensor, nn

from .weights import mode


def radius(name: str, value: float) -> float:
    """``value`` if it is a finite number of at least 0."""
    if not _real(value) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name}={value!r}: a finite number, at least 0")
    return value


def positive(name: str, value: float) -> float:
    """``value`` if it is a number above 0, perhaps infinite."""
    if not _real(value) or not value > 0:
        raise ValueError(f"{name}={value!r}: a number above 0")
    return value


def share(name: str, value: float, whole: bool = True) -> float:
    """``value`` if it is a number from 0 to 1, 1 itself only where it may be ``whole``."""
    if not _real(value) or not 0 <= value <= 1 or (value == 1 and not whole):
        raise ValueError(f"{name}={value!r}: a number in [0, 1{']' if whole else ')'}")
    return value


def _real(value) -> bool:
    return isinstance(value, (int, float))


def generator(g: torch.Generator | None, x: Tensor) -> torch.Generator:
    """``g``, or a new generator with seed 0; it must live where the images do."""
    if g is None:
        return torch.Generator(x.device).manual_seed(0)
    if g.device.type != x.device.type:
        raise ValueError(
            f"generator on {g.device}, images on {x.device}: make it torch.Generator('{x.device}')"
        )
    return g


def number(name: str, value: int, least: int = 1) -> int:
    """``value`` if it is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}: a whole number, at least {least}")
    return value


def choice(name: str, value, choices) -> None:
    """Refuse a ``value`` that is not one of ``choices``."""
    if not any(value == choice for choice in choices):
        raise ValueError(f"{name}={value!r}: choose one of {sorted(choices)}")


@torch.no_grad()
def examples(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Images (N, C, H, W) float in [0, 1], labels (N,) integer in range, logits (N, K) on the same
    device.
    """
    if x.ndim != 4 or not x.is_floating_point() or len(x) == 0:
        raise ValueError(
            f"x: images (N, C, H, W) of a float type wanted, got {tuple(x.shape)} {x.dtype}"
        )
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise ValueError(
            f"x: pixels must lie in [0, 1], found {x.min():.4g} to {x.max():.4g} "
            f"(NaN counts as outside)"
        )
    if y.shape != x.shape[:1] or y.is_floating_point() or y.dtype == torch.bool:
        raise ValueError(
            f"y: integer labels of shape ({len(x)},) wanted, got {tuple(y.shape)} {y.dtype}"
        )
    with mode(model, training=False):
        z = model(x[:2])
    if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != len(x[:2]) or z.shape[1] < 2:
        shape = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(
            f"model: logits of shape (N, K) with K >= 2 wanted, got {shape} for N = {len(x[:2])}"
        )
    if int(y.min()) < 0 or int(y.max()) >= z.shape[1]:
        raise ValueError(
            f"y: labels must lie in 0..{z.shape[1] - 1}, found {int(y.min())} to {int(y.max())}"
        )


def perturbable(w: dict[str, Tensor]) -> dict[str, Tensor]:
    """``w``, the layers of a model, if there are any."""
    if not w:
        raise ValueError(
            "model: no weights to perturb. Layers are tensors that require gradients, outside "
            "normalisation: call model.requires_grad_(True)"
        )
    return w


def losses(name: str, value: Tensor, x: Tensor) -> None:
    """One finite loss for every image, where the images are."""
    if value.shape != x.shape[:1] or not value.is_floating_point():
        raise ValueError(
            f"{name}: one loss per example wanted, ({len(x)},) of a float type, "
            f"got {tuple(value.shape)} {value.dtype}"
        )
    if value.device != x.device:
        raise ValueError(f"{name} on {value.device}, images on {x.device}: move it there")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name}: {int((~torch.isfinite(value)).sum())} values are not finite")


# The classes that each attack of AutoAttack compares at least (three and four in the DLR loss).
CLASSES = {"apgd-ce": 2, "apgd-dlr": 3, "apgd-t": 4, "fab": 2, "fab-t": 2, "square": 2}


@torch.no_grad()
def classes(f, x: Tensor, attacks: tuple[str, ...], targets: int) -> None:
    """Refuse an ensemble that would fail in the midst of its work: more targets than wrong classes,
    too few classes for a loss.
    """
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        found = f(x[:2]).shape[1]
    for name in attacks:
        least = max(CLASSES[name], targets + 1 if name.endswith("-t") else 2)
        if found < least:
            raise ValueError(
                f"targets={targets}, attacks={attacks!r}: {name} needs {least} classes or more, "
                f"the model has {found}"
            )


def attacked(x: Tensor, x_adv: Tensor, attack) -> None:
    """The contract of an attack, never taken on trust: same shape, finite, in [0, 1], within eps of
    x.
    """
    name = type(attack).__name__
    if x_adv.shape != x.shape or not bool(torch.isfinite(x_adv).all()):
        raise ValueError(
            f"{name} returned {tuple(x_adv.shape)} for {tuple(x.shape)}, "
            f"or values that are not finite"
        )
    if float(x_adv.min()) < -1e-6 or float(x_adv.max()) > 1 + 1e-6:
        raise ValueError(f"{name} left [0, 1]: {x_adv.min():.4g} to {x_adv.max():.4g}")
    eps = getattr(attack, "eps", None)
    if eps is None:
        return
    order = 2 if getattr(attack, "norm", "linf") == "l2" else float("inf")
    size = torch.linalg.vector_norm((x_adv - x).flatten(1), order, dim=1).max()
    if float(size) > eps * (1 + 1e-4) + 1e-6:
        raise ValueError(f"{name} moved an image by {float(size):.5g}, more than eps = {eps:.5g}")


# ---- settings of records: rules (name, value) -> value, and how a record applies them


def settings(record, rules: dict) -> None:
    """Hold the fields of a frozen record against their rules, and keep what those give back."""
    for name, rule in rules.items():
        object.__setattr__(record, name, rule(name, getattr(record, name)))


def amount(name: str, value: float) -> float:
    """``value`` if it is a finite number above 0."""
    if not _real(value) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name}={value!r}: a finite number above 0")
    return value


def below_one(name: str, value: float) -> float:
    """``value`` if it is a number from 0 to 1, 1 itself left out."""
    return share(name, value, whole=False)


def some(rule, least: int = 0):
    """The rule for a tuple of ``least`` or more values that each follow ``rule``."""

    def tuple_rule(name: str, value) -> tuple:
        if not isinstance(value, tuple) or len(value) < least:
            few = f" of {least} or more values" if least else ""
            raise ValueError(f"{name}={value!r}: a tuple{few}, such as (1, 2)")
        return tuple(rule(name, one) for one in value)

    return tuple_rule


def text(name: str, value: str) -> str:
    """``value`` if it is a word or more."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}={value!r}: a text")
    return value


def callable_part(name: str, value):
    """``value`` if it is a part that can be called, not the class of one."""
    if isinstance(value, type) or not callable(value):
        raise ValueError(f"{name}={value!r}: a part that can be called, such as those of AT")
    return value


def callable_or_none(name: str, value):
    """``value`` if it is None or a part that can be called."""
    return None if value is None else callable_part(name, value)


def one_of(kind: type):
    """The rule for a record of a class."""

    def record_rule(name: str, value):
        if not isinstance(value, kind):
            raise ValueError(f"{name}={value!r}: a {kind.__name__}(...)")
        return value

    return record_rule


def having(*names: str):
    """The rule for an object that has these attributes."""

    def object_rule(name: str, value):
        lacking = [wanted for wanted in names if not hasattr(value, wanted)]
        if isinstance(value, type) or lacking:
            raise ValueError(f"{name}={value!r}: a part with {', '.join(names)}")
        return value

    return object_rule
