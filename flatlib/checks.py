"""What is refused before any work begins, with the parameter, its value and what would do.

Numbers may be Python's, NumPy's or tensors without dimensions; what is given back is Python's own.
The images, labels and models are looked at in ``inputs``.
"""

import math
from numbers import Integral, Real

import torch
from torch import Tensor

LARGEST = 2**32 - 1  # seeds, as NumPy takes them


def plain(value):
    """A number of NumPy's or a tensor's as Python's own; all else as it is."""
    alone = getattr(value, "ndim", None) == 0 and hasattr(value, "item")
    return value.item() if alone else value


def radius(name: str, value: float) -> float:
    """``value`` if it is a finite number of at least 0."""
    number = plain(value)
    if not _real(number) or not math.isfinite(number) or number < 0:
        raise ValueError(f"{name}={value!r}: a finite number, at least 0")
    return number


def ball(name: str, value: float, norm: str) -> float:
    """The radius of an attack on pixels in [0, 1]: in L-infinity 1 reaches all images."""
    eps = radius(name, value)
    if norm == "linf" and eps > 1:
        raise ValueError(
            f"{name}={value!r}: pixels lie in [0, 1], L-infinity radii too, such as {name}=8/255"
        )
    return eps


def positive(name: str, value: float) -> float:
    """``value`` if it is a number above 0, perhaps infinite."""
    number = plain(value)
    if not _real(number) or not number > 0:
        raise ValueError(f"{name}={value!r}: a number above 0")
    return number


def share(name: str, value: float, whole: bool = True) -> float:
    """``value`` if it is a number from 0 to 1, 1 itself only where it may be ``whole``."""
    number = plain(value)
    if not _real(number) or not 0 <= number <= 1 or (number == 1 and not whole):
        raise ValueError(f"{name}={value!r}: a number in [0, 1{']' if whole else ')'}")
    return number


def _real(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def number(name: str, value: int, least: int = 1) -> int:
    """``value`` if it is a whole number of at least ``least``."""
    whole = plain(value)
    if isinstance(whole, bool) or not isinstance(whole, Integral) or whole < least:
        raise ValueError(f"{name}={value!r}: a whole number, at least {least}")
    return int(whole)


def seed(name: str, value: int) -> int:
    """``value`` if it is a seed that torch and NumPy take."""
    whole = number(name, value, 0)
    if whole > LARGEST:
        raise ValueError(f"{name}={value!r}: a whole number in 0..{LARGEST}")
    return whole


def flag(name: str, value: bool) -> bool:
    """``value`` if it is True or False."""
    truth = plain(value)
    if not isinstance(truth, bool):
        raise ValueError(f"{name}={value!r}: True or False")
    return truth


def settle(record, names: str, check, *how) -> None:
    """Replace fields of a frozen dataclass by ``check(name, value, *how)``: keys of runs are made
    of what stands there, so numbers must be Python's own.
    """
    settings(record, {name: lambda n, value: check(n, value, *how) for name in names.split()})


def generator(g: torch.Generator | None, x: Tensor) -> torch.Generator:
    """``g``, or a new generator with seed 0; it must live where the images do."""
    if g is None:
        return torch.Generator(x.device).manual_seed(0)
    device = getattr(g, "device", None)
    if isinstance(g, Tensor) or not isinstance(device, torch.device):
        raise ValueError(f"generator={g!r}: torch.Generator('{x.device}').manual_seed(0), say")
    if device.type != x.device.type or (device.index or 0) != (x.device.index or 0):
        raise ValueError(
            f"generator on {device}, images on {x.device}: make it torch.Generator('{x.device}')"
        )
    return g


def choice(name: str, value, choices) -> None:
    """Refuse a ``value`` that is not one of ``choices``."""
    if not any(value == choice for choice in choices):
        raise ValueError(f"{name}={value!r}: choose one of {sorted(choices)}")


def perturbable(w: dict[str, Tensor]) -> dict[str, Tensor]:
    """``w``, the layers of a model, if there are any."""
    if not w:
        raise ValueError(
            "model: no weights to perturb. Layers are tensors that require gradients, outside "
            "normalisation: call model.requires_grad_(True)"
        )
    return w


def losses(name: str, value, x: Tensor) -> Tensor:
    """``value`` as a tensor: one finite loss for every image, where the images are."""
    value = value if isinstance(value, Tensor) else torch.as_tensor(value)
    if value.shape != x.shape[:1] or not value.is_floating_point():
        raise ValueError(
            f"{name}: one loss per example wanted, ({len(x)},) of a float type, "
            f"got {tuple(value.shape)} {value.dtype}"
        )
    if value.device != x.device:
        raise ValueError(f"{name} on {value.device}, images on {x.device}: move it there")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name}: {int((~torch.isfinite(value)).sum())} values are not finite")
    return value


# The classes that each attack of AutoAttack compares at least (three and four in the DLR loss).
CLASSES = {"apgd-ce": 2, "apgd-dlr": 3, "apgd-t": 4, "fab": 2, "fab-t": 2, "square": 2}


@torch.no_grad()
def classes(f, x: Tensor, attacks: tuple[str, ...], targets: int) -> None:
    """Refuse an ensemble that would fail in the midst of its work: more targets than wrong classes,
    too few classes for a loss; and a function that writes into its images, which would move them.
    """
    handed = x[:2].clone()
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        found = f(handed).shape[1]
    if not torch.equal(handed, x[:2]):
        raise ValueError("model: it writes into its images: lambda x: model(x.clone()) does not")
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
    name = attack.name
    if not isinstance(x_adv, Tensor) or (x_adv.dtype, x_adv.device) != (x.dtype, x.device):
        how = (x_adv.dtype, x_adv.device) if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise ValueError(f"{name} returned {how}, images are {x.dtype} on {x.device}")
    if x_adv.shape != x.shape or not bool(torch.isfinite(x_adv).all()):
        raise ValueError(
            f"{name} returned {tuple(x_adv.shape)} for {tuple(x.shape)}, "
            f"or values that are not finite"
        )
    if float(x_adv.min()) < -1e-6 or float(x_adv.max()) > 1 + 1e-6:
        raise ValueError(f"{name} left [0, 1]: {x_adv.min():.4g} to {x_adv.max():.4g}")
    if (eps := attack.eps) is None:
        return
    order = 2 if attack.norm == "l2" else float("inf")
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
    number = plain(value)
    if not _real(number) or not math.isfinite(number) or number <= 0:
        raise ValueError(f"{name}={value!r}: a finite number above 0")
    return number


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
