"""The one door for what is measured: any model, images and labels that will do, made ready; what
will not do is refused by name before any work.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from flatlib import checks
from flatlib.fast.plans import refresh
from flatlib.inputs import adapt, loaders
from flatlib.inputs.adapt import BLACK_BOX
from flatlib.inputs.loaders import tensor
from flatlib.modes import mode
from flatlib.weights import layers

__all__ = ["BLACK_BOX", "Examples", "batch", "examples"]
HALF = (torch.float16, torch.bfloat16)


class Examples(NamedTuple):
    """A model, images and labels, ready to be measured."""

    model: nn.Module  # from (N, C, H, W) to finite logits (N, K) of the type of x
    x: Tensor  # (N, C, H, W) in [0, 1], float32 or, for a float64 model, float64; no gradient
    y: Tensor  # (N,) int64 in 0..K-1, where x is
    notes: tuple[str, ...]  # what was adapted so that numbers may differ from plain float32


def examples(
    model, x, y=None, *, attack=None, weights: bool = False, climbs: bool = False
) -> Examples:  # fmt: skip
    """What is measured, made ready (``Examples``), or a ValueError that begins with the argument.

    ``x`` are float images (N, C, H, W) in [0, 1] and ``y`` labels (N,) of any integer type:
    tensors, arrays or lists; or ``x`` alone is a loader of (x, y) batches (``loaders.gathered``).
    ``model`` is an ``nn.Module``, a scripted one, or a function from images to logits (N, K).
    Everything is measured in float32: images and models of half precision are converted, a model
    in float64 is measured in float64. Tensors stay where they are, next to the model; all else is
    put there. ``attack``, if it follows gradients, wants one for the images; ``weights`` wants
    weights that can be exchanged, ``climbs`` also gradients that reach them.
    """
    model = adapt.module(model)
    given = isinstance(x, Tensor)
    x, y = _pair(x, y)
    x = images(x if given else x.to(adapt.device(model) or x.device))
    y = labels(y, x)
    if weights:
        adapt.exchangeable(model)
        checks.perturbable(layers(model))
    adapt.near(model, x)
    follows = attack is not None and attack.by_gradient is True
    model, x, classes, notes = adapt.adapted(model, x, follows, climbs)
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise ValueError(
            f"y: labels must lie in 0..{classes - 1}, found {int(y.min())} to {int(y.max())}"
        )
    with mode(model, training=False):
        refresh(model, x[:2])
    return Examples(model, x, y, tuple(notes))


def batch(f, x, y, only: torch.dtype | None = None) -> tuple:
    """(f, x, y, type of x) for an attack called by itself: tensors without graph, labels int64.

    Images of half precision become float32 (all become ``only``), while ``f`` sees its own type.
    """
    x, y = tensor("x", x), tensor("y", y)
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(_wanted_images(x))
    own = x.dtype
    to = only or (torch.float32 if own in HALF else own)
    inside = f if to == own else lambda p: f(p.to(own)).to(to)
    return inside, x.to(to), labels(y, x), own


def _pair(x, y) -> tuple[Tensor, object]:
    """Images and labels, from two arguments or from a loader alone."""
    if y is not None and (loaders.is_loader(x) or callable(y)):
        raise ValueError(
            f"y={type(y).__name__}: labels of a loader come from it: leave y out, and name what "
            "follows it (attack=...)"
        )
    if y is None and (isinstance(x, Tensor) or hasattr(x, "__array__")):
        raise ValueError("y=None: labels (N,) wanted, or a loader of (x, y) batches alone")
    return loaders.gathered(x) if y is None else (tensor("x", x), y)


def images(x: Tensor) -> Tensor:
    """``x`` if these are float images (N, C, H, W) in [0, 1]."""
    if x.ndim != 4 or not x.is_floating_point() or x.numel() == 0:
        raise ValueError(_wanted_images(x))
    if not bool(((x >= 0) & (x <= 1)).all()):
        low, high = float(x.min()), float(x.max())
        hint = ": divide by 255" if low >= 0 and 1 < high <= 255 else ""
        hint = hint or (": normalisation belongs into the model" if low < 0 else "")
        raise ValueError(
            f"x: pixels must lie in [0, 1], found {low:.4g} to {high:.4g} "
            f"(NaN counts as outside){hint}"
        )
    return x


def _wanted_images(x: Tensor) -> str:
    hint = ""
    if x.dtype == torch.uint8:
        hint = ": x / 255 has pixels in [0, 1]"
    elif x.ndim == 3:
        hint = ": x[:, None] has a channel, x[None] is a batch of one"
    return f"x: images (N, C, H, W) of a float type wanted, got {tuple(x.shape)} {x.dtype}{hint}"


def labels(y, x: Tensor) -> Tensor:
    """``y`` as int64 labels (N,) next to the images ``x``."""
    y = tensor("y", y)
    odd = y.is_floating_point() or y.is_complex() or y.dtype == torch.bool
    if y.shape != x.shape[:1] or odd:
        hint = ": y.long() are integers" if odd and y.ndim == 1 else ""
        if y.ndim == 2:
            hint = ": y.argmax(1) are classes" if y.shape[1] > 1 else ": y.flatten() is one row"
        raise ValueError(
            f"y: integer labels of shape ({len(x)},) wanted, got {tuple(y.shape)} {y.dtype}{hint}"
        )
    return y.to(x.device, torch.int64)
