"""Loaders of batches in place of images and labels: read once into tensors, in a fixed order."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.sampler import RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from flatlib.streams import undisturbed

_SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
_FIXED = "values per example want images in a fixed order, without random augmentation"
READ_AT_ONCE = 128  # images of a data set


def tensor(name: str, value) -> Tensor:
    """``value`` as a tensor outside of any graph: a tensor, an array, a list of numbers or of
    tensors, whatever NumPy reads. ValueError with ``name`` for anything else.
    """
    if isinstance(value, Tensor):
        found = value.detach() if value.layout == torch.strided else value.detach().to_dense()
        return found.clone() if found.is_inference() else found
    try:
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
            return torch.stack([tensor(name, part) for part in value])
        array = np.asarray(value)
        return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(value).__name__
        raise ValueError(f"{name}: a tensor or an array of numbers wanted, got {kind}") from error


def is_loader(x) -> bool:
    """Whether ``x`` is a loader or data set of torch, not images."""
    return isinstance(x, (DataLoader, Dataset))


def gathered(batches) -> tuple[Tensor, Tensor]:
    """Images and labels of all batches (x, y) in their order, in memory.

    ``batches`` is a ``DataLoader``, a data set of (image, label), a list of batches or anything
    else that can be read again; one pair (x, y) will do too. It is read twice: what shuffles,
    augments at random or can be read only once is refused.
    """
    if isinstance(batches, (tuple, list)) and len(batches) == 2:
        batches = [batches] if getattr(batches[0], "ndim", None) == 4 else batches
    if isinstance(batches, Dataset):
        batches = DataLoader(batches, READ_AT_ONCE)
    _in_order(batches)
    generator = getattr(batches, "generator", None)
    state = generator and generator.get_state()
    with undisturbed():
        found, again = _read(batches), _read(batches)
    if generator:
        generator.set_state(state)
    same = len(found) == len(again) and all(
        torch.equal(a, b) for one, two in zip(found, again) for a, b in zip(one, two)
    )
    if not same:
        raise ValueError(f"x: the loader gave other batches the second time; {_FIXED}")
    return _joined("x", [x for x, _ in found]), _joined("y", [y for _, y in found])


def _in_order(batches) -> None:
    """Refuse what is seen to shuffle or to be read only once."""
    samplers = [getattr(batches, "sampler", None)]
    samplers.append(getattr(getattr(batches, "batch_sampler", None), "sampler", None))
    if any(isinstance(sampler, _SHUFFLING) for sampler in samplers):
        raise ValueError(f"x: the loader shuffles (shuffle=False, please); {_FIXED}")
    kind = type(batches).__name__
    if isinstance(batches, (str, bytes, dict)) or not hasattr(batches, "__iter__"):
        raise ValueError(f"x: images (N, C, H, W) or a loader of (x, y) batches wanted, got {kind}")
    if isinstance(batches, Iterator):
        raise ValueError(f"x: {kind} can be read only once: give the loader itself, or list(it)")


def _read(batches) -> list[tuple[Tensor, Tensor]]:
    """One pass over all batches as pairs of tensors."""
    found = []
    for k, pair in enumerate(batches):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            size = f" of {len(pair)}" if isinstance(pair, (tuple, list)) else ""
            raise ValueError(
                f"x: a pair (x, y) wanted for every batch, batch {k} is a "
                f"{type(pair).__name__}{size}; without a loader give labels y as well"
            )
        found.append((tensor("x", pair[0]), tensor("y", pair[1])))
    if not found:
        raise ValueError("x: the loader has no batches")
    return found


def _joined(name: str, parts: list[Tensor]) -> Tensor:
    """The batches as one tensor, where they have one shape."""
    if len({(part.shape[1:], part.dtype) for part in parts}) > 1:
        some = sorted({f"{tuple(part.shape)} {part.dtype}" for part in parts})[:3]
        raise ValueError(f"{name}: batches of one shape and type wanted, got {', '.join(some)}")
    return torch.cat(parts)
